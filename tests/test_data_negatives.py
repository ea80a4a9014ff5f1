# Exported from nbs/data/negatives.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.negatives import *  # noqa: F403

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mfpo.data.corruptions import Corruption, corrupt
from mfpo.data.keywords import KeywordConfig
from mfpo.data.regions import AnnotatedRegions
from mfpo.data.rows import GROUP_ROWS, dataset_of, read_rows

WORDS = KeywordConfig(vocabulary=("cup", "lamp"))


def some_rows(n=6):
    """Rows of 20 × 16 pictures; every third answer names something that is not annotated."""
    rng = np.random.default_rng(0)
    return dataset_of(
        [
            {
                "id": f"row-{k}",
                "image": Image.fromarray(rng.integers(60, 190, (16, 20, 3), dtype=np.uint8)),
                "question": "what ?",
                "chosen": "a lamp ." if k % 3 == 2 else "a cup .",
                "rejected": "a hat .",
                "note": k,
                "objects": [{"name": "cup", "box": [2, 3, 2 + 4 + k % 5, 9]}],
            }
            for k in range(n)
        ]
    )


def mfpo_config(**changes):
    return negative_preset("mfpo", keywords=WORDS, **changes)


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


class Counting:
    """A finder that counts its calls, and dies at one of them."""

    fingerprint = "counting"

    def __init__(self, dies_at=None):
        self.calls, self.dies_at = 0, dies_at

    def __call__(self, image, words, row):
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        return AnnotatedRegions()(image, words, row)

KILLED = """
import os, signal, sys
from mfpo.data.keywords import KeywordConfig
from mfpo.data.negatives import build_negatives, negative_preset
from mfpo.data.regions import AnnotatedRegions
from mfpo.data.rows import GROUP_ROWS, read_rows

class Finder:
    fingerprint = "counting"
    calls = 0
    def __call__(self, image, words, row):
        Finder.calls += 1
        if Finder.calls == GROUP_ROWS + 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return AnnotatedRegions()(image, words, row)

config = negative_preset("mfpo", kind="mean", keywords=KeywordConfig(vocabulary=("cup", "lamp")))
build_negatives(read_rows(sys.argv[1]), Finder(), config, sys.argv[2], progress=False)
"""


def test_key_regions_and_fallback():
    rows = some_rows()
    made = build_negatives(rows, AnnotatedRegions(), mfpo_config(), progress=False)
    assert made.column_names == rows.column_names + list(ADDED_COLUMNS) and made["note"][:] == list(range(6))
    for before, row in zip(rows, made):
        old, new = np.asarray(before["image"]), np.asarray(row["negative"])
        assert np.array_equal(old, np.asarray(row["image"])) and row["negative_kind"] == "noise"
        if row["note"] % 3 == 2:
            assert row["negative_where"] == "fallback" and row["region_area"] == 1 and row["keywords"] == ["lamp"]
            assert row["regions"] == [{"keyword": "lamp", "found": False, "box": None}] and row["changed_area"] > 0.9
        else:
            x0, y0, x1, y1 = before["objects"][0]["box"]
            assert (
                row["regions"] == [{"keyword": "cup", "found": True, "box": [x0, y0, x1, y1]}]
                and row["negative_where"] == "regions"
            )
            mask = np.zeros((16, 20), bool)
            mask[y0:y1, x0:x1] = True
            assert np.array_equal(old[~mask], new[~mask]) and row["region_area"] == mask.mean()
            assert row["changed_area"] == (old != new).any(-1).mean() > 0
            assert np.array_equal(new, np.asarray(corrupt(before["image"], mask, Corruption(), (row["id"],))))
    assert set(made["keyword_source"][:]) == {"vocabulary"}
    import datasets

    undecoded = build_negatives(
        rows.cast_column("image", datasets.Image(decode=False)), AnnotatedRegions(), mfpo_config(), progress=False
    )
    assert undecoded.with_format("arrow")[:].to_pylist() == made.with_format("arrow")[:].to_pylist()
    assert "no column image" in refused(build_negatives, rows.remove_columns("image"), None, mfpo_config())


def test_presets():
    row = some_rows(1)[0]
    whole = make_negative(row, AnnotatedRegions(), negative_preset("global"))
    assert (
        whole["negative_where"] == "global"
        and whole["region_area"] == 1
        and whole["keywords"] == []
        and whole["regions"] == []
    )
    crop = make_negative(row, AnnotatedRegions(), negative_preset("mdpo"))
    assert crop["negative_kind"] == "crop" and crop["negative_where"] == "global"
    somewhere = make_negative(row, AnnotatedRegions(), negative_preset("random"))
    assert somewhere["negative_where"] == "random" and abs(somewhere["region_area"] - 0.2) < 0.03
    config = negative_preset("mfpo", step=300, schedule="linear", seed=4, shape="box", dilate=2)
    assert config.corruption == Corruption(step=300, schedule="linear", seed=4) and (config.shape, config.dilate) == (
        "box",
        2,
    )
    assert "mfpo, global" in refused(negative_preset, "mfp") and "stepp" in refused(negative_preset, "mfpo", stepp=1)


