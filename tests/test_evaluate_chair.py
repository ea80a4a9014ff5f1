# Exported from nbs/evaluate/chair.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.evaluate.chair import *  # noqa: F403

import os
import tempfile
from pathlib import Path
import numpy as np
import pytest


def test_scores_of_four_captions_derived_by_hand():
    # a: says table, cup (twice); there table, cup             -> 2 mentions, 0 wrong, 2 of 2 true
    # b: says table, lamp, dog; there table, plate             -> 3 mentions, 2 wrong, 1 of 2 true
    # c: says nothing; there bench                             -> 0 mentions, 0 of 1 true
    # d: says tree, car; there tree                            -> 2 mentions, 1 wrong, 1 of 1 true
    # CHAIRs 2/3, classical 2/4, CHAIRi 3/7, recall 4/6; precision 4/7, F1 = 2*(4/7)*(4/6)/(4/7+4/6) = 8/13.
    mentions = [["table", "cup", "cup"], ["table", "lamp", "dog"], [], ["tree", "car"]]
    truths = [{"table", "cup"}, {"table", "plate"}, {"bench"}, {"tree"}]
    kinds = [{}, {"lamp": "typical", "dog": "foreign"}, {"tree": "foreign"}, {}]
    scores = score_captions(mentions, truths, kinds=kinds)
    expected = {
        "CHAIRs": 200 / 3,
        "CHAIRs_all": 50,
        "CHAIRi": 300 / 7,
        "recall": 400 / 6,
        "F1": 800 / 13,
        "mentions": 7 / 4,
        "CHAIRi_foreign": 100 / 7,
        "CHAIRi_other": 100 / 7,
        "CHAIRi_typical": 100 / 7,
    }
    assert scores == pytest.approx(expected)
    counts = caption_counts(mentions, truths, kinds=kinds, ids=list("abcd"))
    assert counts.loc["b"].tolist() == [1, 1, 1, 3, 2, 1, 2, 1, 0, 1] and list(counts.columns[7:]) == [
        "hallucinated_foreign",
        "hallucinated_other",
        "hallucinated_typical",
    ]
    assert np.isnan(score_captions([[]], [{"bench"}])["CHAIRs"])
    with pytest.raises(ValueError, match="2 answers, 1 truths"):
        caption_counts([[], []], [set()])


def test_intervals_come_from_the_same_counts():
    from mfpo.analysis.fairness import bootstrap
    rng = np.random.default_rng(0)
    wrong = rng.random(400) < 0.3
    counts = caption_counts([["cup", "dog"] if w else ["cup"] for w in wrong], [{"cup"}] * 400)
    found = bootstrap(counts, caption_scores, n=2000)
    # Every answer names an object, so CHAIRs is a plain proportion with its binomial interval.
    p, half = wrong.mean(), 1.96 * (wrong.mean() * (1 - wrong.mean()) / 400) ** 0.5
    assert found["CHAIRs"].estimate == pytest.approx(100 * p)
    assert found["CHAIRs"].high - found["CHAIRs"].low == pytest.approx(200 * half, rel=0.1)
    assert (found["recall"].low, found["recall"].high) == (100, 100)


def test_yes_and_no_are_told_apart():
    # Present: yes, unclear, yes -> 2/3 right. Absent: yes, no -> 1/2. In all 3/5 right, 3/5 yes, 1/5 unclear.
    counts = yes_no_counts([True, None, True, True, False], [True, True, True, False, False])
    expected = {
        "accuracy": 60,
        "accuracy_present": 200 / 3,
        "accuracy_absent": 50,
        "balanced_accuracy": 175 / 3,
        "yes_ratio": 60,
        "unclear": 20,
    }
    assert {name: float(value) for name, value in yes_no_scores(counts.sum()).items()} == pytest.approx(expected)
    with pytest.raises(ValueError, match="1 answers for 2 questions"):
        yes_no_counts([True], [True, False])


