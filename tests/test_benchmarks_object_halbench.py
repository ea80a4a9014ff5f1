# Exported from nbs/benchmarks/object_halbench.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.object_halbench import *  # noqa: F403

import base64
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mfpo.benchmarks.coco_words import CocoWords, halbench_pairs, read_classes
from mfpo.benchmarks.object_halbench import OBJECT_HALBENCH, load_object_halbench, object_requests, official_object_halbench, read_objects, read_responses, readable_objects, response, score_object_halbench
from mfpo.benchmarks.records import Item, metric_table

TABLE = "person, man, woman, people\ndog, puppy\ncup\ncouch, sofa\ntoilet\nchair, seat\nhot dog\ndining table, table\ntraffic light\n"
NAMES = ["person", "dog", "cup", "couch", "toilet", "chair", "hot dog", "dining table", "traffic light"]


def published(folder, questions):
    """questions: (picture's number, outlined classes, captions, further fields)."""
    folder, about = Path(folder), {"info": {}, "licenses": []}
    (folder / "synonyms_refine.txt").write_text(TABLE)
    images = [{"id": k, "file_name": f"COCO_val2014_{k:012d}.jpg"} for k in dict.fromkeys(q[0] for q in questions)]
    outlines = [{"image_id": k, "category_id": NAMES.index(name) + 1, "segmentation": [[0.5, 1.5]]} for k, classes, _, _ in questions for name in classes]
    captions = [{"image_id": k, "caption": text} for k, _, texts, _ in questions for text in texts]
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)]
    (folder / "instances_val2014.json").write_text(json.dumps(about | {"images": images, "annotations": outlines, "categories": categories}))
    (folder / "captions_val2014.json").write_text(json.dumps(about | {"images": images, "annotations": captions}))
    lines = [json.dumps({"question": f"Describe {k}.", "image_id": k} | more) for k, _, _, more in questions]
    (folder / "obj_halbench_300_with_image.jsonl").write_text("\n".join(lines) + "\n")


PIXELS = base64.b64encode(b"\x89PNG some bytes").decode()
QUESTIONS = [(42, ["dog"], ["A puppy on a sofa."], {"image": PIXELS}), (73, ["cup", "dining table"], [], {"image": "data:image/png;base64," + PIXELS}),
             (74, ["person"], ["Nothing."], {}), (133, [], ["A hot dog.", "A toilet."], {"image_id": "133"})]


def loaded(questions=QUESTIONS):
    with tempfile.TemporaryDirectory() as folder:
        published(folder, questions)
        return load_object_halbench(folder, lemmas="offline")


def test_questions_carry_picture_and_truth():
    items = loaded()
    assert [item.id for item in items] == ["42", "73", "74", "133"] and items[0].question == "Describe 42."
    assert [item.facts["truth"] for item in items] == [("couch", "dog"), ("cup", "dining table"), ("person",), ("hot dog", "toilet")]
    assert [item.facts.get("picture") for item in items] == [PIXELS, PIXELS, None, None]
    assert items[2].image == "COCO_val2014_000000000074.jpg" and items[2].group == "74" and items[3].facts["image_id"] == 133
    assert len({id(item.facts["words"]) for item in items}) == 1 and items[0].facts["words"].lemmas == "offline"
    twice = loaded([QUESTIONS[0], (42, ["dog"], [], {"question": "Again?"}), QUESTIONS[1]])
    assert [(item.id, item.group) for item in twice] == [("42", "42"), ("42-2", "42"), ("73", "73")]

    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(FileNotFoundError, match="obj_halbench_300_with_image.jsonl is not in .*RLHF-V/RLAIF-V"):
            load_object_halbench(folder)
        for more, reason in (
            ({"image": "no base64!"}, "record 1: image is no picture in base64"), ({"image": ""}, "record 1: image is no picture.*empty"),
            ({"image": 3}, "record 1: image is 3"), ({"question": None}, "record 1: question is None"), ({"image_id": "x"}, "record 1: image_id is 'x'"),
            ({"image_id": 99}, "1 of 1 pictures are in none of COCO's files"),
        ):
            published(folder, [(42, ["dog"], [], more)])
            with pytest.raises(ValueError, match=reason):
                load_object_halbench(folder)
        with pytest.raises(ValueError, match="lemmas='x'"):
            load_object_halbench(folder, lemmas="x")
        published(folder, QUESTIONS)
        (Path(folder) / "obj_halbench_300_with_image.jsonl").write_text("\n")
        with pytest.raises(ValueError, match="jsonl: holds no questions"):
            load_object_halbench(folder)


