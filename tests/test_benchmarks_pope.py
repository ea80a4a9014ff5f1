# Exported from nbs/benchmarks/pope.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.pope import *  # noqa: F403

import json
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mfpo.benchmarks.pope import POPE, load_pope, official_pope, score_pope


def real_folder():
    folder = Path(os.environ.get("MFPO_BENCHMARKS", "../shared/benchmarks")) / "pope"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set MFPO_BENCHMARKS")
    return folder


def written(folder, rows, split="random"):
    lines = [{"question_id": k, "image": image, "text": "Is there a dog?", "label": label} for k, (image, label) in enumerate(rows)]
    (Path(folder) / f"coco_pope_{split}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_scores_are_those_worked_out_by_hand():
    with tempfile.TemporaryDirectory() as folder:
        written(folder, [("a", "yes"), ("a", "no"), ("b", "yes"), ("b", "no")])
        items = load_pope(folder)
        answers = {"random/0": "Yes", "random/1": "There is a dog.", "random/2": "No", "random/3": "no dog"}
        scores = score_pope(items, answers, n=200)
    # Said: yes yes no no; true: yes no yes no. TP 1, FP 1, FN 1, TN 1.
    assert {k: scores.values[k].estimate for k in ("accuracy", "precision", "recall", "F1", "yes_ratio", "unread")} == {
        "accuracy": 50, "precision": 50, "recall": 50, "F1": 50, "yes_ratio": 50, "unread": 0,
    }
    assert scores.values["random_F1"] == scores.values["F1"] and "popular_F1" not in scores.values
    assert list(scores.items["right"]) == [1, 0, 0, 1]
    assert [m for m in scores.values if m not in {x.name for x in POPE.metrics} | {"random_unread"}] == []


def test_real_questions_score_as_the_script_scores_them():
    def by_the_script(labels, texts):
        """The authors' arithmetic, told again."""
        tp = fp = tn = fn = 0
        for label, text in zip(labels, texts):
            first = text[: text.index(".")] if "." in text else text
            no = any(word in ("No", "not", "no") for word in "".join(c for c in first if c != ",").split(" "))
            if no:
                fn, tn = fn + (label == "yes"), tn + (label == "no")
            else:
                tp, fp = tp + (label == "yes"), fp + (label == "no")
        p, r = tp / (tp + fp), tp / (tp + fn)
        return {"accuracy": (tp + tn) / len(labels), "precision": p, "recall": r, "F1": 2 * p * r / (p + r), "yes_ratio": (tp + fp) / len(labels)}


    items = load_pope(real_folder())
    assert len(items) == 3000 and len({item.group for item in items}) == 500
    assert sum(item.facts["label"] == "yes" for item in items) == 1500
    draw = random.Random(0)
    pieces = ["Yes", "No", "no", "not", "there", "is", "NO", "No.", ",no,", "yes,", ".", "", "né", "\nno", "a dog"]
    for _ in range(5):
        texts = [" ".join(draw.choices(pieces, k=draw.randrange(5))) for _ in items]
        scores = score_pope(items, {item.id: text for item, text in zip(items, texts)}, n=20)
        for name, value in by_the_script([item.facts["label"] for item in items], texts).items():
            assert abs(scores.values[name].estimate - 100 * value) < 1e-9
            assert f"{scores.values[name].estimate / 100:.12g}" == f"{value:.12g}"


def test_the_mean_is_of_splits_and_files_are_told_apart():
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(FileNotFoundError, match="holds none of coco_pope_random.json.*licence: MIT"):
            load_pope(folder)
        written(folder, [("a", "yes")] * 3 + [("a", "no")])
        written(folder, [("a", "yes"), ("b", "no")], "adversarial")
        items = load_pope(folder)
        answers = {item.id: "yes" for item in items}
        scores = score_pope(items, answers, n=50)
        assert scores.values["random_accuracy"].estimate == 75 and scores.values["adversarial_accuracy"].estimate == 50
        assert scores.values["accuracy"].estimate == 62.5  # of two splits, not of six questions: 4/6
        assert [i.id for i in load_pope(folder, ["adversarial"])] == ["adversarial/0", "adversarial/1"]
        with pytest.raises(FileNotFoundError, match="coco_pope_popular.json is not in"):
            load_pope(folder, ["popular"])
        with pytest.raises(ValueError, match="unknown split hard; known are random, popular, adversarial"):
            load_pope(folder, ["hard"])
        with pytest.raises(ValueError, match="of one split"):
            official_pope(items, answers)
        part = load_pope(folder, ["adversarial"])
        lines = [json.loads(line) for line in official_pope(part, {i.id: "No\n" for i in part}).splitlines()]
        assert lines[1] == {"question_id": 1, "question": "Is there a dog?", "answer": "No\n"}


def test_broken_files_are_named():
    for record, reason in (
        ({"question_id": 1, "image": "a", "text": "b", "label": "maybe"}, "label is 'maybe'"),
        ({"question_id": 1, "image": 3, "text": "b", "label": "no"}, "image is 3"),
        ({"image": "a", "text": "b", "label": "no"}, "has no field question_id"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "coco_pope_random.json").write_text(json.dumps(record))
            with pytest.raises(ValueError, match=f"coco_pope_random.json record 1: {reason}"):
                load_pope(folder)
    with tempfile.TemporaryDirectory() as folder:
        line = json.dumps({"question_id": 1, "image": "a", "text": "b", "label": "no"})
        (Path(folder) / "coco_pope_random.json").write_text(line + "\n" + line)
        with pytest.raises(ValueError, match="record 2: question 1 is there twice"):
            load_pope(folder)
