# Exported from nbs/data/sources.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.sources import *  # noqa: F403

import json
import re
import tempfile
from pathlib import Path
from unittest import mock

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from mfpo.data.report import PreferenceError, Problem


def fails(*args, **kwargs):
    """The message of the `PreferenceError` that opening and reading raises."""
    try:
        list(open_source(*args, **kwargs).records())
    except PreferenceError as error:
        return str(error)
    raise AssertionError("no error")


ROWS = [
    {"id": f"r{k}", "image": f"{k}.png", "question": "q", "chosen": "a", "rejected": "b",
        "score": k} for k in range(3)
]


def test_the_same_rows_from_every_kind_of_file():
    import datasets

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "x.jsonl").write_text("\n\n".join(map(json.dumps, ROWS)) + "\n")
        (folder / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode())
        pq.write_table(pa.Table.from_pylist(ROWS), folder / "x.parquet")
        datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
        datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(folder / "splits")
        for name, split in (
            ("x.jsonl", "train"),
            ("x.json", "train"),
            ("x.parquet", "train"),
            ("saved", "train"),
            ("splits", "test"),
        ):
            opened = open_source(folder / name, split=split)
            for _ in range(2):  # the stream can be read again
                assert [row for _, row in opened.records()] == ROWS, name
            assert opened.features["score"].dtype == "int64"
        assert "no split 'train'; it has test" in fails(folder / "splits")


def test_a_folder_has_one_row_file():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        assert "found none" in fails(folder)
        (folder / "a.jsonl").write_text(json.dumps(ROWS[0]))
        assert open_source(folder).name.endswith("a.jsonl")
        (folder / "b.jsonl").write_text(json.dumps(ROWS[1]))
        assert "a.jsonl, b.jsonl" in fails(folder)
        (folder / "rows.jsonl").write_text(json.dumps(ROWS[2]))
        assert open_source(folder).name.endswith("rows.jsonl")
        (folder / "test.jsonl").write_text(json.dumps(ROWS[2]))
        assert open_source(folder, split="test").name.endswith("test.jsonl")


def test_lines_that_are_no_json_keep_their_numbers():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        lines = [
            b'{"id": "a"}',
            b"",
            b'{"id": "b',
            b'{"id": "\xe9"}',
            b"[" * 100_000,
            b'{"id": ' + b"9" * 5000 + b"}",
            b"5",
            b'{"id": "z"}',
        ]
        path.write_bytes(b"\n".join(lines))
        records = list(open_source(path).records())
        kinds = {where.split()[-1]: record.kind if isinstance(record, Problem) else record for where, record in records}
        assert kinds == {
            "1": {"id": "a"},
            "3": "not JSON",
            "4": "not UTF-8",
            "5": "not JSON",
            "6": "not JSON",
            "7": 5,
            "8": {"id": "z"},
        }


def test_sources_that_cannot_be_opened():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        assert re.search(r"none\.jsonl: no such file or folder; give a file \(.*\.parquet", fails(folder / "none.jsonl"))
        assert f"./none: no such file or folder in {Path.cwd()}; give" in fails("./none")
        assert "no such folder" in fails(folder, images=folder / "none")
        for name, content, expected in (
            ("a.json", b'{"id": 1}', "array"),
            ("b.json", b"[{", "not JSON"),
            ("c.json", b"\xff", "UTF-8"),
            ("d.parquet", b"PAR1", "parquet"),
            ("e.csv", b"id\n", ".jsonl"),
        ):
            (folder / name).write_bytes(content)
            message = fails(folder / name)
            assert name in message and expected in message
        (folder / "saved").mkdir()
        (folder / "saved" / "state.json").write_text("{")
        assert "cannot be loaded" in fails(folder / "saved")
        (folder / "x.jsonl").write_text(json.dumps(ROWS[0]))
        assert "names answer" in fails(folder / "x.jsonl", columns={"chosen": "answer"})
        (folder / "y.jsonl").write_text('{"\\ud800": 1}')
        assert "surrogate" in fails(folder / "y.jsonl")


def test_columns_are_renamed():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        pq.write_table(pa.Table.from_pylist([{"idx": 7, "chosen": ["old"], "good": "yes"}]), path)
        opened = open_source(path, columns={"id": "idx", "chosen": "good"})
        assert [row for _, row in opened.records()] == [{"id": 7, "chosen": "yes"}]
        assert opened.features["chosen"].dtype == "string"


