# Exported from nbs/data/streams.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.streams import *  # noqa: F403

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

import mfpo
from mfpo.data.report import PreferenceError, Problem


def read(text, name="x.json", **options):
    """The records of a file of these bytes, read in small blocks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return list(json_records(path, **{"block": 7, **options}))


def fails(text, **options):
    with pytest.raises(PreferenceError) as error:
        read(text, **options)
    return str(error.value)


HARD = [
    {"id": 'a"b', "t": "x\\", "u": "\\\"]}", "é": "日本 \u2028 \U0001f600"}, {}, {"n": [[], [{"a": [1, -2.5e3]}]],
        "b": None},
    {"long": "y" * 300, "esc": "\\" * 41, "t": "\n\t"},
]


def test_the_same_rows_however_they_are_written():
    for block in (1, 2, 3, 7, 64, 1 << 16):
        for ascii_only in (True, False):
            dump = lambda row, **more: json.dumps(row, ensure_ascii=ascii_only, **more)  # noqa: E731
            for text in (dump(HARD), dump(HARD, indent=3), "\ufeff" + dump(HARD), "\n".join(map(dump, HARD)),
                         "\r\n\n".join(dump(row, indent=1) for row in HARD), "".join(map(dump, HARD)) + "\n"):
                found = read(text, block=block)
                assert [row for _, row in found] == HARD
                assert [where for where, _ in found] == [f"x.json row {k}" for k in (1, 2, 3, 4)]
        lines = "\n\n".join(map(json.dumps, HARD))
        assert [where for where, _ in read(lines, "x.jsonl", block=block)] == [f"x.jsonl line {k}" for k in (1, 3, 5,
            7)]
    assert read("[]") == read(" [ ] \n") == read("", "x.jsonl") == []
    assert [row for _, row in read('[1, "a", null, [2], -1.5]')] == [1, "a", None, [2], -1.5]


def test_a_broken_record_costs_itself_and_a_broken_file_says_where():
    many = [{"a": "\n" * 5000 + '"}' + "\\" * 4001, "b": 1},
        {"c": ['"' * 2500]}]  # more backslashes than the pattern takes
    for block in (7, 1000, 1 << 16):
        assert [row for _, row in read(json.dumps(many), block=block)] == many
    found = read('[{"a": 1}, {"a": b}, {"a": 3}]')
    assert found[0][1] == {"a": 1} and found[2][1] == {"a": 3}
    assert found[1][1].kind == "not JSON"
    assert "from byte 11" in found[1][1].reason
    assert found[1][1].where == "x.json row 2"
    assert [getattr(row, "kind", row) for _, row in read(b'[{"a": "\xe9"}, {"a": 2}]')] == ["not UTF-8", {"a": 2}]
    message = fails('[{"a": 1}, {"b": 2}, {"c": "cut')
    assert "after row 2, at byte 21" in message and "ends inside" in message and "x.json" in message
    assert "after row 1, at byte 10" in fails('[{"a": 1} {"b": 2}]') and "'{'" in fails('[{"a": 1} {"b": 2}]')
    assert "after row 1, at byte 10" in fails('[{"a": 1},]') and "end of the file" in fails('[{"a": 1}')
    assert "behind the end" in fails('[{"a": 1}][{"b": 1}]') and "after row 1" in fails('{"a": 1} ] {"b": 2}')
    assert "one object" in fails('{"data": [{"a": 1}]}') and "array" in fails('{"data": []}') and "int" in fails("5")
    assert "empty" in fails("")
    assert "UTF-8" in fails(b"\xff")
    assert "not JSON" in fails("[{")
    assert "not JSON" in fails("hello")
    assert "quote missing" in fails('[{"a": "' + "x" * 500 + '"}]', max_record=50)
    assert "line 2: it has more than 50 bytes" in fails('{"a": 1}\n' + "x" * 51, name="x.jsonl", max_record=50)


def test_anything_at_all_gives_records_or_a_preference_error():
    rng = np.random.default_rng(0)
    whole = json.dumps(HARD, ensure_ascii=False).encode()
    for k in range(400):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(data)))
            data[at : at + int(rng.integers(0, 5))] = rng.integers(0, 256, int(rng.integers(0, 4)),
                dtype=np.uint8).tobytes()
        if k % 3 == 0:
            del data[int(rng.integers(len(data))) :]
        for name in ("x.json", "x.jsonl"):
            try:
                for where, row in read(bytes(data), name, block=16):
                    assert where.startswith(name) and (not isinstance(row, Problem) or row.reason)
            except PreferenceError as error:
                assert name in str(error)
    for cut in range(1, len(whole) - 1):  # cut off anywhere, an array is never taken for whole
        assert "x.json" in fails(whole[:cut])


def test_memory_is_that_of_a_record():
    import tracemalloc


    def peak(rows):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.json"
            with open(path, "w") as file:
                file.write("[" + ",\n".join(json.dumps({"id": k, "text": "word " * 60}) for k in range(rows)) + "]")
            tracemalloc.start()
            count = sum(1 for _ in json_records(path))
            size = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert count == rows
            return size


    small, large = peak(500), peak(10_000)
    assert large < 1.2 * small + 100_000 and large < 2_000_000  # the file has 3.3 MB, its rows as objects far more


def test_types_by_blocks_are_those_of_the_whole_column():
    values = [None, True, 1, 2.5, "a", 2**60, 2**70, [], [1], [2.5], ["a"], [None], {}, {"a": 1},
        {"b": "x", "a": None}, {"a": [1]},
              {"a": [{"z": 1}]}, [[1]], "\ud800", float("nan"), -3]
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(600):
        kinds = rng.choice(len(values), int(rng.integers(1, 4)))
        column = [values[i] for i in rng.choice(kinds, int(rng.integers(1, 12)))]
        rows = [{"x": value} for value in column]
        types, size = ColumnTypes(), int(rng.integers(1, 5))
        blocks = [rows[k : k + size] for k in range(0, len(rows), size)]
        for block in blocks:
            types.add(block)
        if types.mixed:
            types.verify(blocks)
        whole = ColumnTypes()
        whole.add(rows)
        assert types.features() == whole.features(), column
        seen.add(str(whole.features()["x"]))
    assert len(seen) > 12


def test_the_published_captions_are_read():
    root = Path(os.environ.get("MFPO_BENCHMARKS", Path(mfpo.__file__).parents[1] / "../shared/benchmarks"))
    captions = root / "pope" / "captions_llava_13b.json"
    if not captions.is_file():
        reason = "skipped: pope/captions_llava_13b.json is absent; set MFPO_BENCHMARKS to the folder of benchmark files"
        (pytest.skip if "PYTEST_CURRENT_TEST" in os.environ else print)(reason)
    else:
        rows = [row for _, row in json_records(captions)]
        assert len(rows) == 2000 and all(isinstance(row, dict) and row["text"] for row in rows)
        assert [row["question_id"] for row in rows] == list(range(2000))
