# Exported from nbs/train/links.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.links import *  # noqa: F403

import math

import pytest
import torch


def comparison(gap, better=0.0, worse=0.0, beta=0.1, smoothing=0.0, tau=0.05):
    gap, better, worse = (torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (gap, better, worse))
    return Comparison(gap, better, worse, gap, torch.zeros_like(gap), beta, smoothing, tau)


def test_at_initialisation_every_link_has_the_value_derived_by_hand():
    # All rewards 0, beta .1, smoothing .25 where one is needed. exo: KL((1/2, 1/2) || (3/4, 1/4)) = (log(2/3) + log 2) / 2
    log2 = math.log(2)
    expected = {
        "sigmoid": log2, "hinge": 1, "ipo": 25, "robust": log2, "exo_pair": 0.5 * math.log(4 / 3), "nca_pair": 2 * log2,
        "bco_pair": 2 * log2, "sppo_hard": 50, "aot": log2, "aot_unpaired": log2, "apo_zero": 1, "apo_down": 1,
        "discopop": 0.5 * log2 + 0.5, "sigmoid_norm": log2,
    }
    assert expected.keys() == LINKS.keys()
    for name, value in expected.items():
        got = float(LINKS[name](comparison(0.0, smoothing=0.25 if name in ("robust", "exo_pair") else 0)))
        assert abs(got - value) < 1e-12, name


def test_a_won_comparison_costs_less():
    for name in ("sigmoid", "hinge", "robust", "exo_pair"):  # discopop's is not monotone
        smoothing = 0.01 if name in ("robust", "exo_pair") else 0
        losses = LINKS[name](comparison(torch.linspace(-3, 0.9, 40), smoothing=smoothing))
        assert (losses.diff() < 0).all(), name


def test_smoothing_turns_back_where_its_label_is_reached():
    # d/dx of the smoothed loss is zero where sigma(x) = 1 - eps: at x = log((1 - eps) / eps)
    x = torch.tensor([math.log(0.8 / 0.2)], dtype=torch.float64, requires_grad=True)
    for name in ("sigmoid", "exo_pair"):
        (slope,) = torch.autograd.grad(LINKS[name](comparison(0.0, smoothing=0.2)._replace(gap=x)).sum(), x)
        assert abs(float(slope)) < 1e-12, name


def test_robust_is_unbiased_under_flipped_labels():
    # The expectation over a share eps of flipped labels is the loss of the true label: the point of its paper.
    for x in (-2.0, 0.3, 1.7):
        got = 0.7 * LINKS["robust"](comparison(x, smoothing=0.3)) + 0.3 * LINKS["robust"](comparison(-x, smoothing=0.3))
        torch.testing.assert_close(got, LINKS["sigmoid"](comparison(x)), rtol=1e-12, atol=1e-12)


def test_what_is_sorted_forgets_the_pairing():
    better, worse = torch.tensor([3.0, -1.0, 0.5]), torch.tensor([0.2, 2.0, -2.0])
    loss = lambda b, w: LINKS["aot_unpaired"](comparison(b - w, b, w)).mean()
    assert float(loss(better, worse)) == float(loss(better[[2, 0, 1]], worse))
    assert float(loss(better, worse)) != float(LINKS["sigmoid"](comparison(better - worse)).mean())


def test_links_have_names():
    assert link_name("hinge") == "hinge" and link_name(torch.relu) == "relu"
    assert PER_TOKEN | PAIRWISE | SMOOTHED <= set(LINKS)