def test_columns_without_a_common_type_become_json_text():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        extra = [
            {"mixed": 1, "empty": {}, "big": 10**30, "fine": [1]},
            {"mixed": "a", "empty": {}, "big": 1, "fine": [2, 3]},
        ]
        path.write_text("\n".join(json.dumps(a | b) for a, b in zip(ROWS, extra)))
        opened = open_source(path)
        rows = [row for _, row in opened.records()]
        assert (
            [row["mixed"] for row in rows] == ["1", '"a"']
            and rows[0]["big"] == str(10**30)
            and rows[1]["fine"] == [2, 3]
        )
        assert sorted(note.kind.split("'")[1] for note in opened.notes) == ["big", "empty", "mixed"]


def test_text_in_parquet_that_is_not_utf8():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        texts = pa.array([b"good", b"bad \xe9", b"good"], pa.binary()).view(pa.string())
        pq.write_table(pa.table({"id": texts}), path)
        records = [record for _, record in open_source(path).records()]
        assert records[0] == records[2] == {"id": "good"} and records[1].kind == "not UTF-8"


def test_hub_names_are_asked_of_load_dataset():
    import datasets

    with mock.patch("datasets.load_dataset", return_value=datasets.Dataset.from_list(ROWS)) as load:
        opened = open_source("owner/set-1.0", split="test")
        load.assert_called_once_with("owner/set-1.0", split="test")
        assert [row for _, row in opened.records()] == ROWS
    with mock.patch("datasets.load_dataset", side_effect=ConnectionError("no network")):
        assert "owner/set" in fails("owner/set") and "no network" in fails("owner/set")


def test_pieces_of_one_set_are_one_source():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for k in (1, 0):
            pq.write_table(pa.Table.from_pylist(ROWS[2 * k : 2 * k + 2]), folder / f"set_00{k}.parquet")
        records = list(open_source(folder).records())
        assert [row for _, row in records] == ROWS
        assert [where.split("/")[-1] for where, _ in records] == [f"set_00{k}.parquet row {n}" for k,
            n in ((0, 0), (0, 1), (1, 0))]
        (folder / "set_001.parquet").rename(folder / "other_001.parquet")
        assert "pieces" in fails(folder)
        pq.write_table(pa.Table.from_pylist([{"id": 1}]), folder / "set_001.parquet")
        (folder / "other_001.parquet").unlink()
        assert "set_001.parquet: its columns are not those of set_000.parquet" in fails(folder)
        for k in range(2):
            (folder / f"set_00{k}.parquet").unlink()
        for name in ("train-00000-of-00001", "test-00000-of-00001"):
            pq.write_table(pa.Table.from_pylist(ROWS[:1]), folder / f"{name}.parquet")
        assert open_source(folder, split="test").name.endswith("test-00000-of-00001.parquet")


def test_rows_one_after_another_and_a_type_that_changes_late():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        rows = [{**ROWS[0], "id": f"r{k}", "late": k, "wide": k, "deep": [{"a": k}]} for k in range(700)]
        rows[650]["late"], rows[690]["wide"], rows[699]["deep"] = "six", 0.5, [{"a": 1, "b": "x"}]
        path.write_text("\n".join(json.dumps(row, indent=1) for row in rows))
        opened = open_source(path)
        read = [row for _, row in opened.records()]
        assert opened.features["late"].dtype == "string"
        assert [note.kind.split("'")[1] for note in opened.notes] == ["late"]
        assert [row["late"] for row in read[648:652]] == ["648", "649", '"six"', "651"]
        assert opened.features["wide"].dtype == "float64"
        assert [row["wide"] for row in read] == [row["wide"] for row in rows]
        assert opened.features["deep"].feature == {"a": datasets.Value("int64"), "b": datasets.Value("string")}


def test_columns_that_a_format_takes_are_left_alone():
    from types import SimpleNamespace

    with tempfile.TemporaryDirectory() as folder:
        rows = [{"id": 1, "text": "a", "score": 1}, {"id": 2, "text": {"b": 1}, "score": 2}]
        (Path(folder) / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
        asked = []

        def detect(name, columns, records):
            asked.append((name, columns, [row for _, row in records()]))
            return SimpleNamespace(takes=("text",))

        opened = open_source(Path(folder) / "x.jsonl", detect=detect)
        assert list(opened.features) == ["id", "score"]
        assert opened.columns == ["id", "score", "text"]
        assert not opened.notes
        assert [row for _, row in opened.records()] == rows and asked[0][1:] == (["id", "text", "score"], rows)
