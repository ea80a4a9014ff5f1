# Exported from nbs/benchmarks/amber.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.amber import *  # noqa: F403

import json
import tempfile
from pathlib import Path

from mfpo.benchmarks.amber import AMBER, load_amber, official_amber, score_amber

# Two pictures. Ids as in the published files: descriptions first, then attributes, existence, relations.
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["dog", "car"], "hallu": ["cat", "tree"]},
    {"id": 2, "type": "generative", "truth": ["tree"], "hallu": ["dog"]},
    {"id": 3, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 4, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 5, "type": "discriminative-attribute-action", "truth": "no"},
    {"id": 6, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 7, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 8, "type": "discriminative-relation", "truth": "yes"},
    {"id": 9, "type": "relation", "truth": "no"},
]
QUERIES = [{"id": k, "image": f"AMBER_{1 + k % 2}.jpg", "query": f"question {k}"} for k in range(1, 10)]
RELATION = {"dog": ["puppy"], "car": ["window", "tire"], "cat": [], "tree": ["bush"]}


def amber_folder(annotations=ANNOTATIONS, relation=RELATION, **queries):
    """A folder of AMBER's files; keywords are query files: query_all=[…]. Kept as long as the object lives."""
    kept = tempfile.TemporaryDirectory()
    for name, value in {"annotations": annotations, "relation": relation, **queries}.items():
        Path(kept.name, name.replace("__", "-") + ".json").write_text(json.dumps(value), encoding="utf-8")
    Path(kept.name, "safe_words.txt").write_text("light\nsign")
    return kept

from collections import Counter

def restated(annotations, relation, safe, answers, nouns, similar):
    """The printed numbers, from the description of AMBER's arithmetic, without any of the functions above."""
    c = Counter()
    score = lambda top, bottom, start=0.001: round(c[top] / (start + c[bottom]) * 100, 1)
    vocabulary = {w for k, v in relation.items() for w in [k, *v]}
    for record in annotations:
        text, kind = answers[str(record["id"])], record["type"]
        if kind != "generative":
            dims = ["", {"discriminative-hallucination": "existence"}.get(kind, kind.split("-")[-1])]
            if "attribute" in kind:
                dims.append("attribute")
            for d in dims:
                c[d, "n"] += 1
                c[d, "ok"] += text == {"yes": "Yes", "no": "No"}[record["truth"]]
                c[d, "absent"] += record["truth"] == "no"
                c[d, "No"] += text == "No"
                c[d, "denied"] += text == "No" and record["truth"] == "no"
            continue
        lists = []
        for name in ("truth", "hallu"):  # all words in order, and beside each the number of its object
            numbered = list(enumerate(record[name]))
            lists.append([(a, k) for k, w in numbered for a in relation[w]] + [(w, k) for k, w in numbered])
        marks, wrong = (set(), set()), 0
        for noun in filter(vocabulary.__contains__, nouns(text)):
            c["nouns"] += 1
            if noun in safe:
                continue
            is_same, is_near = (lambda w: w == noun), (lambda w: similar(noun, w) > 0.8)
            hit = lambda which, test: [k for w, k in lists[which] if test(w)][:1]
            if hit(0, is_same):
                marks[0].update(hit(0, is_same))
                continue
            marks[1].update(hit(1, is_same) + hit(1, is_near))
            marks[0].update(hit(0, is_near))
            wrong += not hit(0, is_near)
        c["wrong"] += wrong
        c["clean"] += not wrong
        c["shown"] += 1
        for which, name in enumerate(("truth", "hallu")):
            c[name] += len(record[name])
            c[name, "found"] += len(marks[which])
    out = {"CHAIR": score("wrong", "nouns"), "Cover": score(("truth", "found"), "truth"),
           "Hal": round(100 - c["clean"] / (0.001 + c["shown"]) * 100, 1), "Cog": score(("hallu", "found"), "hallu")}
    for d in ("", "existence", "attribute", "state", "number", "action", "relation"):
        start = 0.001 + 0.001 + 0.001 if d == "attribute" else 0.001
        a, p, r = (score((d, x), (d, y), start) for x, y in (("ok", "n"), ("denied", "No"), ("denied", "absent")))
        f = 2 * (p / 100) * (r / 100) / (p / 100 + r / 100 + (0.001 if d == "existence" else 0.0001)) * 100
        four = {"accuracy": a, "precision": p, "recall": r, "F1": round(f, 1)}
        out |= {(d + "_" + k).strip("_"): v for k, v in four.items()}
    return out | {"AMBER": (100 - out["CHAIR"] + out["F1"]) / 2}


