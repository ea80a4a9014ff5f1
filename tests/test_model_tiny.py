# Exported from nbs/model/tiny.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.tiny import *  # noqa: F403

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mfpo.model.layout import TOKEN_INPUTS
from mfpo.model.logps import arm_logps
from mfpo.model.tiny import FAMILIES, tiny_batch, tiny_processor, tiny_vlm

ARMS = [("chosen", "original"), ("rejected", "original"), ("chosen", "negative"), ("rejected", "negative")]


def scores(model, batch, arms=ARMS):
    """The plain route's log-probs, (arms, rows), without gradients."""
    with torch.no_grad():
        return torch.stack([*arm_logps(model, batch, arms, route="plain").values()])


def one_row(batch, row):
    """A row cut out of a batch, without any padding of its tokens."""
    def own(part):
        n = int(part["attention_mask"][row].sum())
        return {key: value[row : row + 1, :n] for key, value in part.items() if key in TOKEN_INPUTS}

    prompts = {}
    for image, part in batch["prompts"].items():
        prompts[image] = own(part)
        for key, sizes in batch["sizes"][image].items():
            start = sum(sizes[:row])
            prompts[image][key] = part[key][start : start + sizes[row]]
    answers = {name: own(part) for name, part in batch["answers"].items()}
    return {"prompts": prompts, "answers": answers, "pad_token_id": batch["pad_token_id"]}


def with_prompts(batch, change):
    """The batch with `change(prompt)` made in a copy of each image's prompt."""
    prompts = {image: dict(part) for image, part in batch["prompts"].items()}
    for part in prompts.values():
        change(part)
    return batch | {"prompts": prompts}

import contextlib

import numpy as np
from PIL import Image


@contextlib.contextmanager
def spelled_numbers():
    """SmolVLM's processor cannot be built without num2words, which it uses for videos only."""
    from transformers.models.smolvlm import processing_smolvlm as smolvlm

    before = smolvlm.num2words
    smolvlm.num2words = before or str
    yield
    smolvlm.num2words = before


def processor_of(family):
    try:
        with spelled_numbers():
            return tiny_processor(family)
    except ImportError:  # older transformers made Idefics' PIL processors need torchvision
        return None


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = {  # width, height of pictures that become rows 0, 1, 2 of a tiny batch; None where none does
    "llava_next": [(30, 14), (30, 20), (46, 16)], "internvl": [(32, 16), (16, 16), (32, 32)],
    "idefics3": [(32, 16), None, (32, 32)], "smolvlm": [(32, 16), None, (32, 32)],
} | dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), [(24, 16), (32, 24), (16, 16)])


def test_every_family_is_built_of_its_own_classes():
    names = {
        "llava": "LlavaForConditionalGeneration", "llava_next": "LlavaNextForConditionalGeneration",
        "llava_mistral": "LlavaForConditionalGeneration", "qwen2_vl": "Qwen2VLForConditionalGeneration",
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration", "qwen3_vl": "Qwen3VLForConditionalGeneration",
        "internvl": "InternVLForConditionalGeneration", "idefics3": "Idefics3ForConditionalGeneration",
        "smolvlm": "SmolVLMForConditionalGeneration", "gemma3": "Gemma3ForConditionalGeneration",
    }
    assert tuple(names) == FAMILIES
    for family in FAMILIES:
        model = tiny_vlm(family)
        assert type(model).__name__ == names[family] and not model.training and model.num_parameters() < 300_000, family
        text, vision = model.config.text_config, model.config.vision_config
        assert 2 <= text.num_hidden_layers <= 3 and 100 <= text.vocab_size <= 120, family
        assert getattr(vision, "depth", None) or vision.num_hidden_layers >= 2, family
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight, family
    assert type(tiny_vlm("llava_mistral").model.language_model).__name__ == "MistralModel"


