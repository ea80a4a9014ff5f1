# Exported from nbs/train/plans.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.plans import *  # noqa: F403

import tempfile
from pathlib import Path

import datasets
import pytest
from PIL import Image, ImageDraw

from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora
from mfpo.train.arms import CHOSEN, MIRROR, NEGATIVE, OWN, REJECTED, Arm, Span
from mfpo.train.curriculum import train_curriculum
from mfpo.train.objectives import Objective
from mfpo.train.presets import preset
from mfpo.train.stages import Made, Stage
from mfpo.train.terms import Term
from mfpo.train.trainer import MFPOConfig


def drawn_rows(count=6):
    rows = []
    for i in range(count):
        color = ("red", "blue", "green")[i % 3]
        image, negative = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).rectangle([16 * (i % 4), 16, 16 * (i % 4) + 15, 31], fill=color)
        rows.append({"id": f"row-{i}", "question": "which color is it ?", "image": image, "negative": negative,
                     "chosen": f"it is {color} .", "rejected": "there is no cup .", "stage": (i * 2) % 3})
    return datasets.Dataset.from_list(rows)


def run(folder, stages, **changes):
    model, processor = small_vlm_for_tests()
    plain = dict(
        output_dir="unused", bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        disable_tqdm=True, logging_steps=1, per_device_train_batch_size=2, learning_rate=1e-2, save_strategy="no",
    )
    return train_curriculum(
        model, stages, MFPOConfig(**plain | changes), folder, processor=processor, peft_config=lora(model, r=4)
    )


def logged(finished, stage):
    return [entry for entry in finished.history if entry["stage"] == stage and "loss" in entry]


def test_stages_come_in_the_order_of_the_schedule():
    rows = drawn_rows(12)
    assert [s.name for s in plan("easy_to_hard", rows)] == ["easy", "medium", "hard"]
    assert [s.name for s in plan("hard_to_easy", rows)] == ["hard", "medium", "easy"]
    for stage, number in zip(plan("easy_to_hard", rows), range(3)):
        assert set(stage.rows["stage"]) == {number} and len(stage.rows) == 4
    (joint_stage,) = plan("joint", rows)
    assert joint_stage.name == "joint" and len(joint_stage.rows) == 12 and joint_stage.objective is None
    assert all(s.objective == preset("dpo") for name in ("joint", "easy_to_hard") for s in plan(name, rows, preset("dpo")))
    # a third that nobody is in has no stage
    assert [s.name for s in plan("easy_to_hard", rows.filter(lambda n: n != 1, input_columns="stage"))] == ["easy", "hard"]
    assert [s.name for s in plan_stages(rows)] == ["easy", "medium", "hard"]
    assert [s.name for s in plan_stages(rows, "joint")] == ["joint"]


def test_random_thirds_share_the_rows_out_whatever_their_order():
    rows = drawn_rows(13)
    thirds_of = lambda data: {s.name: sorted(s.rows["id"]) for s in plan("random_thirds", data)}
    found = thirds_of(rows)
    assert list(found) == ["first", "second", "third"] and sorted(map(len, found.values())) == [4, 4, 5]
    assert sorted(i for part in found.values() for i in part) == sorted(rows["id"])
    assert thirds_of(rows.select(range(12, -1, -1))) == found
    assert [s.name for s in plan("random_thirds", drawn_rows(2))] == ["second", "third"] or len(plan("random_thirds", drawn_rows(2))) == 2
    with pytest.raises(ValueError, match="'random_thirds': there are no rows"):
        plan("random_thirds", rows.select([]))


def test_terms_are_told_by_what_their_sides_differ_in():
    assert [modality(term) for term in preset("mfpo").terms] == ["text", "image", "none"]
    assert modality(Term(REJECTED, MIRROR)) == "image"  # the mirror: the other answer on both pictures
    assert modality(Term(CHOSEN, MIRROR)) == "both"
    assert modality(Term(CHOSEN, (REJECTED, NEGATIVE))) == "both"  # AdaViP's
    assert modality(Term(CHOSEN, (NEGATIVE, Arm("chosen", "blank")))) == "image"
    assert modality(Term(CHOSEN, Span("chosen", "original", OWN))) == "text"  # POVID's own tokens are another answer
    assert modality(Term(CHOSEN, NEGATIVE, tokens={"all": 1, "changed": 3})) == "image"


