# Exported from nbs/model/vision.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.vision import *  # noqa: F403

import pytest
import torch

from mfpo.model.branching import tree_logps
from mfpo.model.layout import picture_inputs
from mfpo.model.logps import plain_logps
from mfpo.model.seams import seams
from mfpo.model.tiny import FAMILIES, tiny_batch, tiny_vlm
from mfpo.model.vision import ImageMemory, each_picture_once, vision_is_fixed

ARMS = [("chosen", "original"), ("rejected", "original"), ("chosen", "negative")]


def frozen(model):
    """The model with nothing trained but its decoder."""
    model.requires_grad_(False)
    model.get_decoder().requires_grad_(True)
    return model


def counting(model, seen):
    """Note the pictures that reach `get_image_features`."""
    inner, original = model.model, model.model.get_image_features
    def noted(*args, **kwargs):
        seen.append(len(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]))
        return original(*args, **kwargs)
    inner.get_image_features = noted


def test_rows_that_share_a_picture_share_its_features_in_every_family():
    for family in FAMILIES:
        model = tiny_vlm(family, dtype=torch.float64)
        batch = tiny_batch(model, rows=3, duplicate=True)
        assert len({name for names in batch["images"].values() for name in names}) < 6
        results = []
        for score in (plain_logps, tree_logps):
            model.zero_grad(set_to_none=True)
            logps = score(model, batch, ARMS)
            (logps * torch.tensor([[1.0], [-0.6], [-0.3]])).sum().backward()
            results.append((logps.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
        (plain, expected), (tree, found) = results
        assert (plain - tree).abs().max() < 1e-10, family
        largest = max(g.norm() for g in expected.values())
        assert all((found[n] - g).norm() <= 1e-5 * max(g.norm(), 1e-3 * largest) for n, g in expected.items()), family


def test_the_tower_sees_each_picture_once():
    model = tiny_vlm("llava")
    seen, batch = [], tiny_batch(model, rows=3, duplicate=True)
    counting(model, seen)
    distinct = len({name for names in batch["images"].values() for name in names})
    tree_logps(model, batch, ARMS)
    assert seen == [distinct] and distinct < 6
    assert model.model.get_image_features.__name__ == "noted"  # and what was there before is there again


def test_a_second_call_takes_the_features_of_the_first():
    for family in FAMILIES:
        model = frozen(tiny_vlm(family))
        batch, seen, memory = tiny_batch(model), [], ImageMemory()
        fresh = tree_logps(model, batch, ARMS)
        counting(model, seen)
        first, second = (tree_logps(model, batch, ARMS, memory) for _ in range(2))
        assert len(seen) == 1, family
        assert torch.equal(first, second) and (fresh - first).abs().max() < 1e-4, family
        memory.clear()
        tree_logps(model, batch, ARMS, memory)
        assert len(seen) == 2 and len(memory.features) == 6


def test_what_is_kept_between_steps_does_not_depend_on_the_company():
    for family in FAMILIES:
        model = frozen(tiny_vlm(family))
        large, small = tiny_batch(model, rows=3), None
        from mfpo.model.layout import first_rows
        small = first_rows(large, 1)
        a, b, seen = ImageMemory(8), ImageMemory(8), []
        counting(model, seen)
        with torch.no_grad():
            tree_logps(model, large, ARMS, a), tree_logps(model, small, ARMS, b)
        assert len(seen) == 6 + 2, family  # one by one
        for name, features in b.features.items():
            assert all(torch.equal(x, y) for x, y in zip(a.features[name], features, strict=True)), family
        with torch.no_grad():
            a.clear()
            again = tree_logps(model, large, ARMS, a)
            assert len(seen) == 8 and (again - plain_logps(model, large, ARMS)).abs().max() < 1e-3


def test_a_full_memory_is_no_error():
    model = frozen(tiny_vlm("llava"))
    batch = tiny_batch(model)
    whole = ImageMemory(8)
    expected = tree_logps(model, batch, ARMS, whole)
    size = sum(t.numel() * t.element_size() for t in next(iter(whole.features.values())))
    little = ImageMemory(2.5 * size / 2**20)
    assert (tree_logps(model, batch, ARMS, little) - expected).abs().max() < 1e-4
    assert len(little.features) == 2
    with pytest.raises(ValueError, match="limit_mb=-1"):
        ImageMemory(-1)


def test_features_are_kept_only_where_the_vision_side_is_fixed():
    from peft import LoraConfig, get_peft_model
    from mfpo.model.vlm import lora

    assert vision_is_fixed(seams(frozen(tiny_vlm("llava"))))
    assert not vision_is_fixed(seams(tiny_vlm("llava")))
    for projector in (False, True):
        model = tiny_vlm("llava")
        assert vision_is_fixed(seams(get_peft_model(model, lora(model, r=2, projector=projector)))) == (not projector)
    on_tower = get_peft_model(tiny_vlm("llava"), LoraConfig(target_modules=["q_proj"], r=2))
    assert not vision_is_fixed(seams(on_tower))
    for p in on_tower.parameters():
        p.requires_grad_(False)
    assert not vision_is_fixed(seams(on_tower))  # frozen, but off for the reference and on for the policy
    model = frozen(tiny_vlm("llava"))
    model.config.vision_config.attention_dropout = 0.1
    assert not vision_is_fixed(seams(model))
    memory = ImageMemory(8)
    tree_logps(model, tiny_batch(model), ARMS, memory)
    assert not memory.features
    model, memory = frozen(tiny_vlm("llava")), ImageMemory(8)
    assert memory.serves(seams(model)) and memory.serves(seams(model))
    weight = next(p for n, p in model.named_parameters() if "projector" in n)
    weight.requires_grad_(True)  # thawed on the way
    assert not memory.serves(seams(model)) and not vision_is_fixed(seams(model))
    weight.requires_grad_(False)
    other = tiny_vlm("llava")
    assert not memory.serves(seams(other)) and memory.serves(seams(model))
