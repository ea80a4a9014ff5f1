# Exported from nbs/train/metrics.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.metrics import *  # noqa: F403

import pytest
import torch

from mfpo.train.arms import CHOSEN, NEGATIVE, REJECTED, Span
from mfpo.train.mixture import Mixture
from mfpo.train.objectives import Objective
from mfpo.train.presets import preset
from mfpo.train.terms import Term


def numbers(**values):
    """Log-probs by label of the three arms."""
    arms = {arm.label: arm for arm in (CHOSEN, REJECTED, NEGATIVE)}
    return {arms[label]: torch.tensor(value, dtype=torch.float64) for label, value in values.items()}


def test_displaced_rows_by_hand():
    policy = numbers(chosen_original=[-10.0, -9.0, -12.0, -10.00005], rejected_original=[-20.0, -20.0, -20.0, -20.0])
    reference = numbers(chosen_original=[-10.0, -10.0, -10.0, -10.0], rejected_original=[-15.0, -15.0, -15.0, -15.0])
    # the third fell by two nats, the fourth by less than rounding
    assert displacement(preset("dpo"), policy, reference)["displaced"].item() == 0.25
    assert displacement(preset("sft"), policy, {}) == {}
    # a mixture: both references say -10 of the chosen answers
    mixed = Objective(preset("dpo").terms, reference=Mixture(alpha=0.5, clip=None))
    assert displacement(mixed, policy, [reference, reference])["displaced"].item() == 0.25
    # whatever the term makes of it: the sign is that of the sum
    assert displacement(preset("dpo", loss_type="ipo"), policy, reference)["displaced"].item() == 0.25
    # the chosen answer is not read as such
    rejected_only = Objective((Term(REJECTED, None, name="low"),))
    only = lambda numbers: {REJECTED: numbers[REJECTED]}
    assert displacement(rejected_only, only(policy), only(reference)) == {}
    # read by one model alone: nothing to compare
    nll = Objective((Term(CHOSEN, None, link="nll", name="sft"), Term(REJECTED, None, name="low")))
    assert displacement(nll, policy, only(reference)) == {}


def test_the_warning_needs_all_three():
    told = displacement_warning({"rewards/chosen": -0.5, "rewards/margins": 1.0, "displaced": 0.75})
    assert "-0.5 (below zero in 75% of the rows), while the text gap is 1" in told and "margin term" in told and "%" not in told.replace("75%", "")
    for means in (
        {"rewards/chosen": 0.5, "rewards/margins": 1.0, "displaced": 0.25}, {"rewards/chosen": -0.5, "rewards/margins": -1.0, "displaced": 0.75},
        {"rewards/margins": 1.0}, {"rewards/chosen": -0.5}, {"rewards/chosen": -1e-9, "rewards/margins": 1e-9, "displaced": 0.0}, {},
    ):
        assert displacement_warning(means) == ""
