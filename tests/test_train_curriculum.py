# Exported from nbs/train/curriculum.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.curriculum import *  # noqa: F403

import json
import tempfile
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import TrainerCallback

from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora, save_vlm
from mfpo.train.difficulty import thirds
from mfpo.train.objectives import preset
from mfpo.train.trainer import MFPOConfig, MFPOTrainer


def drawn_rows(count=12):
    rows = []
    for i in range(count):
        color = ("red", "blue", "green")[i % 3]
        image, negative = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).rectangle([16 * (i % 4), 16, 16 * (i % 4) + 15, 31], fill=color)
        rows.append({"id": f"row-{i}", "question": "which color is it ?", "image": image, "negative": negative,
                     "chosen": f"it is {color} .", "rejected": "there is no cup .", "difficulty": float(i * 7 % count)})
    for row, stage in zip(rows, thirds([r["difficulty"] for r in rows], [r["id"] for r in rows])):
        row["stage"] = int(stage)
    return datasets.Dataset.from_list(rows)


def settings(**changes):
    plain = dict(
        output_dir="unused", bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        disable_tqdm=True, logging_steps=1, per_device_train_batch_size=2, learning_rate=1e-2, num_train_epochs=2,
        save_strategy="steps", save_steps=3, seed=3,
    )
    return MFPOConfig(**plain | changes)


def run(folder, stages=None, **changes):
    """A curriculum of the small model; what is no argument of `train_curriculum` is a setting."""
    model, processor = small_vlm_for_tests()
    own = {k: changes.pop(k) for k in ("callbacks", "eval_rows", "objective") if k in changes}
    peft = {"peft_config": lora(model, r=4)} if changes.pop("lora_weights", True) else {}
    return train_curriculum(
        model, stages or plan_stages(drawn_rows()), settings(**changes), folder, processor=processor, **peft, **own
    )


def saved(folder):
    from safetensors.torch import load_file
    return {p.parent.parent.name: load_file(p) for p in sorted(Path(folder).glob("*/weights/*.safetensors"))}