def test_image_first_splits_the_objective_and_not_the_budget():
    rows, whole = drawn_rows(), preset("mfpo", weights={"image": 2.0})
    first, second = plan("image_first", rows, whole)
    assert [t.name for t in first.objective.terms] == ["image"] and first.objective.terms[0].weight == 2.0
    assert second.objective == whole and first.objective.beta == whole.beta and first.objective.name == "mfpo-image"
    assert first.part == (0, 0.5) and second.part == (0.5, 1)
    assert {s.reference for s in (first, second)} == {"initial"} and len(first.rows) == len(second.rows) == len(rows)
    kept, _ = plan("image_first", rows, whole, shares=(0.2, 0.8), keep=["margin"])
    assert [t.name for t in kept.objective.terms] == ["image", "margin"] and kept.part == (0, 0.2)
    turned, _ = plan("text_first", rows, whole)
    assert [t.name for t in turned.objective.terms] == ["text"] and turned.name == "text"
    with tempfile.TemporaryDirectory() as folder:
        # 3 steps a pass, three passes: 9, or 4 and 5
        joined = run(Path(folder) / "joint", plan("joint", rows, whole), num_train_epochs=3)
        split = run(Path(folder) / "split", [first, second], num_train_epochs=3)
        assert len(logged(joined, "joint")) == 9
        assert [len(logged(split, name)) for name in ("image", "whole")] == [4, 5]
        assert all("loss/image" in e and "loss/text" not in e for e in logged(split, "image"))
        assert all({"loss/image", "loss/text", "loss/margin"} <= e.keys() for e in logged(split, "whole"))
        # each stage has its own rate from the top, and one reference: what the first learnt counts in the second
        assert [logged(split, name)[0]["learning_rate"] for name in ("image", "whole")] == [1e-2] * 2
        assert logged(split, "image")[0]["gap/image"] == 0 != logged(split, "whole")[0]["gap/image"]


def test_povid_has_two_objectives_and_two_references():
    rows = drawn_rows()
    first, second = plan("povid", rows)
    assert first.objective == preset("povid_stage1") and second.objective == preset("povid_stage2")
    assert first.reference == "initial" and second.reference == "start" and second.start == "previous"
    assert first.part == (0, 0.75) and second.part == (0.75, 1)
    first, second = plan("povid", rows, preset("povid_stage2", beta=0.3), shares=(0.5, 0.5))
    assert first.objective.beta == second.objective.beta == 0.3 and first.part == (0, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        finished = run(folder, plan("povid", rows), num_train_epochs=4)
        assert [len(logged(finished, name)) for name in ("answers", "own")] == [9, 3]  # three epochs and one
        start = logged(finished, "own")[0]
        losses = {k.removeprefix("loss/"): v for k, v in start.items() if k.startswith("loss/")}
        assert len(losses) == 2 and all(abs(v - 0.693147) < 1e-5 for v in losses.values())


def test_rounds_begin_where_the_last_ended():
    asked = []

    def make(number, count):
        asked.append((number, count))
        return drawn_rows(4)

    stages = plan("rounds", make, preset("dpo"), n=2, changes={"num_train_epochs": 1})
    assert asked == [(1, 2), (2, 2)] and [s.name for s in stages] == ["round-1", "round-2"]
    assert all(s.reference == "start" and s.start == "previous" and s.part == (0, 1) for s in stages)
    with tempfile.TemporaryDirectory() as folder:
        finished = run(folder, stages, num_train_epochs=3)
        for name in ("round-1", "round-2"):
            entries = logged(finished, name)
            # against the model that starts the round: the first step finds no difference
            assert len(entries) == 2 and abs(entries[0]["loss"] - 0.693147) < 1e-5 and entries[1]["rewards/chosen"] != 0


def test_what_cannot_be_planned_is_refused():
    rows, mfpo = drawn_rows(3), preset("mfpo")
    for name, args, settings, words in [
        ("random", (rows,), {}, r"schedule 'random' is unknown; use one of \['joint', 'easy_to_hard'"),
        ("joint", (rows,), {"shares": (1, 0)}, "schedule 'joint' has no setting shares; its own are none"),
        ("easy_to_hard", (rows.remove_columns("stage"),), {}, "schedule 'easy_to_hard': the rows need a column `stage`"),
        ("hard_to_easy", (rows.map(lambda r: {"stage": 5}),), {}, r"holds \[5\]"),
        ("easy_to_hard", (rows.select([]),), {}, "the plan is empty"),
        ("joint", (rows.select([]),), {}, "stage joint has no rows"),
        ("image_first", (rows,), {}, "schedule 'image_first': the plan splits an objective; give one"),
        ("image_first", (rows, preset("dpo")), {}, "has no term whose sides differ in the picture alone; .*'text': 'text'"),
        ("text_first", (rows, preset("dpo")), {}, "is all text terms"),
        ("image_first", (rows, mfpo), {"keep": ["anchor"]}, r"keep names anchor, .*\['text', 'image', 'margin'\]"),
        ("image_first", (rows, mfpo), {"shares": (0.5, 0.6)}, "must be 2 positive numbers that add up to 1"),
        ("image_first", (rows, mfpo), {"shares": (0, 1)}, "positive"),
        ("image_first", (rows, mfpo), {"shares": (1,)}, "must be 2"),
        ("povid", (rows, mfpo), {}, "objective 'mfpo' is given"),
        ("rounds", (rows, mfpo), {}, r"rounds need a function \(number, count\) -> rows"),
        ("rounds", (lambda k, n: rows, mfpo), {"n": 0}, "n=0 rounds: the plan is empty"),
    ]:
        with pytest.raises(ValueError, match=words):
            plan(name, *args, **settings)