def test_weights_follow_the_seed_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    for family in FAMILIES:
        a, b, c = tiny_vlm(family), tiny_vlm(family, dtype=torch.float64), tiny_vlm(family, seed=1)
        for (name, x), y, z in zip(a.named_parameters(), b.parameters(), c.parameters()):
            assert x.dtype == torch.float32 and y.dtype == torch.float64 and torch.equal(x, y.float()), (family, name)
            assert x.numel() == 1 or x.std() > 0.01 and not torch.equal(x, z), (family, name)
        first, second = tiny_batch(a), tiny_batch(a, seed=1)
        for key, value in tiny_batch(a)["prompts"]["original"].items():
            assert torch.equal(value, first["prompts"]["original"][key]), (family, key)
        assert not torch.equal(first["answers"]["chosen"]["input_ids"], second["answers"]["chosen"]["input_ids"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_rows_together_equal_rows_alone():
    for family in FAMILIES:
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
            for attention in ("sdpa", "eager"):
                model = tiny_vlm(family, dtype=dtype, attn_implementation=attention)
                batch = tiny_batch(model, rows=5, duplicate=True)
                together = scores(model, batch)
                alone = torch.cat([
                    torch.cat([scores(model, one_row(batch, row), [arm]) for arm in ARMS]) for row in range(5)
                ], dim=1)
                assert torch.isfinite(together).all() and together.dtype == dtype
                assert (together - alone).abs().max() < tolerance, (family, dtype, attention)


def test_precision_and_attention_change_little():
    for family in FAMILIES:
        single, double, eager = (
            scores(model, tiny_batch(model)).double() for model in (
                tiny_vlm(family), tiny_vlm(family, dtype=torch.float64), tiny_vlm(family, attn_implementation="eager")
            )
        )
        assert (single - double).abs().max() < 5e-5 and (single - eager).abs().max() < 5e-5, family
        half = tiny_vlm(family, dtype=torch.bfloat16)
        assert (scores(half, tiny_batch(half)) - single).abs().max() < 2, family


def test_every_answer_depends_on_its_image():
    for family in FAMILIES:
        model = tiny_vlm(family)
        batch = tiny_batch(model)
        chosen, rejected, other, _ = scores(model, batch)
        assert ((chosen - other).abs() > 1e-2).all() and ((chosen - rejected).abs() > 1e-2).all(), family
        # the same pictures under another name give the same numbers
        twice = batch | {"prompts": dict.fromkeys(("original", "negative"), batch["prompts"]["original"])}
        same = scores(model, twice)
        torch.testing.assert_close(same[2:], same[:2], rtol=0, atol=1e-5)


def test_sliding_windows_are_felt():
    for family in ("llava_mistral", "gemma3"):
        model = tiny_vlm(family)
        batch, text = tiny_batch(model), model.config.text_config
        assert text.sliding_window == 8 < int(batch["prompts"]["original"]["attention_mask"].sum(1).min())
        before = scores(model, batch)
        text.sliding_window = 4096  # the same weights without a window
        assert (before - scores(model, batch)).abs().min() > 1e-3, family


def test_what_each_forward_needs():
    for family in FAMILIES:
        model = tiny_vlm(family)
        batch = tiny_batch(model)
        before = scores(model, batch)
        kind = "qwen" if family.startswith("qwen") else family
        if kind == "qwen":  # token types: refused or, by Qwen2.5-VL of some versions, silently counted in one dimension
            lacking = with_prompts(batch, lambda part: part.pop("mm_token_type_ids"))
            try:
                assert (scores(model, lacking) - before).abs().min() > 1e-3
            except ValueError as error:
                assert "mm_token_type_ids" in str(error)
            # a grid turned by 90° has as many tokens in other places
            turned = with_prompts(batch, lambda part: part.update(image_grid_thw=part["image_grid_thw"][:, [0, 2, 1]]))
            moved = (scores(model, turned) - before).abs()
            assert (moved[:, :2] > 1e-3).all() and (moved[:2, 2] == 0).all()  # the third grid is a square
        if kind == "gemma3":  # without token types the image would be read from left to right
            blind = with_prompts(batch, lambda part: part.update(token_type_ids=0 * part["token_type_ids"]))
            assert (scores(model, blind) - before).abs().min() > 1e-3
        if kind == "llava_next":
            with pytest.raises((TypeError, ValueError)):
                scores(model, with_prompts(batch, lambda part: part.pop("image_sizes")))
        if kind in ("idefics3", "smolvlm"):  # row 1 has a picture that ends above the lower edge
            full = with_prompts(batch, lambda part: part.pop("pixel_attention_mask"))
            moved = (scores(model, full) - before).abs()
            assert (moved[:, 1] > 1e-3).all() and (moved[:, 0] < 1e-5).all()


def test_batches_are_awkward():
    # LLaVA-NeXT by hand: 2 × 2 features a tile, base 4. 14 × 30 pixels fill 1 × 2 tiles: 2 rows of 4 and a newline;
    # 20 × 30 fill 2 × 2 tiles, of whose 4 rows int(20 · 4 / 30) = 2 remain; 16 × 46 fill 1 × 3 tiles: 2 rows of 6
    expected = {
        "llava": [16, 16, 16], "llava_next": [4 + 2 * 5, 4 + 2 * 5, 4 + 2 * 7], "llava_mistral": [16, 16, 16],
        "qwen2_vl": [6, 12, 4], "qwen2_5_vl": [6, 12, 4], "qwen3_vl": [6, 12, 4], "internvl": [12, 4, 20],
        "idefics3": [12, 4, 20], "smolvlm": [12, 4, 20], "gemma3": [16, 16, 16],
    }
    first_axis = {"internvl": [3, 1, 5]} | dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), [24, 48, 16])
    for family in FAMILIES:
        model = tiny_vlm(family)
        batch = tiny_batch(model)
        prompt = batch["prompts"]["original"]
        is_image = prompt["input_ids"] == model.config.image_token_id
        assert is_image.sum(1).tolist() == expected[family], family
        assert batch["sizes"]["original"]["pixel_values"] == first_axis.get(family, [1, 1, 1]), family
        for image, sizes in batch["sizes"].items():
            prompts = batch["prompts"][image]
            assert set(sizes) == set(prompts) - set(TOKEN_INPUTS), family
            assert all(sum(n) == len(prompts[key]) for key, n in sizes.items()), family
        for types in set(prompt) & {"token_type_ids", "mm_token_type_ids"}:
            assert torch.equal(prompt[types].bool(), is_image)
        lengths = prompt["attention_mask"].sum(1)
        last = [row.nonzero().max() for row in is_image]
        assert len(set(lengths.tolist())) > 1 and not is_image[:, :2].any()  # text before the image, and after it
        assert all(n > end + 1 for n, end in zip(lengths, last)), family
        assert batch["images"] == {"original": [0, 1, 2], "negative": [3, 4, 5]}