def test_scores_by_words_worked_out_by_hand():
    items = loaded()
    answers = {
        "42": "Assistant: A puppy, a puppy, a cup and a seat ",  # 4 mentions, 2 wrong, 1 of 2 classes; 9 words
        "73": "A cup on the dining table.",  # 2 mentions, 0 wrong, 2 of 2; 6 words
        "74": "A blue sky.",  # none, 0 of 1; 3 words
        "133": "Hot dogs beside a toilet seat.",  # 2 mentions, 0 wrong, 2 of 2; 6 words
    }
    scores = score_object_halbench(items, answers, n=50)
    got = {name: value.estimate for name, value in scores.values.items()}
    # 1 of 3 responses with objects; 1 of 4; 2 of 8 mentions; 5 of 7 classes; F1 of 75 and 71.43 is 73.17; 24 words in 4.
    assert [f"{got[name]:.2f}" for name in ("CHAIRs", "CHAIRs_all", "CHAIRi", "recall", "F1", "length")] == ["33.33", "25.00", "25.00", "71.43", "73.17", "6.00"]
    assert got["CHAIRs"] == 1 / 3 * 100 and "unread" not in got and scores.how["objects"] == "words" and "offline" in scores.how["lemmas"]
    row = scores.items.loc["42"]
    assert (row["named"], row["wrong"], row["truth"]) == ("puppy (dog), puppy (dog), cup, seat (chair)", "cup, seat (chair)", "couch, dog")
    assert row["hallucinated"] == 2 and row["answer"] == "A puppy, a puppy, a cup and a seat" and row["words"] == 9
    assert {metric.name for metric in OBJECT_HALBENCH.metrics} == set(got) | {"unread"}
    assert "| CHAIRs, of responses with objects ↓ | 33.33 [0.00, " in metric_table(OBJECT_HALBENCH, scores)
    low, high = scores.values["CHAIRi"].low, scores.values["CHAIRi"].high
    assert 0 <= low <= got["CHAIRi"] <= high <= 50

    with pytest.raises(ValueError, match="1 of 4 items have no answer, the first is '42'"):
        score_object_halbench(items, {k: v for k, v in answers.items() if k != "42"})
    part = score_object_halbench(items, {"74": "A person."}, partial=True, n=10)
    assert part.values["recall"].estimate == 100 and part.how["items"] == 4 and len(part.items) == 1
    with pytest.raises(ValueError, match="belong to no item, the first to '9'"):
        score_object_halbench(items, {**answers, "9": ""})
    with pytest.raises(ValueError, match="nothing to score"):
        score_object_halbench([], {})
    silent = score_object_halbench(items, dict.fromkeys(answers, ""), n=10)
    assert np.isnan(silent.values["CHAIRs"].estimate) and np.isnan(silent.values["CHAIRi"].estimate) and silent.values["length"].estimate == 1
    assert silent.values["CHAIRs_all"].estimate == silent.values["recall"].estimate == 0 and "| CHAIRi ↓ | – |" in metric_table(OBJECT_HALBENCH, silent)


def test_responses_go_to_the_script_and_back():
    items = loaded()
    answers = {"42": "Assistant: Ä dog.\n", "73": "", "74": "a\tb", "133": "Assistant:Assistant: c Assistant:"}
    text = official_object_halbench(items, answers)
    rows = [json.loads(line) for line in text.splitlines()]
    # As the authors' script reads its lines.
    assert [(int(row["image_id"]), row["prompt"], row["text"].replace("Assistant:", "").strip()) for row in rows] == [
        (42, "Describe 42.", "Ä dog."), (73, "Describe 73.", ""), (74, "Describe 74.", "a\tb"), (133, "Describe 133.", "c")]
    assert [response(answer) for answer in answers.values()] == ["Ä dog.", "", "a\tb", "c"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"

        def read(rows, of=items):
            path.write_text(rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows)))
            return read_responses(path, of)

        assert read(text) == answers and list(read(rows[::-1])) == ["133", "74", "73", "42"]
        named = [{"question": row["prompt"], "answer": row["text"], "image_id": str(row["image_id"])} for row in rows]
        assert read(named) == answers
        assert read([{**row, "answer": "not this"} for row in rows]) == answers  # the script prefers prompt and text
        bare = [{"prompt": f"<image>\n{row['prompt']}", "text": row["text"]} for row in rows]
        assert read(bare) == answers and read(rows[:1]) == {"42": answers["42"]}
        for wrong, reason in (
            (bare[::-1], "record 1: has no image_id, and asks .*Describe 133.*where the benchmark asks 'Describe 42.'"),
            (bare[:2], "record 1: has no image_id, and there are 2 lines for 4 questions"), (rows[:1] * 2, "record 2: picture 42 has a response already"),
            ([{**rows[0], "image_id": 5}], "record 1: picture 5 is not in this benchmark"), ([{**rows[0], "text": None}], "record 1: text is None"),
            ([{"image_id": 42, "text": ""}], "record 1: question is None"), ("[1]", "record 1: is a int"),
        ):
            with pytest.raises(ValueError, match=reason):
                read(wrong)
        again = loaded([QUESTIONS[0], QUESTIONS[0]])
        assert read([rows[0], {**rows[0], "text": "second"}], again) == {"42": answers["42"], "42-2": "second"}