def test_questions_come_from_whichever_files_are_there():
    whole = amber_folder(query_all=QUERIES)
    items = load_amber(whole.name)
    assert [item.id for item in items] == list("123456789") and items[0].group == items[0].image == "AMBER_2.jpg"
    assert [item.facts["type"] for item in items] == [
        "generative", "generative", "state", "number", "action", "existence", "existence", "relation", "relation"]
    assert items[0].facts["truth"] == ("dog", "car") and items[0].facts["hallu"] == ("cat", "tree")
    assert items[0].facts["words"] is items[1].facts["words"] and items[0].facts["suffix"] == ""
    assert items[5].facts["suffix"].endswith("single word or phrase.") and items[5].facts["left_out"] == {}
    of_kind = {kind: "".join(item.id for item in load_amber(whole.name, kind=kind)) for kind in (
        "generative", "discriminative", "existence", "attribute", "relation")}
    assert of_kind == {
        "generative": "12", "discriminative": "3456789", "existence": "67", "attribute": "345", "relation": "89"}

    # In parts, and once more in all: the same items.
    parts = amber_folder(query_generative=QUERIES[:2], query_discriminative=QUERIES[2:], query_all=QUERIES)
    assert load_amber(parts.name) == items
    parts = amber_folder(query_generative=QUERIES[:2], query_discriminative__existence=QUERIES[5:7])
    some = load_amber(parts.name)
    assert [item.id for item in some] == list("1267")
    assert some[0].facts["left_out"] == {"attribute": 3, "relation": 2}


def test_what_is_missing_or_wrong_is_named():
    import pytest

    def refused(match, error=ValueError, kind="all", **files):
        files = {"query_all": QUERIES} | files
        kept = amber_folder(**{name: value for name, value in files.items() if value is not None})
        with pytest.raises(error, match=match):
            load_amber(kept.name, kind=kind)

    absent = {"query_all": None, "query_generative": QUERIES[:2]}
    refused("kind='g'; give one of all, generative", kind="g")
    refused("no questions of kind relation: give it one of query_all.json .all questions.; query_discriminative.json",
            FileNotFoundError, kind="relation", **absent)
    refused("no questions of kind all", FileNotFoundError, query_all=None)
    refused("item 9 .relation. has no question in query_all.json; .*incomplete", query_all=QUERIES[:8])
    refused("record 1: id 3 is annotated as attribute", query_generative=[QUERIES[2]])
    refused("record 2: id 2 is another question than in query_all.json, query_generative.json",
            query_generative=[QUERIES[0], QUERIES[1] | {"query": "What?"}])
    refused("record 2: id 1 is there twice", query_all=[QUERIES[0], QUERIES[0]])
    refused("record 1: id 10 has no annotation", query_all=[QUERIES[0] | {"id": 10}])
    refused("record 1: id is '1'; it has to be a whole number", query_all=[QUERIES[0] | {"id": "1"}])
    refused("record 1: id is True", query_all=[QUERIES[0] | {"id": True}])
    refused("record 1: query is None", query_all=[QUERIES[0] | {"query": None}])
    refused("record 1: has no field image; it has id, query", query_all=[{"id": 1, "query": "?"}])

    change = lambda k, **fields: ANNOTATIONS[:k] + [ANNOTATIONS[k] | fields] + ANNOTATIONS[k + 1:]
    refused("record 3: type is 'discriminative'; known are generative", annotations=change(2, type="discriminative"))
    refused("record 4: truth is 'No'; it has to be yes or no", annotations=change(3, truth="No"))
    refused("record 1: hallu is None; it has to be a list", annotations=change(0, hallu=None))
    refused("record 2: truth is .'tree', 3.", annotations=change(1, truth=["tree", 3]))
    refused("record 2: truth has 'bush', which relation.json lacks", annotations=change(1, truth=["bush"]))
    refused("record 2: id 1 is there twice", annotations=change(1, id=1))
    refused("relation.json: associations of 'dog' are 1", relation={"dog": 1})

    kept = amber_folder(query_all=QUERIES[:7])
    with pytest.raises(ValueError, match="incomplete='false'; give True or False"):
        load_amber(kept.name, incomplete="false")
    assert load_amber(kept.name, incomplete=True)[0].facts["left_out"] == {"relation": 2}
    (Path(kept.name) / "safe_words.txt").unlink()
    assert len(load_amber(kept.name, kind="existence")) == 2  # questions alone need no words
    with pytest.raises(FileNotFoundError, match="safe_words.txt is not in .*authors' repository.*Apache-2.0"):
        load_amber(kept.name, kind="generative")


