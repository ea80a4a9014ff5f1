# Exported from nbs/benchmarks/llava_bench.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.llava_bench import *  # noqa: F403

import http.server
import json
import os
import random
import tempfile
import threading
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from mfpo.benchmarks.judging import endpoint_judge, judge
from mfpo.benchmarks.llava_bench import (
    CATEGORIES, LLAVA_BENCH_COCO, LLAVA_BENCH_WILD, TEMPLATE, llava_requests, load_llava_coco, load_llava_wild,
    official_llava, read_scores, score_llava,
)

os.environ["NO_PROXY"] = "127.0.0.1"
KINDS = list(CATEGORIES)


def lines(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def files(folder, pictures, wild=False):
    """Three questions a picture, in the published forms."""
    names = ("questions.jsonl", "answers_gpt4.jsonl", "context.jsonl") if wild else (
        "qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl")
    rows = [{"question_id": k, "image": f"{k // 3:03d}.jpg", "text": f"What {k}?", "category": KINDS[k % 3]} for k in range(3 * pictures)]
    contexts = [{"id": f"{k:03d}", "image": f"{k:03d}.jpg"} | (
        {"caption": "A dog. It sits."} if wild else
        {"captions": ["a dog", "a dog sits"], "instances": [{"category": "dog", "bbox": [0.1, 0.25, 0.5, 1.0]}, {"category": "cup", "bbox": [0, 0, 1, 1]}]}
    ) for k in reversed(range(pictures))]
    lines(Path(folder) / names[0], rows)
    lines(Path(folder) / names[1], [{"question_id": row["question_id"], "text": f"Reference {row['question_id']}"} for row in reversed(rows)])
    lines(Path(folder) / names[2], contexts)
    return (load_llava_wild if wild else load_llava_coco)(folder)


def by_the_script(kinds, replies):
    """The authors' reading and averaging told again."""
    def pair(reply):
        parts = reply.partition("\n")[0].translate({44: 32}).split(" ")
        if len(parts) != 2:
            return [-1, -1]
        try:
            return [float(part) for part in parts]
        except ValueError:
            return [-1, -1]

    groups = defaultdict(list)
    for kind, reply in zip(kinds, replies):
        groups[kind].append(pair(reply))
        groups["score"].append(pair(reply))
    told = {}
    for name, pairs in groups.items():
        first, second = (round(float(value), 3) for value in np.mean(np.array(pairs, dtype=float), axis=0))
        told[name] = (round(second / first * 100, 1), round(first * 10, 1), round(second * 10, 1))
    return told


def same_as_the_script(scores, kinds, replies):
    told = by_the_script(kinds, replies)
    for name in (*KINDS, "score"):
        if name in told:
            assert round(scores.values[name].estimate, 1) == told[name][0], name
        else:
            assert np.isnan(scores.values[name].estimate)
    assert round(scores.values["reference_mean"].estimate, 1) == told["score"][1]
    assert round(scores.values["answer_mean"].estimate, 1) == told["score"][2]


def test_two_scores_are_read_as_the_script_reads_them():
    for reply, pair in (
        ("8 9\nBoth are good.", (8, 9)), ("8,9", (8, 9)), ("7.5 10", (7.5, 10)), ("8 9\r\nwhy", (8, 9)), ("1e1 -2", (10, -2)),
        ("8, 9", None), ("8 9 ", None), (" 8 9", None), ("8  9", None), ("8\t9", None), ("8/10 9/10", None), ("\n8 9", None), ("", None),
        ("Scores: 8 9", None), ("8", None), ("8 9 10", None), ("eight nine", None), ("8 nan", None), ("inf 8", None), ("８ ９", (8, 9)),
        ("1_0 9", (10, 9)), ("8. 9.", (8, 9)),
    ):
        assert read_scores(reply) == pair, reply


def test_scores_are_those_worked_out_by_hand():
    with tempfile.TemporaryDirectory() as folder:
        items = files(folder, 2)
    answers = {item.id: "" for item in items}
    # Conversation: (8, 6) and (9, 7): 6.5 / 8.5 = 76.5 %. Detail: (8, 4) and rubbish, (-1, -1): 1.5 / 3.5 = 42.9 %.
    # Complex: (9, 10) and (6, 5): 7.5 / 7.5 = 100 %. All: sums 39 and 31 of six: 5.167 / 6.5 = 79.5 %.
    replies = dict(zip(answers, ("8 6", "8 4\nbecause", "9 10", "9 7", "both are fine", "6,5")))
    scores = score_llava(items, answers, replies=replies, n=200)
    got = {name: value.estimate for name, value in scores.values.items()}
    assert [f"{got[name]:.1f}" for name in (*KINDS, "score")] == ["76.5", "42.9", "100.0", "79.5"]
    assert got["score"] == 5.167 / 6.5 * 100 and got["reference_mean"] == 65 and got["answer_mean"] == 51.67  # rounded means
    assert got["unread"] == 100 / 6 and set(got) == {metric.name for metric in LLAVA_BENCH_COCO.metrics}
    assert list(scores.items["first"]) == [8, 8, 9, 9, -1, 6] and list(scores.items["unread"]) == [0, 0, 0, 0, 1, 0]
    # The two pictures: (8 + 8 + 9, 6 + 4 + 10) and (9 - 1 + 6, 7 - 1 + 5): from 20/25 to 11/14.
    assert (round(scores.values["score"].low, 1), round(scores.values["score"].high, 1)) == (78.6, 80.0)
    # Rounding first is not rounding last: 1.0016 of 1.0024 is 99.9 %, of the rounded means (1.002 and 1.002) it is 100.
    rounded = score_llava(items[:1], {"0": ""}, replies={"0": "1.0024 1.0016"}, n=1).values["score"].estimate
    assert rounded == 100 and round(100 * 1.0016 / 1.0024, 1) == 99.9


def test_random_replies_score_as_the_script_scores_them():
    with tempfile.TemporaryDirectory() as folder:
        items = files(folder, 30)
    kinds, draw = [item.facts["category"] for item in items], random.Random(0)
    pieces = [" ", ",", "\n", ".", "-1", "10", *"123456789", "a", "é"]
    for _ in range(30):
        replies = ["".join(draw.choices(pieces, k=draw.randrange(6))) if draw.random() < 0.2
                   else f"{draw.randrange(1, 101) / 10:g} {draw.randrange(1, 11)}\nwhy" for _ in items]
        scores = score_llava(items, {i.id: "" for i in items}, replies={i.id: r for i, r in zip(items, replies)}, n=1)
        same_as_the_script(scores, kinds, replies)
    # Of one kind only: the others are undefined, not zero.
    part = [item for item in items if item.facts["category"] == "conv"]
    one = score_llava(items, {i.id: "" for i in part}, replies={i.id: "9 8" for i in part}, partial=True, n=1)
    same_as_the_script(one, ["conv"] * len(part), ["9 8"] * len(part))


def test_both_sets_are_read_and_joined_by_question():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        coco, wild = files(folder, 3), files(other, 2, wild=True)
    assert len(coco) == 9 and len(wild) == 6 and [item.id for item in coco] == [str(k) for k in range(9)]
    assert (coco[4].image, coco[4].group, wild[0].image) == ("COCO_val2014_001.jpg", "001.jpg", "000.jpg") and coco[4].facts["reference"] == "Reference 4"  # the file is reversed
    assert coco[4].facts["context"] == "a dog\na dog sits\n\ndog: [0.1, 0.25, 0.5, 1.0]\ncup: [0, 0, 1, 1]"
    assert wild[0].facts["context"] == "A dog. It sits."
    text = dict(llava_requests(coco, {item.id: "An {answer}" for item in coco}))["4"]
    assert text[0] == {"role": "system", "content": TEMPLATE.system}
    assert text[1]["content"].count("An {answer}") == 1 and "What is in the picture:\na dog\na dog sits\n\ndog: [0.1, " in text[1]["content"]
    assert text[1]["content"].index("Reference 4") < text[1]["content"].index("An {answer}")  # the reference is first
    rows = [json.loads(line) for line in official_llava(coco, {item.id: "é\n" for item in coco}).splitlines()]
    assert rows[2] == {"question_id": 2, "prompt": "What 2?", "text": "é\n", "answer_id": "llava-bench-2", "model_id": "mfpo", "metadata": {}}
    with tempfile.TemporaryDirectory() as folder:
        files(folder, 1, wild=True)
        lines(Path(folder) / "context.jsonl", [{"image": "000.jpg", "caption": ["One.", "Two."]}])
        assert load_llava_wild(folder)[0].facts["context"] == "One.\nTwo."
        path = Path(folder) / "prompt.txt"
        path.write_text("C {context} Q {question} 1 {reference} 2 {answer}")
        (_, chat), *_ = made = llava_requests(wild, {i.id: "yes" for i in wild}, template=path, system="")
        assert chat == [{"role": "user", "content": "C A dog. It sits. Q What 0? 1 Reference 0 2 yes"}]
        assert made.about["template"] == "prompt.txt"


def test_a_judge_behind_an_address():
    class Judge(http.server.BaseHTTPRequestHandler):
        """Scores by the number of the question; some replies are rubbish."""

        def log_message(self, *_):
            pass

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = int(asked["messages"][1]["content"].partition("The question:\nWhat ")[2].partition("?")[0])
            body = json.dumps({"choices": [{"message": {"content": said[number]}, "finish_reason": "stop"}]}).encode()
            seen.append(asked)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


    seen, said = [], [f"{8 + k % 3} {1 + k % 10}\nOne is better." if k % 7 else "Both deserve 8 and 9." for k in range(30)]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        items = files(folder, 10, wild=True)
        answers = {item.id: "A dog." for item in items}
        requests = LLAVA_BENCH_WILD.requests(items, answers)
        writer = endpoint_judge(requests, "judge-1", f"http://127.0.0.1:{server.server_port}/v1")
        replies = judge(requests, writer, Path(folder) / "journal", progress=False)
    server.shutdown(), server.server_close()
    assert len(seen) == 30 and {(asked["temperature"], asked["max_tokens"]) for asked in seen} == {(0.2, 1024)}
    scores = LLAVA_BENCH_WILD.score(items, answers, replies=replies, n=100)
    same_as_the_script(scores, [item.facts["category"] for item in items], said)
    assert scores.values["unread"].estimate == 100 * 5 / 30  # 0, 7, 14, 21, 28
    assert (scores.how["benchmark"], scores.how["judge"], scores.how["temperature"]) == ("llava_bench_wild", "judge-1", 0.2)
    with pytest.raises(ValueError, match="llava_bench_wild: is scored from a judge's replies"):
        LLAVA_BENCH_WILD.score(items, answers)


def test_broken_files_are_named():
    def broken(name, change, reason, wild=False):
        with tempfile.TemporaryDirectory() as folder:
            files(folder, 2, wild)
            path = Path(folder) / name
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            change(rows)
            lines(path, rows)
            with pytest.raises(ValueError, match=reason):
                (load_llava_wild if wild else load_llava_coco)(folder)


    asked, references, contexts = "qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl"
    broken(asked, lambda r: r[1].update(category="math"), "record 2: category is 'math'; known are conv, detail, complex")
    broken(asked, lambda r: r[1].update(question_id=0), "record 2: question_id 0 is there twice")
    broken(asked, lambda r: r[1].update(image="9.jpg"), "record 2: .*caps_boxes.* has nothing on 9.jpg")
    broken(asked, lambda r: r.clear(), "holds no questions")
    broken(references, lambda r: r.pop(), "record 1: .*qa90_gpt4_answer.jsonl has nothing on 0")
    broken(references, lambda r: r[0].update(text=None), "qa90_gpt4_answer.jsonl record 1: text is None")
    broken(contexts, lambda r: r[0].update(captions=[1]), "record 1: captions or instances are not of the published form")
    broken(contexts, lambda r: r[0].update(instances=[{}]), "record 1: captions or instances")
    broken("context.jsonl", lambda r: r[0].update(caption=[]), "context.jsonl record 1: caption is", wild=True)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(FileNotFoundError, match="questions.jsonl is not in .*llava-bench-in-the-wild"):
        load_llava_wild(folder)
