# Exported from nbs/data/photos.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.photos import *  # noqa: F403

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfpo.data.images import ImageRules
from mfpo.data.report import PreferenceError


def test_photographs_in_order_and_by_name():
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "photos"
        for k, name in enumerate(["b.png", "a/z.JPG", "a/x.webp", "a/deep/y.bmp", "B.tiff", "c.gif"]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((5, 6, 3), 40 * k, np.uint8)).save(folder / name)
        Image.new("RGB", (3, 3)).save(Path(outer) / "out.png")
        (folder / "rows.jsonl").write_text("{}")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / "d.png")
        (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:-30])
        os.symlink(Path(outer) / "out.png", folder / "e.png")
        os.symlink(outer, folder / "up")
        for cache in (None, Path(outer) / "cache.arrow"):
            rows, report = photo_rows(folder, cache=cache)
            assert rows["id"][:] == ["B.tiff", "a/deep/y.bmp", "a/x.webp", "a/z.JPG", "b.png", "c.gif"]
            assert rows.column_names == ["id", "image", "question"] and set(rows["question"]) == {QUESTION}
            assert [(p.row, p.kind) for p in report.rows] == [("d.png", "broken image"), ("e.png", "path outside")]
            assert [n.where for n in report.notes if n.kind == "no picture by its name"] == ["rows.jsonl", "up"]
            assert (report.read, report.pairs, report.bad) == (8, 6, 2)
        assert np.asarray(rows[4]["image"]).max() == 0 and rows[1]["image"].mode == "RGB"
        only = photo_rows(folder, "What is it?", ImageRules(formats=("PNG",)))[0]
        assert only["id"][:] == ["b.png"] and only["question"][:] == ["What is it?"]


def test_folders_without_pictures_and_blank_questions():
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(PreferenceError, match="no picture in it. Accepted are PNG"):
            photo_rows(folder)
        (Path(folder) / "x.txt").write_text("x")
        with pytest.raises(PreferenceError, match="it has 1 other files"):
            photo_rows(folder)
        with pytest.raises(PreferenceError, match="no such folder"):
            photo_rows(Path(folder) / "none")
        for question in (" ", "<image> what ?"):
            with pytest.raises(ValueError, match="question"):
                photo_rows(folder, question)
        with open(os.path.join(os.fsencode(folder), b"\xff.png"), "wb") as file:
            file.write(b"x")
        rows, report = photo_rows(folder)
        assert len(rows) == 0 and [p.kind for p in report.rows][0] == "not UTF-8" and str(report).encode("utf-8")
