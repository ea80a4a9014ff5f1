# Exported from nbs/benchmarks/hallusion.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.hallusion import *  # noqa: F403

import http.server
import json
import os
import random
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from mfpo.benchmarks.hallusion import (
    HALLUSION, TEMPLATE, hallusion_requests, load_hallusion, official_hallusion, read_verdict, read_words, score_hallusion,
)
from mfpo.benchmarks.judging import endpoint_judge, judge

os.environ["NO_PROXY"] = "127.0.0.1"


def record(category, subcategory, set_id, figure, question, label="1", visual=None):
    seen = visual if visual is not None else "0" if category == "VS" and figure == 0 else "1" if figure == 0 else "2"
    row = {"category": category, "subcategory": subcategory, "visual_input": seen, "set_id": str(set_id), "figure_id": str(figure),
           "sample_note": "n", "question_id": str(question), "question": f"Is it {question}?", "gt_answer_details": "It is.", "gt_answer": label}
    return row | ({} if seen == "0" else {"filename": f"./{category}/{subcategory}/{set_id}_{figure}.png"})


def loaded(records):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "HallusionBench.json").write_text(json.dumps(records))
        return load_hallusion(folder)


def by_the_script(items, verdicts):
    """The authors' tables told again: one number a key, all questions of it together."""
    right = {}
    for item, verdict in zip(items, verdicts):
        no_picture = item.facts["category"] == "VS" and int(item.facts["figure_id"]) == 0
        right[item.id] = verdict in ((1, 2) if no_picture else (1,))

    def share(keep, *names):
        keys = {}
        for item in items:
            if keep(item.facts):
                keys.setdefault(tuple(item.facts[name] for name in names), []).append(right[item.id])
        return round(100 * sum(min(values) for values in keys.values()) / len(keys), 4) if keys else None

    family, old = ("category", "subcategory", "set_id"), lambda f: f["figure_id"] == "0"
    return {
        "aAcc": share(lambda f: True, *family, "figure_id", "question_id"),
        "fAcc": share(lambda f: not (f["category"] == "VS" and old(f)), *family, "figure_id"),
        "qAcc": share(lambda f: True, *family, "question_id"),
        "easy": share(old, *family, "question_id"), "hard": share(lambda f: not old(f), *family, "question_id"),
    }


def same_as_the_script(scores, items, verdicts):
    for name, value in by_the_script(items, verdicts).items():
        estimate = scores.values[name].estimate
        assert (np.isnan(estimate) if value is None else round(estimate, 4) == value), name


WORDS = {0: "incorrect", 1: "correct", 2: "unclear"}


def test_verdicts_are_read_as_the_script_reads_them():
    for reply, verdict in (
        ("correct", 1), ("Correct.", 1), ("INCORRECT", 0), ("The answer is not incorrect", 0), ("correct, not incorrect", 0),
        ("unclear", 2), ("", 2), ("right", 2), ("uncorrected", 1), ("in correct order", 1), ("‘incorrect’", 0), ("richtig", 2),
    ):
        assert read_verdict(reply) == verdict, reply
    for answer, label, verdict in (
        ("Yes.", "1", 1), ("Yes.", "0", 0), ("no", "0", 1), ("NO!", "1", 0), ("I think yes", "1", 2), ("", "0", 2), ("Nothing", "0", 2),
        ("**Yes**", "1", 1), (" \nNo, it is", "0", 1),
    ):
        assert read_words(answer, label) == verdict, answer


