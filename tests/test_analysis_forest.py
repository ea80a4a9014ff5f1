# Exported from nbs/analysis/forest.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.forest import *  # noqa: F403

import tempfile
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from mfpo.analysis.charts import text_faults
from mfpo.analysis.figures import save_figure


LONG = "Table 7, with a long name that does not fit on a line"


def claims_frame():
    rows = [
        ("Table 1", "MFPO hallucinates less than mDPO, on the same bases and scenes (CHAIRs)", -12.0, "holds"),
        ("Table 1", "DPO hallucinates less than the base", 12.0, "the opposite"),
        (LONG, "easy to hard beats all rows together", -0.1, "not told apart"),
        (LONG, "not measured", np.nan, np.nan),
    ]
    frame = pd.DataFrame(rows, columns=["group", "claim", "difference", "verdict"])
    return frame.assign(difference_low=frame["difference"] - 3, difference_high=frame["difference"] + 3)


def test_its_words_are_whole_and_its_bytes_the_same():
    note = "2 bases × 3 training seeds, 400 held-out scenes; 95 % bootstrap intervals over bases, seeds and scenes"
    many = pd.concat([claims_frame()] * 6)
    small = claims_frame()
    small[small.columns[small.dtypes == float]] /= 1000  # ticks with many digits
    for figure in (
        forest(claims_frame(), subtitle=note), forest(claims_frame(), numbers=True, width=6.5, subtitle=note),
        forest(many), forest(many.drop(columns="group")), forest(claims_frame().iloc[3:]), forest(small, xlabel="nats"),
    ):
        assert text_faults(figure) == []
    with tempfile.TemporaryDirectory() as folder:
        files = [[p.read_bytes() for p in save_figure(forest(claims_frame()), Path(folder) / name)] for name in "ab"]
    assert files[0] == files[1]


def test_what_it_cannot_draw_is_named():
    for column in ("claim", "difference", "verdict"):
        with pytest.raises(ValueError, match=f"column {column} is missing"):
            forest(claims_frame().drop(columns=column))
    with pytest.raises(ValueError, match="the table has no rows"):
        forest(claims_frame().iloc[:0])
    with pytest.raises(ValueError, match="verdict 'maybe' is none of holds, the opposite, not told apart"):
        forest(claims_frame().assign(verdict="maybe"))


def test_forest_marks_verdicts_and_keeps_every_claim():
    figure = forest(claims_frame())
    names, axis = figure.axes
    marks = {c.get_label(): c for c in axis.containers}
    at = {name: mark[0].get_xdata().tolist() for name, mark in marks.items()}
    assert at == {"holds": [-12.0], "the opposite": [12.0], "not told apart": [-0.1]}
    ends = {name: np.round(mark[2][0].get_segments()[0][:, 0], 6).tolist() for name, mark in marks.items()}
    assert ends == {"holds": [-15, -9], "the opposite": [9, 15], "not told apart": [-3.1, 2.9]}
    assert len({mark[0].get_marker() for mark in marks.values()}) == 3
    legends = [
        [text.get_text() for text in drawn.legends[0].get_texts()]
        for drawn in (figure, forest(claims_frame(), legend={"the opposite": "harms"}))
    ]
    assert legends == [["holds (1)", f"{name} (1)", "not told apart (1)"] for name in ("the opposite", "harms")]
    heights = [marks[name][0].get_ydata()[0] for name in ("holds", "the opposite", "not told apart")]
    assert heights == sorted(heights) and axis.yaxis_inverted()  # from the top
    assert [t.get_text() for t in axis.texts] == [" –"]  # the one that was not measured
    words = [t.get_text().replace("\n", " ") for t in names.texts]
    assert words[:4] == list(claims_frame()["claim"]) and words[4:] == list(dict.fromkeys(claims_frame()["group"]))
    at = {t.get_text().replace("\n", " "): t.get_position()[1] for t in names.texts}
    assert at["Table 1"] < heights[0] and heights[1] < at[words[5]] < heights[2]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["holds (1)", "the opposite (1)", "not told apart (1)"]
    told = [t.get_text() for t in forest(claims_frame(), numbers=True, width=6.5).axes[2].texts]
    assert told == ["−12.0 [−15.0, −9.0]", "+12.0 [9.0, 15.0]", "−0.1 [−3.1, 2.9]", "–"]
    bare = claims_frame()[["claim", "difference", "verdict"]]
    assert len(forest(bare).axes[0].texts) == 4 and not any(mark[2] for mark in forest(bare).axes[1].containers)
    assert [t.get_text() for t in forest(bare, numbers=True, width=6.5).axes[2].texts] == ["−12.0", "+12.0", "−0.1", "–"]
