# Exported from nbs/data/preferences.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.preferences import *  # noqa: F403

import io
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mfpo.data.rows import dataset_of

GOOD = {"id": "a", "image": "0.png", "question": "what ?", "chosen": "a cup .", "rejected": "a hat ."}


def write(folder, rows, name="rows.jsonl"):
    """A folder with three pictures and `rows`, as JSON lines; returns the file."""
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(folder) / f"{k}.png")
    path = Path(folder) / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def kinds(rows, **options):
    """What the report says about `rows`: a list of (row, kind)."""
    with tempfile.TemporaryDirectory() as folder:
        return [(p.row, p.kind) for p in check_preferences(write(folder, rows), **options).rows]

def survives(path, **options):
    """Check and read `path`; anything but a report, a data set or a `PreferenceError` is an error of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call in (check_preferences, lambda p, **o: read_preferences(p, skip_bad=True, **o)):
            try:
                result = call(path, **options)
            except PreferenceError as error:
                str(error).encode("utf-8")
            else:
                str(result).encode("utf-8")


def test_good_rows_from_every_kind_of_source():
    rows = [
        {**GOOD, "id": f"r{k}", "image": f"{k}.png", "rating": k, "objects": [{"name": "cup", "box": [0, 0, 3, 3]}]}
        for k in range(3)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, rows)
        first = read_preferences(path)
        assert first.column_names[:5] == ["id", "image", "question", "chosen", "rejected"]
        assert (
            first["id"][:] == ["r0", "r1", "r2"]
            and first["rating"][:] == [0, 1, 2]
            and first[1]["objects"][0]["name"] == "cup"
        )
        assert np.array_equal(np.asarray(first[2]["image"]), np.asarray(Image.open(Path(folder) / "2.png")))
        write_rows(first, Path(folder) / "out" / "rows.parquet")
        first.save_to_disk(Path(folder) / "saved")
        elsewhere = Path(folder) / "rows" / "x.jsonl"
        elsewhere.parent.mkdir()
        elsewhere.write_bytes(path.read_bytes())
        for source, images in (
            (folder, None),
            (elsewhere, folder),
            (Path(folder) / "out", None),
            (Path(folder) / "saved", None),
        ):
            assert check_preferences(source, images).bad == 0
            again = read_preferences(source, images, cache=Path(folder) / "cache" / "rows.arrow")
            assert again.features == first.features
            assert again.with_format("arrow")[:].to_pylist() == first.with_format("arrow")[:].to_pylist()


def test_every_bad_row_is_named_once_in_one_report():
    rows = [
        GOOD,
        {**GOOD, "id": "blank", "chosen": " \n"},
        {**GOOD, "id": "same", "rejected": " a cup . "},
        GOOD,
        {**GOOD, "id": ""},
        {k: v for k, v in GOOD.items() if k != "id"},
        {**GOOD, "id": "type", "chosen": ["a"]},
        {**GOOD, "id": "null", "rejected": None},
        {**GOOD, "id": "noimage", "image": None},
        {**GOOD, "id": "gone", "image": "9.png"},
        {**GOOD, "id": "number", "image": 5},
        {**GOOD, "id": 1.5},
        '{"id": "broken',
        "7",
        {**GOOD, "id": "token", "chosen": "<image> a"},
        {**GOOD, "id": "surrogate", "chosen": "\ud800"},
        {**GOOD, "id": "nul", "image": "0\0.png"},
        {**GOOD, "id": "long", "image": "x" * 5000},
    ]
    assert kinds(rows) == [
        ("blank", "empty chosen"),
        ("same", "same answers"),
        ("a", "duplicate id"),
        ("", "id"),
        ("", "id"),
        ("type", "wrong type"),
        ("null", "no rejected"),
        ("noimage", "no image"),
        ("gone", "image missing"),
        ("number", "wrong type"),
        ("", "id"),
        ("", "not JSON"),
        ("", "not a row"),
        ("token", "image token"),
        ("surrogate", "not UTF-8"),
        ("nul", "image missing"),
        ("long", "image missing"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, rows)
        before = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
        report = check_preferences(path)
        assert report.total == len(rows) and report.bad == 17
        broken = next(p for p in report.rows if p.kind == "not JSON")
        assert broken.where == "rows.jsonl line 13" and all(p.reason and p.remedy for p in report.rows)
        try:
            read_preferences(
                path, report_path=Path(folder) / "out" / "report.jsonl", cache=Path(folder) / "out" / "rows.arrow"
            )
            raise AssertionError("read")
        except PreferenceError as error:
            assert error.report.rows == report.rows and "17 of 18" in str(error) and "report.jsonl" in str(error)
        assert [p.name for p in (Path(folder) / "out").iterdir()] == ["report.jsonl"]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert read_preferences(path, skip_bad=True)["id"][:] == ["a"]
        assert "17 of 18" in str(caught[-1].message)
        assert {
            p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()
        } == before  # the source is as it was


def test_paths_stay_inside_the_image_folder():
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "set"
        (folder / "deep").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(Path(outer) / "secret.png")
        os.symlink(Path(outer) / "secret.png", folder / "link.png")
        os.symlink(folder / "0.png", folder / "fine.png")
        os.symlink(outer, folder / "up")
        names = [
            "../secret.png",
            "deep/../../secret.png",
            str(Path(outer) / "secret.png"),
            str(folder / "0.png"),
            "link.png",
            "up/secret.png",
            "deep/../0.png",
            "fine.png",
            "deep",
            "",
        ]
        path = write(folder, [{**GOOD, "id": str(k), "image": name} for k, name in enumerate(names)])
        found = {p.row: p.kind for p in check_preferences(path).rows}
        assert found == {**{str(k): "path outside" for k in range(6)}, "8": "image missing", "9": "no image"}
        # a saved data set that names files instead of holding them is held to the same folder
        import datasets

        named = datasets.Dataset.from_list(
            [{**GOOD, "image": {"bytes": None, "path": str(Path(outer) / "secret.png")}}]
        )
        named = named.cast_column("image", datasets.Image(decode=False))
        named.save_to_disk(Path(outer) / "saved")
        kind = [p.kind for p in check_preferences(Path(outer) / "saved").rows]
        assert kind in ([], ["path outside"])  # `save_to_disk` may have embedded the bytes
        assert check_preferences(Path(outer) / "saved", images=outer).bad == 0


def test_images_of_many_kinds():
    with tempfile.TemporaryDirectory() as folder:
        rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 8
        rgb.save(Path(folder) / "turned.png", exif=exif)
        rgb.convert("L").save(Path(folder) / "grey.png")
        rgb.convert("CMYK").save(Path(folder) / "print.tif")
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(Path(folder) / "deep.png")
        (Path(folder) / "text.png").write_text("hello")
        (Path(folder) / "half.png").write_bytes((Path(folder) / "turned.png").read_bytes()[:-60])
        names = ["turned.png", "grey.png", "print.tif", "deep.png", "text.png", "half.png"]
        path = write(folder, [{**GOOD, "id": name, "image": name} for name in names])
        report = check_preferences(path)
        assert [(p.row, p.kind) for p in report.rows] == [
            ("deep.png", "more than 8 bits"),
            ("text.png", "no image"),
            ("half.png", "broken image"),
        ]
        assert [n.row for n in report.notes] == names[:3]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kept = read_preferences(path, skip_bad=True)
        assert kept[0]["image"].size == (9, 12) and {row["image"].mode for row in kept} == {"RGB"}
        assert [(p.row, p.kind) for p in check_preferences(path, rules=ImageRules(max_pixels=50)).rows][:3] == [
            (name, "image too large") for name in names[:3]
        ]


def test_annotation_pictures_are_checked_too():
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(np.ones((9, 12), np.uint8)).save(Path(folder) / "labels.png")
        Image.fromarray(np.ones((9, 9), np.uint8)).save(Path(folder) / "small.png")
        rows = [{**GOOD, "instances": "labels.png", "negative": "1.png"}, {**GOOD, "id": "b", "instances": "small.png"},
                {**GOOD, "id": "c", "negative": "gone.png"}, {**GOOD, "id": "d"}]
        path = write(folder, rows)
        report = check_preferences(path)
        assert [(p.row, p.kind) for p in report.rows] == [("b", "label map"), ("c", "image missing")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kept = read_preferences(path, skip_bad=True)
        assert kept[0]["instances"].mode == "L" and kept[0]["negative"].size == (12, 9) and kept[1]["instances"] is None


def test_ids_and_image_tokens_are_brought_into_shape_with_a_note():
    with tempfile.TemporaryDirectory() as folder:
        path = write(
            folder,
            [{**GOOD, "id": 7, "question": "<image>\nwhat ?"}, {**GOOD, "id": "7", "question": "what <image> ?"}],
        )
        report = check_preferences(path)
        assert [(p.row, p.kind) for p in report.rows] == [("7", "duplicate id"), ("7", "image token")]
        assert [n.kind for n in report.notes if n.row == "7"][:2] == [
            "numeric id written as text",
            "<image> taken off the question",
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_preferences(path, skip_bad=True)[0]["question"] == "what ?"


def test_wrong_columns_name_the_right_ones():
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, [{"id": "a", "img": "0.png", "prompt": "what ?", "chosen": "a", "rejected": "b"}])
        for call in (check_preferences, read_preferences):
            try:
                call(path)
                raise AssertionError("read")
            except PreferenceError as error:
                assert (
                    "no column image, question" in str(error) and "img" in str(error) and "dispreferred" in str(error)
                )
        kept = read_preferences(path, columns={"image": "img", "question": "prompt"})
        assert (
            kept.column_names == ["id", "image", "question", "chosen", "rejected"] and kept[0]["question"] == "what ?"
        )
        for rows in ([], ["", " "]):
            try:
                read_preferences(write(folder, rows))
                raise AssertionError("read")
            except PreferenceError as error:
                assert "no good row" in str(error)


def test_lengths():
    # 3 image tokens, one a word: 3 + 2 + 3 = 8 for the chosen answer of three words
    rows = dataset_of(
        [
            {**GOOD, "image": Image.new("RGB", (4, 4))},
            {**GOOD, "id": "b", "image": Image.new("RGB", (4, 4)), "rejected": "x " * 9},
        ]
    )
    count = lambda row, answer: 3 + len(row["question"].split()) + len(answer.split())  # noqa: E731
    assert check_lengths(rows, count, 14).bad == 0
    report = check_lengths(rows, count, 13)
    assert [(p.row, p.kind) for p in report.rows] == [("b", "too long")] and "14 tokens" in report.rows[0].reason
    assert without_bad(rows, report)["id"][:] == ["a"]
    assert check_lengths(rows, count, 7).bad == 2


def test_truncated_pictures():
    with tempfile.TemporaryDirectory() as folder:
        data = (write(folder, []).parent / "0.png").read_bytes()
        cuts = range(0, len(data), 7)
        rows = []
        for cut in cuts:
            (Path(folder) / f"cut{cut}.png").write_bytes(data[:cut])
            rows.append({**GOOD, "id": str(cut), "image": f"cut{cut}.png"})
        report = check_preferences(write(folder, rows))
        whole = len(data) - 16  # the last chunk says that the picture ends; a decoder may do without it
        assert {int(p.row) for p in report.rows} >= {cut for cut in cuts if cut < whole - 4}


def test_random_bytes():
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, [GOOD])
        for k in range(60):
            size = int(rng.integers(0, 300))
            for name in ("rows.jsonl", "rows.json", "rows.parquet"):
                target = Path(folder) / name
                target.write_bytes(
                    (b"PAR1" if k % 2 and name.endswith("parquet") else b"")
                    + rng.integers(0, 256, size, dtype=np.uint8).tobytes()
                )
                survives(target)


def test_mutated_json():
    rng = np.random.default_rng(1)
    values = [
        None,
        True,
        -1,
        2**70,
        1e308,
        float("nan"),
        "",
        " ",
        "\ud800",
        "\0",
        "../0.png",
        "0.png",
        [],
        [[]],
        {},
        {"bytes": "x"},
        {"path": 3},
        {"a": {"b": []}},
        "x" * 3000,
    ]
    with tempfile.TemporaryDirectory() as folder:
        for k in range(60):
            rows = []
            for n in range(4):
                row = {**GOOD, "id": f"r{n}", "extra": n, "instances": None}
                for name in rng.choice(sorted(row), 2):
                    row[str(name)] = values[rng.integers(len(values))]
                if rng.random() < 0.3:
                    row[str(values[rng.integers(6, 13)])] = 1
                line = json.dumps(row)
                if rng.random() < 0.4:
                    at = int(rng.integers(len(line)))
                    line = (
                        line[:at]
                        + chr(int(rng.integers(32, 0x2FF))) * int(rng.integers(0, 3))
                        + line[at + int(rng.integers(0, 4)) :]
                    )
                rows.append(line)
            survives(write(folder, rows))


def test_mutated_parquet():
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(read_preferences(write(folder, [GOOD])), Path(folder) / "good" / "rows.parquet")
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(120):
            broken = data.copy()
            broken[rng.integers(0, len(data), 2)] = rng.integers(0, 256, 2, dtype=np.uint8)
            path.write_bytes(broken.tobytes())
            survives(path)
        for cut in range(0, len(data), 97):
            path.write_bytes(data[:cut].tobytes())
            survives(path)
