# Exported from nbs/benchmarks/exchange.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.exchange import *  # noqa: F403


def test_answers_come_back_and_others_formats_are_read():
    import json
    import tempfile
    from pathlib import Path

    import pytest

    from mfpo.benchmarks.exchange import answer_lines, read_answers
    from mfpo.benchmarks.records import Item

    items = [Item(f"random/{k}", f"Is it {k}?", f"{k}.jpg", "g") for k in (1, 2)]
    answers = {"random/1": "yes\n", "random/2": "né"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"

        def read(records, of=items):
            path.write_text(records if isinstance(records, str) else json.dumps(records))
            return read_answers(path, of)

        assert read(answer_lines(items, answers)) == answers
        assert read(answer_lines(items, {"random/2": "x"})) == {"random/2": "x"}
        assert read([{"question_id": 2, "text": "b"}, {"question_id": 1, "text": "a"}]) == {"random/1": "a", "random/2": "b"}
        assert read([{"model_answer": "a"}, {"model_answer": "b"}]) == {"random/1": "a", "random/2": "b"}
        for records, reason in (
            ([{"id": 3, "answer": "a"}], "record 1: id 3 is no item"),
            ([{"id": 1, "answer": "a"}, {"id": "random/1", "answer": "a"}], "record 2: item 'random/1' has an answer already"),
            ([{"id": 1, "answer": None}], "record 1: answer is None"),
            ([{"id": 1}], "record 1: has none of answer, response"),
            ([{"answer": "a"}], "1 records for 2 items"),
            ([1], "holds no records"),
            ("[", "line 1: is no JSON"),
        ):
            with pytest.raises(ValueError, match=reason):
                read(records)
        asks = lambda record: f"random/{record['set']}"
        assert read([{"set": 2, "question_id": 1, "model_prediction": "b"}]) == {"random/1": "b"}
        path.write_text(json.dumps([{"set": 2, "question_id": 1, "model_prediction": "b"}, {"id": 1, "answer": "a"}]))
        assert read_answers(path, items, asks) == {"random/2": "b", "random/1": "a"}
        path.write_text(json.dumps([{"set": 2, "text": "b"}, {"set": 2, "text": "a"}]))
        with pytest.raises(ValueError, match="record 2: item 'random/2' has an answer already"):
            read_answers(path, items, asks)
        twice = [*items, Item("popular/1", "?", "1.jpg", "g")]
        with pytest.raises(ValueError, match="question_id 1 is no item"):  # of which split?
            read([{"question_id": 1, "answer": "a"}], twice)
