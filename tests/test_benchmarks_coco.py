# Exported from nbs/benchmarks/coco.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.coco import *  # noqa: F403

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mfpo.benchmarks.coco import CocoImage, count_mentions, image_number, mention_scores, read_truth
from mfpo.benchmarks.coco_words import CocoWords, Mention, halbench_pairs

TABLE = {"person": "person", "man": "person", "woman": "person", "dog": "dog", "puppy": "dog", "cup": "cup", "couch": "couch", "sofa": "couch", "toilet": "toilet", "chair": "chair", "seat": "chair", "hot dog": "hot dog"}
WORDS = CocoWords(TABLE, halbench_pairs(TABLE), "offline")
CATEGORIES = [{"supercategory": "x", "id": k, "name": name} for k, name in enumerate(["person", "dog", "cup", "couch", "toilet", "chair", "hot dog"], 1)]


def write_coco(folder, part, images, outlines, captions, categories=CATEGORIES):
    """images: numbers; outlines: (picture, category); captions: (picture, text)."""
    files = [{"license": 5, "id": k, "file_name": f"COCO_{part}2014_{k:012d}.jpg", "height": 3, "width": 4} for k in images]
    mask = {0: [[1.5, 2.0, 3.0, 4.0, 5.0, 6.0]], 1: {"counts": [1, 2, 3], "size": [3, 4]}}
    notes = [{"segmentation": mask[k % 2], "area": 2.5, "iscrowd": k % 2, "image_id": i, "bbox": [0, 0, 1, 1], "category_id": c, "id": k} for k, (i, c) in enumerate(outlines)]
    said = [{"image_id": i, "id": k, "caption": text} for k, (i, text) in enumerate(captions)]
    about = {"info": {"year": 2014}, "licenses": [{"id": 1, "name": "x"}]}
    for kind, content in (("instances", about | {"images": files, "annotations": notes, "categories": categories}), ("captions", about | {"images": files, "annotations": said})):
        (Path(folder) / f"{kind}_{part}2014.json").write_text(json.dumps(content))


def test_outlines_and_captions_are_united():
    with tempfile.TemporaryDirectory() as folder:
        write_coco(folder, "val", [7, 9, 11], [(7, 2), (7, 2), (9, 3), (11, 1)],
                   [(7, "A puppy on a sofa."), (7, "Two men."), (9, "Nothing much."), (9, "A hot dog."), (11, "The seat of a toilet.")])
        # 7: an outlined dog, and a couch by a caption ("men" names nobody). 9: a cup, and a hot dog. 11: no chair.
        seven, nine = CocoImage("COCO_val2014_000000000007.jpg", ("couch", "dog")), CocoImage("COCO_val2014_000000000009.jpg", ("cup", "hot dog"))
        assert read_truth(folder, [9, 7, 7], WORDS) == {7: seven, 9: nine}
        assert read_truth(folder, [11], WORDS)[11].classes == ("person", "toilet")
        assert read_truth(folder, [], WORDS) == {}
        with pytest.raises(ValueError, match="1 of 2 pictures are in none of COCO's files that are there, the first is 5; give instances_val2014"):
            read_truth(folder, [5, 7], WORDS)
        # A picture of the training part; one with neither outline nor caption has nothing in it.
        write_coco(folder, "train", [5, 6], [(5, 7)], [])
        found = read_truth(folder, [5, 6, 7], WORDS)
        assert found == {5: CocoImage("COCO_train2014_000000000005.jpg", ("hot dog",)), 6: CocoImage("COCO_train2014_000000000006.jpg", ()), 7: seven}

        # Two ways: all annotations read at once, with plain json.
        for image, seen in found.items():
            truth = set()
            for part in ("val", "train"):
                instances, captions = (json.loads((Path(folder) / f"{kind}_{part}2014.json").read_text()) for kind in ("instances", "captions"))
                names = {c["id"]: c["name"] for c in instances["categories"]}
                truth |= {TABLE[names[a["category_id"]]] for a in instances["annotations"] if a["image_id"] == image}
                truth |= {m.name for a in captions["annotations"] if a["image_id"] == image for m in WORDS.mentions(a["caption"])}
            assert set(seen.classes) == truth


