# Exported from nbs/analysis/extraction.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.extraction import *  # noqa: F403

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import mfpo
from mfpo.analysis.extraction import Labels, MEASURES, METHODS, candidate_scores, class_of, extraction_counts
from mfpo.analysis.extraction import extraction_figure, extraction_markdown, extraction_table, noun_counts
from mfpo.analysis.extraction import noun_scores, read_labels, read_values, sensitivity, verdict
from mfpo.data.keywords import Candidate, KeywordConfig, keywords
from mfpo.evaluate.chair import read_synonyms

CONFIG = KeywordConfig(nouns="lexicon")
SYNONYMS = {
    "person": "person", "man": "person", "dog": "dog", "puppy": "dog", "cup": "cup", "dining table": "dining table",
    "table": "dining table", "hot dog": "hot dog", "tennis racket": "tennis racket", "racket": "tennis racket",
}
CAPTIONS = [
    {
        "question_id": 1, "image_id": 7,
        "text": "A man with a hope holds a cup. The man and the dog eat hot dogs. A dog!",
    },
    {"question_id": 2, "image_id": 8, "text": "Hope and joy."},
    {"question_id": 3, "image_id": 9, "text": ""},
]
LABELS = {
    7: Labels(frozenset(["person", "cup", "car"]), frozenset(["dog"])), 9: Labels(frozenset(), frozenset(["dog"])),
}


