# Exported from nbs/benchmarks/records.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.records import *  # noqa: F403


def test_printed_numbers_are_those_of_pythons_round():
    import numpy as np

    from mfpo.benchmarks.records import printed

    assert printed(2.675, 2) == 2.67 != np.round(2.675, 2)
    assert np.isnan(printed(np.array([np.nan, 0.25]), 1)[0]) and printed(np.array([np.nan, 0.25]), 1)[1] == 0.2
    assert printed(np.zeros((2, 0)), 1).shape == (2, 0)


def test_intervals_draw_pictures_and_not_questions():
    import numpy as np
    import pandas as pd
    import pytest

    from mfpo.benchmarks.records import intervals

    share = lambda t: {"accuracy": 100 * t["right"] / t["asked"]}
    counts = pd.DataFrame({"right": [1] * 10 + [0] * 10, "asked": 1})
    alone = intervals(counts, [str(k) for k in range(20)], share, n=4000)["accuracy"]
    pairs = intervals(counts, [str(k // 10) for k in range(20)], share, n=4000)["accuracy"]
    assert alone.estimate == pairs.estimate == 50
    # Two pictures: both right, both wrong, or one of each, so that the interval is everything; twenty: the binomial's.
    assert (pairs.low, pairs.high) == (0, 100)
    assert abs(alone.low - 30) <= 5 and abs(alone.high - 70) <= 5
    with pytest.raises(ValueError, match="no answer to score"):
        intervals(counts[:0], [], share)
    with pytest.raises(ValueError, match="1 groups for 20 items"):
        intervals(counts, ["a"], share)


def test_answers_are_matched_or_refused():
    import pytest

    from mfpo.benchmarks.records import Item, matched

    items = [Item("1", "a?", "x.jpg", "x"), Item("2", "b?", "x.jpg", "x")]
    assert [(item.id, text) for item, text in matched(items, {"2": "", "1": "yes"}, "pope")] == [("1", "yes"), ("2", "")]
    with pytest.raises(ValueError, match="1 of 2 items have no answer, the first is '2'"):
        matched(items, {"1": "yes"}, "pope")
    assert [item.id for item, _ in matched(items, {"1": "yes"}, "pope", partial=True)] == ["1"]
    with pytest.raises(ValueError, match="2 of 2 items have no answer"):
        matched(items, {}, "pope", partial=True)
    with pytest.raises(ValueError, match="belong to no item, the first to '3'"):
        matched(items, {"1": "yes", "2": "no", "3": "no"}, "pope")
    with pytest.raises(ValueError, match="the answer to '2' is None"):
        matched(items, {"1": "yes", "2": None}, "pope")
