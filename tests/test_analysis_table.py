# Exported from nbs/analysis/table.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.table import *  # noqa: F403

import numpy as np
import pandas as pd
import pytest
from mfpo.analysis.fairness import Interval


def rows_of(wrong, base=0, seed=0, method="x"):
    wrong, n = np.asarray(wrong), len(wrong)
    fixed = dict(
        answers=1, answers_with_objects=1, true_mentioned=4, true_objects=5, true_mentions=4, lost=1, false_lost=0,
        unchanged=0, questions=4, correct=3, said_yes=2, unclear=0, present=2, absent=2,
        correct_present=2, correct_absent=1,
    )
    return pd.DataFrame({
        "method": method, "base": base, "seed": seed, "id": [str(i) for i in range(n)], **fixed,
        "answers_hallucinated": (wrong > 0) * 1, "mentioned": 4 + wrong, "hallucinated": wrong,
        "false_mentions": wrong,
    })


def test_scores_and_the_distance_from_the_blind_line():
    line = pd.DataFrame({"k": [1, 2], "CHAIRs": [20.0, 60.0], "recall": [60.0, 100.0]})
    found = scores_of(rows_of([1, 0, 0, 0]), line, n=50)
    # CHAIRs 1/4; recall 4/5 = 80, where the line is half way between 20 and 60.
    assert found["CHAIRs"].estimate == 25 and found["recall"].estimate == 80
    assert found["blind_CHAIRs"].estimate == 40 and found["below_blind"].estimate == 15


def test_paired_differences_cancel_what_scenes_share():
    noisy = (np.arange(200) % 2).astype(int)
    same = difference(rows_of(noisy), rows_of(noisy), n=200)
    assert all((i.estimate, i.low, i.high) == (0, 0, 0) for i in same.values())
    better = difference(rows_of(noisy), rows_of(np.ones(200, int)), ("CHAIRs",), n=200)["CHAIRs"]
    # half of 200 scenes: five standard errors are 18 points
    assert better.estimate == -50 and -62 < better.low < better.high < -38
    # a base without seeds stands against each seed
    trained = pd.concat([rows_of(noisy, seed=s) for s in range(3)])
    assert difference(trained, rows_of(np.ones(200, int)), ("CHAIRs",), n=50)["CHAIRs"].estimate == -50
    assert difference(rows_of(np.ones(200, int)), trained, ("CHAIRs",), n=50)["CHAIRs"].estimate == 50
    with pytest.raises(ValueError, match="nothing|no base"):
        difference(rows_of(noisy, base=0), rows_of(noisy, base=1))


def test_verdicts_follow_the_interval():
    claim = Claim("x < y", "x", "y", "CHAIRs")
    assert [claim.verdict(Interval(0, *ends)) for ends in ((-3, -1), (-1, 1), (1, 3))] == [
        "holds", "not told apart", "the opposite",
    ]
    assert Claim("x > y", "x", "y", "F1", lower=False).verdict(Interval(2, 1, 3)) == "holds"
    counts = pd.concat([rows_of([0] * 50, method="x"), rows_of([1] * 50, method="y")])
    table = claims_table(counts, [claim], n=50)
    assert table.loc[0, "difference"] == -100 and table.loc[0, "verdict"] == "holds"


def test_tables_have_a_dash_where_nothing_was_measured():
    text = markdown_table({"base": {"CHAIRs": Interval(50.0, 48.04, 52.0)}}, {"CHAIRs": ("CHAIRs", 1), "F1": ("F1", 1)})
    assert text.splitlines()[-1] == "| base | 50.0 [48.0, 52.0] | – |"


def test_gaps_and_attention_are_clustered():
    rng = np.random.default_rng(0)
    gaps = pd.DataFrame({
        "id": [str(i) for i in range(40)] * 2, "base": [0] * 40 + [1] * 40, "seed": 0,
        "text_gap": rng.normal(1, 0.1, 80), "image_gap": 0.5, "chosen_reward": 0.0,
    })
    found = gaps_of(gaps, n=100)
    assert found["image_gap"].estimate == 0.5 and abs(found["fairness"].estimate - 0.5) < 0.1
    attention = pd.DataFrame({"base": 0, "seed": 0, "ratio": [2.0, 4.0], "background": [0.5, 0.5]})
    assert attention_of(attention, n=20)["ratio"].estimate == 3.0
