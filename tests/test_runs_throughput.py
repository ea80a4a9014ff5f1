# Exported from nbs/runs/throughput.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.throughput import *  # noqa: F403

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mfpo.data.negatives import negative_preset


def noise_pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)) for _ in range(2)]


def test_rows_are_as_described():
    from mfpo.data.preferences import read_preferences

    with tempfile.TemporaryDirectory() as folder:
        source = photograph_rows(noise_pictures(), 5, folder, (64, 48))
        first = source.read_bytes()
        rows = read_preferences(source)
        assert len(rows) == 5 and rows[0]["image"].size == (64, 48) and len(ANSWER.split()) == 71
        assert all(len(row["objects"]) == 3 for row in rows)
        for row in rows:
            for thing in row["objects"]:
                x0, y0, x1, y1 = thing["box"]
                assert thing["name"] in row["chosen"] and 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 48
        assert photograph_rows(noise_pictures(), 5, folder, (64, 48)).read_bytes() == first


def test_every_part_is_measured():
    with tempfile.TemporaryDirectory() as folder:
        source, told = photograph_rows(noise_pictures(), 4, folder, (64, 48)), []
        table = throughput(source, {"key regions": negative_preset("mfpo")}, rounds=2, report=told.append)
        row = table.iloc[0]
        assert told == ["key regions"] * 2 and row["rows"] == 4 and row["rounds"] == 2
        assert min(row["floor_ms"], row["own_ms"], row["read_ms"]) > 0
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert np.isclose(row["rows_per_second"] * (row["own_ms"] + row["read_ms"]), 1000, rtol=0.5)
        assert "key regions" in throughput_markdown(table)


def test_the_command_is_watched():
    with tempfile.TemporaryDirectory() as folder:
        source = photograph_rows(noise_pictures(), 3, folder, (64, 48))
        memory, own, seconds = command_peak(source)
        assert 50 < own < memory < 5000 and seconds > 0.1
        try:
            command_peak(Path(folder) / "nowhere.jsonl")
            raise AssertionError("not refused")
        except RuntimeError as error:
            assert "nowhere.jsonl" in str(error)


def test_memory_is_what_the_process_has():
    import os

    before = memory_of(os.getpid())
    ballast = np.ones(2**27, np.uint8)  # 128 MiB
    after = memory_of(os.getpid())
    assert all(100 < after[name] - before[name] < 160 for name in before) and ballast[-1] and memory_of(2**30) == {}