def test_replies_are_read_where_the_script_reads_them():
    import re

    def by_the_script(reply):
        """The authors' reading told again; None where they ask again."""
        block = re.search("```json\n(.*?)\n```", reply, re.S)
        if block:
            try:
                return json.loads(block.group(1))
            except ValueError:
                pass
        if '["' not in reply:
            return None
        try:
            return json.loads(reply.strip().splitlines()[-1])
        except ValueError:
            return None

    for reply, objects in (
        ('["a", "b c"]', ["a", "b c"]), ('```json\n["a"]\n```', ["a"]), ('Here:\n```json\n[\n "a",\n "b"\n]\n```\nDone ["x"]', ["a", "b"]),
        ('Sure!\n\n["a"]\n', ["a"]), ("```json\n[]\n```", []), ('```json\nnothing\n```\n["a"]', ["a"]), ('["é", 3, null, ["x"]]', ["é", "3", "None", "['x']"]),
    ):
        assert read_objects(reply) == objects == list(map(str, by_the_script(reply))), reply
    for reply, objects in (  # the script asks again
        ("[]", []), ("()", []), ("No objects.\n[]", []), ('[\n "a",\n "b"\n]', ["a", "b"]), ('```\n["a"]\n```', ["a"]), ("```python\n[]\n```", []),
        ('```json ["a"] ```', ["a"]),
    ):
        assert by_the_script(reply) is None and read_objects(reply) == objects, reply
    for reply in ("", "a, b", '["a", "b"', '{"a": ["b"]}', '["a"] is all', "3", '"a"', "null", "[" * 100_000, "NaN", '["a"]\nThat is all.'):
        assert not readable_objects(reply), reply
        with pytest.raises(ValueError, match="no JSON list"):
            read_objects(reply)