def test_broken_annotations_are_named():
    with tempfile.TemporaryDirectory() as folder:
        val = {kind: Path(folder) / f"{kind}_val2014.json" for kind in ("instances", "captions")}
        with pytest.raises(FileNotFoundError, match="instances_val2014.json is not in .*COCO site.*licence: CC BY"):
            read_truth(folder, [7], WORDS)
        write_coco(folder, "val", [7], [(7, 2)], [(7, "A dog.")])
        good = {kind: path.read_text() for kind, path in val.items()}

        def refused(kind, text, reason):
            val[kind].write_bytes(text if isinstance(text, bytes) else text.encode())
            with pytest.raises(ValueError, match=reason):
                read_truth(folder, [7], WORDS)
            val[kind].write_text(good[kind])

        refused("instances", good["instances"].replace('"category_id": 2', '"category_id": 99'), "instances_val2014.json annotation 1: category 99 is None, which the table")
        refused("instances", good["instances"].replace('"category_id": 2', '"category_id": [2]'), r"annotation 1: category \[2\] is None")
        refused("instances", good["instances"].replace('"name": "dog"', '"name": "wolf"'), "annotation 1: category 2 is 'wolf'")
        refused("instances", good["instances"].replace('"image_id": 7', '"image_id": "7"'), "instances_val2014.json annotation 1: has no whole number image_id")
        refused("instances", good["instances"].replace('"categories"', '"cats"'), "has no list 'categories'")
        refused("instances", "[]", "has no list 'images'")
        refused("instances", good["instances"][:-9], "instances_val2014.json line 1: is no JSON")
        refused("instances", "[" * 100_000, "is no JSON")
        refused("instances", b'{"images": "\xff', "is not UTF-8 at byte 12")
        refused("captions", good["captions"].replace('"A dog."', "null"), "captions_val2014.json annotation 1: caption is None")
        refused("captions", good["captions"].replace('"id": 7', '"id": 8'), "captions_val2014.json: does not have picture 7, which instances_val2014.json has")
        assert read_truth(folder, [7], WORDS)[7].classes == ("dog",)
    assert image_number(5, "") == image_number("5", "") == image_number(" 0005", "") == 5
    for wrong in ("", "-1", "5.0", 5.0, True, None, "٥", "COCO_5"):
        with pytest.raises(ValueError, match="record 3: image_id is "):
            image_number(wrong, "record 3")


