# Exported from nbs/model/identity.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.identity import *  # noqa: F403

import tempfile
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from mfpo.model.identity import _KNOWN
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import load_vlm, lora, save_vlm
from mfpo.settings import differences


def test_a_digest_is_that_of_the_bytes():
    import hashlib
    values = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    by_hand = hashlib.blake2b(b"torch.float32(3, 4)" + values.numpy().tobytes(), digest_size=16).digest()
    assert tensor_digest(values) == by_hand
    # laid out otherwise, the values are the same; another type or shape is another tensor
    turned = values.t().contiguous().t()
    assert not turned.is_contiguous() and tensor_digest(turned) == by_hand
    assert len({tensor_digest(x) for x in (values, values.double(), values.reshape(4, 3), values.bfloat16())}) == 4
    assert tensor_digest(torch.zeros(0)) != tensor_digest(torch.zeros(1)) and tensor_digest(torch.tensor(3.0))
    # more than one piece, a length that is no multiple of 8 bytes, an odd place in the storage
    import mfpo.model.identity as identity
    long = torch.arange(1003, dtype=torch.uint8)
    whole, identity.PIECE = tensor_digest(long.clone()), 64
    assert tensor_digest(long.clone()) == whole == tensor_digest(torch.arange(1004, dtype=torch.uint8).roll(1)[1:])
    identity.PIECE = 2**24
    with pytest.raises(ValueError, match="not in memory"):
        tensor_digest(torch.zeros(3, device="meta"))


def test_a_remembered_digest_is_that_of_the_values_now():
    weight = torch.nn.Parameter(torch.randn(50, 7))
    first = tensor_digest(weight)
    assert tensor_digest(weight) == first and id(weight) in _KNOWN
    with torch.no_grad():
        weight[3, 3] += 1e-3
    second = tensor_digest(weight)
    weight.data[4, 4] += 1e-3  # past the version counter
    third = tensor_digest(weight)
    assert len({first, second, third}) == 3 and third == tensor_digest(weight.detach().clone())
    name = id(weight)
    del weight
    assert name not in _KNOWN
    with torch.inference_mode():  # such tensors have no version counter
        inferred = torch.ones(4)
    assert tensor_digest(inferred) == tensor_digest(torch.ones(4))


def test_every_single_weight_counts_and_the_part_is_named():
    model, _ = small_vlm_for_tests()
    before = weight_digests(model)
    assert set(before) >= {"lm_head", "model.language_model", "model.vision_tower", "model.multi_modal_projector"}
    for name, part in (
        ("lm_head.weight", "lm_head"), ("model.language_model.layers.1.mlp.up_proj.weight", "model.language_model"),
        ("model.vision_tower.embeddings.position_embedding.weight", "model.vision_tower"),
    ):
        weight = model.get_parameter(name)
        with torch.no_grad():
            old = weight[-1, -1].clone()
            weight[-1, -1] += 1e-3
        after = weight_digests(model)
        assert [k for k in before if before[k] != after[k]] == [part]
        with torch.no_grad():
            weight[-1, -1] = old
        assert weight_digests(model) == before


def test_a_base_is_known_again_from_disk_and_under_an_adapter():
    model, processor = small_vlm_for_tests()
    record = model_record(model)
    assert record["adapter"] == {"weights": None} and record["dtype"] == "float32" and record["autocast"] is None
    assert record["attention"] == "sdpa" and record["device"] == "cpu" and record["versions"]["torch"] == torch.__version__
    with tempfile.TemporaryDirectory() as folder:
        save_vlm(model, processor, Path(folder) / "base")
        loaded, loaded_processor = load_vlm(Path(folder) / "base")
        eager, _ = load_vlm(Path(folder) / "base", attn_implementation="eager")
    assert differences(record, model_record(loaded)) == []
    assert differences(processor_record(processor), processor_record(loaded_processor)) == []
    assert differences(record, model_record(eager)) == ["attention: sdpa there, eager here"]
    wrapped = get_peft_model(loaded, lora(loaded, r=4, projector=True))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            weight.data.normal_(generator=torch.Generator().manual_seed(0))
    with wrapped.disable_adapter():
        assert differences(record, model_record(wrapped)) == []
    differing = differences(record, model_record(wrapped))
    assert differing and all(line.startswith("adapter.") for line in differing)
    wrapped.merge_adapter()
    merged = differences(record["model"]["weights"], weight_digests(wrapped))
    assert [line.split(":")[0] for line in merged] == ["model.language_model"]
    wrapped.unmerge_adapter()


def test_an_adapter_is_known_by_its_weights_under_any_name():
    model, processor = small_vlm_for_tests()
    wrapped = get_peft_model(model, lora(model, r=4))
    wrapped.add_adapter("ref", wrapped.peft_config["default"])
    for name, weight in wrapped.named_parameters():
        if ".default." in name:
            weight.data.normal_(generator=torch.Generator().manual_seed(1))
            wrapped.get_parameter(name.replace(".default.", ".ref.")).data.copy_(weight.data)
    first = model_record(wrapped)
    wrapped.set_adapter("ref")
    assert active_adapters(wrapped) == ["ref"] and differences(first, model_record(wrapped)) == []
    weight = next(p for n, p in wrapped.named_parameters() if ".ref." in n)
    weight.data[0, 0] += 1
    assert [line.split(":")[0] for line in differences(first, model_record(wrapped))] == ["adapter.weights"]
    with tempfile.TemporaryDirectory() as folder:
        wrapped.set_adapter("default")
        wrapped.save_pretrained(folder)
        save_vlm(small_vlm_for_tests()[0], processor, Path(folder) / "base")
        loaded, _ = load_vlm(Path(folder) / "base", adapter=Path(folder))
    assert differences(first, model_record(loaded)) == []


def test_precision_and_settings_are_named():
    model, processor = small_vlm_for_tests()
    record = model_record(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert differences(record, model_record(model)) == ["autocast: None there, bfloat16 here"]
    lines = differences(record, model_record(small_vlm_for_tests()[0].bfloat16()))
    assert lines[0] == "dtype: float32 there, bfloat16 here" and all(x.startswith("model.weights.") for x in lines[1:])
    other, _ = small_vlm_for_tests()
    other.config.text_config.rms_norm_eps = 1e-5
    other.config.use_cache, other.config.text_config.pad_token_id = False, 3  # neither decides a log-probability
    assert differences(record, model_record(other)) == [
        "model.config.text_config.rms_norm_eps: 1e-06 there, 1e-05 here"
    ]


def test_a_processor_is_its_rules_and_settings():
    _, processor = small_vlm_for_tests()
    record = processor_record(processor)
    processor.tokenizer(["a cup", "a"], padding=True, truncation=True, max_length=3)
    assert processor_record(processor) == record  # what the last call asked for is no rule
    for change, name in (
        (lambda p: setattr(p, "chat_template", p.chat_template + " "), "chat_template"),
        (lambda p: setattr(p.image_processor, "image_mean", [0.4, 0.5, 0.5]), "settings.image_processor.image_mean[0]"),
        (lambda p: p.tokenizer.add_tokens(["zebra"]), "tokenizer"),
        (lambda p: setattr(p, "patch_size", 8), "settings.patch_size"),
    ):
        _, other = small_vlm_for_tests()
        change(other)
        assert [line.split(":")[0] for line in differences(record, processor_record(other))] == [name]
