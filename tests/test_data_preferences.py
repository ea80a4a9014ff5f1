# Exported from nbs/data/preferences.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.preferences import *  # noqa: F403

import io
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
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

import pyarrow as pa
import pyarrow.parquet as pq

from mfpo.data.formats import FORMATS, PairRules
from mfpo.data.images import png_bytes
from mfpo.data.report import PreferenceError, Report
from mfpo.data.rows import read_rows, write_rows


def encoded(k):
    pixels = np.random.default_rng(k).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return {"bytes": png_bytes(Image.fromarray(pixels)), "path": f"{k}.png"}


def rated(*scores):
    aspects = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
    return [{"model": m, "response": f"Answer of {m}.", "annotations": {a: {"Rating": str(s),
        "Rationale": "…"} for a in aspects}}
            for m, s in zip("abcd", scores)]


def published(name):
    """Three records of a set in its published shape; pictures inside where the set has them inside."""
    texts = [{"question": f"What is {k}?", "chosen": f"A cat {k}.", "rejected": f"A dog {k}."} for k in range(3)]
    source = {"origin_dataset": "VQA", "origin_split": '{"model": "m"}'}
    turns = lambda t, a: [{"from": "human", "value": f"<image>\n{t['question']}"},
        {"from": "gpt", "value": t[a]}]  # noqa: E731
    template = "A chat between a user and an assistant. USER: <image>\n{} ASSISTANT:"
    return [
        {"rlhf-v": lambda t, k: {"ds_name": "H", "image": encoded(k), "text": json.dumps(t), **source, "idx": 0,
            "image_path": f"{k}.png"},
         "rlaif-v": lambda t, k: {"ds_name": "A", "image": encoded(k), **t, **source, "idx": "0",
             "image_path": f"{k}.png"},
         "povid": lambda t, k: {"id": "000", "image": f"{k}.png", "conversations": turns(t, "chosen"),
             "rejected_conversations": turns(t, "rejected")},
         "vlfeedback": lambda t, k: {"id": f"v{k}", "prompt": t["question"], "models": list("abcd"),
             "completions": rated(3, 4 + k % 2, 1, 2), "img_path": f"{k}.png"},
         "mdpo": lambda t, k: {"img_path": f"{k}.png", "prompt": template.format(t["question"]),
             "chosen": t["chosen"], "rejected": t["rejected"]},
         }[name](t, k)
        for k, t in enumerate(texts)
    ]


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


def test_published_sets_become_rows():
    import datasets

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write(folder, [], "empty.jsonl")
        ids = {}
        for name in ("rlhf-v", "rlaif-v", "povid", "vlfeedback", "mdpo"):
            records = published(name)
            pq.write_table(pa.Table.from_pylist(records), folder / "x.parquet")
            datasets.Dataset.from_list(records).save_to_disk(folder / f"saved-{name}")
            sources = ["x.parquet", f"saved-{name}"]
            if "image" not in records[0] or isinstance(records[0]["image"], str):
                (folder / "x.json").write_text(json.dumps(records, indent=1))
                (folder / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
                sources += ["x.json", "x.jsonl"]
            made = []
            for source in sources:
                rows, report = load_preferences(folder / source, folder, cache=folder / "cache.arrow")
                assert report.format is FORMATS[name]
                assert report.bad == 0
                assert (report.read, report.total, report.pairs) == (3, 3, 3)
                assert f"as {name}" in report.summary() and "3 good rows" in report.summary()
                assert set(FORMATS[name].takes).isdisjoint(rows.column_names)
                assert list(rows[0])[:5] == ["id", "image", "question", "chosen", "rejected"]
                for k, row in enumerate(rows):
                    assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(folder / f"{k}.png")))
                made.append(rows.with_format("arrow")[:].to_pylist())
                assert rows["question"][:] == [f"What is {k}?" for k in range(3)]
                if name != "vlfeedback":
                    assert rows["chosen"][:] == [f"A cat {k}." for k in range(3)]
                    assert rows["rejected"][:] == [f"A dog {k}." for k in range(3)]
            assert all(each == made[0] for each in made), name
            ids[name] = [row["id"] for row in made[0]]
            written = write_rows(rows, folder / "out" / f"{name}.parquet")
            again, report = load_preferences(written)
            assert report.format.name == "mfpo" and again["id"][:] == ids[name]  # once written, they are our rows
            with pytest.raises(PreferenceError, match="so it is not"):
                check_preferences(folder / sources[0], folder, format="povid" if name != "povid" else "mdpo")
        assert len({one for every in ids.values() for one in every}) == 15
        rows = read_rows(folder / "out" / "vlfeedback.parquet")
        assert rows["chosen_source"][:] == ["b"] * 3
        assert rows["rejected_score"][:] == [1.0] * 3
        assert rows["chosen_score"][:] == [4.0, 5.0, 4.0]
        assert rows["models"][0] == list("abcd")