def test_scores_are_those_worked_out_by_hand():
    records = [
        record("VD", "illusion", 0, 0, 0), record("VD", "illusion", 0, 0, 1), record("VD", "illusion", 0, 1, 0), record("VD", "illusion", 0, 1, 1),
        record("VS", "map", 0, 0, 0), record("VS", "map", 0, 1, 0), record("VS", "map", 0, 2, 0),
    ]
    items = loaded(records)
    assert [item.id for item in items][-2:] == ["VS_map_0_1_0", "VS_map_0_2_0"] and items[4].image is None
    assert items[2].image == "VD/illusion/0_1.png" and {item.group for item in items} == {"VD_illusion_0", "VS_map_0"}
    #           VD: figure 0 right right, figure 1 right wrong; VS: without a picture unclear (right), figures right, unclear (wrong)
    verdicts = [1, 1, 1, 0, 2, 1, 2]
    answers = {item.id: "" for item in items}
    scores = score_hallusion(items, answers, replies={item.id: WORDS[v] for item, v in zip(items, verdicts)}, n=50)
    got = {name: value.estimate for name, value in scores.values.items()}
    assert got["aAcc"] == pytest.approx(100 * 5 / 7)  # 3 of 4 and 2 of 3
    assert got["fAcc"] == 50  # VD 0_0 and VS 0_1 of VD 0_0, VD 0_1, VS 0_1, VS 0_2
    assert got["qAcc"] == pytest.approx(100 / 3)  # VD question 0, of VD 0, VD 1, VS 0
    assert got["easy"] == 100  # VD 0, VD 1, VS 0 on figure 0
    assert got["hard"] == pytest.approx(100 / 3)  # VD 0 of VD 0, VD 1 and VS 0 (figures 1 and 2 together)
    assert got["unclear"] == pytest.approx(200 / 7) and set(got) == {metric.name for metric in HALLUSION.metrics}
    assert scores.how["read"] == "judge" and list(scores.items["right"]) == [1, 1, 1, 0, 1, 1, 0]
    assert f"{scores.values['aAcc'].estimate:.4f}" == "71.4286"
    # By the first words, the labels being yes: the same verdicts from other answers.
    words = score_hallusion(items, {item.id: {0: "No", 1: "yes, it is", 2: "Who knows"}[v] for item, v in zip(items, verdicts)}, n=50)
    assert {name: value.estimate for name, value in words.values.items()} == got and words.how == {"items": 7, "answered": 7, "read": "words"}
    assert "reply" not in words.items and list(words.items["verdict"]) == verdicts


def test_random_verdicts_score_as_the_script_scores_them():
    draw = random.Random(0)
    for _ in range(40):
        records = [
            record(category, name, k, figure, question, draw.choice("01"))
            for category in ("VD", "VS") for name in ("a", "a_b", "b")[: draw.randrange(4)] for k in range(draw.randrange(4))
            for figure in range(draw.randrange(1, 4)) for question in range(draw.randrange(1, 4)) if draw.random() < 0.9
        ]
        if not records:
            continue
        draw.shuffle(records)
        items = loaded(records)
        verdicts = [draw.choice((0, 1, 1, 1, 2)) for _ in items]
        scores = score_hallusion(items, {i.id: "" for i in items}, replies={i.id: WORDS[v] for i, v in zip(items, verdicts)}, n=2)
        same_as_the_script(scores, items, verdicts)
        answers = {item.id: draw.choice(("Yes", "no.", "perhaps", "", "Yes and no", "Não")) for item in items}
        said = [{"Yes": "1", "Yes and no": "1", "no.": "0"}.get(text) for text in answers.values()]
        expected = [2 if s is None else int(s == item.facts["gt_answer"]) for s, item in zip(said, items)]
        same_as_the_script(score_hallusion(items, answers, n=2), items, expected)


def test_sets_are_drawn_together():
    records = [record("VD", "a", k, figure, question) for k in range(20) for figure in (0, 1) for question in (0, 1, 2)]
    items = loaded(records)
    replies = {item.id: "correct" if int(item.facts["set_id"]) % 2 else "incorrect" for item in items}
    scores = score_hallusion(items, {i.id: "" for i in items}, replies=replies, n=2000)
    # Twenty sets, right or wrong as a whole: the binomial's interval of 20, not of 120.
    for name in ("aAcc", "fAcc", "qAcc", "easy", "hard"):
        value = scores.values[name]
        assert value.estimate == 50 and abs(value.low - 30) <= 5 and abs(value.high - 70) <= 5


