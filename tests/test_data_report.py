# Exported from nbs/data/report.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.report import *  # noqa: F403

import json
import tempfile
from pathlib import Path


def example(count=8):
    report = Report("rows.jsonl", total=40)
    report.rows += [Problem(f"r{k}", f"line {k}", "image missing", "no file",
        "correct the path") for k in range(count)]
    report.rows.append(Problem("r2", "line 2", "empty chosen", "empty", "fill it in"))
    report.notes.append(Problem("r9", "line 9", "grey", "grey"))
    return report


def test_printed_groups_and_caps():
    text = str(example())
    assert text.startswith("rows.jsonl: 8 of 40 rows cannot be used")  # r2 has two reasons and is one row
    assert "image missing (8)" in text and "… and 3 more" in text and text.count("row 'r") == 6
    assert "note, grey: 1 rows" in text and "report.write(path)" in text
    assert text.index("image missing") < text.index("empty chosen")


def test_written_in_full():
    with tempfile.TemporaryDirectory() as folder:
        report = example()
        path = report.write(Path(folder) / "out" / "report.jsonl")
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(entries) == 10 and [e["level"] for e in entries].count("note") == 1
        assert entries[0] == {
            "level": "bad",
            "row": "r0",
            "where": "line 0",
            "kind": "image missing",
            "reason": "no file",
            "remedy": "correct the path",
        }
        assert str(path) in str(report)


def test_raise_if_bad():
    assert Report("x", 3).raise_if_bad().bad == 0
    try:
        example().raise_if_bad()
        raise AssertionError("not raised")
    except PreferenceError as error:
        assert error.report.bad == 8 and "skip_bad=True" in str(error)


def test_foreign_text_is_shown_harmless():
    shown = str(Problem("a\x1b[31m\n", "line 1", "k", "x" * 5000 + "\ud800", "r"))
    assert "\x1b" not in shown and "\n" not in shown and len(shown) < 700
    shown.encode("utf-8")


def test_rows_are_left_out_by_id():
    import datasets

    rows = datasets.Dataset.from_dict({"id": ["r1", "r40", "r2"]})
    assert without_bad(rows, example())["id"][:] == ["r40"]


def test_many_problems_stay_out_of_memory():
    problems = Problems((Note if k % 2 else Problem)(f"r{k}", f"line {k}", f"kind {k % 3}",
        "é" * 20) for k in range(10_000))
    assert len(problems) == 10_000 and problems.counts["kind 1"] == 3_333 and len(problems._first) == 3 * KEPT
    everything = list(problems)
    assert sorted(int(p.row[1:]) for p in everything) == list(range(10_000))
    assert all(isinstance(p, Note) == (int(p.row[1:]) % 2 == 1) and p.reason == "é" * 20 for p in everything)
    assert problems == everything and problems != everything[:-1] and problems[-1].row == "r9999"
    first, second = iter(problems), iter(problems)
    assert all(next(first) == next(second) for _ in range(4000))  # also beyond those in memory
    report = Report("x", 20_000, problems)
    assert report.bad == 10_000 and "… and 3329 more" in str(report)  # of 3,334 five are shown
    with tempfile.TemporaryDirectory() as folder:
        written = report.write(Path(folder) / "report.jsonl").read_text().splitlines()
    assert len(written) == 10_000 and json.loads(written[0])["row"] == "r0"
    both = report + Report("y", 10, [Problem("z", "line z", "other", "")])
    assert both.bad == 10_001 and both.total == 20_000 and len(report.rows) == 10_000


def test_summary_says_what_was_read():
    report = example()
    report.read, report.pairs = 40, 32
    assert report.summary().splitlines() == [
        "rows.jsonl: 40 records read, 32 good rows, 8 bad rows", "  bad, image missing: 8", "  bad, empty chosen: 1",
        "  note, grey: 1",
    ]