def test_what_makes_no_row_of_a_published_set_is_said():
    with tempfile.TemporaryDirectory() as folder:
        records = published("vlfeedback")
        records[1]["completions"] = rated(3, 3, 3, 3)
        records[2]["completions"] = rated(1, 2, "N/A", 3)
        path = write(folder, records)
        rows, report = load_preferences(path)
        assert report.bad == 0 and (report.read, report.total, report.pairs, len(rows)) == (3, 2, 2, 2)
        assert [(n.row, n.kind, n.where) for n in report.notes] == [
            ("v1", "no pair", "rows.jsonl line 2"), ("v2", "answer without its three ratings",
                "rows.jsonl line 3 answer 3")]
        assert "note, no pair: 1" in report.summary()
        rows, report = load_preferences(path, pair_rules=PairRules("all"))
        assert len(rows) == report.pairs == 6 + 3 and len(set(rows["id"])) == 9
        records = published("rlhf-v")
        records[1]["text"], records[2]["text"] = '{"question": "q", "chosen', json.dumps({"question": "q",
            "chosen": "c"})
        pq.write_table(pa.Table.from_pylist(records), Path(folder) / "x.parquet")
        report = check_preferences(Path(folder) / "x.parquet")
        assert [(p.row, p.kind, p.where.split("/")[-1]) for p in report.rows] == [("0", "text", "x.parquet row 1"),
            ("0", "text", "x.parquet row 2")]
        assert "no JSON" in report.rows[0].reason and "has no rejected" in report.rows[1].reason
        same = [records[0], records[0]]  # twice the same record is a repeated id, whatever idx says
        pq.write_table(pa.Table.from_pylist(same), Path(folder) / "x.parquet")
        assert [p.kind for p in check_preferences(Path(folder) / "x.parquet").rows] == ["duplicate id"]


