# Exported from nbs/train/starts.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.starts import *  # noqa: F403

import tempfile
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora, save_vlm
from mfpo.train.trainer import MFPOConfig


def saved_adapter(folder, seed=0, **settings):
    """An adapter with drawn weights, of the small model."""
    model, _ = small_vlm_for_tests()
    model = get_peft_model(model, lora(model, **{"r": 4} | settings))
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_()
    model.save_pretrained(folder)
    return model


def quiet(**changes):
    return MFPOConfig(output_dir="unused", bf16=False, use_cpu=True, report_to="none", **changes)


def test_an_adapter_comes_back_as_it_was_saved():
    with tempfile.TemporaryDirectory() as folder:
        before = saved_adapter(folder)
        base, _ = small_vlm_for_tests()
        check_start("stage a", folder, base, "any", lora(base, r=4))
        again = adapted(base, folder, lora(base, r=4), quiet(), "stage a")
        saved = dict(before.named_parameters())
        assert all(torch.equal(saved[n], p) for n, p in again.named_parameters())
        assert all(p.requires_grad == ("lora_" in n) for n, p in again.named_parameters())
        assert again.unload() is base
        # a new one is the one that the trainer would draw: the same seed, the same weights
        from transformers import set_seed
        fresh = adapted(small_vlm_for_tests()[0], None, lora(base, r=4), quiet(seed=5), "stage a")
        set_seed(5)
        drawn = dict(get_peft_model(small_vlm_for_tests()[0], lora(base, r=4)).named_parameters())
        assert all(torch.equal(drawn[n], p) for n, p in fresh.named_parameters())


def test_a_start_that_does_not_fit_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        base, processor = small_vlm_for_tests()
        saved_adapter(place / "adapter")
        save_vlm(base, processor, place / "model")
        (place / "empty").mkdir()
        (place / "bare").mkdir()
        (place / "bare" / "adapter_config.json").write_text((place / "adapter" / "adapter_config.json").read_text())
        (place / "other").mkdir()
        (place / "other" / "config.json").write_text('{"model_type": "qwen2_vl"}')
        (place / "other" / "model.safetensors").write_bytes(b"")
        four = lora(base, r=4)
        for start, config, words in [
            ("empty", four, "stage b starts from .*empty, which holds neither"),
            ("absent", four, "neither"),
            ("bare", four, "no safetensors"),
            ("adapter", None, "all weights are trained"),
            ("model", four, "a whole model, and an adapter is trained"),
            ("adapter", lora(base, r=8), "lora_alpha: 8 there, 16 here; r: 4 there, 8 here"),
            ("adapter", lora(base, r=4, alpha=4), "lora_alpha: 8 there, 4 here"),
            ("other", None, "a model of type qwen2_vl; this one is a llava"),
        ]:
            with pytest.raises(ValueError, match=words):
                check_start("stage b", place / start, base, "digest", config)
        check_start("stage b", place / "model", base, "digest")
        # who made it wrote down for which base: beside it, or two folders up
        (place / "adapter" / "curriculum.json").write_text('{"model": "digest"}')
        check_start("stage b", place / "adapter", base, "digest", four)
        with pytest.raises(ValueError, match="another base model"):
            check_start("stage b", place / "adapter", base, "another", four)
        for start in STARTS:
            check_start("stage b", start, base, "digest", four)


def test_weights_of_another_shape_are_refused():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        saved_adapter(place / "adapter")
        for sizes, words in [
            ({"text_width": 64}, r"lora_A.weight is \(4, 96\) there, \(4, 64\) here; .* more\. Give the base"),
            ({"text_layers": 4}, "layers.3.* is missing there"),
            ({"text_layers": 2}, "layers.2.* has no place here"),
        ]:
            base, processor = small_vlm_for_tests(**sizes)
            with pytest.raises(ValueError, match=words):
                adapted(base, place / "adapter", lora(base, r=4), quiet(), "stage c")
            save_vlm(small_vlm_for_tests(**sizes)[0], processor, place / words[:8].replace("\\", ""))
            with pytest.raises(ValueError, match="are not those of this model"):
                with_weights(small_vlm_for_tests()[0], place / words[:8].replace("\\", ""))


def test_a_whole_model_comes_back_with_the_same_weights_to_train():
    with tempfile.TemporaryDirectory() as folder:
        model, processor = small_vlm_for_tests(seed=3)
        save_vlm(model, processor, Path(folder) / "model")
        start, _ = small_vlm_for_tests()
        trained = {name for name, _ in start.named_parameters() if "vision" not in name}
        loaded = with_weights(start, Path(folder) / "model", trained)
        weights = dict(model.named_parameters())
        assert all(torch.equal(weights[n], p) and p.requires_grad == (n in trained) for n, p in loaded.named_parameters())
        digest = start_digest(Path(folder) / "model")
        assert digest == start_digest(str(Path(folder) / "model")) != start_digest("previous") == "previous"
        save_vlm(start, processor, Path(folder) / "second")
        assert start_digest(Path(folder) / "second") != digest