def refused(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def test_classes_of_phrases():
    assert class_of("puppies", SYNONYMS) == "dog" and class_of("wooden dining tables", SYNONYMS) == "dining table"
    assert class_of("hot dog", SYNONYMS) == "hot dog" and class_of("brown dog", SYNONYMS) == "dog"
    assert class_of("hope", SYNONYMS) is None and class_of("", SYNONYMS) is None


def test_measures_by_hand():
    # Caption 1: man at 1 and 9, hope at 4, cup at 7, dog at 12 and 17, hot dog at 15, a part of its own.
    counts = extraction_counts(CAPTIONS, SYNONYMS, LABELS, CONFIG, ("frequency", "first"), (1, 3))
    row = {(r.id, r.method, r.k): r for r in counts.itertuples()}
    # frequency: man 2, dog 2, hope 1, cup 1, hot dog 1. COCO objects named: person, cup, dog, hot dog; of these there:
    # person, cup.
    one, three = row["1", "frequency", 1], row["1", "frequency", 3]
    assert (one.groundable, one.named, one.recall, one.absent) == (1, 1 / 4, 1 / 2, 0)
    assert (three.groundable, three.named, three.recall, three.absent) == (2 / 3, 2 / 4, 1 / 2, 1 / 3)
    # first: man, hope, cup.
    one, three = row["1", "first", 1], row["1", "first", 3]
    assert (one.groundable, one.named, one.recall, one.absent) == (1, 1 / 4, 1 / 2, 0)
    assert (three.groundable, three.named, three.recall, three.absent) == (2 / 3, 2 / 4, 1, 0)
    # No object, no label; then no candidate at all.
    second, third = row["2", "first", 3], row["3", "first", 3]
    assert second.groundable == 0 and np.isnan([second.named, second.recall, second.absent]).all()
    assert (third.groundable, third.absent) == (0, 0) and np.isnan([third.named, third.recall]).all()
    # A dog alone is absent by the label.
    alone = [{"question_id": 4, "image_id": 7, "text": "a dog"}]
    assert extraction_counts(alone, SYNONYMS, LABELS, CONFIG, ("last",), (2,))["absent"].tolist() == [1]


def test_rankings():
    found = [Candidate("a", (0, 9)), Candidate("b", (2, 4, 5)), Candidate("c", (3, 6)), Candidate("d", (7,))]
    order = lambda method: "".join(found[k].word for k in np.argsort(-candidate_scores(method, found)))  # noqa: E731
    assert order("frequency") == "bacd" and order("first") == "abcd" and order("last") == "adcb"
    chance = [candidate_scores("random", found, seed_parts=(str(i),)) for i in (1, 1, 2)]
    assert np.array_equal(chance[0], chance[1]) and not np.array_equal(chance[0], chance[2])
    flat = candidate_scores("pagerank", found, KeywordConfig(lambda_=0))
    assert np.array_equal(candidate_scores("undecayed", found), flat)
    assert "must be pagerank" in refused(candidate_scores, "best", found)
    # The PageRank's order is that of `keywords`.
    text = CAPTIONS[0]["text"]
    best = {word: word for word in keywords(text, CONFIG).words[:1]}
    assert extraction_counts(CAPTIONS[:1], best, {}, CONFIG, ("pagerank",), (1,))["groundable"].tolist() == [1]


def test_tables_and_differences():
    counts = extraction_counts(CAPTIONS, SYNONYMS, LABELS, CONFIG, ("pagerank", "frequency", "first"), (1, 3))
    table = extraction_table(counts, n=200)
    cell = table[(table.method == "frequency") & (table.k == 3) & (table.measure == "groundable")].iloc[0]
    assert np.isclose(cell.value, 100 * (2 / 3 + 0 + 0) / 3) and cell.low <= cell.value <= cell.high
    sizes = {measure: set(table[table.measure == measure].captions) for measure in MEASURES}
    assert sizes == {"groundable": {3}, "named": {1}, "recall": {1}, "absent": {2}}
    apart = extraction_table(counts, minus="frequency", n=200)
    cell = apart[(apart.method == "first") & (apart.k == 1) & (apart.measure == "recall")].iloc[0]
    assert cell.value == 0 and set(apart.method) == {"pagerank", "first"}
    said = [verdict({"low": low, "high": high}) for low, high in ((1, 2), (-2, -1), (-1, 1))]
    assert said == ["above", "below", "not told apart"]
    text = extraction_markdown(table, 3)
    assert "groundable (n = 3)" in text and text.count("\n") == 4 and "| frequency | 22.2 [" in text
    cell = apart[(apart.method == "first") & (apart.k == 3) & (apart.measure == "recall")].iloc[0]
    assert cell.value == 50 and "+50.0 [+50.0, +50.0]" in extraction_markdown(apart, 3, sign=True)
    changed = sensitivity(CAPTIONS, SYNONYMS, LABELS, {"phi": (1.0, 2.0), "adjectives": (True,)}, CONFIG, k=3, n=50)
    assert changed[["setting", "changed_to"]].drop_duplicates().values.tolist() == [
        ["phi", "1.0"], ["phi", "2.0"], ["adjectives", "True"],
    ]
    same = table[(table.method == "pagerank") & (table.k == 3)].set_index("measure")["value"]
    assert np.allclose(changed[changed.changed_to == "1.0"].set_index("measure")["value"][same.index], same)
    assert len(extraction_figure(table).axes) == 2 and len(extraction_figure(table, changed).axes) == 3


def test_nouns_against_marks():
    marks = {"1": [1, 4, 7, 9, 12, 14, 15, 17], "2": [0, 2]}  # "hot" too, which the rules do not take for a noun
    counts = noun_counts(CAPTIONS, marks).set_index(["id", "way"])
    assert counts.loc[("1", "rules")].tolist() == [7, 7, 8, 18] and counts.loc[("2", "rules")].tolist() == [2, 2, 2, 3]
    scores = noun_scores(counts.reset_index(), n=100).set_index(["way", "measure"])
    assert scores.loc[("rules", "precision"), "value"] == 100 and scores.loc[("rules", "recall"), "value"] == 90
    assert np.isclose(scores.loc[("rules", "F1"), "value"], 2 * 100 * 90 / 190)
    assert "9 is not among" in refused(noun_counts, CAPTIONS, {"9": [0]})
    assert "has 3 words; the marks go to 3" in refused(noun_counts, CAPTIONS, {"2": [3]})


def test_files():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.json")
        for text in ('{"a": 1}\n{"a": 2}', '{"a": 1}, {"a": 2}\n', '[{"a": 1}, {"a": 2}]', '{"a": 1}{"a": 2}'):
            path.write_text(text)
            assert read_values(path) == [{"a": 1}, {"a": 2}]
        path.write_text('{"a": 1} oops')
        assert "value 2 is not JSON" in refused(read_values, path)
        path.write_text("")
        assert read_values(path) == []
        ask = {"image": "COCO_val2014_000000000012.jpg", "text": "Is there a table in the image?", "label": "yes"}
        other = {**ask, "text": "Is there a dog in the image?", "label": "no"}
        path.write_text("\n".join(map(json.dumps, (ask, other))))
        assert read_labels(path, SYNONYMS) == {12: Labels(frozenset(["dining table"]), frozenset(["dog"]))}
        for wrong in ({"label": "maybe"}, {"text": "What?"}, {"text": "Is there a unicorn in the image?"}):
            path.write_text(json.dumps({**ask, **wrong}))
            assert "question 1" in refused(read_labels, path, SYNONYMS)


def test_the_published_files():
    root = Path(os.environ.get("MFPO_BENCHMARKS", Path(mfpo.__file__).parents[1] / "../shared/benchmarks"))
    if not (root / "pope" / "captions_llava_13b.json").is_file():
        reason = "skipped: pope/captions_llava_13b.json is absent; set MFPO_BENCHMARKS to the folder of benchmark files"
        print(reason)
        if "PYTEST_CURRENT_TEST" in os.environ:
            import pytest

            pytest.skip(reason)
    else:
        synonyms = read_synonyms(root / "objhal" / "synonyms_refine.txt")
        captions = read_values(root / "pope" / "captions_llava_13b.json")
        labels = read_labels(root / "pope" / "coco_pope_random.json", synonyms)
        assert len(captions) == 2000 and len(labels) == 500
        assert all(len(label.there) == 3 and len(label.absent) == 3 for label in labels.values())
        counts = extraction_counts(captions[:100], synonyms, labels, CONFIG, ks=(1, 5))
        assert len(counts) == 100 * len(METHODS) * 2 and counts["groundable"].between(0, 1).all()