def test_the_extractor_is_asked_about_long_responses():
    items = loaded()
    answers = {"42": "Assistant: A dog {answer} {question}.", "73": "One two three", "74": "", "133": "one two three four"}
    requests = object_requests(items, answers)
    assert [identity for identity, _ in requests] == ["42", "133"] and requests.settings == {"temperature": 0.2, "max_tokens": 512}
    message, = requests[0][1]
    assert message["role"] == "user" and "Describe 42." in message["content"] and "\nA dog {answer} {question}.\n" in message["content"]
    assert requests.about["benchmark"] == "object_halbench" and "own" in requests.about["template"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.txt"
        path.write_text("Q {question} A {answer}")
        assert object_requests(items, answers, template=path)[1][1][0]["content"] == "Q Describe 133. A one two three four"
    assert len(object_requests(items, {"42": answers["42"]}, partial=True)) == 1


def test_scores_by_an_extractor_worked_out_by_hand():
    items = loaded()
    answers = {"42": "A puppy and a puppy, cups.", "73": "A cup and a table.", "74": "A blue sky.", "133": "Hot dogs beside a dog."}
    replies = {
        "42": '["puppy", "brown puppies", "cup", "couch"]',  # puppy, cup, couch: the cup is wrong
        "73": '```json\n["cup", "kitchen table"]\n```',  # cup; a run of nouns is one word
        "133": '["hot dogs", "dog", "man", "people"]',  # hot dog; dog, and two words for a person: three wrong
        "74": '["man"]',  # three words: not read
    }
    scores = score_object_halbench(items, answers, replies=replies, extractor="a-model", tagger="offline", n=20)
    got = {name: value.estimate for name, value in scores.values.items()}
    # 2 of 3 responses with objects, 2 of 4; 4 of 8 mentions; dog and couch, cup, hot dog of 7 classes; no reply unread.
    assert [f"{got[name]:.2f}" for name in ("CHAIRs", "CHAIRs_all", "CHAIRi", "recall", "unread")] == ["66.67", "50.00", "50.00", "57.14", "0.00"]
    assert scores.how["objects"] == "extractor a-model" and scores.how["tagger"] == "offline (lexicon)" and scores.how["unread"] == []
    assert scores.items.loc["133", "wrong"] == "dog, man (person), people (person)" and scores.items.loc["74", "named"] == ""
    by_words = score_object_halbench(items, answers, n=20)
    assert by_words.values["CHAIRi"].estimate != got["CHAIRi"] and by_words.how["objects"] == "words"

    class Replies(dict):
        how = {"judge": "gpt-x", "date": "2026-01-01"}

    named = score_object_halbench(items, answers, replies=Replies(replies), tagger="offline", n=5).how
    assert named["objects"] == "extractor gpt-x" and named["date"] == "2026-01-01"
    options = {"extractor": "m", "tagger": "offline", "n": 5}
    for bad, reason in (
        ({**replies, "9": "[]"}, "1 replies belong to no answer, the first to '9'"), ({**replies, "42": None}, "the reply to '42' is None"),
        ({**replies, "42": "dogs"}, "1 of 4 replies are missing or hold no JSON list, those to '42'"), ({}, "3 of 4 replies are missing.*'42', '73', '133'"),
    ):
        with pytest.raises(ValueError, match=reason):
            score_object_halbench(items, answers, replies=bad, **options)
    with pytest.raises(ValueError, match="name the model that extracted the objects"):
        score_object_halbench(items, answers, replies=replies)
    some = score_object_halbench(items, answers, replies={**replies, "42": "dogs"}, partial=True, **options)
    # Without the first: 1 of 2 responses with objects; 3 of 5 mentions; cup, hot dog of 5 classes; one of four unread.
    assert [f"{some.values[k].estimate:.2f}" for k in ("CHAIRs", "CHAIRs_all", "CHAIRi", "recall", "unread")] == ["50.00", "33.33", "60.00", "40.00", "25.00"]
    assert some.how["unread"] == ["42"] and some.items.loc["42", "unread"] == 1 and some.items.loc["42", "mentioned"] == 0
    with pytest.raises(ValueError, match="2 of 2 replies are missing"):  # nothing at all is no part
        score_object_halbench(items[:2], {"42": answers["42"], "73": answers["73"]}, replies={}, partial=True, **options)


def test_real_captions_score_as_the_script_scores_them():
    import random

    from mfpo.benchmarks.files import read_values

    real = Path(os.environ.get("MFPO_BENCHMARKS", "../shared/benchmarks"))
    for name in ("objhal/synonyms_refine.txt", "pope/captions_llava_13b.json"):
        if not (real / name).is_file():
            pytest.skip(f"{real / name} is absent: set MFPO_BENCHMARKS")
    words = CocoWords(table := read_classes(real / "objhal" / "synonyms_refine.txt"), halbench_pairs(table), "offline")
    captions = {str(k): record for k, record in enumerate(read_values(real / "pope" / "captions_llava_13b.json"))}
    draw, classes = random.Random(0), sorted(set(table.values()))
    # COCO's annotations are not here: a truth is most of what the caption names, and some other classes.
    items = [Item(k, record["prompt"], f"{record['image_id']}.jpg", str(record["image_id"]), {
        "image_id": record["image_id"], "words": words,
        "truth": tuple(sorted({m.name for m in words.mentions(record["text"]) if draw.random() < 0.9} | set(draw.sample(classes, 2))))})
        for k, record in captions.items()]
    scores = score_object_halbench(items, {k: record["text"] for k, record in captions.items()}, n=200)

    sentences = coco = hallucinated = mentions = misses = named = annotated = length = 0.0
    for item in items:
        caption = captions[item.id]["text"].replace("Assistant:", "").strip()
        found = [table[word] for word, _ in words.mentions(caption)]
        wrong = [name for name in found if name not in item.facts["truth"]]
        sentences, coco, hallucinated = sentences + 1, coco + (len(found) > 0), hallucinated + (len(wrong) > 0)
        mentions, misses, length = mentions + len(found), misses + len(wrong), length + len(caption.strip().split(" "))
        named, annotated = named + len(set(found).intersection(item.facts["truth"])), annotated + len(item.facts["truth"])
    printed = {"CHAIRs": hallucinated / coco * 100, "CHAIRs_all": hallucinated / sentences * 100, "CHAIRi": misses / mentions * 100,
               "recall": named / annotated * 100, "length": length / sentences}
    printed["F1"] = 2 * printed["recall"] * ((1 - misses / mentions) * 100) / (printed["recall"] + (1 - misses / mentions) * 100)
    for name, value in printed.items():
        interval = scores.values[name]
        assert interval.estimate == value and f"{interval.estimate:.2f}" == f"{value:.2f}", name
        assert interval.low < value < interval.high and interval.high - interval.low < 6, name
    assert mentions == 15000 and coco == 1994
