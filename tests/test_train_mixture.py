# Exported from nbs/train/mixture.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.mixture import *  # noqa: F403

import math

import pytest
import torch

from mfpo.train.arms import CHOSEN, NEGATIVE, REJECTED
from mfpo.train.mixture import Mixture


def logps(seed, scale=30.0, batch=6):
    g = torch.Generator().manual_seed(seed)
    draw = lambda: -scale * torch.rand(batch, generator=g, dtype=torch.float64)
    return {arm: draw() for arm in (CHOSEN, REJECTED, NEGATIVE)}


def transcribed(first, second, row, answer, *, alpha=None, eta=0.1, split=True, crossed=False):
    """One log-prob of the mixture, written out in plain floats from the paper's formulas (and the released code's)."""
    w, l = ([float(m[arm][row]) for m in (first, second)] for arm in (CHOSEN, REJECTED))
    if alpha is None:
        d = [abs(w[k] - l[k]) for k in (0, 1)]
        alpha = d[0] / (d[0] + d[1] + (1e-6 if crossed else 0))
    b = [abs(sum(w) / 2), abs(sum(l) / 2)]
    arm = {"chosen": CHOSEN, "rejected": REJECTED, "negative": NEGATIVE}[answer]
    l1, l2 = float(first[arm][row]), float(second[arm][row])
    mine = b[1] if answer == "rejected" else b[0]
    room = (eta * mine / (b[0] + b[1]) if split else eta) if eta is not None else math.inf
    if eta is not None:
        l1 = min(max(l1, l2 * (1 + room)), l2 * (1 - room))
    p1, p2 = (alpha, 1 - alpha) if not crossed else (1 - alpha, alpha)
    return -math.log(p1 / math.exp(l1) + p2 / math.exp(l2))


def test_equals_its_transcription():
    first, second = logps(1), logps(2)
    for options in ({}, {"crossed": True}, {"clip": None}, {"split": False}, {"alpha": 0.3, "crossed": True},
                    {"alpha": 0.3}, {"alpha": 0.7, "clip": None, "crossed": True}, {"clip": 0.5, "crossed": True}):
        mixed = Mixture(**options)(first, second)
        spelt = {{"clip": "eta"}.get(k, k): v for k, v in options.items()}
        for row in range(6):
            for answer, arm in (("chosen", CHOSEN), ("rejected", REJECTED), ("negative", NEGATIVE)):
                expected = transcribed(first, second, row, answer, **spelt)
                assert abs(float(mixed[arm][row]) - expected) < 1e-9, (options, answer, row)


def test_two_equal_references_are_one():
    same = logps(3)
    for mixture in (Mixture(), Mixture(0.2), Mixture(crossed=True), Mixture(0.0), Mixture(1.0), Mixture(clip=None)):
        for arm, value in mixture(same, same).items():
            torch.testing.assert_close(value, same[arm], rtol=1e-12, atol=1e-12)


def test_alpha_is_the_weight_of_the_first():
    first, second = logps(4), logps(5)
    unclipped = dict(clip=None)
    for alpha, crossed, expected in [(1, False, first), (0, False, second), (1, True, second), (0, True, first)]:
        mixed = Mixture(alpha, crossed=crossed, **unclipped)(first, second)
        for arm in mixed:
            torch.testing.assert_close(mixed[arm], expected[arm], rtol=1e-12, atol=1e-12)


def test_the_first_is_kept_near_the_second():
    # alpha 1: only the clipped first is left. By hand, eta .1, l2 = (-20, -30), l1 = (-10, -60): b = (15, 45), the split
    # is 1/4 to 3/4, so chosen may come to -20 * (1 - .025) = -19.5 and rejected to -30 * (1 + .075) = -32.25
    first = {CHOSEN: torch.tensor([-10.0]), REJECTED: torch.tensor([-60.0])}
    second = {CHOSEN: torch.tensor([-20.0]), REJECTED: torch.tensor([-30.0])}
    mixed = Mixture(1.0)(first, second)
    assert abs(float(mixed[CHOSEN]) + 19.5) < 1e-5 and abs(float(mixed[REJECTED]) + 32.25) < 1e-5
    whole = Mixture(1.0, split=False)(first, second)
    assert abs(float(whole[CHOSEN]) + 18) < 1e-5 and abs(float(whole[REJECTED]) + 33) < 1e-5


def test_alpha_is_taken_before_the_clipping():
    # d = (50, 10), so alpha is 5/6, although the clipped first tells the answers apart by less
    mixed = Mixture()(first := {CHOSEN: torch.tensor([-10.0]), REJECTED: torch.tensor([-60.0])},
                      second := {CHOSEN: torch.tensor([-20.0]), REJECTED: torch.tensor([-30.0])})
    by_hand = -math.log(5 / 6 * math.exp(19.5 - 20) + 1 / 6) - 20
    assert abs(float(mixed[CHOSEN]) - by_hand) < 1e-5


def test_nothing_to_share_is_shared_equally():
    zero = {CHOSEN: torch.zeros(2), REJECTED: torch.zeros(2)}
    for mixture in (Mixture(), Mixture(crossed=True)):
        assert all(bool((value == 0).all()) for value in mixture(zero, zero).values())
    same = {CHOSEN: torch.full((2,), -3.0), REJECTED: torch.full((2,), -3.0)}  # neither tells the answers apart
    assert bool(torch.isfinite(Mixture()(same, same)[CHOSEN]).all())


def test_there_is_no_gradient():
    first = {arm: x.requires_grad_() for arm, x in logps(6).items()}
    assert not any(x.requires_grad for x in Mixture()(first, logps(7)).values())


def test_what_cannot_be_is_refused_with_the_remedy():
    for settings, words in [
        ({"alpha": 1.5}, "between 0 and 1, or be 'adaptive'"), ({"alpha": "best"}, "alpha='best'"),
        ({"alpha": [1]}, "alpha"),
        ({"alpha": math.nan}, "alpha=nan"), ({"alpha": None}, "alpha=None"), ({"clip": -0.1}, "None clips nothing"),
        ({"clip": "x"}, "clip='x'"), ({"clip": math.nan}, "clip=nan"), ({"split": 1}, "split=1 must be true"),
        ({"crossed": "yes"}, "crossed='yes'"),
    ]:
        with pytest.raises(ValueError, match=words):
            Mixture(**settings)
    assert Mixture(clip=math.inf) == Mixture(clip=None) and hash(Mixture(0.5)) == hash(Mixture("0.5"))
    for mixture in (Mixture(), Mixture(0.5)):
        with pytest.raises(ValueError, match="split=False"):
            mixture({CHOSEN: torch.zeros(1)}, {CHOSEN: torch.zeros(1)})
    assert Mixture(0.5, split=False)({CHOSEN: torch.zeros(1)}, {CHOSEN: torch.zeros(1)})[CHOSEN] == 0
