# Exported from nbs/commands/answering.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.answering import *  # noqa: F403

import pathlib, tempfile
from types import SimpleNamespace
from mfpo.commands.options import BadInput
import pytest
from mfpo.data.journal import Journal
from mfpo.data.rejected import Sources, inject_answers
from mfpo.data.report import Problem, Report
from mfpo.data.rows import dataset_of, read_note
from mfpo.data.writers import Failure, Reply

ROWS = [{"id": f"row {k}", "image": None, "question": "What is there?", "chosen": f"A red cup and {k} plates on a table."} for k in range(3)]
REPLY = '{"rejected": "A blue cup and %d plates on a table.", "edits": [{"from": "red", "to": "blue", "kind": "attributes"}]}'


class Fake:
    """Writes what it is told to, row by row."""

    def __init__(self, *outcomes):
        self.outcomes = iter(outcomes)

    def write(self, requests):
        return ((identity, next(self.outcomes)) for identity, _ in requests)


def some_work(folder, *outcomes, **options):
    given = SimpleNamespace(**{"inject": True, "report": None, "price_in": None, "price_out": None} | options)
    journal = Journal(pathlib.Path(folder) / "out.parquet.journal", {})
    work = Work(given, dataset_of(ROWS), journal)
    work.failures = inject_answers(ROWS, Fake(*outcomes), journal, tries=1)
    return work


def test_the_summary_adds_up():
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [Reply(REPLY % 0, 1000, 50, 0.5, 3), Failure("HTTP 500", "HTTP 500: down", 7), Reply("Sure!", 2000, None, 1, 1)]
        work = some_work(folder, *outcomes, price_in=2.0, price_out=10.0)
        work.settled, work.seconds = 3, 1.5
        out = pathlib.Path(folder) / "out.parquet"
        made = write_output(work, out, {"a": 1}, Sources("inject:{kind}:fake"))
        assert made == 1 and read_note(out) == {"answers": {"a": 1}}
        text = "\n".join(summary(work, made, out))
        assert "1 of 3 rows have both answers" in text and "2 rows failed and are left out (1 × HTTP 500, 1 × reply: no JSON)" in text
        # Two retries before the reply and six before the failure. 3000 tokens in at 2 and 50 out at 10 a million: 0.0065.
        assert "2 replies in all runs, 1 of them refused, 8 retries; 3,000 tokens in, 50 out" in text
        assert "1 replies came without counts" in text and "cost of all runs: 0.0065" in text and "2.00 a second" in text
        assert preview(out, 5) == ("row 0 (inject:attributes:fake)\n  What is there?\n"
                                   "  A [-red-]{+blue+} cup and 0 plates on a table.")
        bad = Report("rows.jsonl", 4, [Problem("row 9", "line 4", "id", "no id")])
        report = failure_report(work, bad)
        assert [(p.row, p.kind) for p in report.rows] == [("row 9", "id"), ("row 1", "HTTP 500"), ("row 2", "reply: no JSON")]
        assert report.rows[1].remedy == "the same command tries it again" and "--samples" in report.rows[2].remedy
        work.journal.close()


def test_nothing_is_written_where_nothing_was_made():
    with tempfile.TemporaryDirectory() as folder:
        work = some_work(folder, *[Failure("timeout", "slow", 1)] * 3)
        out = pathlib.Path(folder) / "out.parquet"
        with pytest.raises(BadInput, match="no row has an answer"):
            write_output(work, out, {}, Sources("x"))
        assert [p.name for p in pathlib.Path(folder).iterdir()] == ["out.parquet.journal"]
        work.journal.close()


def test_models_are_named_without_their_folders():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "llava-small"
        path.mkdir()
        assert model_label(str(path)) == model_label(f"{path}/.") == "llava-small"
        assert model_label("llava-hf/llava-1.5-7b-hf", str(path)) == "llava-hf/llava-1.5-7b-hf+llava-small"
