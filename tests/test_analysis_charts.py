# Exported from nbs/analysis/charts.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.charts import *  # noqa: F403

import itertools
import tempfile
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from mfpo.analysis.figures import GAPS, MARKERS, PALETTE, save_figure
from mfpo.analysis.forest import VERDICTS

INTERVAL = (("low", -3.0), ("high", 3.0))


THREE = [("answers", "whole picture"), ("answers", "key regions"), ("object decisions", "whole picture")]


def noise_table(methods=4):
    rows = [
        (f"method {m}", what, where, step, 95 - m - step * (m + 1) / 100)
        for what, where in itertools.product(("answers", "object decisions"), ("whole picture", "key regions"))
        for m in range(methods)
        for step in range(0, 901, 100)
    ]
    frame = pd.DataFrame(rows, columns=["method", "what", "where", "step", "unchanged"])
    return frame.assign(**{f"unchanged_{end}": frame["unchanged"] + step for end, step in INTERVAL})


def gaps_frame(methods=4):
    rows = [
        (negatives, f"method of name {m}", 1.0 + m, share * (m - 0.5), 0.1 * m)
        for negatives, share in (("key-region negatives", 1.0), ("neutral negatives", 0.5))
        for m in range(methods)
    ]
    frame = pd.DataFrame(rows, columns=["negatives", "method", "text_gap", "image_gap", "fairness"])
    return frame.assign(image_gap_low=frame["image_gap"] - 0.2, image_gap_high=frame["image_gap"] + 0.3)


def stages_frame(orders=4):
    rows = [
        (measure, f"order {o}", stage, 80 + o / 3 + i)
        for measure in ("F1 (%)", "reliance on the picture (% of true mentions)")
        for o in range(orders)
        for i, stage in enumerate(("easy", "medium", "hard"))
    ]
    frame = pd.DataFrame(rows, columns=["measure", "order", "stage", "score"])
    return frame.assign(**{f"score_{end}": frame["score"] + step for end, step in INTERVAL})


def ranks_frame():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    return pd.DataFrame({"a": x.round(1), "b": x + rng.normal(size=300), "base": ["base 0"] * 150 + ["base 1"] * 150})


def all_charts():
    sub = "2 bases × 3 training seeds, 400 held-out scenes; 95 % bootstrap intervals over bases, seeds and scenes"
    ranks = ranks_frame()
    return {
        "noise": noise_curves(noise_table(), subtitle=sub),
        "noise of many": noise_curves(noise_table(9)),
        "one noise panel": noise_curves(noise_table(2), [("answers", "key regions")], subtitle=sub),
        "three noise panels": noise_curves(noise_table(2), THREE),
        "bars": reward_bars(gaps_frame(), beta=0.1, subtitle=sub),
        "bars of many": reward_bars(gaps_frame(8)),
        "stages": stage_lines(stages_frame(), subtitle=sub),
        "one order": stage_lines(stages_frame(1)),
        "ranks": scatter_rank(ranks, "a", "b", panel="base", subtitle=sub, intervals={"base 0": (0.5, 0.8)}),
        "tiled ranks": scatter_rank(ranks, "a", "b", panel="base", tiles=True),
        "one panel of ranks": scatter_rank(ranks, "a", "b", xlabel="semantic entropy", ylabel="token entropy"),
        "three panels of ranks": scatter_rank(ranks.assign(base=np.repeat([0, 1, 2], 100)), "a", "b", panel="base"),
    }


def test_no_text_is_cut_small_or_under_another():
    for name, figure in all_charts().items():
        assert text_faults(figure) == [], name
        assert figure.get_figwidth() == 3.4 and figure.get_figheight() < 6

    figure, ((axis,),) = column_figure(1.0)  # what it finds: a word beyond the edge, a small one, and two on one place
    axis.text(-0.5, 0.5, "beyond the edge", transform=axis.transAxes, fontsize=7)
    axis.text(0.5, 0.5, "small", transform=axis.transAxes, fontsize=6)
    axis.text(0.5, 0.5, "over it", transform=axis.transAxes, fontsize=7)
    assert text_faults(figure) == ["'beyond the edge' is cut off", "'small' has 6 points", "'over it' is over 'small'"]


