# Exported from nbs/data/questions.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.questions import *  # noqa: F403

import json, pathlib, tempfile
import pytest
from PIL import Image
from mfpo.data.preferences import read_preferences
from mfpo.data.report import PreferenceError


def given(folder, rows):
    """A folder with two pictures and a file of rows."""
    folder = pathlib.Path(folder)
    for name, colour in (("a.png", "teal"), ("b.png", "tomato")):
        Image.new("RGB", (8, 6), colour).save(folder / name)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


ROW = {"id": "one", "image": "a.png", "question": "What is it?"}


def test_rows_with_and_without_answers():
    with tempfile.TemporaryDirectory() as folder:
        rows = [ROW, ROW | {"id": "two", "chosen": "A square.", "note": 3}, ROW | {"id": "three", "chosen": " ", "rejected": ""}]
        path = given(folder, rows)
        made, report = read_questions(path, need_chosen=False)
        assert made.column_names == ["id", "image", "question", "chosen", "note"] and not report.rows
        assert made["chosen"][:] == [None, "A square.", None] and made["note"][:] == [None, 3, None]
        assert made[0]["image"].size == (8, 6)
        made, report = read_questions(path)
        assert made["id"][:] == ["two"] and [p.kind for p in report.rows] == ["no chosen", "empty chosen"]
        made, report = read_questions(path, need_chosen=False, limit=2, cache=f"{folder}/cache.arrow")
        assert made["id"][:] == ["one", "two"] and report.total == 2 and pathlib.Path(folder, "cache.arrow").exists()


def test_what_is_asked_of_preference_rows_is_asked_here():
    with tempfile.TemporaryDirectory() as folder:
        bad = [
            (ROW | {"id": None}, "id"), (ROW | {"id": "one"}, "duplicate id"), (ROW | {"id": "b", "image": "c.png"}, "image missing"),
            (ROW | {"id": "c", "question": " "}, "empty question"), (ROW | {"id": "d", "chosen": 3}, "wrong type"),
            (ROW | {"id": "e", "chosen": "an <image>"}, "image token"), (ROW | {"id": "f", "chosen": "\ud800"}, "not UTF-8"),
            (ROW | {"id": "g", "image": "../x.png"}, "path outside"), (["no", "row"], "not a row"),
        ]
        path = given(folder, [ROW, *(row for row, _ in bad)])
        made, report = read_questions(path, need_chosen=False)
        assert made["id"][:] == ["one"] and [p.kind for p in report.rows] == [kind for _, kind in bad]
        with pytest.raises(PreferenceError, match="no column question"):
            read_questions(given(folder, [{"id": "a", "image": "a.png"}]), need_chosen=False)
        with pytest.raises(PreferenceError, match="no such file"):
            read_questions(f"{folder}/missing.jsonl")


def test_preference_rows_keep_all_but_the_rejected_answer():
    with tempfile.TemporaryDirectory() as folder:
        rows = [ROW | {"id": f"{k}", "chosen": f"A {k}.", "rejected": f"B {k}.", "tags": ["x", "y"]} for k in range(70)]
        path = given(folder, rows)
        whole, (made, report) = read_preferences(path), read_questions(path)
        assert made.with_format("arrow")[:].to_pylist() == whole.remove_columns("rejected").with_format("arrow")[:].to_pylist()
        renamed = given(folder, [{"id": "a", "image": "a.png", "ask": "Q?", "good": "A"}])
        made, _ = read_questions(renamed, columns={"question": "ask", "chosen": "good"})
        assert made[0]["question"] == "Q?" and made[0]["chosen"] == "A"


def test_several_pictures_and_other_formats():
    with tempfile.TemporaryDirectory() as folder:
        path = given(folder, [{"id": "a", "images": ["a.png", "b.png"], "image_index": 1, "question": "Q?"}])
        made, report = read_questions(path, need_chosen=False)
        assert len(made) == 1 and len(made[0]["images"]) == 2 and made[0]["image_index"] == 1, str(report)
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A square."}]
        povid = {"id": "p", "image": "a.png", "conversations": turns, "rejected_conversations": [turns[0], turns[1] | {"value": "A disc."}]}
        made, report = read_questions(given(folder, [povid]))
        assert report.format.name == "povid" and made[0]["question"] == "What is it?" and made[0]["chosen"] == "A square."
        assert "rejected" not in made.column_names


def test_a_folder_of_photographs():
    with tempfile.TemporaryDirectory() as folder:
        given(folder, []).unlink()
        assert is_photo_folder(folder) and not is_photo_folder(f"{folder}/a.png") and not is_photo_folder(f"{folder}/none")
        with pytest.raises(PreferenceError, match="--chosen model"):
            read_questions(folder)
        made, report = read_questions(folder, need_chosen=False, question="What is there?")
        assert len(made) == 2 and made["question"][:] == ["What is there?"] * 2 and made["chosen"][:] == [None, None]
        assert len(set(made["id"][:])) == 2 and made[0]["image"].size == (8, 6)
        assert len(read_questions(folder, need_chosen=False, limit=1)[0]) == 1
        given(folder, [ROW])
        assert not is_photo_folder(folder)
