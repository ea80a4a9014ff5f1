# Exported from nbs/runs/speed.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.speed import *  # noqa: F403

import numpy as np
import pandas as pd
import pytest


def timed(seconds, shape, flops):
    """A result of `time_shape`: seconds by variant, one a round."""
    records = [{"round": i, "variant": name, "seconds": s, "wall_seconds": 2 * s} for name, values in seconds.items() for i, s in enumerate(values)]
    return {"shape": shape, "records": records, "flops": flops, "losses": {}}


RESULTS = [
    timed({"published": [8.0, 9.0, 10.0], "tree": [4.0, 5.0, 6.0], "dpo_tree": [1.0, 1.0, 1.0]}, {"image_side": 12, "answer": 30},
          {"published": 8e12, "tree": 4e12, "dpo_tree": 1e12}),
    timed({"published": [4.0, 4.0, 4.0], "tree_cached": [2.0, 2.0, 2.0], "trl": [3.0, 3.0, 3.0], "dpo_tree": [1.5, 1.5, 1.5]},
          {"image_side": 24, "answer": 120}, {"published": 8e12, "tree_cached": 3.2e12, "trl": 4e12, "dpo_tree": 3e12}),
]
MEMORY = [{"variant": "published", "checkpointing": False, "mib": 400.0}, {"variant": "tree", "checkpointing": False, "mib": 100.0},
          {"variant": "tree", "checkpointing": True, "mib": 50.0}]


def test_ratios_floors_and_shares():
    table = speed_table(RESULTS).set_index(["image_tokens", "variant"])
    row = table.loc[144, "tree"]
    assert (row["seconds"], row["wall_seconds"], row["ratio"], row["floor"], row["share"]) == (5.0, 10.0, 1.8, 2.0, 0.9)
    # of three rounds any may be the median: 8/4 is the most, 10/6 the least
    assert row["ratio_low"] == pytest.approx(10 / 6) and row["ratio_high"] == pytest.approx(2.0)
    assert np.isnan(table.loc[(144, "dpo_tree"), "ratio"])  # its baseline was not timed
    row = table.loc[576, "dpo_tree"]
    assert (row["ratio"], row["ratio_low"], row["ratio_high"], row["floor"]) == (2.0, 2.0, 2.0, 4 / 3) and row["share"] == pytest.approx(1.5)
    assert table.loc[(576, "published"), "ratio"] == 1.0 and table.loc[(576, "trl"), "batch"] == 4


def test_rounds_stay_paired():
    # twice as fast in every round, however the machine's speed changed from one to the next
    found = ratio_interval([2, 20, 200], [1, 10, 100])
    assert found == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="3 and 2 rounds"):
        ratio_interval([1, 2, 3], [1, 2])


def test_tables_in_markdown():
    text = speed_markdown(speed_table(RESULTS))
    assert "**144 image tokens, answers of 30, batch 4, vocabulary 512**" in text
    assert "| tree rows | 5 | 1.80 [1.67, 2.00] | 2.00 | 90 % |" in text and "| plain rows, all logits | 9 | 1 | 1.00 |  |" in text
    assert "| DPO, tree rows | 1 | – [–, –] | – | – |" in text
    text = memory_markdown(memory_table({"vocabulary": 32000}, MEMORY))
    assert "vocabulary 32000" in text and "| tree rows | 100 (25%) | 50 (–) |" in text and "| plain rows, all logits | 400 | – |" in text


def test_capacity_in_markdown():
    records = pd.DataFrame([
        {"variant": "tree", "batch": b, "checkpointing": False, "fits": b < 4, "pairs_per_second": p, "mfu": m, "peak_mib": 1000.0 * b}
        for b, p, m in ((1, 3.0, 0.25), (2, 2.5, 0.2), (4, np.nan, np.nan))
    ] + [{"variant": "trl", "batch": 1, "checkpointing": True, "fits": False}])
    text = capacity_markdown(records)
    assert "| tree rows | no | 2 | 3.00 | 1 | 25% | 2000 |" in text and "| TRL's DPO | yes | none fits | – | – | – | – |" in text
    assert "| 2 or more |" in capacity_markdown(records[:2])
    (axis,) = capacity_figure(records).axes  # TRL does not fit at all
    assert [line.get_ydata().tolist() for line in axis.lines] == [[3.0, 2.5]]


def test_the_figure_shows_every_ratio_and_floor():
    figure = speed_figure(speed_table(RESULTS), memory_table({"vocabulary": 32000}, MEMORY))
    large, small, memory = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["576 image tokens", "144 image tokens", "memory of a step"]
    assert sorted(bar.get_height() for bar in large.patches) == [2.0, 2.0] and [t.get_text() for t in large.get_xticklabels()] == ["120", "120\nDPO"]
    assert sorted(bar.get_width() for bar in memory.patches) == [50.0, 100.0, 400.0]
    floors = [line.get_ydata()[0] for line in large.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.8]
    assert sorted(floors) == pytest.approx([4 / 3, 2.5])
