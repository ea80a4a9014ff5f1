# Exported from nbs/train/step.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.step import *  # noqa: F403

import contextlib

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mfpo.model.layout import arm_inputs
from mfpo.model.logps import answer_distributions, arm_logps, own_tokens
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vision import ImageMemory
from mfpo.train.arms import CHOSEN, NEGATIVE, REJECTED, Arm, Span
from mfpo.train.collator import PreferenceCollator, RowEncoder
from mfpo.train.mixture import Mixture
from mfpo.train.objectives import Objective
from mfpo.train.presets import preset
from mfpo.train.terms import Guide, Term

KINDS = [Span("chosen", "original", "own"), Span("chosen", "original", "changed"), Span("rejected", "original", "changed")]


def two_rows():
    return [
        {"id": f"row-{k}", "image": Image.new("RGB", (64, 64), ("red", "blue")[k]), "negative": Image.new("RGB", (64, 64)),
         "question": ("what is it ?", "describe the image .")[k], "chosen": ("a red cup .", "a table and a blue cup .")[k],
         "rejected": ("a red dog .", "a table and a car .")[k], "own_tokens": [7 + k] * (5, 8)[k]}
        for k in range(2)
    ]


def side(seed, route="plain"):
    """A model whose answers depend on place and picture."""
    model, _ = small_vlm_for_tests(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return Side(model, ImageMemory(0), torch.no_grad, route)


def batch_of(readings, **options):
    return PreferenceCollator(RowEncoder(small_vlm_for_tests()[1]), tuple(readings), **options)(two_rows())


def logits(model, batch, arm):
    """Whole logits at the places of the arm's answer, row by row."""
    inputs, is_answer = arm_inputs(batch, [arm])
    with torch.no_grad():
        out = model(**inputs).logits.double()
    return [out[k][is_answer[k].nonzero()[:, 0] - 1] for k in range(len(out))]


def test_what_is_looked_up_is_what_is_scored():
    for route in ("plain", "tree"):
        reader, readings = side(1, route), (CHOSEN, REJECTED, *KINDS)
        batch = batch_of((*readings, NEGATIVE))
        against = answer_distributions(reader.model, batch, (REJECTED, CHOSEN), **reader.options)
        found = looked_up(against, batch, (*readings, NEGATIVE, Span("chosen", "original", "top")))
        scored = reader.read(batch, readings)
        assert found.keys() == scored.keys() == set(readings)  # the negative has no distributions, and "top" is not in them
        for reading in readings:
            assert found[reading].dtype == scored[reading].dtype == torch.float32
            assert torch.allclose(found[reading], scored[reading], rtol=0, atol=2e-5), reading
    assert reader.read(batch, ()) == {}


def test_every_arm_is_scored_once():
    def rows_scored(objective, known=False):
        """Sequences that went through the policy with and without a gradient, through the reference, and the second."""
        collator = PreferenceCollator.of(objective, RowEncoder(small_vlm_for_tests()[1]))
        extra = [arm for arm in proposing_arms(objective).values() if objective.own != "reference" and arm not in collator.arms]
        collator = PreferenceCollator(collator.encoder, (*collator.readings, *extra), counts=collator.counts, own=collator.own,
                                      reference_arms=objective.reference_readings, row_weights=collator.row_weights)
        batch = collator([row | {"caption": True, "regions": []} for row in two_rows()])
        sides, counts = [side(k) for k in range(3)], {}
        for k, one in enumerate(sides):
            one.model.register_forward_hook(
                lambda m, a, kw, o, k=k: counts.update({(k, torch.is_grad_enabled()): counts.get((k, torch.is_grad_enabled()), 0)
                                                         + len(kw["input_ids"])}), with_kwargs=True)
        read_step(sides[0].model, batch, objective, *sides)
        return [counts.get(key, 0) / 2 for key in ((0, True), (0, False), (1, False), (2, False))]

    assert rows_scored(preset("dpo")) == [2, 0, 2, 0] and rows_scored(preset("mfpo")) == [3, 0, 3, 0]
    assert rows_scored(preset("sft")) == [1, 0, 0, 0] and rows_scored(preset("simpo")) == [2, 0, 0, 0]
    assert rows_scored(preset("rlhfv")) == [2, 0, 2, 0] and rows_scored(preset("sena")) == [2, 0, 2, 0]
    assert rows_scored(preset("chip")) == [3, 0, 3, 0] and rows_scored(preset("chip", released=True)) == [3, 0, 3, 0]
    assert rows_scored(preset("povid_stage2")) == [2, 0, 2, 0]
    assert rows_scored(preset("povid_stage2", released=True)) == [2, 1, 3, 0]  # each model proposes on the negative image
    assert rows_scored(preset("rdpo", released=True)) == [3, 0, 3, 0]
    assert rows_scored(preset("vdpo")) == [2, 2, 2, 0] and rows_scored(preset("vdpo", by="reference")) == [2, 0, 4, 0]
    assert rows_scored(preset("mrpo")) == [2, 0, 2, 2]
    policy_own = Objective(preset("povid_stage2").terms, own="policy")
    assert rows_scored(policy_own) == [2, 1, 2, 0]


def test_known_numbers_are_not_asked_for():
    objective, sides = preset("mfpo"), [side(0), side(1)]
    batch = PreferenceCollator.of(objective, RowEncoder(small_vlm_for_tests()[1]))(two_rows())
    whole, asked = read_step(sides[0].model, batch, objective, *sides), []
    sides[1].model.register_forward_hook(lambda m, a, kw, o: asked.append(len(kw["input_ids"])), with_kwargs=True)
    batch["reference"] = {arm.label: torch.tensor([-1.0, -2.0]) for arm in (CHOSEN, NEGATIVE)}
    policy, reference = read_step(sides[0].model, batch, objective, *sides)
    assert asked == [2] and reference[CHOSEN].tolist() == reference[NEGATIVE].tolist() == [-1.0, -2.0]
    assert torch.allclose(reference[REJECTED], whole[1][REJECTED], atol=1e-5) and torch.equal(policy[CHOSEN], whole[0][CHOSEN])
    mixed = Objective(objective.terms, reference=Mixture(alpha=0.5, split=False))
    batch["second_reference"] = {arm.label: torch.tensor([-3.0, -3.0]) for arm in (CHOSEN, REJECTED, NEGATIVE)}
    second, initial = read_step(sides[0].model, batch, mixed, *sides)[1]
    assert second[CHOSEN].tolist() == [-3.0, -3.0] and initial[CHOSEN].tolist() == [-1.0, -2.0]
    del batch["second_reference"]["rejected_original"]
    with pytest.raises(ValueError, match="second reference's numbers of rejected_original are unknown; give its file"):
        read_step(sides[0].model, batch, mixed, *sides)


def test_what_a_table_can_hold():
    stage = preset("povid_stage2")
    assert fixed_readings(stage) == stage.reference_readings and len(stage.reference_readings) == 3
    for own in ("policy", "each"):
        moving = Objective(stage.terms, own=own)
        assert fixed_readings(moving) == (CHOSEN, REJECTED) and proposing_arms(moving) == {"chosen": Arm("chosen", "negative")}
    assert fixed_readings(preset("sft")) == () and proposing_arms(preset("mfpo")) == {}


def test_own_tokens_of_whom():
    def by_hand(scorer, proposer, batch):
        """log p of the proposer's likeliest tokens on the negative picture, by the scorer on the original one."""
        seen, worse = logits(scorer, batch, CHOSEN), logits(proposer, batch, NEGATIVE)
        return torch.stack([F.log_softmax(s, -1).gather(1, w.argmax(-1)[:, None]).sum() for s, w in zip(seen, worse)])

    own = KINDS[0]
    for route in ("plain", "tree"):
        policy, reference = side(0, route), side(1, route)
        for whose, proposers in (("policy", (policy, policy)), ("each", (policy, reference))):
            objective = Objective(preset("povid_stage2").terms, own=whose)
            collator = PreferenceCollator.of(objective, RowEncoder(small_vlm_for_tests()[1]))
            batch = PreferenceCollator(collator.encoder, (*collator.readings, NEGATIVE), own=())(two_rows())
            ours, theirs = read_step(policy.model, batch, objective, policy, reference)
            for numbers, scorer, proposer in zip((ours, theirs), (policy, reference), proposers):
                expected = by_hand(scorer.model, proposer.model, batch)
                assert torch.allclose(numbers[own].double(), expected, atol=1e-4), (route, whose)
            assert ours[own].requires_grad and not theirs[own].requires_grad and "own" not in batch
        fixed = preset("povid_stage2")
        batch = PreferenceCollator.of(fixed, RowEncoder(small_vlm_for_tests()[1]))(two_rows())
        ours, theirs = read_step(policy.model, batch, fixed, policy, reference)
        for numbers, scorer in ((ours, policy), (theirs, reference)):
            expected = torch.stack([F.log_softmax(s, -1)[:, 7 + k].sum() for k, s in enumerate(logits(scorer.model, batch, CHOSEN))])
            assert torch.allclose(numbers[own].double(), expected, atol=1e-4)


def test_divergences_by_hand():
    objective, policy, reference = preset("chip"), side(0), side(1)
    batch = PreferenceCollator.of(objective, RowEncoder(small_vlm_for_tests()[1]))(two_rows())
    for route in ("plain", "tree"):
        ours, _ = read_step(policy.model, batch, objective, side(0, route), side(1, route))
        for arm in (CHOSEN, REJECTED):
            p, q = ([F.log_softmax(x, -1) for x in logits(one.model, batch, arm)] for one in (reference, policy))
            expected = torch.stack([(a.exp() * (a - b)).sum() for a, b in zip(p, q)])
            assert torch.allclose(ours[Span(*arm, "kl")].double(), expected, rtol=1e-5)
            assert (expected > 0).all() and ours[Span(*arm, "kl")].requires_grad