def test_a_judge_behind_an_address():
    class Judge(http.server.BaseHTTPRequestHandler):
        """Agrees where the answer says so."""

        def log_message(self, *_):
            pass

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = asked["messages"][0]["content"].partition("The answer: ")[2].partition("\n")[0]
            body = json.dumps({"choices": [{"message": {"content": f"{said.title()}."}, "finish_reason": "stop"}]}).encode()
            seen.append(asked)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


    seen, items = [], loaded([record("VS", "chart", k, figure, 0) for k in range(4) for figure in range(3)])
    verdicts = [k % 3 for k in range(len(items))]
    answers = {item.id: WORDS[v] for item, v in zip(items, verdicts)}
    requests = hallusion_requests(items, answers)
    assert "The question: Is it 0?\nThe truth: It is.\nThe answer: incorrect\n" in requests[0][1][0]["content"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        writer = endpoint_judge(requests, "judge-1", f"http://127.0.0.1:{server.server_port}/v1")
        replies = judge(requests, writer, Path(folder) / "journal", progress=False)
        path = Path(folder) / "official.txt"
        path.write_text("Q {} R {} A {}")
        assert hallusion_requests(items, answers, template=path)[0][1] == [{"role": "user", "content": "Q Is it 0? R It is. A incorrect"}]
    server.shutdown(), server.server_close()
    assert len(seen) == 12 and set(seen[0]) == {"model", "messages", "seed"}  # no temperature, no limit
    scores = score_hallusion(items, answers, replies=replies, n=20)
    same_as_the_script(scores, items, verdicts)
    assert (scores.how["judge"], scores.how["template_sha256"], scores.how["read"]) == ("judge-1", TEMPLATE.digest, "judge")
    rows = json.loads(official_hallusion(items, answers))
    assert [row.pop("model_prediction") for row in rows] == list(answers.values()) and rows == [item.facts["record"] for item in items]


def test_what_cannot_be_scored_is_refused():
    items = loaded([record("VD", "a", 0, 0, 0), record("VD", "a", 0, 1, 0)])
    answers = {item.id: "yes" for item in items}
    for options, reason in (
        ({"read": "official"}, "read='official'"), ({"read": "judge"}, "is scored from a judge's replies"),
        ({"read": "words", "replies": {}}, "takes no replies"), ({"replies": {items[0].id: "correct"}}, "1 of 2 answers were not judged"),
    ):
        with pytest.raises(ValueError, match=reason):
            score_hallusion(items, answers, **options)
    good = [record("VD", "a", 0, 0, 0), record("VS", "b", 0, 0, 0)]
    for change, reason in (
        (lambda r: r[1].update(category="VX"), "record 2: category is 'VX'"), (lambda r: r[1].update(set_id="x"), "record 2: set_id is 'x'"),
        (lambda r: r[1].update(figure_id="00"), "record 2: figure_id is '00'"), (lambda r: r[0].update(gt_answer="2"), "record 1: gt_answer is '2'"),
        (lambda r: r.append(r[0]), "record 3: question VD_a_0_0_0 is there twice"), (lambda r: r[0].pop("question"), "record 1: has no field question"),
        (lambda r: r[0].update(gt_answer_details=None), "record 1: gt_answer_details is None"), (lambda r: r.clear(), "holds no questions"),
    ):
        bad = json.loads(json.dumps(good))
        change(bad)
        with pytest.raises(ValueError, match=reason):
            loaded(bad)
    assert loaded([{**good[0], "set_id": 0, "figure_id": 0, "question_id": 0}])[0].id == "VD_a_0_0_0"  # numbers will do
    with tempfile.TemporaryDirectory() as folder, pytest.raises(FileNotFoundError, match="HallusionBench.json is not in .*BSD-3-Clause"):
        load_hallusion(folder)
