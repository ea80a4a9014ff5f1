# Exported from nbs/analysis/heads.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.heads import *  # noqa: F403

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from mfpo.analysis import heads
from mfpo.analysis.heads import _looking
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.tiny import FAMILIES, tiny_batch, tiny_processor, tiny_vlm

GRIDS = {  # grid and first token for a picture of 24 x 16 pixels; None, 0 where it needs no telling
    "llava_next": ((2, 2), 0), "internvl": ((2, 2), -4), "idefics3": ((2, 2), -4), "smolvlm": ((2, 2), -4),
}


def noise(width=24, height=16):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def implementations(model):
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        name: module.config._attn_implementation for name, module in base.named_modules() if hasattr(module, "config")
    }


def test_rows_are_those_of_all_weights_in_every_family():
    for family in FAMILIES:
        model = tiny_vlm(family, dtype=torch.float64)
        batch = tiny_batch(model, rows=1)
        inputs = dict(batch["prompts"]["original"])
        length = inputs["input_ids"].shape[1]
        rows, columns = [length - 1, 3, length // 2], list(range(length))  # in any order, the early ones too
        whole = attention_rows(model, inputs, rows, columns, route="eager")
        before = implementations(model)
        for at_once in (256, 5):
            found = attention_rows(model, inputs, rows, columns, at_once=at_once)
            assert found.dtype == np.float64 and found.shape == (decoder_layers(model), 4, 3, length)
            np.testing.assert_allclose(found, whole, atol=2e-7, err_msg=family)  # softmax is taken in float32
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)  # weights of a row
        assert implementations(model) == before and "mfpo_rows" not in before.values()
        one = attention_rows(model, inputs, rows, [2, 0], layers=[1])
        np.testing.assert_allclose(one, whole[1:2][..., [2, 0]], atol=2e-7)


def test_answers_and_pictures_of_every_family_whose_processor_can_be_built():
    done = []
    for family in FAMILIES:
        try:
            processor = tiny_processor(family)
        except ImportError:
            continue
        grid, start = GRIDS.get(family, (None, 0))
        ask = (tiny_vlm(family), processor, noise(), "what is there ?", "a cup .")
        found = attention_by_head(*ask, grid=grid, start=start)
        whole = attention_by_head(*ask, grid=grid, start=start, route="eager")
        count = len(answer_tokens(processor, "a cup .")[0])
        expected = {"qwen": (2, 3)}.get(family[:4], grid or (4, 4))  # Qwen: 4 x 6 patches, merged by 2 x 2
        assert found.shape[2:] == (count, *expected), family
        np.testing.assert_allclose(found, whole, atol=2e-6, err_msg=family)
        assert found.min() >= 0 and (found.sum((-2, -1)) <= 1 + 1e-6).all()
        done.append(family)
    assert set(FAMILIES) - set(done) <= {"idefics3", "smolvlm"}


def test_adapters_count():
    from peft import get_peft_model
    from mfpo.model.vlm import lora
    torch.manual_seed(0)
    model, processor = small_vlm_for_tests()
    ask = (processor, noise(64, 64), "describe the image .", "a cup .")
    plain = attention_by_head(model.double(), *ask)
    adapted = get_peft_model(model, lora(model, r=2)).double()
    np.testing.assert_allclose(attention_by_head(adapted, *ask), plain, atol=1e-7)  # a fresh adapter changes nothing
    generator = torch.Generator().manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data = 0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    found = attention_by_head(adapted, *ask)
    assert np.abs(found - plain).max() > 1e-3
    np.testing.assert_allclose(found, attention_by_head(adapted, *ask, route="eager"), atol=1e-6)
    with adapted.disable_adapter():
        np.testing.assert_allclose(attention_by_head(adapted, *ask), plain, atol=1e-7)