def test_the_printed_numbers_by_hand():
    import numpy as np

    from mfpo.benchmarks.amber import ASKED, DESCRIBED, amber_values

    types = ("existence", "state", "number", "action", "relation")
    zero = dict.fromkeys([*DESCRIBED, *(f"{t}_{name}" for t in types for name in ASKED)], 0)
    ask = lambda kind, *numbers: {f"{kind}_{name}": number for name, number in zip(ASKED, numbers)}
    totals = zero | dict(zip(DESCRIBED, (4, 1, 8, 3, 7, 4, 9, 2)))
    #                            asked right unread is_no said_no right_no
    totals |= ask("existence",       4,    3,     1,    4,      3,       3)
    totals |= ask("state",           2,    1,     0,    1,      2,       1)
    totals |= ask("relation",        3,    1,     0,    1,      1,       0)
    found = {name: float(value) for name, value in amber_values(totals).items()}
    # CHAIR 300/8.001 = 37.495; Cover 400/7.001 = 57.13; Hal 100 - 100/4.001 = 75.006; Cog 200/9.001 = 22.22.
    assert (found["CHAIR"], found["Cover"], found["Hal"], found["Cog"]) == (37.5, 57.1, 75.0, 22.2)
    # Existence: accuracy 300/4.001 = 74.98, precision 300/3.001 = 99.97, recall 300/4.001 = 74.98,
    # F1 = 2 * 1 * .75 / (1.75 + .001) = 85.665.
    four = lambda prefix: [found[prefix + name] for name in ("accuracy", "precision", "recall", "F1")]
    assert four("existence_") == [75.0, 100.0, 75.0, 85.7]
    # State: accuracy 100/2.001 = 49.975, precision the same, recall 100/1.001 = 99.90;
    # F1 = 2 * .5 * .999 / 1.4991 = 66.64.
    assert four("state_") == [50.0, 50.0, 99.9, 66.6]
    # Attribute, whose number and action are empty, has 0.003: 100/2.003 = 49.93, 100/1.003 = 99.70;
    # F1 = 2 * .499 * .997 / 1.4961 = 66.507.
    assert four("attribute_") == [49.9, 49.9, 99.7, 66.5]
    assert four("number_") == four("action_") == [0, 0, 0, 0]
    # All: 5 of 9 right; 4 of 6 noes right; 4 of 6 denied: 500/9.001 = 55.55, 400/6.001 = 66.66;
    # F1 = 2 * .667 * .667 / 1.3341 = 66.695.
    assert four("") == [55.5, 66.7, 66.7, 66.7]
    assert found["AMBER"] == (100 - 37.5 + 66.7) / 2 and found["unread"] == 100 / 9

    # One noun more than a hundred thousand times: arrays go through the same formula, elementwise.
    two = amber_values({name: np.array([value, 100_000 * value]) for name, value in totals.items()})
    assert all(float(value[0]) == found[name] for name, value in two.items())
    assert float(two["existence_recall"][1]) == 75.0 and float(two["state_recall"][1]) == 100.0
    empty = amber_values(zero)
    assert float(empty["Hal"]) == 100 and float(empty["F1"]) == 0 and np.isnan(empty["unread"])