def test_scores_worked_out_by_hand():
    from mfpo.benchmarks.coco import COUNTS, shown
    from mfpo.evaluate.chair import score_captions

    # Two puppies and a couch; dog and cup are there. Two mentions of three are right, and one class of two.
    first = count_mentions(WORDS.mentions("A puppy, a dog, a sofa."), {"dog", "cup"}, " A puppy, a dog, a  sofa. ")
    assert list(first.values()) == [1, 1, 1, 3, 1, 1, 2, 7] and tuple(first) == COUNTS  # the second blank makes a seventh word
    second = count_mentions([], {"person"}, "")  # names nothing; its length is 1
    assert list(second.values()) == [1, 0, 0, 0, 0, 0, 1, 1]
    third = count_mentions(WORDS.mentions("one\ncup and a cup"), ("cup",), "one\ncup and a cup")  # a line's end splits nothing
    assert list(third.values()) == [1, 1, 0, 2, 0, 1, 1, 4]
    got = {name: float(v[0]) for name, v in mention_scores({k: np.array([first[k] + second[k] + third[k]]) for k in COUNTS}).items()}
    # 1 of 2 answers with objects, 1 of 3 answers, 1 of 5 mentions, 2 of 4 classes; F1 of 80 and 50 is 8000/130; 12 words in 3 answers.
    assert got == {"CHAIRs": 50.0, "CHAIRs_all": 1 / 3 * 100, "CHAIRi": 20.0, "recall": 50.0, "F1": pytest.approx(61.538, abs=1e-3), "length": 4.0}
    nothing = mention_scores({k: np.array([second[k]]) for k in COUNTS})
    assert np.isnan(nothing["CHAIRs"][0]) and np.isnan(nothing["CHAIRi"][0]) and nothing["CHAIRs_all"][0] == nothing["recall"][0] == 0
    wrong = count_mentions([Mention("cup", "cup")], {"dog"}, "cup")
    assert mention_scores({k: np.array([wrong[k]]) for k in COUNTS})["F1"][0] == 0  # nothing right: not 0/0
    assert shown([Mention("puppy", "dog"), Mention("cup", "cup")]) == "puppy (dog), cup" and shown([]) == ""

    # Where nothing is repeated, the package's other CHAIR gives the same.
    draw, names = np.random.default_rng(0), sorted(set(TABLE.values()))
    for _ in range(20):
        said = [list(draw.permutation(names)[: draw.integers(0, 5)]) for _ in range(6)]
        there = [set(draw.permutation(names)[: draw.integers(1, 5)]) for _ in range(6)]
        counts = pd.DataFrame([count_mentions([Mention(n, n) for n in a], t, "x") for a, t in zip(said, there)])
        ours, other = mention_scores({k: np.array([v]) for k, v in counts.sum().items()}), score_captions(said, there)
        for name in ("CHAIRs", "CHAIRs_all", "CHAIRi", "recall"):
            assert ours[name][0] == pytest.approx(other[name], abs=1e-12, nan_ok=True), name


def test_scores_are_the_scripts_to_the_last_digit():
    import random

    draw = random.Random(0)
    for _ in range(300):
        sentences = hallucinated_sentences = coco_sentences = mentions = hallucinated = named = annotated = length = 0.0
        counts = []
        for _ in range(draw.randrange(1, 40)):
            truth = set(draw.sample(sorted(set(TABLE.values())), draw.randrange(0, 6)))
            words = [draw.choice([*TABLE, "sky", "", "two", "."]) for _ in range(draw.randrange(0, 8))]
            answer = draw.choice(["", " ", "\n"]) + " ".join(words)
            pairs = [(w, TABLE[w]) for w in words if w in TABLE]
            counts.append(count_mentions([Mention(*pair) for pair in pairs], truth, answer))
            # The authors' loop told again: float counters, one addition a mention.
            sentences, length, mentions, annotated = sentences + 1, length + answer.strip().count(" ") + 1, mentions + len(pairs), annotated + len(truth)
            misses = [pair for pair in pairs if pair[1] not in truth]
            for _ in misses:
                hallucinated += 1
            hallucinated_sentences += 1 if misses else 0
            coco_sentences += 1 if pairs else 0
            named += len({pair[1] for pair in pairs} & truth)
        got = mention_scores({k: np.array([v]) for k, v in pd.DataFrame(counts).sum().items()})
        ratio = lambda a, b: a / b if b else float("nan")
        told = {
            "CHAIRs": ratio(hallucinated_sentences, coco_sentences) * 100, "CHAIRs_all": hallucinated_sentences / sentences * 100,
            "CHAIRi": ratio(hallucinated, mentions) * 100, "recall": ratio(named, annotated) * 100, "length": length / sentences,
        }
        right = (1 - ratio(hallucinated, mentions)) * 100
        if told["recall"] + right:
            told["F1"] = 2 * told["recall"] * right / (told["recall"] + right)
        for name, value in told.items():
            assert got[name][0] == value or np.isnan(got[name][0]) and np.isnan(value), name  # to the last bit