def test_answers_share_much_little_or_nothing():
    model = tiny_vlm("llava")
    eos = model.config.text_config.eos_token_id


    def tokens(batch, name):
        part = batch["answers"][name]
        return [ids[mask.bool()].tolist() for ids, mask in zip(part["input_ids"], part["attention_mask"])]


    def shared(a, b):
        return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


    for same in (0, 1, 2, 7):
        batch = tiny_batch(model, rows=6, same_prefix=same, answers=("chosen", "rejected", "own"))
        chosen, rejected, own = (tokens(batch, name) for name in ("chosen", "rejected", "own"))
        for row in range(6):
            n = shared(chosen[row], rejected[row])
            if row % 3 == 1:
                assert n == len(chosen[row]) < len(rejected[row])
            else:
                assert n == (same if row % 3 == 0 else 0) and chosen[row][-1] == eos == rejected[row][-1]
            assert shared(own[row], rejected[row]) == 0
        assert len({len(ids) for ids in [*chosen, *rejected]}) > 2
    only = tiny_batch(model, rows=1, answers=("chosen",), images=("original",))
    assert set(only["answers"]) == {"chosen"} and set(only["prompts"]) == {"original"}
    assert scores(model, only, [("chosen", "original")]).shape == (1, 1)


def test_two_rows_can_share_a_picture():
    for family in FAMILIES:
        model = tiny_vlm(family)
        batch, plain = tiny_batch(model, duplicate=True), tiny_batch(model)
        assert batch["images"] == {"original": [0, 0, 2], "negative": [3, 4, 5]}
        a, b = (one_row(batch, row)["prompts"]["original"] for row in range(2))
        for key in batch["sizes"]["original"]:
            assert torch.equal(a[key], b[key]), (family, key)
        assert a["input_ids"].tolist() != b["input_ids"].tolist()
        # the other rows are those of the batch without
        torch.testing.assert_close(scores(model, batch)[:, 2], scores(model, plain)[:, 2], rtol=0, atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="family 'llama' is unknown; there is llava, "):
        tiny_vlm("llama")
    with pytest.raises(ValueError, match="family 'llama' is unknown"):
        tiny_processor("llama")
    model = tiny_vlm("llava")
    for settings in ({"rows": 0}, {"rows": 1, "duplicate": True}, {"same_prefix": -1}, {"answers": ()}, {"images": ()}):
        with pytest.raises(ValueError, match="at least one row"):
            tiny_batch(model, **settings)
    model.config.model_type = "bert"
    with pytest.raises(ValueError, match="model type 'bert' is unknown"):
        tiny_batch(model)


