# Exported from nbs/benchmarks/mmhal.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.mmhal import *  # noqa: F403

import http.server
import json
import os
import random
import re
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from mfpo.benchmarks.judging import endpoint_judge, judge
from mfpo.benchmarks.mmhal import MMHAL, TEMPLATE, TYPES, load_mmhal, mmhal_requests, official_mmhal, read_rating, score_mmhal

os.environ["NO_PROXY"] = "127.0.0.1"


def real_folder():
    folder = Path(os.environ.get("MFPO_BENCHMARKS", "../shared/benchmarks")) / "mmhal"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set MFPO_BENCHMARKS")
    return folder


def rows():
    """96 records in the published form."""
    return [{"question_type": TYPES[k % 8], "question_topic": "indoor", "image_id": f"{k:016x}", "image_src": f"https://a.b/c/{k}_o.jpg",
             "image_content": ["Dog", f"Thing {k}"], "question": f"What is it {k}?", "gt_answer": f"A dog {k}.", "model_answer": ""}
            for k in range(96)]


def written(records, name="mmhal-bench_answer_template.json"):
    folder = tempfile.TemporaryDirectory()
    (Path(folder.name) / name).write_text(json.dumps(records))
    return folder


def by_the_script(texts):
    """The authors' evaluation told again: ratings by a pattern, types by position."""
    ratings = []
    for text in texts:
        found = set(re.findall(r"rating: ([0-6])", text.lower()))
        ratings.append(int(found.pop()) if len(found) == 1 else 0)
    told = {"score": f"{sum(ratings) / len(ratings):.2f}", "hallucination_rate": f"{len([r for r in ratings if not r >= 3]) / len(ratings):.2f}"}
    told["informativeness"] = "{:.2f}".format(np.mean([r % 3 if r < 6 else 3 for r in ratings]) / 3 * 100)
    return told | {f"score_{name}": str(round(sum(ratings[k::8]) / len(ratings[k::8]), 2)) for k, name in enumerate(TYPES)}


def same_as_the_script(scores, texts):
    for name, value in by_the_script(texts).items():
        estimate = scores.values[name].estimate
        assert (str(round(estimate, 2)) if name.startswith("score_") else f"{estimate:.2f}") == value, name


def test_a_rating_is_read_as_the_script_reads_it():
    for reply, rating in (
        ("Rating: 4", 4), ("… so it is right.\n\nRATING: 0, not informative", 0), ("rating: 6.\nrating: 6", 6), ("Rating: 10", 1),
        ("Rating: 65", 6), ("Rating: 7", None), ("Rating:5", None), ("**Rating:** 5", None), ("Rating: **5**", None), ("", None),
        ("Rating:  5", None), ("Rating: 5, not rating: 2", None), ("overrating: 3", 3), ("Rating: -1", None), ("Bewertung: 3", None),
        ("Rating: ５", None), ("rating\n: 3", None), ("I would say 5", None), ("Rating: 3 or 4", 3),
    ):
        assert read_rating(reply) == rating, reply
        found = set(re.findall(r"rating: ([0-6])", reply.lower()))
        assert (found == {str(rating)}) is (rating is not None), reply


def test_scores_are_those_worked_out_by_hand():
    with written(rows()) as folder:
        items = load_mmhal(folder)
    answers = {item.id: "It is a dog." for item in items}
    # The first question of each type is rated 6, one attribute question 2, one reply is rubbish; all others are rated 3.
    said = {item.id: "Rating: 6" if k < 8 else "Rating: 2" if k == 8 else "?" if k == 9 else "Rating: 3" for k, item in enumerate(items)}
    scores = score_mmhal(items, answers, replies=said, n=100)
    got = {name: value.estimate for name, value in scores.values.items()}
    assert got["score"] == (8 * 6 + 2 + 0 + 86 * 3) / 96  # 308/96 = 3.21
    assert f"{got['score']:.2f}" == "3.21" and got["hallucination_rate"] == 2 / 96 and got["unread"] == 100 / 96
    assert got["informativeness"] == pytest.approx(100 * (8 * 3 + 2 + 0 + 86 * 0) / 96 / 3)  # 26/288 = 9.03 %
    assert got["score_attribute"] == (6 + 2 + 10 * 3) / 12 and got["score_adversarial"] == (6 + 0 + 10 * 3) / 12
    assert got["score_other"] == (6 + 11 * 3) / 12 == 3.25
    assert list(got) == [m.name for m in MMHAL.metrics[:1]] + [f"score_{t}" for t in TYPES] + ["hallucination_rate", "informativeness", "unread"]
    assert {metric.name for metric in MMHAL.metrics} == set(got)
    low, high = scores.values["score"].low, scores.values["score"].high
    assert low < got["score"] < high and high - low < 0.6
    assert scores.items.loc[items[9].id, "unread"] == 1 and scores.items.loc[items[9].id, "reply"] == "?"
    with pytest.raises(ValueError, match="mmhal: is scored from a judge's replies"):
        score_mmhal(items, answers)
    part = {item.id: "" for item in items[:8]}
    some = score_mmhal(items, part, replies={i: said[i] for i in part}, partial=True, n=10)
    assert some.values["score"].estimate == 6 and some.how["items"] == 96 and some.how["judged"] == 8
    assert np.isnan(score_mmhal(items, {items[0].id: ""}, replies={items[0].id: "Rating: 1"}, partial=True, n=10).values["score_other"].estimate)