def test_two_pictures_are_scored_by_hand():
    import pytest

    whole = amber_folder(query_all=QUERIES)
    items = load_amber(whole.name)
    answers = {
        "1": "A puppy and two puppies look out of the window of a bus, under a cat and a cat.",
        "2": "A bush. A dog.", "3": "Yes", "4": "No", "5": "no", "6": "No", "7": "No.", "8": "Yes", "9": "Yes",
    }
    scores = score_amber(items, answers, nouns="offline", similar="offline", n=50)
    found = {name: value.estimate for name, value in scores.values.items()}
    # 1: puppy, puppy, window, cat, cat are looked at; both objects covered, the cat marked and hallucinated twice.
    # 2: bush covers the tree, dog is marked and hallucinated. 3 of 7 nouns, 3 of 3 objects, 2 of 3 likely ones.
    row = scores.items.loc["1"]
    counted = ("nouns", "hallucinated", "objects", "covered", "likely", "marked")
    assert tuple(row[name] for name in counted) == (5, 2, 2, 2, 2, 1)
    assert list(scores.items["hallucinated_nouns"]) == ["cat, cat", "dog", *[""] * 7]
    # 300/7.001, 300/3.001, 100 - 0/2.001, 200/3.001:
    assert [found[name] for name in ("CHAIR", "Cover", "Hal", "Cog")] == [42.9, 100.0, 100.0, 66.6]
    # Exactly Yes or No: 3, 4, 6, 8 of seven are right; of five "no" the answers to 4 and 6 deny; nobody else says No.
    assert [found[name] for name in ("accuracy", "precision", "recall")] == [57.1, 100.0, 40.0]
    assert found["unread"] == 200 / 7 and found["existence_accuracy"] == 50.0 and found["relation_recall"] == 0.0
    assert found["AMBER"] == (100 - 42.9 + found["F1"]) / 2
    assert scores.how == {"nouns": "offline", "similar": "offline", "read": "exact"}
    free = score_amber(items, answers, nouns="offline", similar="offline", n=50, read="first word")
    assert free.values["accuracy"].estimate == 85.7 and free.values["unread"].estimate == 0
    assert {m.name for m in AMBER.metrics} == set(free.values) and all(scores.items.columns == free.items.columns)

    # Parts: no score without answers, and no overall one without all three dimensions.
    part = score_amber(items, {"1": "", "6": "No"}, nouns="offline", similar="offline", n=50, partial=True)
    assert set(part.values) == {"CHAIR", "Cover", "Hal", "Cog", "unread"} | {
        f"existence_{name}" for name in ("accuracy", "precision", "recall", "F1")}
    assert part.values["CHAIR"].estimate == 0 and part.values["Hal"].estimate == 0.1  # nothing said; 100 - 100/1.001
    attribute = score_amber(load_amber(whole.name, kind="attribute"), {k: answers[k] for k in "345"}, n=50)
    assert {name.split("_")[0] for name in attribute.values} == {"attribute", "state", "number", "action", "unread"}
    assert attribute.how == {"read": "exact"}
    alone = score_amber(items[:2], {k: answers[k] for k in "12"}, nouns=lambda text: ["cat"], similar="offline", n=50)
    assert set(alone.values) == {"CHAIR", "Cover", "Hal", "Cog"} and alone.values["CHAIR"].estimate == 100
    assert "lambda" in alone.how["nouns"] and "read" not in alone.how
    loose = score_amber(items[:1], {"1": "cat"}, nouns="offline", similar=lambda a, b: 0.5, above=0.4, n=50)
    assert loose.values["CHAIR"].estimate == 0 and loose.how["above"] == 0.4

    with pytest.raises(ValueError, match="known ways to read"):
        score_amber(items, answers, read="loosely")
    with pytest.raises(ValueError, match="nouns='nltk'; give auto, published, offline, or a function"):
        score_amber(items, answers, nouns="nltk")
    for wrong in ("0.8", True, 80, float("nan")):
        with pytest.raises(ValueError, match="above=.*give a cosine similarity, such as 0.8"):
            score_amber(items, answers, above=wrong)
    with pytest.raises(ValueError, match="1 answers belong to no item, the first to '10'"):
        score_amber(items, answers | {"10": "Yes"})
    with pytest.raises(ValueError, match="8 of 9 items have no answer"):
        score_amber(items, {"1": "A dog."})
    left = amber_folder(query_generative=QUERIES[:2])
    told = score_amber(load_amber(left.name), {"1": "", "2": "a tree"}, nouns="offline", similar="offline", n=50)
    assert told.how["without questions"] == {"attribute": 3, "existence": 2, "relation": 2}

    written = json.loads(official_amber(items, answers))
    assert written == [{"id": int(k), "response": text} for k, text in answers.items()]
    written = json.loads(official_amber(items, {"9": "\ud800 é\n"}, partial=True))
    assert written == [{"id": 9, "response": "\ud800 é\n"}]
    with pytest.raises(ValueError, match="8 of 9 items have no answer"):
        official_amber(items, {"9": "No"})


