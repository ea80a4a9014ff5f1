# Exported from nbs/data/formats.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.formats import *  # noqa: F403

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

import mfpo
from mfpo.data.formats import _identity
from mfpo.data.report import Note, PreferenceError, Problem

TEXTS = {"question": "What is it?", "chosen": "A cat.", "rejected": "A dog."}
RLHF_V = {"ds_name": "H", "image": {"bytes": b"x", "path": None}, "text": json.dumps(TEXTS), "origin_dataset": "v",
          "origin_split": "{}", "idx": 3, "image_path": "a.jpg"}
RLAIF_V = {**{k: v for k, v in RLHF_V.items() if k != "text"}, **TEXTS, "idx": "3"}
TURNS = lambda answer: [{"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": answer}]  # noqa: E731
POVID = {"id": "00001", "image": "a.jpg", "conversations": TURNS("A cat."),
    "rejected_conversations": TURNS("A dog.")}
RATED = lambda *r: {aspect: {"Rating": one, "Rationale": "…"} for aspect, one in zip(ASPECTS, r)}  # noqa: E731
VLFEEDBACK = {
    "id": "llava-1", "prompt": "What is it?", "models": ["a", "b", "c", "d"], "img_path": "llava-1.jpg",
    "completions": [{"model": m, "response": f"Answer of {m}.", "annotations": RATED(*r)}
                    for m, r in (("a", "323"), ("b", "555"), ("c", "111"), ("d", "445"))],
}
MDPO = {"img_path": "images/x-1.jpg",
    "prompt": "A chat. The assistant is polite. USER: <image>\nWhat is it? ASSISTANT:",
        "chosen": "A cat.", "rejected": "A dog."}
EXAMPLES = {"rlhf-v": RLHF_V, "rlaif-v": RLAIF_V, "povid": POVID, "vlfeedback": VLFEEDBACK, "mdpo": MDPO,
            "mfpo": {"id": "r1", "image": "a.png", **TEXTS}}


def rows(record, name=None, **rules):
    """(the rows, the kinds of problems and notes) of a record."""
    made = FORMATS[name or next(n for n, e in EXAMPLES.items() if e.keys() == record.keys())].convert(record,
        PairRules(**rules))
    return [m for _, m in made if isinstance(m, dict)], [m.kind for _, m in made if isinstance(m, Problem)]


def detected(*records, **options):
    columns = list(dict.fromkeys(name for record in records for name in record))
    return detect_format("set", columns, lambda: iter([(f"row {k}", r) for k, r in enumerate(records)]), **options)


def test_every_format_gives_the_same_row():
    for name, record in EXAMPLES.items():
        (row, *more), kinds = rows(record, name)
        assert not more and set(kinds) <= {"prompt template taken off"}
        if name != "vlfeedback":
            assert row["question"].removeprefix("<image>").strip() == "What is it?"
            assert (row["chosen"], row["rejected"]) == ("A cat.", "A dog.")
        assert not set(FORMATS[name].takes) & set(row)
        assert set(FORMATS[name].adds) <= set(row)
        assert row["id"]
        assert row["image"]
        assert set(row) >= set(record) - set(FORMATS[name].takes)  # further columns stay
        assert set(FORMATS[name].columns) >= {part for need in FORMATS[name].needs for part in need.split("|")}
        assert detected(record) is FORMATS[name] is detected(record, wanted=name)
        assert FORMATS[name].licence in ("", "cc-by-4.0", "cc-by-nc-4.0", "apache-2.0")


def test_ids_are_of_the_record_alone():
    ids = {name: rows(record, name)[0][0]["id"] for name, record in EXAMPLES.items()}
    assert ids["mfpo"] == "r1" and ids["rlhf-v"].startswith("H-3-") and ids["povid"].startswith("00001-")
    assert ids["vlfeedback"].startswith("llava-1-")
    assert ids["vlfeedback"].endswith("-2-3")
    assert ids["mdpo"].startswith("x-1-")
    assert rows({**RLAIF_V, "idx": 3}, "rlaif-v")[0][0]["id"] == ids["rlaif-v"]  # a number or its text
    for name, change in (("rlaif-v", {"chosen": "A hat."}), ("rlaif-v", {"idx": 4}),
        ("rlhf-v", {"image_path": "b.jpg"}),
                         ("povid", {"conversations": TURNS("A hat.")}), ("vlfeedback", {"prompt": "And now?"}),
                         ("mdpo", {"img_path": "other/x-1.jpg"})):
        assert rows({**EXAMPLES[name], **change}, name)[0][0]["id"] != ids[name]
    assert _identity(["a", None, ""], "\ud800", None).startswith("a-") and len(_identity([], 1)) == 8