def test_the_blind_line_derived_by_hand():
    # Training kitchens: table 3/3, cup 2/3, lamp 1/3 (a prior counts an object once a row); streets: car 1/1.
    priors = object_priors(
        ["kitchen", "kitchen", "kitchen", "street"], [["table", "cup"], ["table", "cup", "cup"], ["table", "lamp"], ["car"]]
    )
    assert list(priors) == ["kitchen", "street"]
    assert priors["kitchen"] == pytest.approx({"table": 1, "cup": 2 / 3, "lamp": 1 / 3}) and list(priors["kitchen"]) == [
        "table",
        "cup",
        "lamp",
    ]
    # Test: kitchen {table, cup}, kitchen {table}, street {car, bus}: 5 true objects.
    # k=1: table, table, car: nothing wrong, recall 3/5. k=2: kitchens say table and cup, one wrong of 5, recall 4/5. k=3:
    # lamp is wrong in both: 3 wrong of 7.
    line = blind_line(["kitchen", "kitchen", "street"], [{"table", "cup"}, {"table"}, {"car", "bus"}], priors)
    assert line["k"].tolist() == [1, 2, 3]
    assert (
        np.allclose(line["recall"], [60, 80, 80])
        and np.allclose(line["CHAIRs"], [0, 100 / 3, 200 / 3])
        and np.allclose(line["CHAIRi"], [0, 20, 300 / 7])
    )
    # Half way between k = 1 and k = 2; left of k = 1 the line is flat; right of its end it does not exist.
    assert np.allclose(blind_at_recall(line, [70, 10, 80]), [50 / 3, 0, 100 / 3]) and np.isnan(blind_at_recall(line, 90))
    assert blind_at_recall(line, 70, "CHAIRi") == pytest.approx(10)
    with pytest.raises(ValueError, match="no prior for scene park"):
        blind_line(["park"], [set()], priors)
    with pytest.raises(ValueError, match="score is 'F1'"):
        blind_at_recall(line, 70, "F1")


def test_objects_are_found_by_lemma_longest_first():
    vocabulary = ["person", "wine glass", "dining table", "dog", "cup", "leaf"]
    synonyms = {"man": "person", "child": "person", "glass": "cup", "table": "dining table"}
    text = "Men, children and DOGS near a coffee-table; wine glasses, a glass, and fallen leaves. No horse."
    assert extract_objects(text, vocabulary, synonyms) == ["person", "dog", "dining table", "wine glass", "cup", "leaf"]
    assert extract_objects("", vocabulary) == [] and extract_objects("a cup", []) == []
    with pytest.raises(ValueError, match="synonym 'mug' leads to 'beaker'"):
        extract_objects("", vocabulary, {"mug": "beaker"})


def test_synonym_tables_are_read():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synonyms.txt"
        path.write_text("person, girl, boy\ndining table, table\n")
        assert read_synonyms(path) == {
            "person": "person",
            "girl": "person",
            "boy": "person",
            "dining table": "dining table",
            "table": "dining table",
        }
        path.write_text("person, rider\nhorse, rider\n")
        with pytest.raises(ValueError, match="line 2: 'rider' belongs to 'person' already"):
            read_synonyms(path)


def test_the_published_table_of_coco_classes():
    import mfpo
    root = Path(os.environ.get("MFPO_BENCHMARKS", Path(mfpo.__file__).parents[1] / "../shared/benchmarks"))
    path = root / "objhal" / "synonyms_refine.txt"
    if not path.is_file():
        reason = "skipped: objhal/synonyms_refine.txt is absent; set MFPO_BENCHMARKS to the folder of benchmark files"
        (pytest.skip if "PYTEST_CURRENT_TEST" in os.environ else print)(reason)
    else:
        table = read_synonyms(path)
        assert len(set(table.values())) == 80
        text = "A woman at a desk with a laptop computer, two hot dogs and an iPhone, while skiers pass a stop sign."
        expected = ["person", "dining table", "laptop", "hot dog", "cell phone", "stop sign"]
        assert extract_objects(text, set(table.values()), table) == expected