def test_every_digit_agrees_on_generated_annotations():
    import random

    # Tables of eight words that lead to one another, repeated objects, objects that are both there and likely.
    for seed in range(15):
        draw = random.Random(seed)
        pool = [f"w{k}" for k in range(8)] + ["TV", "light"]
        relation = {w: [draw.choice(pool) for _ in range(draw.randrange(4))] for w in pool[:8]}
        annotations, answers = [], {}
        kinds = ["hallucination", "relation", "attribute-state", "attribute-number", "attribute-action"]
        kinds = [f"discriminative-{kind}" for kind in kinds] + ["relation", "generative", "generative"]
        for k in range(1, 61):
            kind = kinds[k] if k < len(kinds) else draw.choice(kinds)
            some = lambda: [draw.choice(pool[:8]) for _ in range(draw.randrange(4))]
            annotations.append({"id": k, "type": kind, "truth": some(), "hallu": some()} if kind == "generative" else
                               {"id": k, "type": kind, "truth": draw.choice(["yes", "no"])})
            said = [draw.choice([*pool, "W1", "other", "é"]) for _ in range(draw.randrange(9))]
            said = " ".join(said)
            answers[str(k)] = said if kind == "generative" else draw.choice(["Yes", "No", "No", "no", "Yes.", ""])
        near = {(a, b): draw.choice([0.1, 0.8, 0.81, 1.0]) for a in pool for b in pool}
        queries = [{"id": k, "image": f"{draw.randrange(20)}.jpg", "query": "?"} for k in range(1, 61)]
        kept = amber_folder(annotations=annotations, relation=relation, query_all=queries)
        similar = lambda a, b: near[a, b]
        scores = score_amber(load_amber(kept.name), answers, nouns=str.split, similar=similar, n=1)
        expected = restated(annotations, relation, {"light", "sign"}, answers, str.split, similar)
        assert expected == {name: scores.values[name].estimate for name in expected}, seed


def test_every_digit_agrees_on_the_published_annotations():
    import os
    import random

    import pandas as pd
    import pytest

    from mfpo.benchmarks.amber_words import lexicon_nouns, same_lemma
    from mfpo.benchmarks.files import check_sources, read_values

    folder = Path(os.environ.get("MFPO_BENCHMARKS", "../shared/benchmarks")) / "amber"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set MFPO_BENCHMARKS")
    assert not check_sources(folder, AMBER.sources)[1]  # all files are the published ones
    annotations, relation = read_values(folder / "annotations.json"), read_values(folder / "relation.json")[0]
    assert len(annotations) == 15_220
    # The folder may hold some query files only; any picture will do for the arithmetic.
    kept = amber_folder(annotations=annotations, relation=relation, query_all=[
        {"id": record["id"], "image": f"AMBER_{1 + record['id'] % 1004}.jpg", "query": "?"} for record in annotations])
    Path(kept.name, "safe_words.txt").write_bytes((folder / "safe_words.txt").read_bytes())
    items, safe = load_amber(kept.name), (folder / "safe_words.txt").read_text().split("\n")

    draw, keys, answers = random.Random(7), sorted(relation), {}
    for record in annotations:
        if record["type"] != "generative":
            answers[str(record["id"])] = draw.choice(["Yes", "No", "No", "Yes", "yes", "No.", "", "Ja"])
            continue
        said = draw.sample(record["truth"], k=draw.randrange(len(record["truth"]) + 1)) + draw.choices(record["hallu"])
        said += [draw.choice(relation[w]) for w in said if relation[w] and draw.random() < 0.4]
        said += draw.choices(keys, k=2)
        draw.shuffle(said)
        text = "".join(f"There is the {w}, and two {w}s. " for w in said + ["mood"])
        answers[str(record["id"])] = text[: draw.choice([0, 40, 9999, 9999])]
    nouns = lexicon_nouns(items[0].facts["words"].vocabulary)
    rough = lambda a, b: 1.0 * (sorted(a)[:2] == sorted(b)[:2])  # some thousand pairs of words are alike by it
    for similar in (same_lemma, rough):
        scores = score_amber(items, answers, nouns=nouns, similar=similar, n=20)
        expected = restated(annotations, relation, safe, answers, nouns, similar)
        assert expected == {name: scores.values[name].estimate for name in expected}
        assert 20 < expected["CHAIR"] < 80 and 20 < expected["Cover"] < 95 and expected["Cog"] > 10
        assert all(value.low <= value.estimate <= value.high for value in scores.values.values())

    # The folder as it is, by its own questions.
    own = load_amber(folder)
    kinds = pd.Series([item.facts["type"] for item in own]).value_counts().to_dict()
    assert kinds["generative"] == 1004 and kinds["existence"] == 4924 and kinds["relation"] == 1664
    assert all(item.facts["suffix"] == "" and item.question == "Describe this image." for item in own[:1004])
    assert own[0].facts["left_out"] == ({} if len(own) == 15_220 else {"attribute": 7628})