def test_the_same_table_gives_the_same_bytes():
    def drawn(folder):
        figures = all_charts()
        names = ("noise", "bars", "stages", "ranks", "tiled ranks")
        return [path.read_bytes() for name in names for path in save_figure(figures[name], Path(folder) / name)]


    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        files = drawn(first)
        assert len(files) == 10 and files == drawn(second)


def test_a_missing_column_is_named():
    cases = [
        (noise_curves, noise_table(), ("method", "what", "where", "step", "unchanged")),
        (reward_bars, gaps_frame(), ("negatives", "method", "text_gap", "image_gap", "fairness")),
        (stage_lines, stages_frame(), ("order", "stage", "score")),
        (lambda frame: scatter_rank(frame, "a", "b", panel="base"), ranks_frame(), ("a", "b", "base")),
    ]
    for chart, frame, columns in cases:
        for column in columns:
            with pytest.raises(ValueError, match=f"column {column} is missing"):
                chart(frame.drop(columns=column))
        with pytest.raises(ValueError, match="the table has no rows"):
            chart(frame.iloc[:0])
    for chart, frame, _ in cases[:3]:
        with pytest.raises(ValueError, match="two rows for .*; average them first"):
            chart(pd.concat([frame, frame.iloc[:1]]))
    with pytest.raises(ValueError, match=r"no rows for \('answers', 'nowhere'\)"):
        noise_curves(noise_table(), [("answers", "nowhere")])
    with pytest.raises(ValueError, match="stage 'hard' is none of easy, medium"):
        stage_lines(stages_frame(), ("easy", "medium"))
    with pytest.raises(ValueError, match="0 rows of panel base 1 have both a and b"):
        scatter_rank(ranks_frame().assign(a=lambda t: t["a"].where(t["base"] == "base 0")), "a", "b", panel="base")


def test_noise_curves_follow_the_table():
    table = noise_table(2).sample(frac=1, random_state=0)
    axes = noise_curves(noise_table(2)).axes
    assert [axis.get_title() for axis in axes] == ["whole picture", "key regions", "", ""]
    assert [axes[0].get_ylabel(), axes[2].get_ylabel()] == ["answers unchanged\n(%)", "object decisions\nunchanged (%)"]
    assert [axis.get_xlabel() for axis in axes] == ["", "", "noise step", "noise step"]
    # By hand: method 1 is 94 at step 0 and 94 - 18 = 76 at step 900, its band 3 points to both sides.
    line = axes[0].lines[1]
    assert line.get_xdata().tolist() == list(range(0, 901, 100)) and line.get_ydata()[[0, -1]].tolist() == [94.0, 76.0]
    band = axes[0].collections[1].get_paths()[0].vertices
    assert {(0.0, 91.0), (0.0, 97.0), (900.0, 73.0), (900.0, 79.0)} <= {tuple(point) for point in band}
    plain = noise_curves(table.drop(columns=["unchanged_low", "unchanged_high"])).axes[0]
    assert not plain.collections and all(np.all(np.diff(line.get_xdata()) > 0) for line in plain.lines)  # sorted
    axes = noise_curves(noise_table(2), THREE).axes
    assert [axis.axison for axis in axes] == [True, True, True, False] and axes[1].get_xlabel() == "noise step"


def test_bars_carry_gaps_intervals_and_fairness():
    frame = gaps_frame(2).assign(fairness=[0.0, 0.1, np.nan, 0.25])
    figure = reward_bars(frame, beta=0.1)
    first, second = figure.axes
    heights = [[p.get_height() for p in axis.patches] for axis in (first, second)]
    assert heights == [[1.0, 2.0, -0.5, 0.5], [1.0, 2.0, -0.25, 0.25]]
    assert [t.get_text() for axis in figure.axes for t in axis.texts] == ["0.00", "0.10", "–", "0.25"]
    assert [axis.get_title() for axis in figure.axes] == ["key-region negatives", "neutral negatives"]
    assert len(first.containers) == 3  # bars of both gaps, and whiskers of the one that has intervals
    whiskers = first.containers[2][2][0].get_segments()
    assert np.allclose([segment[:, 1] for segment in whiskers], [[-0.7, -0.2], [0.3, 0.8]])
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] < -0.7 and first.get_ylim()[1] > 2.0
    assert "β = 0.1" in figure.get_supylabel()
    # A method that a set of negatives does not have leaves its place empty.
    assert len(reward_bars(frame.iloc[:3]).axes[1].patches) == 4


