# Exported from nbs/analysis/trust.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.trust import *  # noqa: F403

import numpy as np
import pytest
from mfpo.data.abilities import ABILITIES
from mfpo.data.scenes import WorldConfig, scene_rows, world_words
from mfpo.model.small import build_small_vlm

ROWS = scene_rows(WorldConfig(test=6), "test")


def test_objects_are_noised_and_nothing_else_is():
    for row in ROWS:
        before, after = np.asarray(row["image"]), np.asarray(objects_noised(row, TrustConfig()))
        inside = np.zeros((64, 64), bool)
        for thing in row["objects"]:
            x0, y0, x1, y1 = thing["box"]
            inside[y0:y1, x0:x1] = True
        changed = (before != after).any(-1)
        assert not changed[~inside].any() and changed[inside].mean() > 0.9
        assert np.array_equal(after, np.asarray(objects_noised(row, TrustConfig())))


def test_counts_are_one_row_a_scene_and_scores_follow():
    model, processor = build_small_vlm(world_words(), seed=0)
    table = trust_counts(
        model, processor, ROWS, TrustConfig(max_new_tokens=6),
        score=lambda images, questions, answers: np.arange(6.0) * -1,
    )
    assert list(table.index) == ROWS["id"] and table["true_objects"].tolist() == [len(o) for o in ROWS["objects"]]
    assert table["questions"].tolist() == [len(q) for q in ROWS["questions"]]
    assert set(table[[f"{kind}_right" for kind in ABILITIES]].to_numpy().ravel()) <= {0, 1}
    totals = numeric(table).sum().to_dict()
    scores = trust_scores(totals)
    assert scores["logp_lost"] == 0 and scores["recall"] == 100 * totals["true_mentioned"] / totals["true_objects"]


def test_scores_of_a_worked_table():
    # Two scenes. First: says table, cup where table, plate are; noised: says table.
    # Second: says dog where dog is; noised: nothing.
    totals = dict(
        answers=2, answers_with_objects=2, answers_hallucinated=1, mentioned=3, hallucinated=1, true_mentioned=2,
        true_objects=3, true_mentions=2, lost=1, false_mentions=1, false_lost=1, unchanged=0,
        questions=4, correct=3, said_yes=2, unclear=0, present=2, absent=2, correct_present=2, correct_absent=1,
        colors_right=1, places_right=0, number_right=2, logp_clean=-4.0, logp_noised=-10.0,
    )
    scores = trust_scores(totals)
    assert (
        scores["CHAIRs"] == 50
        and scores["CHAIRi"] == pytest.approx(100 / 3)
        and scores["recall"] == pytest.approx(200 / 3)
    )
    assert scores["F1"] == pytest.approx(200 / 3) and scores["mentions_lost"] == 50 and scores["yes_no_accuracy"] == 75
    assert scores["logp_lost"] == 3.0 and [scores[k] for k in ABILITIES] == [50, 0, 100]


def test_attention_is_read_where_true_objects_are_named():
    model, processor = build_small_vlm(world_words(), seed=0)
    table = attention_table(model, processor, ROWS, list(ROWS["caption"]), TrustConfig(attention_rows=3))
    assert table["id"].nunique() == 3 and len(table) == sum(len(o) for o in ROWS["objects"][:3])
    assert ((table["share"] >= 0) & (table["share"] <= 1)).all()


def test_each_kind_of_question_is_counted_in_its_own_column():
    import mfpo.analysis.trust as module
    answers = {q["question"] + row["id"]: q["answer"] for row in ROWS for q in module.ability_questions(row)}
    asked = []

    def always_right_about_colors(model, processor, images, questions, *, ids, **options):
        asked.extend(questions)
        return [answers[q + i.rpartition("-")[0]] if i.endswith("-colors") else "" for q, i in zip(questions, ids)]

    kept, module.generate_answers = module.generate_answers, always_right_about_colors
    try:
        able = module._able(None, None, ROWS, TrustConfig())
    finally:
        module.generate_answers = kept
    assert able.sum().to_dict() == {"colors_right": 6, "places_right": 0, "number_right": 0}
    assert list(able.index) == ROWS["id"] and len(asked) == 18


def test_wrong_settings_are_refused():
    for wrong in ({"noise_step": 1000}, {"schedule": "cosine"}, {"batch_size": 0}):
        with pytest.raises(ValueError):
            TrustConfig(**wrong)
