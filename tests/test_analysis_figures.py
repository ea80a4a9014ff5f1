# Exported from nbs/analysis/figures.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.figures import *  # noqa: F403

import hashlib
import tempfile
from pathlib import Path
import numpy as np
import pandas as pd
import pytest


def method_table(count=3):
    """Made-up methods with intervals of 2 to each side."""
    values = np.linspace(60, 30, count)
    frame = pd.DataFrame(
        {"method": [f"method {i}" for i in range(count)], "CHAIRs": values, "recall": values[::-1] + 30}
    )
    return frame.assign(
        **{f"{c}_{end}": frame[c] + step for c in ("CHAIRs", "recall") for end, step in (("low", -2), ("high", 2))}
    )


def texts_overlap(figure):
    """Pairs of visible texts inside a figure's axes, titles and legends whose boxes overlap."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    from matplotlib.text import Text

    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in shown]
    frame = figure.bbox
    inside = [(name, box) for name, box in boxes if box.width > 0 and frame.overlaps(box)]
    return [
        (a, b)
        for i, (a, first) in enumerate(inside)
        for b, second in inside[i + 1 :]
        if first.x0 < second.x1 - 1
        and second.x0 < first.x1 - 1
        and first.y0 < second.y1 - 1
        and second.y0 < first.y1 - 1
    ]


def test_the_same_table_gives_the_same_bytes():
    digests = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            paths = save_figure(
                chairs_against_recall(method_table()), Path(folder) / "sub" / "chairs.v1", ("png", "pdf", "svg")
            )
            assert [p.name for p in paths] == ["chairs.v1.png", "chairs.v1.pdf", "chairs.v1.svg"]
            digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in paths])
            assert b"Software" not in paths[0].read_bytes() and b"CreationDate" not in paths[1].read_bytes()
    assert digests[0] == digests[1]
    with pytest.raises(ValueError, match="format jpg is not offered"):
        save_figure(chairs_against_recall(method_table()), "x", ("jpg",))


def test_the_marks_are_where_the_table_says():
    methods = method_table(9)
    line = pd.DataFrame({"k": [1, 2], "CHAIRs": [20.0, 40.0], "recall": [75.0, 90.0]})
    figure = chairs_against_recall(methods, line)
    axis = figure.axes[0]
    crosses = [c for c in axis.containers]
    assert [(c[0].get_xdata()[0], c[0].get_ydata()[0]) for c in crosses] == list(zip(methods["recall"], methods["CHAIRs"]))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["blind: the scene's top k", *methods["method"]]
    styles = {(c[0].get_color(), c[0].get_marker()) for c in crosses}
    assert len(styles) == 9
    (x0, x1), (y0, y1) = axis.get_xlim(), axis.get_ylim()
    assert (
        x0 < methods["recall_low"].min()
        and methods["recall_high"].max() < x1
        and y0 == 0
        and methods["CHAIRs_high"].max() < y1
    )


def test_bars_carry_gaps_and_fairness():
    gaps = pd.DataFrame(
        {
            "method": ["a", "b"],
            "text_gap": [0.5, 1.0],
            "image_gap": [-0.2, 0.8],
            "fairness": [0.0, 0.8],
            "image_gap_low": [-0.3, 0.7],
            "image_gap_high": [-0.1, 0.9],
        }
    )
    axis = reward_balance(gaps, beta=0.1).axes[0]
    assert [patch.get_width() for patch in axis.patches] == [0.5, 1.0, -0.2, 0.8]
    assert (
        [t.get_text() for t in axis.texts] == ["fairness 0.00", "fairness 0.80"]
        and "β = 0.1" in axis.get_xlabel()
        and axis.get_xlim()[0] < -0.3
    )
    with pytest.raises(ValueError, match="column fairness is missing"):
        reward_balance(gaps.drop(columns="fairness"))
    with pytest.raises(ValueError, match="the table has no rows"):
        reward_balance(gaps.iloc[:0])


def test_no_chart_has_overlapping_text():
    checks = pd.DataFrame(
        [
            (f"a check with a long name, number {i}", model, 10.0 * i + j, "percent (%)")
            for i in range(5)
            for j, model in enumerate(("grounded", "base"))
        ],
        columns=["check", "model", "value", "unit"],
    )
    gaps = pd.DataFrame(
        {
            "method": [f"a method of long name {i}" for i in range(8)],
            "text_gap": 1.0,
            "image_gap": np.linspace(-0.5, 2, 8),
            "fairness": 0.5,
        }
    )
    lines = pd.DataFrame(
        {"series": ["one", "two"] * 3, "x": ["easy", "easy", "medium", "medium", "hard", "hard"], "y": [1.0, 2, 3, 4, 5, 6]}
    )
    line = pd.DataFrame({"k": [1, 2, 3, 4], "CHAIRs": [20.0, 40.0, 55, 80], "recall": [55.0, 75, 85, 99]})
    for figure in (
        chairs_against_recall(method_table(12), line),
        reward_balance(gaps),
        base_checks(checks),
        base_checks(checks.iloc[:2]),
        score_along(lines, xlabel="stage", ylabel="score (0 to 6)"),
    ):
        assert texts_overlap(figure) == []
        assert all(axis.get_ylabel() or axis.get_yticklabels() for axis in figure.axes)
    assert len(base_checks(checks).axes) == 5


def test_lines_follow_stages_in_order():
    lines = pd.DataFrame({"series": ["one"] * 3, "x": ["easy", "medium", "hard"], "y": [3.0, 1.0, 2.0]})
    axis = score_along(lines, xlabel="stage", ylabel="score").axes[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["easy", "medium", "hard"] and axis.get_ylim()[0] == 0
    assert axis.containers[0][0].get_ydata().tolist() == [3.0, 1.0, 2.0]


def test_whiskers_stand_only_where_there_are_intervals():
    lines = pd.DataFrame({"series": ["a", "b"] * 2, "x": [0, 0, 1, 1], "y": [1.0, 2, 3, 4]})
    figure, axes = grid_figure(3, 3, 2, 1)
    assert axes.shape == (2, 1) and new_figure(3, 3, 2)[1].shape == (2,)
    series_lines(axes[0, 0], lines, ["b", "a"], shift=0.5)
    series_lines(axes[1, 0], lines.assign(y_low=0.5, y_high=5.0))
    bare, full = ([(c.get_label(), c[0].get_xdata().tolist(), len(c[2])) for c in axis.containers] for axis in axes[:, 0])
    assert bare == [("b", [-0.25, 0.75], 0), ("a", [0.25, 1.25], 0)] and full == [("a", [0, 1], 1), ("b", [0, 1], 1)]
    gaps = pd.DataFrame({"text_gap": [2.0], "image_gap": [-1.0], "text_gap_low": [1.0], "text_gap_high": [4.0]})
    _, (lying, upright) = new_figure(3, 3, 2)
    assert gap_bars(lying, gaps).tolist() == gap_bars(upright, gaps, upright=True).tolist() == [4.0]
    assert [p.get_width() for p in lying.patches] == [p.get_height() for p in upright.patches] == [2.0, -1.0]
    assert [len(axis.containers) for axis in (lying, upright)] == [3, 3]  # two bars, and one whisker
    assert len({tuple(look(i).values()) for i in range(81)}) == 81


def test_methods_stand_beside_one_another():
    table = pd.DataFrame({"title": list("abc"), "F1": [80.0, 90, 85], "F1_low": [79.0, 88, 85], "F1_high": [82.0, 91, 85], "tokens": [10.0, np.nan, 30]})
    figure = methods_beside(table, {"F1": "F1", "tokens": "tokens a row"}, {"F1": 82.5})
    first, second = figure.axes
    (mark,) = [c[0] for c in first.containers]
    assert list(zip(mark.get_xdata(), mark.get_ydata())) == [(80.0, 2), (90.0, 1), (85.0, 0)]  # from the top
    assert [t.get_text() for t in first.get_yticklabels()] == ["a", "b", "c"] and first.lines[-1].get_xdata()[0] == 82.5
    assert list(second.containers[0][0].get_xdata()) == [10.0, 30.0] and not texts_overlap(figure)
    with pytest.raises(ValueError, match="reliance"):
        methods_beside(table, {"reliance": "x"})