def test_broken_published_files_give_a_report_or_a_preference_error():
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        write(folder, [])
        for name in ("povid", "vlfeedback", "mdpo"):
            whole = json.dumps(published(name), indent=1)
            for k in range(40):
                text, at = whole, int(rng.integers(len(whole)))
                if k % 2:
                    text = text[:at]
                else:
                    text = text[:at] + str(rng.choice(['"', "{", "]", ",", "\\", "1",
                        "\u20ac"])) + text[at + int(rng.integers(0, 6)) :]
                (Path(folder) / "x.json").write_text(text, encoding="utf-8")
                survives(Path(folder) / "x.json", format=("auto", name)[k % 4 // 2])
        for k in range(100):  # the text inside of RLHF-V's column
            records = published("rlhf-v")
            for record in records:
                at = int(rng.integers(len(record["text"])))
                record["text"] = record["text"][:at] + str(rng.choice(["", '"', "}", "\\u",
                    "null"])) + record["text"][at + int(rng.integers(0, 9)) :]
            pq.write_table(pa.Table.from_pylist(records), Path(folder) / "x.parquet")
            report = check_preferences(Path(folder) / "x.parquet", format="rlhf-v")
            assert report.read == report.total == 3 and report.pairs + report.bad == 3


def test_several_pictures_are_read_and_written():
    with tempfile.TemporaryDirectory() as folder:
        rows = [{**GOOD, "image": None, "images": ["0.png", "1.png", "2.png"], "image_index": 1,
            "question": "<image><image><image> what ?"},
                {**GOOD, "id": "b"}, {**GOOD, "id": "c", "image": None, "images": ["2.png"]},
                {**GOOD, "id": "d", "images": ["1.png", "gone.png"]}, {**GOOD, "id": "e", "images": ["1.png", "0.png"]}]
        path = write(folder, rows)
        kept, report = load_preferences(path)
        assert [(p.row, p.reason.split(": ")[0]) for p in report.rows] == [("d", "images[1]")]
        assert kept["image_index"][:] == [1, None, None, 1] and kept["id"][:] == ["a", "b", "c", "e"]
        assert [len(row["images"] or []) for row in kept] == [3, 0, 0, 2] and kept[0]["question"] == "what ?"
        assert np.array_equal(np.asarray(kept[0]["image"]), np.asarray(Image.open(Path(folder) / "1.png")))
        written = write_rows(kept, Path(folder) / "out" / "rows.parquet")
        again, report = load_preferences(written)
        assert report.bad == 0 and again.features == kept.features
        assert again.with_format("arrow")[:].to_pylist() == kept.with_format("arrow")[:].to_pylist()
        # where no row has several, there is no such column
        assert "images" not in read_preferences(write(folder,
            [{**GOOD, "image": None, "images": ["0.png"]}])).column_names


def test_memory_does_not_grow_with_the_rows():
    import tracemalloc


    def peak(folder, count, name):
        """The most bytes that reading `count` rows into a cache takes."""
        path, small = write(folder, []), Image.new("RGB", (8, 8))
        path = path.with_name(f"{count}{name}")
        rows = ({**GOOD, "id": str(k), "image": "s.png", "note": f"{k} " * 40} for k in range(count))
        small.save(Path(folder) / "s.png")
        if name == ".parquet":
            pq.write_table(pa.Table.from_pylist(list(rows)), path)
        else:
            path.write_text("[" + ",\n".join(map(json.dumps,
                rows)) + "]" if name == ".json" else "\n".join(map(json.dumps, rows)))
        tracemalloc.start()
        kept, _ = load_preferences(path, cache=Path(folder) / "cache.arrow")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(kept) == count
        return size


    with tempfile.TemporaryDirectory() as folder:
        load_preferences(write(folder, [GOOD]))  # imports
        for name in (".json", ".parquet"):
            few, many = peak(folder, 300, name), peak(folder, 2000, name)
            # ids are remembered with their places, some 250 bytes a row; the rows themselves take 3 to 10 times as much
            assert many - few < 1700 * 400 + 300_000, (name, few, many)


def test_benchmarks_are_told_apart_from_preference_sets():
    import mfpo

    root = Path(os.environ.get("MFPO_BENCHMARKS", Path(mfpo.__file__).parents[1] / "../shared/benchmarks"))
    for path in (root / "pope" / "coco_pope_random.json", root / "pope" / "captions_llava_13b.json",
        root / "mmhal" / "mmhal-bench_answer_template.json"):
        if not path.is_file():
            reason = f"skipped: {path.name} is absent; set MFPO_BENCHMARKS to the folder of benchmark files"
            (pytest.skip if "PYTEST_CURRENT_TEST" in os.environ else print)(reason)
            continue
        with pytest.raises(PreferenceError) as error:
            read_preferences(path)
        assert path.name in str(error.value)
        assert "it has question_" in str(error.value)
        assert "dispreferred" in str(error.value)
