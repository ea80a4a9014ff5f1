# Exported from nbs/data/pairs.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.pairs import *  # noqa: F403

import numpy as np
import pytest
from mfpo.data.scenes import (
    CAPTION_QUESTION, OBJECTS, SCENES, WorldConfig, answer_text, caption_text, mentioned_objects, scene_rows,
)

ROWS = scene_rows(WorldConfig(preference=400), "preference")
BLIND = [[caption_text(kind, SCENES[kind][:4])] for kind in ROWS["scene"]]


def pairs_of(config):
    asks = question_asks(ROWS, config)
    return preference_pairs(
        ROWS, BLIND, asks, [answer_text(n, n in SCENES[ROWS[i]["scene"]][:4]) for i, n, _ in asks], config
    )


def test_captions_are_parsed_or_refused():
    assert parse_caption("a kitchen with a table , a cup .") == ("kitchen", ["table", "cup"])
    for wrong in (
        "", "a kitchen", "a kitchen with a cup , a cup .", "a moon with a cup .", "a kitchen with a unicorn .",
        "yes , there is a cup .",
    ):
        assert parse_caption(wrong) is None, wrong


def test_one_error_is_mended():
    # Said table, cup, stove; true are table, plate. Hallucinated: cup, stove. Omitted: plate.
    said, truth = ["table", "cup", "stove"], ["table", "plate"]
    assert caption_errors(said, truth) == (["cup", "stove"], ["plate"])
    seen = {mend_caption("kitchen", said, truth, "any", np.random.default_rng(s)) for s in range(60)}
    assert seen == {
        ("a kitchen with a table , a stove .", "cup"), ("a kitchen with a table , a cup .", "stove"),
        ("a kitchen with a table , a plate , a cup , a stove .", "plate"),
    }
    assert mend_caption("kitchen", said, truth, "omission", np.random.default_rng(0))[1] == "plate"
    assert mend_caption("kitchen", ["cup"], ["table"], "hallucination", np.random.default_rng(0)) is None
    assert mend_caption("kitchen", ["cup"], ["cup"], "any", np.random.default_rng(0)) is None


def test_pairs_differ_by_one_error_and_the_chosen_is_closer_to_the_truth():
    pairs = pairs_of(PairConfig(rows=80))
    assert len(pairs) == len(set(pairs["id"])) == 80
    for pair in pairs:
        truth = {o["name"] for o in pair["objects"]}
        chosen, rejected = (set(mentioned_objects(pair[k])) for k in ("chosen", "rejected"))
        if pair["question"] == CAPTION_QUESTION:
            assert len(chosen ^ rejected) == 1 and len(chosen ^ truth) == len(rejected ^ truth) - 1 >= 1
            assert chosen ^ rejected == {pair["focus"]}
        else:
            assert pair["chosen"] == answer_text(pair["focus"], pair["focus"] in truth) != pair["rejected"]


def test_questions_are_balanced_for_every_object():
    pairs = [p for p in pairs_of(PairConfig(rows=80)) if p["question"] != CAPTION_QUESTION]
    yes, no = ([p["focus"] for p in pairs if p["chosen"].startswith(word)] for word in ("yes", "no"))
    assert sorted(yes) == sorted(no) == sorted(OBJECTS)  # 40 questions: one a side for each of 20 objects
    uneven = [p for p in pairs_of(PairConfig(rows=50)) if p["question"] != CAPTION_QUESTION]
    assert len(uneven) == 25 and sum(p["chosen"].startswith("yes") for p in uneven) == 13


def test_complete_corrections_name_the_whole_truth():
    for pair in pairs_of(PairConfig(rows=40, captions=1.0, source="complete")):
        assert mentioned_objects(pair["chosen"]) == [o["name"] for o in pair["objects"]]


def test_swapped_pairs_are_the_same_pairs_the_other_way_round():
    plain, turned = (pairs_of(PairConfig(rows=80, swapped=share)) for share in (0.0, 0.25))
    assert plain["id"] == turned["id"] and plain["image"] == turned["image"]
    kinds = {}
    for a, b in zip(plain, turned):
        changed = (a["chosen"], a["rejected"]) == (b["rejected"], b["chosen"])
        assert changed or (a["chosen"], a["rejected"]) == (b["chosen"], b["rejected"])
        kinds.setdefault(a["question"] == CAPTION_QUESTION, []).append(changed)
    assert {kind: sum(found) for kind, found in kinds.items()} == {True: 10, False: 10}
    with pytest.raises(ValueError, match="swapped is 1.5"):
        PairConfig(swapped=1.5)


def test_pairs_repeat_and_shortage_is_named():
    assert pairs_of(PairConfig(rows=80)).to_dict() == pairs_of(PairConfig(rows=80)).to_dict()
    assert pairs_of(PairConfig(rows=80))["id"] != pairs_of(PairConfig(rows=80, seed=1))["id"]
    with pytest.raises(ValueError, match="of 400 caption pairs: .* well formed"):
        pairs_of(PairConfig(rows=400, captions=1.0, min_errors=3))
    with pytest.raises(ValueError, match="scenes with(out)? a .* needed"):
        pairs_of(PairConfig(rows=4000, captions=0.0))
    for wrong in ({"rows": 0}, {"captions": 2.0}, {"source": "best"}, {"mend": "all"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PairConfig(**wrong)
