# Exported from nbs/model/extras.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.extras import *  # noqa: F403

import torch

from mfpo.model.extras import plan_extras
from mfpo.model.readings import ALL, KL, OWN, TOP, Asked
from mfpo.model.tree import Tree

C, R = ("chosen", "original"), ("rejected", "original")


def two_answers(row=0):
    """Prompt 0 1, answers 2 3 and 2 4 5. Predictions: 2 behind 1; 3 and 4 behind the 2; 5 behind the 4."""
    tree = Tree("original", row, [0, 1])
    tree.add([2, 3], 0)
    tree.add([2, 4, 5], 1)
    return tree


def test_other_tokens_are_found_or_added():
    asked = Asked((C, R), {C: (OWN,)}, {"chosen": [[2, 4], [2, 9]]})
    extras = plan_extras([two_answers(0), two_answers(1)], asked)
    assert extras.count == 8 and extras.asked == {OWN: [(5, 9)]}
    assert extras.paths == {(0, OWN, 0): [0, 2], (0, OWN, 1): [4, 8]}


def test_what_two_answers_share_is_asked_once():
    asked = Asked((C, R), {C: (ALL, TOP, KL), R: (TOP, KL)}, {}, {C: [10], R: [20]}, torch.zeros(23, 9))
    extras = plan_extras([two_answers()], asked)
    assert extras.asked == {TOP: [(0, 2), (1, 3), (2, 4), (3, 5)], KL: [(0, 10), (1, 11), (3, 22)]}
    assert extras.paths == {
        (0, ALL, 0): [0, 1], (0, TOP, 0): [4, 5], (1, TOP, 0): [4, 6, 7], (0, KL, 0): [8, 9], (1, KL, 0): [8, 9, 10],
    }


def test_values_stand_in_their_order():
    logits = torch.log_softmax(torch.arange(36, dtype=torch.float64).view(4, 9).sin(), dim=1)
    asked = Asked((C, R), {C: (OWN,), R: (TOP,)}, {"chosen": [[7, 8]]})
    extras = plan_extras([two_answers()], asked)
    targets = torch.tensor([2, 3, 4, 5])
    values = extras.measure(logits, None, targets)
    others = [logits[k, [v for v in range(9) if v != t]].max() for k, t in enumerate([2, 3, 4, 5])]
    expected = [logits[k, t] for k, t in enumerate(targets)] + [logits[0, 7], logits[1, 8], others[0], others[2], others[3]]
    assert torch.allclose(values, torch.stack(expected), rtol=0, atol=1e-14)
    assert extras.paths == {(0, OWN, 0): [4, 5], (1, TOP, 0): [6, 7, 8]}


def test_nothing_asked_nothing_done():
    extras = plan_extras([two_answers()], Asked((C, R)))
    logits = torch.randn(4, 9, dtype=torch.float64)
    assert not extras.asked and not extras.paths and extras.measure(logits, None, torch.tensor([2, 3, 4, 5])).shape == (4,)