def test_batch_and_processor_agree_on_pictures():
    def block(ids, tokenizer):
        """From the first to the last of the family's special tokens."""
        special = set(tokenizer.get_added_vocab().values()) - set(range(4))  # pad, unk, bos, eos
        found = [i for i, token in enumerate(ids) if token in special]
        return ids[found[0] : found[-1] + 1]


    checked = 0
    for family in FAMILIES:
        if (processor := processor_of(family)) is None:
            continue
        model = tiny_vlm(family)
        batch = tiny_batch(model)
        assert len(processor.tokenizer) == model.config.text_config.vocab_size, family
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "why ?"}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        for row, size in enumerate(PICTURES.get(family, [(20, 20)] * 3)):
            if size is None:
                continue
            made = processor(images=[picture(*size)], text=[text], return_tensors="pt", add_special_tokens=False)
            mine = one_row(batch, row)["prompts"]["original"]
            ours, theirs = (block(x["input_ids"][0].tolist(), processor.tokenizer) for x in (mine, made))
            assert ours == theirs, (family, row)
            assert set(made) == set(mine), family
            for key in batch["sizes"]["original"]:
                axis = 1 if mine[key].ndim == 5 or key == "pixel_attention_mask" else 0  # this one is padded
                n = made[key].shape[axis]
                assert made[key].shape == mine[key].narrow(axis, 0, n).shape, (family, key)
                assert not mine[key].narrow(axis, n, mine[key].shape[axis] - n).any(), (family, key)
            checked += 1
    assert checked >= 24


def test_rows_and_pictures_go_all_the_way():
    from mfpo.train.collator import PreferenceCollator, RowEncoder
    from mfpo.train.arms import Arm

    arms = [Arm(*arm) for arm in ARMS]
    rows = [
        {"id": "a", "question": "what is it ?", "image": picture(40, 24, 0), "negative": picture(40, 24, 1),
         "chosen": "a cat .", "rejected": "a cat on a table ."},
        {"id": "b", "question": "why ?", "image": picture(20, 20, 2), "negative": picture(20, 20, 3),
         "chosen": "it is red .", "rejected": "no ."},
        # short: words are spelled here, and no image is seen from beyond layers × window tokens
        {"id": "c", "question": "so ?", "image": picture(30, 64, 4), "negative": picture(30, 34, 5),
         "chosen": "two", "rejected": "two or so ."},
    ]
    done = []
    for family in FAMILIES:
        if (processor := processor_of(family)) is None:
            continue
        model, collate = tiny_vlm(family), PreferenceCollator(RowEncoder(processor), arms=arms)
        together = scores(model, collate(rows), arms)
        alone = torch.cat([scores(model, collate([row]), arms) for row in rows], dim=1)
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5, msg=family)
        assert torch.isfinite(together).all() and ((together[0] - together[2]).abs() > 1e-4).all(), family
        done.append(family)
    assert set(FAMILIES) - set(done) <= {"idefics3", "smolvlm"}


def test_a_processor_that_cannot_be_built_says_why():
    from transformers.models.smolvlm import processing_smolvlm as smolvlm

    before, smolvlm.num2words = smolvlm.num2words, None
    try:
        with pytest.raises(ImportError, match="of smolvlm cannot be built: (?s:.)*(num2words|[Tt]orchvision)"):
            tiny_processor("smolvlm")
    finally:
        smolvlm.num2words = before
