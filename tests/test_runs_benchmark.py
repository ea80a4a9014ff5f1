# Exported from nbs/runs/benchmark.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.benchmark import *  # noqa: F403

import pytest
import torch
from mfpo.runs.flops import Training, VLMSize, plain_step, rows_of, tree_step
from mfpo.runs.workload import Shape

TINY = dict(width=32, layers=2, heads=2, intermediate=48, vocabulary=64, vision_width=16, vision_layers=2, vision_heads=2, image_side=3,
            prompt=6, answer=8, batch=3, lora_r=2)


def test_all_variants_make_the_same_step():
    bench = Bench(Shape(**TINY))
    with torch.no_grad():  # further from the reference, so that the loss is not that of two equal models
        [p.mul_(100) for name, p in bench.model.named_parameters() if "lora_B" in name]
    gradients, losses = {}, {}
    for name in bench.variants:
        bench.prepare(name)
        losses[name] = bench.step(name)
        gradients[name] = torch.cat([p.grad.flatten() for p in bench.trained])
        bench.drop_gradients()
        assert all(p.grad is None for p in bench.trained)
    assert bench.variants == list(VARIANTS)
    for name, variant in VARIANTS.items():
        assert abs(losses[name] - losses[variant.baseline]) < 1e-5, name
        far = (gradients[name] - gradients[variant.baseline]).norm() / gradients[variant.baseline].norm()
        assert far < 1e-4, (name, far)
    assert abs(losses["published"] - losses["trl"]) > 1e-2


def test_a_remembered_picture_is_not_encoded_again():
    bench = Bench(Shape(**TINY), trl=False)
    assert "trl" not in bench.variants and "dpo_tree" in bench.variants
    calls = []
    tower = bench.model.get_base_model().model.vision_tower
    tower.register_forward_hook(lambda module, inputs, output: calls.append(len(output.last_hidden_state)))
    seen = {}
    for name in ("published", "plain", "tree", "tree_cached", "tree_remembered"):
        bench.prepare(name)
        calls.clear()
        bench.step(name)
        seen[name] = sum(calls)
    # 3 samples: 3 + 3 rows each; 2 pictures each, once a step; none
    assert seen == {"published": 18, "plain": 18, "tree": 6, "tree_cached": 6, "tree_remembered": 0}


def test_flops_are_those_of_the_layout():
    from mfpo.runs.flops import DPO_ARMS, MFPO_ARMS
    bench = Bench(Shape(**TINY))
    size, rows = VLMSize.from_config(bench.model.config), rows_of(bench.batch)
    assert bench.flops("published") == plain_step(size, rows, MFPO_ARMS, Training(2)).total > bench.flops("plain")
    assert bench.flops("dpo_tree_cached") == tree_step(size, rows, DPO_ARMS, Training(2), reference="cached").total
    assert bench.flops("trl") == plain_step(size, rows, DPO_ARMS, Training(2)).total
    assert step_flops(size, VARIANTS["trl"], rows, Training(2), cuda=True) < bench.flops("trl")
    before = bench.flops("published")
    bench.load(6)
    assert len(bench.batch["images"]["original"]) == 6 and bench.trl_batch["input_ids"].shape[0] == 12
    assert 1.8 * before < bench.flops("published") < 2.2 * before


def test_steps_compute_what_their_layout_needs():
    # torch's own counts of operators beside the formulas, without attention, which it does not count in fused form on a CPU.
    # Answers of one length, so that plain rows have no padding; long enough that trees of one size make a call of their own.
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry


    class Counter(TorchDispatchMode):
        """Adds up the FLOPs of all operators that torch has a count for."""

        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out, packet = func(*args, **(kwargs or {})), func._overloadpacket
            if packet in flop_registry:
                self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            return out


    shape = Shape(**{**TINY, "answer": 100, "variation": 0.0})
    bench = Bench(shape, trl=False)
    size, rows = VLMSize.from_config(bench.model.config), rows_of(bench.batch)
    seen = size.tower.patches + size.tower.extra


    def needed(name):
        from mfpo.runs.flops import MFPO_ARMS
        variant = VARIANTS[name]
        choices = {"reference": variant.reference, "features": variant.features}
        flops = plain_step(size, rows, MFPO_ARMS, Training(2)) if name == "published" else tree_step(size, rows, MFPO_ARMS, Training(2), **choices)
        total = 0
        for part in (flops.forward, flops.backward, flops.reference):
            tower = size.tower.layers * 4 * size.tower.width * seen**2
            linear = 2 * size.tower.patches * size.tower.patch_values * size.tower.width + size.tower.layers * seen * 2 * (
                4 * size.tower.width**2 + 2 * size.tower.width * size.tower.intermediate)
            total += sum(n for name, n in part.items() if name != "attention") - part.get("tower", 0) * tower // (tower + linear)
        return total


    for name, least, most in (("published", 1.0, 1.0), ("tree", 0.98, 1.01), ("tree_cached", 0.98, 1.01), ("tree_remembered", 0.98, 1.01)):
        bench.prepare(name)
        with Counter() as counter:
            bench.step(name)
        bench.drop_gradients()
        # a tree leaves out the last token of an answer, and scores the first tokens of two answers apart
        assert least <= counter.total / needed(name) <= most, (name, counter.total / needed(name))


def test_checkpointing_and_half_precision_make_the_same_step():
    for options in ({"checkpointing": True}, {"dtype": "bfloat16"}):
        bench = Bench(Shape(**TINY), **options)
        losses = {}
        for name in bench.variants:
            bench.prepare(name)
            losses[name] = bench.step(name)
        same_losses(losses, 1e-5 if "checkpointing" in options else 0.02)
        assert bench.model.training


def test_the_environment_is_named():
    found = environment("cpu", "float32", threads=2)
    assert found["device"] and found["threads"] == 2 and found["torch"] == installed("torch") and len(found["date"]) == 10
    assert installed("no-such-package") is None


def test_rounds_take_turns():
    found = time_shape(TINY, ["published", "tree"], rounds=2)
    assert [(r["round"], r["variant"]) for r in found["records"]] == [(0, "published"), (0, "tree"), (1, "published"), (1, "tree")]
    assert all(r["seconds"] > 0 and r["wall_seconds"] > 0 for r in found["records"])
    assert found["shape"] == TINY and set(found["flops"]) == set(found["losses"]) == {"published", "tree"}
    import json
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(ValueError, match="variant trees is unknown; there is published"):
        time_shape(TINY, ["trees"])
    with pytest.raises(ValueError, match="rounds=0 must be 1 or more"):
        time_shape(TINY, ["tree"], rounds=0)
    with pytest.raises(RuntimeError, match="variants of dpo have different losses: {'trl': 0.5, 'dpo_tree': 0.6}"):
        same_losses({"trl": 0.5, "dpo_tree": 0.6, "tree": 2.0}, 0.01)
