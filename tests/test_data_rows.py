# Exported from nbs/data/rows.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.rows import *  # noqa: F403

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image


def some_rows(n=5):
    """n rows with noise pictures; 150 is more than two row groups."""
    rng = np.random.default_rng(0)
    return [
        {
            "id": f"row-{k}",
            "image": Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)),
            "question": "what ?",
            "chosen": f"a {k}",
            "rejected": f"b {k}",
            "objects": [{"name": "cup", "box": [0, 0, 2, k]}],
            "weight": k / 2,
        }
        for k in range(n)
    ]


def test_there_and_back():
    rows = some_rows(150)
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(dataset_of(rows), Path(folder) / "deep" / "rows.parquet", note={"seed": 3})
        for cache in (None, Path(folder) / "rows.arrow"):
            again = read_rows(path, cache)
            assert len(again) == 150 and again.column_names == list(rows[0])
            for before, after in zip(rows, again, strict=True):
                assert np.array_equal(np.asarray(before["image"]), np.asarray(after["image"]))
                assert all(before[name] == after[name] for name in before if name != "image")
        assert read_note(path) == {"seed": 3}
        assert sorted(p.name for p in path.parent.iterdir()) == ["rows.parquet"]  # nothing left beside


def test_same_rows_same_bytes():
    # However the data set came about (chunks, a selection, a cast), and in another process with another hash seed.
    rows = some_rows(150)
    with tempfile.TemporaryDirectory() as folder:
        import datasets

        whole = dataset_of(rows)
        expected = write_rows(whole, Path(folder) / "a.parquet").read_bytes()
        pieces = datasets.concatenate_datasets([dataset_of(rows[:7]), dataset_of(rows[7:])])
        assert write_rows(pieces, Path(folder) / "b.parquet").read_bytes() == expected
        there_and_back = whole.select(range(149, -1, -1)).select(range(149, -1, -1))
        assert write_rows(there_and_back, Path(folder) / "c.parquet").read_bytes() == expected
        raw = read_rows(Path(folder) / "a.parquet").cast_column("image", datasets.Image(decode=False))
        assert write_rows(raw, Path(folder) / "d.parquet").read_bytes() == expected
        code = "import sys; from mfpo.data.rows import *; write_rows(read_rows(sys.argv[1]), sys.argv[2])"
        subprocess.run([sys.executable, "-c", code, f"{folder}/a.parquet", f"{folder}/e.parquet"], check=True,
                       env={**os.environ, "PYTHONHASHSEED": "7"})
        assert (Path(folder) / "e.parquet").read_bytes() == expected


def test_pictures_are_not_written_as_jpeg_again():
    import io

    with tempfile.TemporaryDirectory() as folder:
        image = some_rows(1)[0]["image"]
        buffer = io.BytesIO()
        image.save(buffer, "JPEG")
        image.save(Path(folder) / "x.jpg")
        opened, from_path = Image.open(io.BytesIO(buffer.getvalue())), Image.open(Path(folder) / "x.jpg")
        expected = np.asarray(opened)
        for value in (opened, from_path, buffer.getvalue(), {"bytes": None, "path": f"{folder}/x.jpg"}):
            stored = dataset_of([{"id": "a", "image": value}])
            assert np.array_equal(np.asarray(stored[0]["image"]), expected)
            assert stored.with_format("arrow")[0:1].to_pylist()[0]["image"]["path"] is None


def test_a_failure_leaves_the_old_file():
    with tempfile.TemporaryDirectory() as folder:
        import datasets

        path = write_rows(dataset_of(some_rows(2)), Path(folder) / "rows.parquet")
        before = path.read_bytes()
        gone = datasets.Dataset.from_dict(
            {"id": ["x"], "image": [{"bytes": None, "path": f"{folder}/gone.png"}]},
            datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()}),
        )
        try:
            write_rows(gone, path)
            raise AssertionError("written")
        except ValueError as error:
            assert "'x'" in str(error) and "gone.png" in str(error)
        assert path.read_bytes() == before and [p.name for p in Path(folder).iterdir()] == ["rows.parquet"]


def test_damaged_files_are_named():
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(dataset_of(some_rows(3)), Path(folder) / "rows.parquet")
        data = path.read_bytes()
        for name, content in (("half", data[: len(data) // 2]), ("empty", b""), ("text", b"id,image\n")):
            bad = Path(folder) / f"{name}.parquet"
            bad.write_bytes(content)
            try:
                read_rows(bad)
                raise AssertionError(name)
            except ValueError as error:
                assert str(bad) in str(error)
        try:
            read_rows(Path(folder) / "none.parquet")
            raise AssertionError("read")
        except ValueError as error:
            assert "no such file" in str(error)


def test_several_pictures_a_row_there_and_back():
    rows = some_rows(3)
    rows[1]["images"], rows[1]["image_index"] = [rows[0]["image"], rows[1]["image"]], 1
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(dataset_of(rows), Path(folder) / "rows.parquet")
        again = read_rows(path)
        assert again["image_index"][:] == [None, 1, None] and again[0]["images"] is None
        assert [np.array_equal(np.asarray(a), np.asarray(b)) for a,
            b in zip(again[1]["images"], rows[1]["images"])] == [True, True]
        assert write_rows(again, Path(folder) / "again.parquet").read_bytes() == path.read_bytes()
        assert stored_features(again.features) == again.features
        assert picture_columns(again.features) == ["image", "images"]
