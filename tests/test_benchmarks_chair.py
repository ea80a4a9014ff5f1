# Exported from nbs/benchmarks/chair.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.chair import *  # noqa: F403

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mfpo.benchmarks.chair import CHAIR, QUESTION, load_chair, official_chair, score_chair
from mfpo.benchmarks.records import metric_table

NAMES = ["person", "dog", "cup", "couch", "cake", "hot dog", "dining table", "toilet", "chair"]
TABLE = "person, man, woman, baby\ndog, puppy\ncup\ncouch, sofa\ncake,  cheesecake, cupcake\nhot dog\ndining table, table\ntoilet\nchair, seat\n"


def published(folder, pictures, ids):
    """pictures: number → (outlined classes, captions), the odd ones of the training part."""
    folder = Path(folder)
    (folder / "synonyms.txt").write_text(TABLE)
    (folder / "chair_ids.json").write_text(ids if isinstance(ids, str) else json.dumps(ids))
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)]
    for part, odd in (("val", 0), ("train", 1)):
        here = {k: v for k, v in pictures.items() if k % 2 == odd}
        images = [{"id": k, "file_name": f"COCO_{part}2014_{k:012d}.jpg"} for k in here]
        outlines = [{"image_id": k, "category_id": NAMES.index(name) + 1} for k, (names, _) in here.items() for name in names]
        captions = [{"image_id": k, "caption": text} for k, (_, texts) in here.items() for text in texts]
        (folder / f"instances_{part}2014.json").write_text(json.dumps({"images": images, "annotations": outlines, "categories": categories}))
        (folder / f"captions_{part}2014.json").write_text(json.dumps({"images": images, "annotations": captions}))


PICTURES = {2: (["dog"], ["A puppy on a sofa."]), 3: (["cup"], ["A cheesecake, a baby dog."]), 4: ([], []), 6: (["person"], [])}


def loaded(ids=(4, 3, 2), **options):
    with tempfile.TemporaryDirectory() as folder:
        published(folder, PICTURES, ids)
        return load_chair(folder, **{"lemmas": "offline", **options})


def test_pictures_are_named_by_a_list():
    items = loaded()
    assert [item.id for item in items] == ["4", "3", "2"] and {item.question for item in items} == {QUESTION}
    # No blanks taken off inside the table's lines: a cheesecake is nothing here. A baby dog is a dog alone.
    assert [item.facts["truth"] for item in items] == [(), ("cup", "dog"), ("couch", "dog")]
    assert [item.image for item in items] == ["COCO_val2014_000000000004.jpg", "COCO_train2014_000000000003.jpg", "COCO_val2014_000000000002.jpg"]
    given = loaded('{"image_id": "2", "image": "mine.png"}\n3\n')
    assert [(item.id, item.image, item.group) for item in given] == [("2", "mine.png", "2"), ("3", "COCO_train2014_000000000003.jpg", "3")]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        with pytest.raises(FileNotFoundError, match="chair_ids.json is not in .*papers draw their own"):
            load_chair(folder)
        published(folder, PICTURES, [2])
        (Path(other) / "l.json").write_text("[6]")
        assert [item.id for item in load_chair(folder, ids=Path(other) / "l.json", lemmas="offline")] == ["6"]
        (Path(folder) / "mine.json").write_text("[3]")
        assert [item.id for item in load_chair(folder, ids="mine.json", lemmas="offline")] == ["3"]
        for ids, reason in (([2, 2], "entry 2: picture 2 is there twice"), ([], "names no picture"), ([1.5], "entry 1: image_id is 1.5"),
                            ([{"image": "a"}], "entry 1: image_id is None"), ([{"image_id": 2, "image": 3}], "entry 1: image is 3"),
                            ([2, 99], "1 of 2 pictures are in none of COCO's files"), ("[", "line 1: is no JSON")):
            published(folder, PICTURES, ids)
            with pytest.raises(ValueError, match=reason):
                load_chair(folder, lemmas="offline")


def test_scores_worked_out_by_hand():
    items = loaded()
    answers = {
        "4": "Nothing to see.",  # no object; 3 words
        "3": "A cup, two cups, a dining table and a cheesecake.",  # cup, cup, table: one of three wrong; 1 of 2 classes; 10 words
        "2": "A puppy on a sofa.",  # 2 of 2; 5 words
    }
    scores = score_chair(items, answers, n=20)
    got = {name: value.estimate for name, value in scores.values.items()}
    # 1 of 3 captions; 1 of 5 mentions; 3 of 4 classes; F1 of 80 and 75 is 12000/155; 18 words in 3 captions.
    assert {name: f"{value:.1f}" for name, value in got.items()} == {"CHAIRs": "33.3", "CHAIRi": "20.0", "recall": "75.0", "F1": "77.4", "length": "6.0"}
    assert got["CHAIRs"] == 1 / 3 * 100 and set(got) == {metric.name for metric in CHAIR.metrics}
    assert scores.items.loc["3", "named"] == "cup, cup, table (dining table)" and scores.items.loc["3", "wrong"] == "table (dining table)"
    assert scores.how == {"objects": "words", "lemmas": "offline (lexicon)", "items": 3} and "| CHAIRs, of all captions ↓ | 33.3 [" in metric_table(CHAIR, scores)
    silent = score_chair(items, dict.fromkeys(answers, ""), n=5)
    assert silent.values["CHAIRs"].estimate == 0 and np.isnan(silent.values["CHAIRi"].estimate)
    assert score_chair(items, {"2": "A man."}, partial=True, n=5).values["CHAIRs"].estimate == 100
    for some, reason in (({"2": ""}, "2 of 3 items have no answer"), ({**answers, "5": ""}, "belong to no item, the first to '5'"), ({**answers, "2": 3}, "the answer to '2' is 3")):
        with pytest.raises(ValueError, match=reason):
            score_chair(items, some)
    with pytest.raises(ValueError, match="nothing to score"):
        score_chair([], {})


def test_random_captions_score_as_the_script_scores_them():
    import random

    draw, items = random.Random(0), loaded((2, 3, 4, 6))
    vocabulary = "Man woman babies dog. puppy hot dogs, cup CUPS couch sofa's cake cheesecake cupcakes table dining the toilet seat chair sky and".split()
    for _ in range(60):
        answers = {item.id: " ".join(draw.choices(vocabulary, k=draw.randrange(0, 14))) for item in items}
        # What the authors' script reads, and its loop told again.
        read = json.loads(official_chair(items, answers))
        assert set(read["overall"]) == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "CIDEr", "SPICE", "ROUGE_L"}
        captions = hallucinated = mentions = wrong = 0.0
        for caption in read["imgToEval"].values():
            item = next(item for item in items if item.facts["image_id"] == caption["image_id"])
            assert {*read["overall"], "image_id", "caption"} == set(caption) and caption["caption"] == answers[item.id]
            found = [mention.name for mention in item.facts["words"].mentions(caption["caption"])]
            misses = [name for name in found if name not in item.facts["truth"]]
            captions, mentions, wrong, hallucinated = captions + 1, mentions + len(found), wrong + len(misses), hallucinated + bool(misses)
        scores = score_chair(items, answers, n=3)
        printed = "%0.01f\t%0.01f" % (hallucinated / captions * 100, (wrong / mentions if mentions else float("nan")) * 100)
        assert printed == "%0.01f\t%0.01f" % (scores.values["CHAIRs"].estimate, scores.values["CHAIRi"].estimate)
    with pytest.raises(ValueError, match="3 of 4 items have no answer"):
        official_chair(items, {"2": ""})