def test_scored_answers_become_pairs():
    # means: a 8/3, b 5, c 1, d 13/3
    (row,), kinds = rows(VLFEEDBACK)
    assert (row["chosen"], row["rejected"]) == ("Answer of b.", "Answer of c.") and not kinds
    assert (row["chosen_score"], row["rejected_score"], row["chosen_source"], row["rejected_source"]) == (5, 1, "b",
        "c")
    everything, _ = rows(VLFEEDBACK, pairs="all")
    got = [(r["chosen_source"], r["rejected_source"], round(r["chosen_score"] - r["rejected_score"],
        6)) for r in everything]
    assert got == [("b", "a", 2.333333), ("a", "c", 1.666667), ("d", "a", 1.666667), ("b", "c", 4.0),
        ("b", "d", 0.666667), ("d", "c", 3.333333)]
    assert len({r["id"] for r in everything}) == 6 and [r["id"][-3:] for r in everything][:2] == ["2-1", "1-3"]
    assert len(rows(VLFEEDBACK, pairs="all", min_gap=1.7)[0]) == 3 and rows(VLFEEDBACK, min_gap=4)[0] == [row]
    assert rows(VLFEEDBACK, min_gap=4.1) == ([], ["no pair"])
    as_lists = {key: [c[key] for c in VLFEEDBACK["completions"]] for key in ("model", "response", "annotations")}
    assert rows({**VLFEEDBACK, "completions": as_lists}) == rows(VLFEEDBACK)  # as older `datasets` hand it out
    answer = lambda text, *r: {"model": "m", "response": text, "annotations": RATED(*r)}  # noqa: E731
    cases = (
        ([answer("x", "5", "5", "5"), answer("y", "5", "5", "5")], (0, ["no pair"])),  # equal scores
        ([answer("x", "5", "5", "5"), answer("x", "1", "1", "1")], (0, ["no pair"])),  # equal texts
        ([answer("x", "5", "5", "5"), answer("y", "1", "N/A", "1")],
            (0, ["answer without its three ratings", "no pair"])),
        ([answer("x", 5, 4.5, "5"), answer("y", "1", "1", "1"), answer(" ", "1", "1", "1")],
            (1, ["answer without text"])),
        ([answer("x", "5", "5", "5"), answer("y", "1", None, "1")],
            (0, ["answer without its three ratings", "no pair"])),
        ([answer("x", "5", "5", "inf"), {"model": None, "response": "z", "annotations": None}],
            (0, ["answer without its three ratings"] * 2 + ["no pair"])),
        ([], (0, ["no pair"])), ("text", (0, ["completions"])), ([3], (0, ["completions"])), ({"a": [1], "b": []},
            (0, ["completions"])),
    )
    for completions, (count, kinds) in cases:
        made = rows({**VLFEEDBACK, "completions": completions})
        assert (len(made[0]), made[1]) == (count, kinds), completions
    # the first of those that share a score
    tied = [answer(t, *r) for t, r in (("p", "333"), ("q", "555"), ("r", "555"), ("s", "333"))]
    assert [rows({**VLFEEDBACK, "completions": tied})[0][0][n] for n in ("chosen", "rejected")] == ["q", "p"]
    without = {k: v for k, v in VLFEEDBACK.items() if k != "img_path"}
    assert rows(without, "vlfeedback")[0][0]["image"] == "llava-1.jpg"  # as the set's own loader names it
    for bad in ({"pairs": "some"}, {"min_gap": -1}, {"min_gap": math.nan}, {"min_gap": "1"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PairRules(**bad)


def test_records_of_another_shape_are_problems_by_name():
    cases = [
        ("rlhf-v", {"text": "{"}, "text"), ("rlhf-v", {"text": "[]"}, "text"), ("rlhf-v", {"text": None}, "text"),
        ("rlhf-v", {"text": '{"question": "q", "chosen": "c"}'}, "text"), ("rlhf-v", {"text": "[" * 100_000}, "text"),
        ("povid", {"conversations": TURNS("a") * 2}, "several turns"), ("povid", {"conversations": None},
            "conversation"),
        ("povid", {"conversations": TURNS("a")[::-1]}, "conversation"), ("povid", {"conversations": TURNS(3)},
            "conversation"),
        ("povid", {"rejected_conversations": [{"from": "human", "value": "Other?"}, TURNS("x")[1]]},
            "different questions"),
        ("mdpo", {"prompt": "USER: a ASSISTANT: b USER: c ASSISTANT:"}, "several turns"), ("mdpo", {"prompt": 3},
            "wrong type"),
        ("mdpo", {"prompt": "USER: a"}, "template"), ("mdpo", {"prompt": "<|im_start|>user\nx"}, "template"),
    ]
    for name, change, kind in cases:
        made = FORMATS[name].convert({**EXAMPLES[name], **change}, PairRules())
        assert [type(m) for _, m in made] == [Problem] and made[0][1].kind == kind and made[0][1].remedy, (name, change)
    assert rows({**RLHF_V, "text": TEXTS}, "rlhf-v")[0][0]["chosen"] == "A cat."  # already taken apart
    (row,), kinds = rows({**MDPO, "prompt": "What is it?"}, "mdpo")
    assert row["question"] == "What is it?" and kinds == ["prompt without a template"]


def test_formats_are_told_apart():
    with pytest.raises(PreferenceError, match="looks like rlhf-v, but its column text is no JSON"):
        detected({**RLHF_V, "text": "A cat."})
    assert detected({**RLHF_V, "text": "A cat."}, RLHF_V).name == "rlhf-v"  # the first record that is whole decides
    assert detected({**RLHF_V, "text": "A cat."},
        wanted="rlhf-v").name == "rlhf-v"  # said: the row is bad, not the format
    with pytest.raises(PreferenceError,
        match="no column id, conversations, rejected_conversations, so it is not povid"):
        detected(RLHF_V, wanted="povid")
    with pytest.raises(PreferenceError, match="did you mean povid"):
        detected(POVID, wanted="povit")
    with pytest.raises(PreferenceError) as error:
        detected({k: v for k, v in MDPO.items() if k != "img_path"})
    text = str(error.value)
    assert "no column id, image, question" in text and "dispreferred" in text and "columns={'id'" in text
    assert text.index("mdpo: ") < text.index("vlfeedback: ") < text.index("rlhf-v: ") and "(missing: img_path)" in text
    assert detected({**RLAIF_V, "id": "mine"}).name == "mfpo"
    assert detected({**EXAMPLES["mfpo"], "images": []}).name == "mfpo"


def test_mutated_records_give_rows_or_problems():
    rng = np.random.default_rng(0)
    values = [None, True, -1, 2**70, float("nan"), "", "\ud800", "<image>", [], [[]], {}, {"from": 1},
        [{"from": "human"}], b"x", "x" * 999]


    def mutated(value):
        """`value` with one thing in it changed, at any depth."""
        if isinstance(value, dict) and value and rng.random() < 0.8:
            key = str(rng.choice(sorted(value)))
            return {**value, key: mutated(value[key])} if rng.random() < 0.8 else {k: v for k,
                v in value.items() if k != key}
        if isinstance(value, list) and value and rng.random() < 0.8:
            at = int(rng.integers(len(value)))
            return [*value[:at], mutated(value[at]),
                *value[at + 1 :]] if rng.random() < 0.8 else value[:at] + value[at + 1 :]
        if isinstance(value, str) and rng.random() < 0.7 and value:
            at = int(rng.integers(len(value)))
            return value[:at] + str(rng.choice(["", '"', "{", "\\", "USER:",
                "\ud800"])) + value[at + int(rng.integers(0, 4)) :]
        return values[rng.integers(len(values))]


    counts = {}
    for name in EXAMPLES:
        for k in range(300):
            record = mutated(mutated(EXAMPLES[name]) if k % 2 else EXAMPLES[name])
            if isinstance(record, dict):
                for suffix, made in FORMATS[name].convert(record, PairRules(pairs=("all", "best_worst")[k % 2])):
                    assert isinstance(suffix, str) and isinstance(made, (dict, Problem))
                    assert isinstance(made, dict) or (made.kind and made.reason and str(made).encode("utf-8"))
                    counts[type(made)] = counts.get(type(made), 0) + 1
                try:
                    detected(record)
                except PreferenceError as error:
                    assert "Expected columns" in str(error)
    assert min(counts.values()) > 50 and set(counts) == {dict, Problem, Note}


def test_benchmarks_are_no_preference_sets():
    from mfpo.data.streams import json_records

    root = Path(os.environ.get("MFPO_BENCHMARKS", Path(mfpo.__file__).parents[1] / "../shared/benchmarks"))
    for path, missing in ((root / "pope" / "coco_pope_random.json", "id, question, chosen, rejected"),
                          (root / "mmhal" / "mmhal-bench_answer_template.json", "id, image, chosen, rejected")):
        if not path.is_file():
            reason = f"skipped: {path.name} is absent; set MFPO_BENCHMARKS to the folder of benchmark files"
            (pytest.skip if "PYTEST_CURRENT_TEST" in os.environ else print)(reason)
            continue
        with pytest.raises(PreferenceError) as error:
            detected(*(row for _, row in json_records(path)))
        assert f"no column {missing}; it has question_" in str(error.value)
        assert "rlhf-v: image, text, idx (missing: " in str(error.value)