def test_stages_stand_in_order_and_whiskers_beside_one_another():
    frame = stages_frame(3)
    figure = stage_lines(frame.sample(frac=1, random_state=1), ("easy", "medium", "hard"))
    axis = figure.axes[0]
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["easy", "medium", "hard"] and len(figure.axes) == 2
    by_name = {c.get_label(): c for c in axis.containers}
    x = np.array([by_name[f"order {o}"][0].get_xdata() for o in range(3)])
    assert np.allclose(np.sort(x, axis=0), [[-0.08, 0.92, 1.92], [0, 1, 2], [0.08, 1.08, 2.08]])
    assert by_name["order 2"][0].get_ydata().tolist() == [80 + 2 / 3, 81 + 2 / 3, 82 + 2 / 3]
    segments = by_name["order 0"][2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [[77.0, 83.0], [78.0, 84.0], [79.0, 85.0]]
    bare = frame[frame["measure"] == "F1 (%)"].drop(columns=["measure", "score_low", "score_high"])
    alone = stage_lines(bare, ylabel="F1")
    assert [axis.get_ylabel() for axis in alone.axes] == ["F1"] and not alone.axes[0].containers[0][2]  # no whiskers


def test_rho_is_spearmans():
    from scipy.stats import spearmanr

    frame = ranks_frame()
    figure = scatter_rank(frame, "a", "b", panel="base", intervals={"base 1": (-0.1, 0.2)})
    for name, axis in zip(("base 0", "base 1"), figure.axes):
        part = frame[frame["base"] == name]
        assert axis.get_title().startswith(f"{name}, n = 150\nρ = {spearmanr(part['a'], part['b']).statistic:.2f}")
    assert "[−0.10, 0.20]" in figure.axes[1].get_title()
    # By hand: the ranks of 1, 2, 2, 3 are 1, 2.5, 2.5, 4 of 4; against 3, 2, 2, 1 ρ is -1, and two rows share a dot.
    small = pd.DataFrame({"u": [1.0, 2, 2, 3, np.nan], "v": [3.0, 2, 2, 1, 5]})
    axis = scatter_rank(small, "u", "v").axes[0]
    assert axis.get_title() == "n = 4\n1 without a value\nρ = −1.00"
    (dots,) = axis.collections
    assert {tuple(p) for p in dots.get_offsets()} == {(25.0, 100.0), (62.5, 62.5), (100.0, 25.0)} 
    assert sorted(dots.get_sizes() / dots.get_sizes().min()) == [1, 1, 2]
    assert "ρ undefined" in scatter_rank(small.assign(v=1.0), "u", "v").axes[0].get_title()
    tiled = scatter_rank(frame, "a", "b", tiles=True).axes[0].collections[0]
    assert tiled.get_array().sum() == 300  # every row lies in a tile


def test_colours_are_told_apart_in_grey_and_by_colour_blind_readers():
    # Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
    BLIND = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        "none": np.eye(3).tolist(),
    }


    def lab(color, matrix):
        linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)])
        linear = np.clip(np.array(matrix) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
        xyz /= [0.9505, 1, 1.089]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


    assert np.allclose(lab("white", BLIND["none"]), [100, 0, 0], atol=0.1)
    verdicts = [color for color, *_ in VERDICTS.values()]
    groups = {"verdicts": verdicts, "gaps": [gap[2] for gap in GAPS], "first five lines": PALETTE[:5]}
    for name, colors in groups.items():
        for kind, matrix in BLIND.items():
            apart = min(np.linalg.norm(lab(a, matrix) - lab(b, matrix)) for a, b in itertools.combinations(colors, 2))
            assert apart > 12, (name, kind, apart)
    # In grey: bars differ in lightness and hatch, lines in marker.
    assert abs(lab(GAPS[0][2], BLIND["none"])[0] - lab(GAPS[1][2], BLIND["none"])[0]) > 20
    assert GAPS[0][3] != GAPS[1][3]
    assert len(set(MARKERS)) == len(PALETTE) == 9