def test_random_regions_have_the_share_they_say():
    areas, seen = [], np.zeros((60, 80))
    for seed in range(1500):
        mask = random_region((80, 60), 0.2, seed)
        areas.append(mask.mean())
        seen += mask
    assert (
        abs(np.mean(areas) - 0.2) < 0.002 and max(abs(np.array(areas) - 0.2)) < 0.01
    )  # whole pixels: half a row of 60
    assert seen.min() > 0 and abs(seen.mean() / 1500 - 0.2) < 0.002  # no pixel is out of reach
    assert random_region((80, 60), 1.0, 0).all() and random_region((1, 1), 0.2, 0).all()


def test_settings_are_checked():
    from mfpo.settings import settings_from

    section = {
        "where": "regions",
        "corruption": {"step": 300},
        "keywords": {"vocabulary": ["cup"], "top_k": 2},
        "shape": "box",
    }
    config = settings_from(NegativeConfig, section, "params.yaml: negatives")
    assert config.corruption.step == 300 and config.keywords == KeywordConfig(vocabulary=("cup",), top_k=2)
    assert "params.yaml: negatives" in refused(
        settings_from, NegativeConfig, {"corruption": {"steps": 300}}, "params.yaml: negatives"
    )
    for wrong in (
        dict(where="somewhere"),
        dict(random_area=0),
        dict(shape="ball"),
        dict(dilate=-1),
        dict(area_cap=2),
        dict(where="random", corruption=Corruption(kind="crop")),
    ):
        assert next(iter(wrong)) in refused(NegativeConfig, **wrong)


def test_order_and_neighbours_do_not_matter():
    rows = some_rows()
    whole = build_negatives(rows, AnnotatedRegions(), mfpo_config(), progress=False)
    turned = build_negatives(rows.select([5, 0]), AnnotatedRegions(), mfpo_config(), progress=False)
    for k, row in zip((5, 0), turned):
        assert np.array_equal(np.asarray(row["negative"]), np.asarray(whole[k]["negative"]))
    other = build_negatives(rows, AnnotatedRegions(), mfpo_config(seed=1), progress=False)
    assert not np.array_equal(np.asarray(other[0]["negative"]), np.asarray(whole[0]["negative"]))


def test_a_resumed_run_gives_the_same_bytes():
    rows = some_rows(2 * GROUP_ROWS + 5)
    with tempfile.TemporaryDirectory() as folder:
        smooth = Path(folder) / "smooth.parquet"
        build_negatives(rows, Counting(), mfpo_config(), smooth, progress=False)
        out, parts = Path(folder) / "out.parquet", Path(folder) / ".out.parquet.parts"
        for dies_at in (GROUP_ROWS + 7, 3):
            try:
                build_negatives(rows, Counting(dies_at), mfpo_config(), out, progress=False)
                raise AssertionError("went on")
            except KeyboardInterrupt:
                assert not out.exists() and sorted(p.name for p in parts.iterdir()) == ["000000.parquet", "run.json"]
        last = Counting()
        made = build_negatives(rows, last, mfpo_config(), out, progress=False)
        assert last.calls == GROUP_ROWS + 5  # the first shard was not made again
        assert out.read_bytes() == smooth.read_bytes() and sorted(p.name for p in Path(folder).iterdir()) == [
            "out.parquet",
            "smooth.parquet",
        ]
        assert made["id"][:] == rows["id"][:]
        again = Counting()
        build_negatives(rows, again, mfpo_config(), out, progress=False)
        assert again.calls == 0
        in_memory = build_negatives(rows, Counting(), mfpo_config(), progress=False)
        assert in_memory.with_format("arrow")[:].to_pylist() == made.with_format("arrow")[:].to_pylist()


def test_a_killed_process_costs_one_shard():
    from mfpo.data.rows import write_rows

    rows = some_rows(GROUP_ROWS + 10)
    with tempfile.TemporaryDirectory() as folder:
        source, out = write_rows(rows, Path(folder) / "rows.parquet"), Path(folder) / "out.parquet"
        run = subprocess.run([sys.executable, "-c", KILLED, source, out], env={**os.environ, "PYTHONHASHSEED": "11"})
        assert run.returncode == -signal.SIGKILL and not out.exists()
        last = Counting()
        build_negatives(read_rows(source), last, mfpo_config(kind="mean"), out, progress=False)
        assert last.calls == 10
        smooth = Path(folder) / "smooth.parquet"
        build_negatives(rows, Counting(), mfpo_config(kind="mean"), smooth, progress=False)
        assert out.read_bytes() == smooth.read_bytes()


