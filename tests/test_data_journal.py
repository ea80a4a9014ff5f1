# Exported from nbs/data/journal.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.journal import *  # noqa: F403

import json, os, pathlib, subprocess, sys, tempfile
import pytest

RUN = {"model": "m", "settings": {"kinds": ["objects"], "seed": 0}}


def written(folder, count=3):
    """A journal of `count` records; returns its path."""
    path = pathlib.Path(folder) / "j.jsonl"
    with Journal(path, RUN) as journal:
        for k in range(count):
            journal.add((f"row {k}", {"text": f"answer {k} \u2713", "tokens": k}))
    return path


FULL = """
import resource, sys
from mfpo.data.journal import Journal

with Journal(sys.argv[1], {"run": 1}) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # the disk takes 1000 bytes of this file
    kept = 0
    try:
        for k in range(100):
            journal.add((f"{k}", {"text": "x" * 90}))
            kept += 1
    except OSError as error:
        print(kept, len(journal), error)
    journal.add(("small", {}))
"""


def test_records_come_back_in_order():
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder)
        with Journal(path, RUN) as journal:
            assert list(journal) == ["row 0", "row 1", "row 2"] and len(journal) == 3 and journal.cut == 0
            assert journal["row 1"] == {"text": "answer 1 \u2713", "tokens": 1}
            assert "row 3" not in journal and journal.get("row 3") is None and journal.get("row 2")["tokens"] == 2
            journal.add(("row 3", {"lone": "\ud800"}), ("row 4", {"text": "two at a time"}))
        with Journal(path, RUN) as journal:
            assert dict(journal.items())["row 3"] == {"lone": "\ud800"} and len(journal) == 5
        lines = path.read_bytes().splitlines()
        assert len(lines) == 6 and json.loads(lines[0]) == {"mfpo journal": 1, "run": RUN}


def test_a_file_cut_at_any_byte_gives_the_records_that_were_whole():
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, 2)
        data = path.read_bytes()
        ends = [k + 1 for k, byte in enumerate(data) if byte == 10]  # after each line
        for size in range(len(data) + 1):
            path.write_bytes(data[:size])
            whole = max(0, sum(end <= size for end in ends) - 1)  # the first line is no record
            with Journal(path, RUN) as journal:
                assert list(journal) == [f"row {k}" for k in range(whole)]
                assert journal.cut == size - max([0, *(end for end in ends if end <= size)])
                for k in range(whole, 2):
                    journal.add((f"row {k}", {"text": f"answer {k} \u2713", "tokens": k}))
            assert path.read_bytes() == data, "taken up, it is the file of a run that was not killed"


def test_another_runs_journal_is_refused_with_the_differences():
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder)
        before = path.read_bytes()
        other = {"model": "n", "settings": {"kinds": ["objects"], "seed": 1}}
        with pytest.raises(ValueError, match="another run:\n  model: m there, n here\n  settings.seed: 0 there, 1 here"):
            Journal(path, other)
        assert path.read_bytes() == before
        with Journal(path, other, overwrite=True) as journal:
            assert len(journal) == 0
        with Journal(path, other, overwrite=True) as journal:
            journal.add(("a", {}))
        with Journal(path, other, overwrite=True) as journal:
            assert list(journal) == ["a"], "overwrite keeps what is of the same run"


def test_foreign_and_damaged_files_are_left_alone():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "j.jsonl"
        for content in (b"my notes", b"my notes\n", b'{"key": "a", "record": {}}\n', b"\0" * 50 + b"\n", MAGIC + b"{\n"):
            path.write_bytes(content)
            for overwrite in (False, True):
                with pytest.raises(ValueError, match="is no journal of answers"):
                    Journal(path, RUN, overwrite)
            assert path.read_bytes() == content
        data = written(tempfile.mkdtemp(dir=folder)).read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*data[:2], b"rubbish\n", *data[2:]]))
        with pytest.raises(ValueError, match="line 3: not a record"):
            Journal(path, RUN)
        path.write_bytes(b"".join([*data, data[-1]]))
        with pytest.raises(ValueError, match="'row 2' is there twice"):
            Journal(path, RUN)
        path.write_bytes(b"".join([*data, b"\0\0\0\0\n"]))  # pages that never reached the disk
        with Journal(path, RUN) as journal:
            assert len(journal) == 3 and journal.cut == 5
        with pytest.raises(ValueError, match="is a folder"):
            Journal(folder, RUN)


def test_no_key_twice_no_record_that_is_not_json_no_second_writer():
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, 1)
        with Journal(path, RUN) as journal:
            before = path.read_bytes()
            for entries, message in (
                ([("row 0", {})], "'row 0' already"),
                ([("a", {}), ("a", {})], "'a' already"),
                ([("b", {"x": float("nan")})], "JSON"),
                ([("c", {}), ("b", {"x": b"bytes"})], "plain JSON"),
            ):
                with pytest.raises(ValueError, match=message):
                    journal.add(*entries)
                assert path.read_bytes() == before and len(journal) == 1
            with pytest.raises(ValueError, match="another run is writing it"):
                Journal(path, RUN)
        Journal(path, RUN).close()


def test_a_full_disk_leaves_what_was_there():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "j.jsonl"
        done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True)
        kept, count = done.stdout.split()[:2]
        assert done.returncode == 0 and kept == count == "7" and "make room" in done.stdout, (done.stdout, done.stderr)
        with Journal(path, {"run": 1}) as journal:
            assert list(journal) == [*"0123456", "small"] and journal.cut == 0