def test_random_replies_score_as_the_script_scores_them():
    with written(rows()) as folder:
        items = load_mmhal(folder)
    answers, draw = {item.id: "" for item in items}, random.Random(0)
    pieces = ["Rating: ", "rating: ", "RATING:", " ", "\n", *"0123456789", "The answer is right.", "é", "ﬁ", "–", "**"]
    for _ in range(60):
        texts = ["".join(draw.choices(pieces, k=draw.randrange(6))) if draw.random() < 0.5 else f"Rating: {draw.randrange(7)}" for _ in items]
        same_as_the_script(score_mmhal(items, answers, replies=dict(zip(answers, texts)), n=1), texts)


def test_the_real_file_and_a_judge_behind_an_address():
    class Judge(http.server.BaseHTTPRequestHandler):
        """Rates by the length of the question; every seventh reply is rubbish."""

        def log_message(self, *_):
            pass

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            length = len(asked["messages"][0]["content"])
            body = json.dumps({"choices": [{"message": {"content": says(length)}, "finish_reason": "stop"}]}).encode()
            seen.append(asked)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


    says = lambda length: f"Well.\nRating: {length % 7}" if length % 9 else "I like it."
    items, seen = load_mmhal(real_folder()), []
    assert len(items) == 96 and len({item.image for item in items}) == len({item.group for item in items}) == 96
    assert [item.facts["question_type"] for item in items] == list(TYPES) * 12  # the place modulo eight is the type
    assert items[0].image == "7206072054_c53d53b97d_o.jpg" and items[0].facts["image_src"].endswith("/7211/7206072054_c53d53b97d_o.jpg")
    answers = {item.id: f"It is {item.facts['image_content'][0]}, {{certainly}}." for item in items}
    requests = mmhal_requests(items, answers)
    texts = [messages[0]["content"] for _, messages in requests]
    for item, text in zip(items, texts):
        end = text.partition("Do not write a rating anywhere else.")[2]
        assert end == (f"\n\nContents of the picture: {', '.join(item.facts['image_content'])}\n\nQuestion: {item.question}\n\n"
                       f"The person's answer: {item.facts['gt_answer']}\n\nThe assistant's answer: {answers[item.id]}\n")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        writer = endpoint_judge(requests, "judge-1", f"http://127.0.0.1:{server.server_port}/v1")
        replies = judge(requests, writer, Path(folder) / "mmhal.journal", progress=False)
    server.shutdown(), server.server_close()
    assert len(seen) == 96 and {asked["temperature"] for asked in seen} == {0.0} and "max_tokens" not in seen[0]
    scores = score_mmhal(items, answers, replies=replies, n=200)
    said = [says(len(text)) for text in texts]
    same_as_the_script(scores, said)
    assert scores.values["unread"].estimate == 100 * said.count("I like it.") / 96 > 0
    assert (scores.how["judge"], scores.how["template"], scores.how["judged"]) == ("judge-1", "mfpo's own", 96)
    assert scores.how["template_sha256"] == TEMPLATE.digest
    rows_back = json.loads(official_mmhal(items, answers))
    original = json.loads((real_folder() / "mmhal-bench_answer_template.json").read_text())
    assert [{**row, "model_answer": ""} for row in rows_back] == original
    assert [row["model_answer"] for row in rows_back] == list(answers.values()) and list(rows_back[0]) == list(original[0])


def test_a_users_prompt_takes_the_place_of_ours():
    with written(rows()) as folder, tempfile.TemporaryDirectory() as other:
        items = load_mmhal(folder)
        path = Path(other) / "official.txt"
        path.write_text("Contents {}\nQ {}\nH {}\nA {}\n")
        requests = mmhal_requests(items, {item.id: "yes" for item in items}, template=path)
        assert requests[3] == (items[3].id, [{"role": "user", "content": "Contents Dog, Thing 3\nQ What is it 3?\nH A dog 3.\nA yes\n"}])
        assert requests.about["template"] == "official.txt" and requests.about["template_sha256"] != TEMPLATE.digest
        path.write_text("{image_content}{question}{answer}")
        with pytest.raises(ValueError, match="official.txt: lacks {reference}"):
            mmhal_requests(items, {item.id: "yes" for item in items}, template=path)
        assert len(mmhal_requests(items, {items[5].id: "yes"}, partial=True)) == 1
        with pytest.raises(ValueError, match="95 of 96 items have no answer"):
            mmhal_requests(items, {items[5].id: "yes"})


def test_broken_files_are_named():
    good = rows()
    for change, reason in (
        (lambda r: r.pop(), "has 95 questions; the published file has 96"),
        (lambda r: r.reverse(), "record 1: is of type 'other', and this place is for 'attribute': the order was changed"),
        (lambda r: r[4].update(image_content="Dog"), "record 5: image_content is 'Dog'"),
        (lambda r: r[4].update(image_content=[1]), "record 5: image_content is"),
        (lambda r: r[7].update(question=None), "record 8: question is None"),
        (lambda r: r[7].update(image_id=r[0]["image_id"]), "record 8: picture 0000000000000000 is there twice"),
        (lambda r: r[7].pop("gt_answer"), "record 8: has no field gt_answer"),
    ):
        bad = json.loads(json.dumps(good))
        change(bad)
        with written(bad) as folder, pytest.raises(ValueError, match=reason):
            load_mmhal(folder)
    with written(good, "response_template.json") as folder:
        assert len(load_mmhal(folder)) == 96
    with written(good, "other.json") as folder, pytest.raises(FileNotFoundError, match="mmhal-bench_answer_template.json.*response_template.json"):
        load_mmhal(folder)