class Kill(TrainerCallback):
    """Ends the process's work in the given step, counted over all stages, as a kill would."""

    def __init__(self, step):
        self.left = step

    def on_step_end(self, args, state, control, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_stages_come_in_the_order_of_the_schedule():
    rows = drawn_rows()
    assert [s.name for s in plan_stages(rows)] == ["easy", "medium", "hard"]
    assert [s.name for s in plan_stages(rows, "hard_to_easy")] == ["hard", "medium", "easy"]
    joint = plan_stages(rows, "joint")
    assert [s.name for s in joint] == ["joint"] and len(joint[0].rows) == 12
    for stage, number in zip(plan_stages(rows), range(3)):
        assert set(stage.rows["stage"]) == {number} and len(stage.rows) == 4
    easy, hard = (plan_stages(rows)[k].rows["difficulty"] for k in (0, 2))
    assert max(easy) <= min(hard)


def test_a_killed_curriculum_goes_on_to_the_same_bits():
    with tempfile.TemporaryDirectory() as folder:
        straight = run(Path(folder) / "straight")
        # 4 steps a stage: killed in step 4 of stage 2 (after its checkpoint), then in step 2 of stage 3 (before any)
        for step in (8, 3):
            with pytest.raises(KeyboardInterrupt):
                run(Path(folder) / "killed", callbacks=[Kill(step)])
        again = run(Path(folder) / "killed")
        a, b = saved(Path(folder) / "straight"), saved(Path(folder) / "killed")
        assert a.keys() == b.keys() == {"1-easy", "2-medium", "3-hard"}
        assert all(torch.equal(a[s][n], b[s][n]) for s in a for n in a[s])
        logged = [[(h["stage"], h["step"], h["loss"]) for h in r.history if "loss" in h] for r in (straight, again)]
        assert logged[0] == logged[1] and len(logged[0]) == 12


def test_finished_stages_are_not_trained_again():
    with tempfile.TemporaryDirectory() as folder:
        first = run(folder, save_strategy="no")
        times = {p: p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}
        second = run(folder, save_strategy="no", callbacks=[Kill(1)])  # a single step would raise
        assert times == {p: p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}
        weights = dict(first.model.named_parameters())
        assert all(torch.equal(weights[n], p) for n, p in second.model.named_parameters())


def test_the_reference_is_the_initial_model_in_every_stage():
    with tempfile.TemporaryDirectory() as folder:
        finished = run(folder, save_strategy="no")
        starts = {h["stage"]: h for h in reversed(finished.history) if "loss" in h}
        # stage 1 starts at the reference; stage 2 starts from learnt weights, so its first reward is not zero
        assert starts["easy"]["rewards/chosen_original"] == 0 and starts["medium"]["rewards/chosen_original"] > 0.05
        # the schedule begins anew
        assert [starts[s]["learning_rate"] for s in ("easy", "medium", "hard")] == [1e-2] * 3
        base, _ = small_vlm_for_tests()
        with finished.model.disable_adapter():
            now = {
                n.replace("base_layer.", "").removeprefix("base_model.model."): p
                for n, p in finished.model.named_parameters() if "lora_" not in n
            }
        assert all(torch.equal(p, now[n]) for n, p in base.named_parameters())
        # and it can be taken back as it was
        back = finished.model.unload()
        assert (
            all(torch.equal(p, dict(back.named_parameters())[n]) for n, p in base.named_parameters())
            and "forward" not in back.__dict__
        )


def test_one_stage_is_the_trainer_s_own_run():
    with tempfile.TemporaryDirectory() as folder:
        rows = drawn_rows()
        run(Path(folder) / "a", plan_stages(rows, "joint"), save_strategy="no")
        model, processor = small_vlm_for_tests()
        config = settings(save_strategy="no")
        config.output_dir = folder
        trainer = MFPOTrainer(
            model=model, args=config, train_dataset=rows, processing_class=processor, peft_config=lora(model, r=4)
        )
        trainer.train()
        trained = {n.replace(".default", ""): p for n, p in trainer.model.named_parameters() if "lora_" in n}
        (weights,) = saved(Path(folder) / "a").values()
        assert weights.keys() == trained.keys() and all(torch.equal(weights[n], trained[n]) for n in weights)


def test_the_stages_share_one_file_of_reference_log_probs():
    from mfpo.model.reference import read_reference
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reference.parquet"
        # rows of their own (by trees the bare model computes pictures in other groups, and rounds otherwise)
        quick = dict(save_strategy="no", route="plain", eval_rows=drawn_rows(2).map(lambda row: {"chosen": "a cup ."}))
        run(Path(folder) / "memory", precompute_ref_log_probs=True, **quick)
        run(Path(folder) / "file", reference_cache=str(file), **quick)
        a, b = saved(Path(folder) / "memory"), saved(Path(folder) / "file")
        assert all(torch.equal(a[s][n], b[s][n]) for s in a for n in a[s])
        # made once, for all stages and the held-out rows; another order of the stages reads it as it is
        assert len(read_reference(file).rows) == 14
        before = file.stat().st_mtime_ns
        run(Path(folder) / "turned", plan_stages(drawn_rows(), "hard_to_easy"), reference_cache=str(file), **quick)
        # the file decides nothing: a folder goes on under another one, and a finished one asks for none
        run(Path(folder) / "file", reference_cache=str(Path(folder) / "other.parquet"), **quick)
        assert file.stat().st_mtime_ns == before and not (Path(folder) / "other.parquet").exists()
        with pytest.raises(ValueError, match="stage main changes max_length, so its reference"):
            main = [Stage("main", drawn_rows(), {"max_length": 99})]
            run(Path(folder) / "changed", main, reference_cache=str(file), **quick)
        # a model that is trained in full is scored before the first step, from its frozen copy
        full = dict(lora_weights=False, learning_rate=1e-3, num_train_epochs=1, reference_cache=str(file), **quick)
        run(Path(folder) / "full", plan_stages(drawn_rows())[:2], **full)


def test_full_fine_tuning_is_staged_and_resumed_too():
    with tempfile.TemporaryDirectory() as folder:
        quick = dict(
            stages=plan_stages(drawn_rows())[:2], lora_weights=False, learning_rate=1e-3, save_strategy="no",
            num_train_epochs=1,
        )
        run(Path(folder) / "a", **quick)
        with pytest.raises(KeyboardInterrupt):
            run(Path(folder) / "b", callbacks=[Kill(3)], **quick)
        finished = run(Path(folder) / "b", **quick)
        a, b = saved(Path(folder) / "a"), saved(Path(folder) / "b")
        assert all(torch.equal(a[s][n], b[s][n]) for s in a for n in a[s])
        starts = {h["stage"]: h for h in reversed(finished.history) if "loss" in h}
        assert starts["easy"]["rewards/chosen_original"] == 0 != starts["medium"]["rewards/chosen_original"]


def test_a_stage_may_change_its_settings_and_a_model_may_be_a_folder():
    with tempfile.TemporaryDirectory() as folder:
        model, processor = small_vlm_for_tests()
        save_vlm(model, processor, Path(folder) / "base")
        rows = drawn_rows(4)
        stages = [Stage("warm", rows, {"num_train_epochs": 1, "learning_rate": 1e-3}), Stage("main", rows)]
        finished = train_curriculum(
            Path(folder) / "base", stages, settings(save_strategy="no"), Path(folder) / "run",
            peft_config=lora(model, r=4), objective=preset("dpo"),
        )
        steps = [(h["stage"], h["learning_rate"]) for h in finished.history if "loss" in h]
        assert [s for s, _ in steps] == ["warm"] * 2 + ["main"] * 4 and steps[0][1] == 1e-3 and steps[2][1] == 1e-2
        assert (
            not list(Path(folder, "run").rglob("*.bin"))
            and (finished.folders[1] / "weights" / "adapter_model.safetensors").exists()
        )


def test_a_foreign_folder_is_refused_naming_what_differs():
    with tempfile.TemporaryDirectory() as folder:
        rows = drawn_rows(4)
        one = [Stage("joint", rows)]
        run(Path(folder) / "run", one, num_train_epochs=1, save_strategy="no")
        # `logging_steps` does not decide the result
        run(Path(folder) / "run", one, num_train_epochs=1, save_strategy="no", logging_steps=7)
        other = rows.map(lambda row: {"chosen": row["chosen"] + " yes"})
        for stages, changes, words in [
            (one, {"learning_rate": 2e-2}, "settings.learning_rate: 0.01 there, 0.02 here"),
            (one, {"beta": 0.2}, "settings.beta: 0.1 there"),
            ([Stage("joint", other)], {}, r"stages\[0\].content"),
            (one, {"objective": preset("dpo")}, "objective: "),
            (one, {"lora_weights": False}, "adapter"),
        ]:
            with pytest.raises(FileExistsError, match=words):
                run(Path(folder) / "run", stages, **dict(num_train_epochs=1, save_strategy="no") | changes)
        (Path(folder) / "mine").mkdir()
        (Path(folder) / "mine" / "notes.txt").write_text("mine")
        with pytest.raises(FileExistsError, match="holds no curriculum.json"):
            run(Path(folder) / "mine", one)


def test_a_half_written_checkpoint_is_passed_over():
    with tempfile.TemporaryDirectory() as folder:
        assert last_checkpoint(Path(folder)) is None
        for step, state in ((3, "{}"), (6, '{"global_st'), (9, None), (12, None)):
            (Path(folder) / f"checkpoint-{step}").mkdir()
            if state is not None:
                (Path(folder) / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
        assert last_checkpoint(Path(folder)).endswith("checkpoint-3")


def test_bad_arguments_are_refused():
    from peft import get_peft_model

    rows, (model, processor) = drawn_rows(3), small_vlm_for_tests()
    for make, words in [
        (lambda: plan_stages(rows, "random"), "schedule 'random'"),
        (lambda: plan_stages(rows.remove_columns("stage")), "needs a column `stage`"),
        (lambda: plan_stages(rows.map(lambda r: {"stage": 5})), r"holds \[5\]"),
        (lambda: Stage("a/b", rows), "becomes a folder"),
        (lambda: Stage("a", rows, {"lr": 1}), "cannot change lr"),
        (lambda: Stage("a", rows.select([])), "no rows"),
        (lambda: train_curriculum(model, [], settings(), "unused", processor=processor), "at least one"),
        (
            lambda: train_curriculum(model, [Stage("a", rows)] * 2, settings(), "unused", processor=processor),
            "its own name",
        ),
        (lambda: train_curriculum(model, [Stage("a", rows)], settings(), "unused"), "processor is missing"),
        (
            lambda: train_curriculum(
                get_peft_model(small_vlm_for_tests()[0], lora(model, r=4)), [Stage("a", rows)], settings(), "unused",
                processor=processor,
            ),
            "carries an adapter",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
