# Exported from nbs/data/gallery.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.gallery import *  # noqa: F403

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mfpo.data.building import build_negatives
from mfpo.data.keywords import KeywordConfig
from mfpo.data.negatives import negative_preset
from mfpo.data.regions import AnnotatedRegions
from mfpo.data.rows import GROUP_ROWS, dataset_of, write_rows


def some_rows(n=6):
    """Rows of 20 × 16 pictures; every third answer names something that is not annotated."""
    rng = np.random.default_rng(0)
    return dataset_of([
        {
            "id": f"row-{k}",
            "image": Image.fromarray(rng.integers(60, 190, (16, 20, 3), dtype=np.uint8)),
            "question": "what ?",
            "chosen": "a lamp ." if k % 3 == 2 else "a cup .",
            "rejected": "a hat .",
            "objects": [{"name": "cup", "box": [2, 3, 3 + 1 + k % 5, 9]}],
        }
        for k in range(n)
    ])


def noised(n=6, out=None):
    config = negative_preset(
        "mfpo", keywords=KeywordConfig(vocabulary=("cup", "lamp")), step=999, schedule="linear"
    )
    return build_negatives(some_rows(n), AnnotatedRegions(), config, out, progress=False)


def test_preview_shows_rows_side_by_side():
    rows = noised()
    sheet = preview(rows, n=3, side=100)
    assert sheet.size == (3 * 108 + 8, 3 * (80 + 46) + 8)  # 20 × 16 pixels become 100 × 80; two lines of text below
    pixels = np.asarray(sheet).astype(int)
    first = np.asarray(rows[0]["image"].resize((100, 80), Image.Resampling.NEAREST))
    assert np.array_equal(pixels[8:88, 8:108], first)
    assert (pixels[8:88, 116:216] == COLOURS[0]).all(-1).sum() > 50  # the outline of the cup
    assert preview(rows, n=99, side=50).size[1] == 6 * (40 + 46) + 8


def test_what_was_changed_is_tinted():
    before, after = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 100, np.uint8)
    after[0, 1] = (100, 100, 101)
    shown = tinted(before, after)
    assert shown[0, 1].tolist() == [177, 170, 50] and shown[1, 0].tolist() == [177, 177, 177]


def test_long_words_do_not_leave_the_sheet():
    rows = noised(1).to_list()
    rows[0]["id"], rows[0]["image"] = "x" * 400, Image.new("RGB", (30, 20))
    rows[0]["negative"], rows[0]["regions"] = rows[0]["image"], [
        {"keyword": "y" * 300, "found": True, "box": [0, 0, 5, 5]}, {"keyword": "z", "found": False, "box": None}]
    sheet = np.asarray(preview(dataset_of(rows), side=120))
    assert (sheet[:, -GAP:] == 255).all() and (sheet[-TEXT:, :] < 255).any()


def test_rows_are_chosen_without_reading_all():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        made = noised(GROUP_ROWS + 10, path)
        ids = lambda **how: chosen_rows(path, **how)["id"][:]  # noqa: E731
        assert ids(n=3) == ["row-0", "row-1", "row-2"] and len(ids(n=999)) == GROUP_ROWS + 10
        assert ids(n=2, which="fallback") == ["row-2", "row-5"]
        assert ids(n=2, which="spread") == ["row-0", f"row-{GROUP_ROWS + 9}"]
        areas = dict(zip(made["id"], made["region_area"]))
        found = [name for name, where in zip(made["id"], made["negative_where"]) if where == "regions"]
        assert {areas[name] for name in ids(n=4, which="largest")} == {max(areas[name] for name in found)}
        assert {areas[name] for name in ids(n=4, which="smallest")} == {min(areas[name] for name in found)}
        assert np.array_equal(np.asarray(chosen_rows(path, 1)[0]["negative"]), np.asarray(made[0]["negative"]))
        plain = write_rows(some_rows(1), Path(folder) / "plain.parquet")
        for wrong, said in (((path, 1, "best"), "first, spread"), ((plain,), "no column negative")):
            try:
                chosen_rows(*wrong)
                raise AssertionError("not refused")
            except ValueError as error:
                assert said in str(error)