def test_weights_derived_by_hand():
    # Scores q k / sqrt(4) with k = (1, 0, 0, 0) ln 16, (0, ...), (0, ...) and q = (1, 0, 0, 0): ln 4, 0, 0. The last of
    # three rows sees all: 4 / 6, 1 / 6, 1 / 6. The second sees two: 4 / 5, 1 / 5. Two heads share one key.
    from transformers.models.llama import modeling_llama

    class Layer(modeling_llama.LlamaAttention):  # its family is that of the class it derives from
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.layer_idx, self.num_key_value_groups = 7, 2

    query, key = torch.zeros(1, 2, 3, 4), torch.zeros(1, 1, 3, 4)
    query[..., 0], key[:, :, 0, 0] = 1.0, np.log(16.0)
    value = torch.eye(3)[None, None]
    mask = torch.full((3, 3), torch.finfo(torch.float32).min).triu(1)[None, None]
    for at_once in (1, 2, 256):
        reading = heads._Reading(3, torch.tensor([2, 1]), torch.tensor([0, 2]), [7], at_once)
        token = heads._READING.set(reading)
        try:
            output, weights = heads._rows_attention(Layer().eval(), query, key, value, mask, scaling=0.5, dropout=0.0)
        finally:
            heads._READING.reset(token)
        assert weights is None and output.shape == (1, 3, 2, 3)
        assert np.allclose(reading.kept[7], [[[4 / 6, 1 / 6], [4 / 5, 0]]] * 2)
        assert np.allclose(output[0, :, 1], [[1, 0, 0], [4 / 5, 1 / 5, 0], [4 / 6, 1 / 6, 1 / 6]])


def test_soft_caps_and_sinks_are_the_familys_own():
    # No family of tiny models has them, so decoders alone are asked, with token inputs only.
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "pad_token_id": 0}
    ids = torch.arange(3, 14)[None]
    for kind, own in (
        ("gemma2", {"attn_logit_softcapping": 0.05, "query_pre_attn_scalar": 8}),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1}),
    ):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common, **own)).eval()
        for name, weight in model.named_parameters():
            weight.data = torch.randn(weight.shape) / weight.shape[-1] ** 0.5
        whole = attention_rows(model, {"input_ids": ids}, [10, 2], range(11), route="eager")
        found = attention_rows(model, {"input_ids": ids}, [10, 2], range(11), at_once=4)
        np.testing.assert_allclose(found, whole, atol=2e-6, err_msg=kind)
        assert (found[0, :, 0, :7] == 0).all() and (found[1, :, 0, :7] > 0).all()  # a window of 4, then everything
        if kind == "gpt_oss":
            assert (found.sum(-1) < 0.99).all()  # the sink's share


def test_no_layer_is_held_whole():
    # Of every tensor that an operation makes whose last axis is the sequence, the largest is noted.
    class Watched(TorchDispatchMode):
        def __init__(self, length):
            super().__init__()
            self.length, self.largest = length, 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for made in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(made, torch.Tensor) and made.ndim > 2 and made.shape[-1] == self.length:
                    self.largest = max(self.largest, made.numel())
            return out

    model = tiny_vlm("llava")
    inputs = dict(tiny_batch(model, rows=1)["prompts"]["original"])
    answer = inputs["input_ids"][:, -1:].expand(1, 101)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    length, heads_there = inputs["input_ids"].shape[1], 4
    assert length > 110
    seen = {}
    for route, options in (("eager", {}), ("rows", {"at_once": 8})):
        with Watched(length) as watched:
            attention_rows(model, inputs, [length - 1], [5, 6], route=route, **options)
        seen[route] = watched
    assert seen["eager"].largest == heads_there * length**2
    # By rows: the mask of all heads together (length ** 2), or a part of the rows; never the heads times length ** 2.
    assert seen["rows"].largest <= max(length**2, heads_there * 8 * length) < heads_there * length**2
    # What is kept of a layer is what was asked for.
    reading = heads._Reading(length, torch.tensor([length - 1]), torch.tensor([5, 6]), [0, 1], 8)
    with torch.inference_mode(), heads._rows_read(model, reading):
        model(**inputs)
    assert {k: tuple(v.shape) for k, v in reading.kept.items()} == {0: (4, 1, 2), 1: (4, 1, 2)}
    assert all(v.untyped_storage().nbytes() == 4 * 4 * 1 * 2 for v in reading.kept.values())  # no view of a larger one