def test_the_work_of_another_run_is_refused():
    rows = some_rows(GROUP_ROWS + 2)
    with tempfile.TemporaryDirectory() as folder:
        out, parts = Path(folder) / "out.parquet", Path(folder) / ".out.parquet.parts"
        try:
            build_negatives(rows, Counting(GROUP_ROWS + 1), mfpo_config(), out, progress=False)
        except KeyboardInterrupt:
            assert parts.exists()
        message = refused(build_negatives, rows, Counting(), mfpo_config(step=300), out, progress=False)
        assert (
            "settings.corruption.step: 500 there, 300 here" in message
            and str(parts) in message
            and "rows:" not in message
        )
        assert "rows:" in refused(
            build_negatives, rows.select(range(5)), Counting(), mfpo_config(), out, progress=False
        )
        assert "finder: counting there" in refused(
            build_negatives, rows, AnnotatedRegions(), mfpo_config(), out, progress=False
        )
        build_negatives(rows, Counting(), mfpo_config(), out, progress=False)
        before = out.read_bytes()
        changed = rows.map(lambda row: {"chosen": row["chosen"] + " ."})
        assert "rows:" in refused(build_negatives, changed, Counting(), mfpo_config(), out, progress=False)
        assert out.read_bytes() == before
        build_negatives(rows, Counting(), mfpo_config(step=300), out, progress=False, overwrite=True)
        assert out.read_bytes() != before
        again = Counting()
        build_negatives(rows, again, mfpo_config(step=300), out, progress=False, overwrite=True)
        assert again.calls == 0  # overwrite replaces what is foreign, not what is done
        done = out.read_bytes()
        try:
            build_negatives(rows, Counting(GROUP_ROWS + 1), mfpo_config(), out, progress=False, overwrite=True)
            raise AssertionError("went on")
        except KeyboardInterrupt:
            assert out.read_bytes() == done  # until the new file is whole, the old one stays
        again = Counting()
        build_negatives(rows, again, mfpo_config(), out, progress=False, overwrite=True)
        assert again.calls == 2 and out.read_bytes() == before
        out.write_bytes(before[:500])
        assert str(out) in refused(build_negatives, rows, Counting(), mfpo_config(), out, progress=False)
        build_negatives(rows, Counting(), mfpo_config(), out, progress=False, overwrite=True)
        assert out.read_bytes() == before


def test_a_plain_function_is_a_finder():
    def upper_half(image, words, row):
        mask = np.zeros(image.size[::-1], bool)
        mask[: mask.shape[0] // 2] = True
        return {words[0]: mask}


    made = build_negatives(some_rows(2), upper_half, mfpo_config(), progress=False)
    assert made[0]["region_area"] == 0.5 and made[0]["regions"][0]["box"] == [0, 0, 20, 8]
    assert build_negatives(some_rows(2), None, mfpo_config(), progress=False)["negative_where"][:] == [
        "fallback",
        "fallback",
    ]


    def broken(image, words, row):
        return {words[0]: np.ones(3, bool)}


    assert refused(build_negatives, some_rows(2), broken, mfpo_config(), progress=False).startswith(
        "row 'row-0': finder broken"
    )
    grey = dataset_of([{**some_rows(1)[0], "id": "grey", "image": Image.new("L", (8, 8))}])
    assert refused(build_negatives, grey, None, mfpo_config(), progress=False).startswith(
        "row 'grey': image has mode L"
    )


def test_area_cap_and_shape_reach_the_row():
    rows = some_rows(1)
    made = build_negatives(rows, AnnotatedRegions(), mfpo_config(dilate=1), progress=False)
    x0, y0, x1, y1 = rows[0]["objects"][0]["box"]
    assert made[0]["regions"][0]["box"] == [x0 - 1, y0 - 1, x1 + 1, y1 + 1]


def test_a_negative_that_equals_its_picture_is_said():
    black = dataset_of(
        [{"id": "night", "image": Image.new("RGB", (8, 8)), "question": "q", "chosen": "a", "rejected": "b"}]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = build_negatives(black, None, negative_preset("global", kind="black"), progress=False)
    assert made[0]["changed_area"] == 0 and any("night" in str(w.message) for w in caught)


def test_preview_shows_rows_side_by_side():
    rows = build_negatives(some_rows(), AnnotatedRegions(), mfpo_config(step=999, schedule="linear"), progress=False)
    sheet = preview(rows, n=3, side=100)
    assert sheet.size == (3 * 108 + 8, 3 * (80 + 46) + 8)  # 20 × 16 pixels become 100 × 80; two lines of text below
    pixels = np.asarray(sheet).astype(int)
    first = np.asarray(rows[0]["image"].resize((100, 80), Image.Resampling.NEAREST))
    assert np.array_equal(pixels[8:88, 8:108], first)
    assert (pixels[8:88, 116:216] == COLOURS[0]).all(-1).sum() > 50  # the outline of the cup
    assert preview(rows, n=99, side=50).size[1] == 6 * (40 + 46) + 8