def test_tokens_are_chosen():
    assert _looking("all", 10, 3, True).tolist() == [9, 10, 11]
    assert _looking("all", 10, 3, False).tolist() == [10, 11, 12]
    assert _looking(np.array([False, True, True]), 10, 3, True).tolist() == [10, 11]
    assert _looking([-1, 0], 10, 3, False).tolist() == [12, 10] and _looking("prompt", 10, 0, False).tolist() == [9]
    model, processor = small_vlm_for_tests()
    ask = (model, processor, noise(64, 64), "describe the image .")
    found = attention_by_head(*ask, "a red cup .")
    assert found.shape == (3, 4, 4, 4, 4) and found.dtype == np.float32
    for tokens in ([1, 3], np.array([False, True, False, True])):
        assert np.array_equal(attention_by_head(*ask, "a red cup .", tokens=tokens), found[:, :, [1, 3]])
    # The prompt's last position decides the first token and does not see the answer.
    np.testing.assert_allclose(attention_by_head(*ask, "", tokens="prompt"), found[:, :, :1], atol=1e-7)
    assert np.array_equal(attention_by_head(*ask, "a red cup .", layers=[2, 0]), found[[2, 0]])
    # MIA-DPO's measure, here with the last layer: rows of the answer's own positions, mean over heads and rows.
    mia = attention_by_head(*ask, "a red cup .", layers=[2], predicting=False).mean((0, 1, 2))
    whole = attention_by_head(*ask, "a red cup .", predicting=False, route="eager")
    assert np.allclose(mia, whole[2].mean((0, 1)), atol=1e-6)
    double = attention_by_head(model.double(), *ask[1:], "a red cup .")
    assert double.dtype == np.float64 and np.allclose(double, found, atol=1e-5)


def test_the_models_attention_is_given_back_after_an_error():
    for family in ("llava", "gemma3"):
        model = tiny_vlm(family, attn_implementation="sdpa")
        model.config.vision_config._attn_implementation = "eager"  # towers may differ from decoders
        inputs = dict(tiny_batch(model, rows=1)["prompts"]["original"])
        before, modes = implementations(model), [module.training for module in model.train().modules()]
        assert set(before.values()) == {"sdpa", "eager"}

        def broken(*args):
            raise RuntimeError("out of memory")

        hook = model.get_decoder().layers[1].register_forward_pre_hook(broken)
        for route in ROUTES:
            with pytest.raises(RuntimeError, match="out of memory"):
                attention_rows(model, inputs, [4], [2], route=route)
            assert implementations(model) == before and [m.training for m in model.modules()] == modes
            assert heads._READING.get(None) is None
        hook.remove()
        model.eval()
        logits = model(**inputs).logits
        attention_rows(model, inputs, [4], [2])
        assert torch.equal(model(**inputs).logits, logits)
    with pytest.raises(KeyError), eager_attention(model):
        assert set(implementations(model).values()) == {"eager"}
        raise KeyError
    assert implementations(model) == before


def test_bad_input_is_named():
    model, processor = small_vlm_for_tests()
    ask = (model, processor, noise(64, 64), "describe the image .", "a cup .")
    for options, message in (
        ({"layers": [3]}, "layers 0 to 2"),
        ({"layers": []}, "at least one"),
        ({"layers": [1, 1]}, "each once"),
        ({"tokens": [3]}, "do not fit an answer of 3 tokens"),
        ({"tokens": [True, False]}, "do not fit an answer of 3 tokens"),
        ({"tokens": [False] * 3}, "choose none"),
        ({"tokens": []}, "choose none"),
        ({"tokens": "last"}, "'all', 'prompt'"),
        ({"grid": (5, 5)}, "16 image tokens make no 5 x 5 grid"),
        ({"grid": (2, 2), "start": 13}, "no 2 x 2 grid from token 13 on"),
        ({"route": "flash"}, "a route of rows, eager"),
        ({"at_once": 0}, "at_once of 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            attention_by_head(*ask, **options)
    with pytest.raises(ValueError, match="the answer is empty"):
        attention_by_head(*ask[:4], "")
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="rows .4.; give positions from 0 to 3"):
        attention_rows(model, {"input_ids": ids}, [4], [0])
    with pytest.raises(ValueError, match="2 sequences"):
        attention_rows(model, {"input_ids": ids.expand(2, 4)}, [0], [0])

    class Blind(torch.nn.Module):
        layer_idx = 0

    with pytest.raises(ValueError, match="Blind has no eager attention function.*route='eager'"):
        heads._eager_of(Blind())
