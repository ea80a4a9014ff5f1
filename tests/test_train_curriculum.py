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
from mfpo.train.plans import plan_stages
from mfpo.train.presets import preset
from mfpo.train.stages import Made, Stage
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


def saved_file(folder):
    from safetensors.torch import load_file
    (file,) = Path(folder).glob("*.safetensors")
    return load_file(file)


def saved(folder):
    return {p.parent.name: saved_file(p) for p in sorted(Path(folder).glob("*/weights"))}


class Kill(TrainerCallback):
    """Ends the process's work in the given step, counted over all stages, as a kill would."""

    def __init__(self, step):
        self.left = step

    def on_step_end(self, args, state, control, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


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
        assert starts["easy"]["rewards/chosen"] == 0 and starts["medium"]["rewards/chosen"] > 0.05
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


def test_two_stages_against_their_own_starts_are_two_trainers_by_hand():
    import math
    from peft import PeftModel
    from mfpo.train.collator import PreferenceCollator, RowEncoder
    from mfpo.train.scoring import score_arms
    from mfpo.train.trainer import reference_mode

    rows, first, second = drawn_rows(), preset("dpo"), preset("mfpo")

    class Listen(TrainerCallback):
        """What the reference says of the rows when a stage ends."""

        def on_train_end(self, args, state, control, model=None, **kwargs):
            collator = PreferenceCollator(RowEncoder(small_vlm_for_tests()[1]), second.arms)
            with reference_mode(model):
                self.heard = score_arms(model, rows, collator, route="plain")

    for projector in (False, True):  # the projector is trained in full beside the adapter, as POVID and CSR do
        with tempfile.TemporaryDirectory() as folder:
            model, processor = small_vlm_for_tests()
            stages = [Stage("a", rows, objective=first), Stage("b", rows, objective=second, reference="start")]
            listen = Listen()
            finished = train_curriculum(
                model, stages, settings(save_strategy="no"), Path(folder) / "run", processor=processor,
                peft_config=lora(model, r=4, projector=projector), callbacks=[listen],
            )
            # by hand: a trainer on the base; its adapter saved; a trainer on the PEFT model, which TRL makes a copy of
            base, _ = small_vlm_for_tests()
            common = dict(args=settings(save_strategy="no"), train_dataset=rows, processing_class=processor)
            one = MFPOTrainer(model=base, peft_config=lora(base, r=4, projector=projector), objective=first, **common)
            one.train()
            one.save_model(f"{folder}/one")
            going_on = PeftModel.from_pretrained(small_vlm_for_tests()[0], f"{folder}/one", is_trainable=True)
            two = MFPOTrainer(model=going_on, objective=second, **common)
            two.train()
            trained = {n.replace(".modules_to_save.default", "").replace(".default", ""): p
                       for n, p in two.model.named_parameters() if ".default" in n}
            weights = saved(Path(folder) / "run")["2-b"]
            assert weights.keys() == trained.keys() and all(torch.equal(weights[n], trained[n]) for n in weights)
            # the reference of the second stage is the model that the first one left, to its last step: its rewards
            # begin at nothing, so each of the three terms at log 2
            collator = PreferenceCollator(RowEncoder(processor), second.arms)
            left = PeftModel.from_pretrained(small_vlm_for_tests()[0], str(finished.folders[0] / "weights"))
            kept = score_arms(left, rows, collator, route="plain")
            merged = score_arms(left.merge_and_unload(), rows, collator, route="plain")
            for arm in second.arms:
                assert abs(listen.heard[arm] - kept[arm]).max() < 1e-6
                # as the papers have it: another order of the sums, of some 30 nats in single precision
                assert abs(listen.heard[arm] - merged[arm]).max() < 2e-5
            starts = {h["stage"]: h for h in reversed(finished.history) if "loss" in h}
            assert abs(starts["b"]["loss"] - 3 * math.log(2)) < 1e-6


def test_what_a_stage_leaves_is_one_adapter_and_the_base_comes_back():
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as folder:
        rows = drawn_rows(4)
        stages = [Stage("a", rows), Stage("b", rows, reference="start")]
        finished = run(folder, stages, num_train_epochs=1)
        for place in finished.folders:
            assert not (place / "weights" / "ref").exists()
            loaded = PeftModel.from_pretrained(small_vlm_for_tests()[0], str(place / "weights"))
            assert list(loaded.peft_config) == ["default"]
        weights = dict(finished.model.named_parameters())
        assert list(finished.model.peft_config) == ["default"]
        assert all(torch.equal(weights[n], p) for n, p in loaded.named_parameters())
        base, back = small_vlm_for_tests()[0], finished.model.unload()
        weights = dict(back.named_parameters())
        assert weights.keys() == dict(base.named_parameters()).keys() and "forward" not in back.__dict__
        assert all(torch.equal(p, weights[n]) for n, p in base.named_parameters())


def test_a_new_adapter_s_own_start_is_the_initial_model():
    with tempfile.TemporaryDirectory() as folder:
        rows = drawn_rows(4)
        for reference in ("initial", "start"):  # a copy of an adapter that adds nothing, or the adapter off
            run(Path(folder) / reference, [Stage("a", rows, reference=reference)], save_strategy="no")
        a, b = saved(Path(folder) / "initial")["1-a"], saved(Path(folder) / "start")["1-a"]
        assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_whole_model_can_be_measured_against_its_start_too():
    import copy, math

    rows = drawn_rows(4)
    quick = dict(lora_weights=False, learning_rate=1e-3, save_strategy="no", num_train_epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        stages = [Stage("a", rows), Stage("b", rows, reference="start"), Stage("c", rows, start="initial")]
        finished = run(Path(folder) / "run", stages, **quick)
        # by hand, against frozen copies
        model, processor = small_vlm_for_tests()
        weights = saved(Path(folder) / "run")
        for name in ("1-a", "2-b"):
            trainer = MFPOTrainer(
                model=model, ref_model=copy.deepcopy(model).requires_grad_(False), processing_class=processor,
                args=settings(**{k: v for k, v in quick.items() if k != "lora_weights"}), train_dataset=rows,
            )
            trainer.train()
            trainer.save_model(f"{folder}/{name}")
            model = type(model).from_pretrained(f"{folder}/{name}")
            by_hand = saved_file(f"{folder}/{name}")
            assert all(torch.equal(weights[name][n], by_hand[n]) for n in by_hand)
        # what starts from the initial model knows of no stage before
        assert all(torch.equal(weights["1-a"][n], weights["3-c"][n]) for n in weights["1-a"])
        starts = {h["stage"]: h["loss"] for h in reversed(finished.history) if "loss" in h}
        assert all(abs(starts[s] - 3 * math.log(2)) < 1e-6 for s in "abc")
        # what is not to be trained stays so in later stages
        model, processor = small_vlm_for_tests()
        frozen = {n for n, p in model.named_parameters() if "vision_tower" in n}
        for name, weight in model.named_parameters():
            weight.requires_grad_(name not in frozen)
        config = settings(**{k: v for k, v in quick.items() if k != "lora_weights"})
        still = train_curriculum(model, stages[:2], config, Path(folder) / "still", processor=processor).model
        before, after = dict(small_vlm_for_tests()[0].named_parameters()), dict(still.named_parameters())
        assert frozen == {n for n in before if torch.equal(before[n], after[n])}


def test_a_stage_may_start_afresh_or_from_a_folder():
    with tempfile.TemporaryDirectory() as folder:
        one, two = drawn_rows(4), drawn_rows(8).select(range(4, 8))
        quick = dict(save_strategy="no", num_train_epochs=1)
        run(Path(folder) / "both", [Stage("a", one), Stage("b", two)], **quick)
        both = saved(Path(folder) / "both")
        # a run that goes on from another's folder is the second stage of one run
        run(Path(folder) / "b", [Stage("b", two, start=Path(folder) / "both" / "1-a" / "weights")], **quick)
        b = saved(Path(folder) / "b")["1-b"]
        assert all(torch.equal(b[n], both["2-b"][n]) for n in b)
        # and one that starts afresh is a run of its own
        run(Path(folder) / "fresh", [Stage("a", one), Stage("b", two, start="initial")], **quick)
        run(Path(folder) / "alone", [Stage("b", two)], **quick)
        fresh, alone = saved(Path(folder) / "fresh")["2-b"], saved(Path(folder) / "alone")["1-b"]
        assert all(torch.equal(fresh[n], alone[n]) and not torch.equal(fresh[n], b[n]) for n in b if "lora_B" in n)
        # an adapter of another base is refused, before anything is written: by what lies beside it, or by its shapes
        for base, words in [
            (small_vlm_for_tests(seed=1), "stage b starts from .*another base model"),
            (small_vlm_for_tests(text_width=64), "another base model"),
        ]:
            with pytest.raises(ValueError, match=words):
                train_curriculum(
                    base[0], [Stage("b", two, start=f"{folder}/both/1-a/weights")], settings(), Path(folder) / "no",
                    processor=base[1], peft_config=lora(base[0], r=4),
                )
            assert not (Path(folder) / "no").exists()
        import shutil
        shutil.copytree(f"{folder}/both/1-a/weights", f"{folder}/elsewhere/weights")
        base, processor = small_vlm_for_tests(text_width=64)
        for reference in ("initial", "start"):
            with pytest.raises(ValueError, match="stage b: the adapter in .* does not fit this model"):
                train_curriculum(
                    base, [Stage("b", two, start=f"{folder}/elsewhere/weights", reference=reference)], settings(),
                    Path(folder) / f"no-{reference}", processor=processor, peft_config=lora(base, r=4),
                )
            base, processor = small_vlm_for_tests(text_width=64)
        with pytest.raises(ValueError, match="stage b starts from absent, which holds neither"):
            run(Path(folder) / "no", [Stage("a", one), Stage("b", two, start="absent")], **quick)


def test_stages_share_the_passes_of_one_run():
    rows = drawn_rows(6)  # 3 steps a pass
    with tempfile.TemporaryDirectory() as folder:
        def steps(name, *parts, **changes):
            stages = [Stage(f"s{k}", rows, part=part) for k, part in enumerate(parts)]
            quick = {"save_strategy": "no", "num_train_epochs": 1.5, "objective": preset("dpo")} | changes
            folders = run(Path(folder) / name, stages, **quick).folders
            return [json.loads((f / "done.json").read_text())["steps"] for f in folders]

        assert steps("whole", (0, 1)) == [5]  # 4.5, rounded up as the trainer does
        assert steps("halves", (0, 0.5), (0.5, 1)) == [2, 3]
        assert steps("thirds", (0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1), num_train_epochs=3) == [3, 3, 3]
        assert steps("counted", (0, 0.75), (0.75, 1), max_steps=4) == [3, 1]
        assert steps("together", (0, 0.5), (0.5, 1), gradient_accumulation_steps=2, num_train_epochs=2) == [2, 2]
        with pytest.raises(ValueError, match=r"stage s0: part=\(0, 0.1\) of 3 steps is not one step"):
            steps("little", (0, 0.1), (0.1, 1), num_train_epochs=1)


def test_rows_are_made_by_the_model_as_it_stands_and_kept():
    from mfpo.data.rows import read_note, read_rows
    from mfpo.evaluate.answers import generate_answers

    calls = []

    def said(model, processor, rows, limit):
        """What the model says of each picture, and a word more, becomes its dispreferred answer."""
        layers = [m for m in model.modules() if hasattr(m, "lora_B")]
        learnt = [float(m.lora_B["default"].weight.abs().max()) for m in layers]
        calls.append((model.training, torch.is_grad_enabled(), max(learnt, default=0.0)))
        texts = generate_answers(model, processor, list(rows["image"]), list(rows["question"]), max_new_tokens=limit)
        return rows.remove_columns("rejected").add_column("rejected", [f"{text} no ." for text in texts])

    def stages(limit=3, name="said-1"):
        made = Made(name, said, {"rows": drawn_rows(4), "limit": limit})
        return [Stage("a", drawn_rows(4), objective=preset("dpo")), Stage("b", made, reference="start"),
                Stage("c", made, {"beta": 0.2}, objective=None)]

    class Killed(Exception):
        pass

    def failing(model, processor, rows, limit):
        raise Killed

    with tempfile.TemporaryDirectory() as folder:
        quick = dict(num_train_epochs=2, learning_rate=3e-2)
        first = run(Path(folder) / "straight", stages(), **quick)
        # with the adapter on, not training, without a gradient; and the base alone has no adapter at all
        assert [c[:2] for c in calls] == [(False, False)] * 2 and all(c[2] > 0 for c in calls)
        kept = [read_rows(first.folders[k] / "rows.parquet") for k in (1, 2)]
        assert kept[0]["rejected"] != drawn_rows(4)["rejected"] and kept[0]["chosen"] == drawn_rows(4)["chosen"]
        assert kept[0]["rejected"] != kept[1]["rejected"]  # another model by then
        assert read_note(first.folders[1] / "rows.parquet")["maker"] == "said-1"
        assert not list(Path(folder).rglob("*.arrow"))
        # killed wherever it may be (4 steps a stage): the same rows, the same weights
        def files(name):
            return {p.relative_to(Path(folder) / name).as_posix(): p.read_bytes() for p in Path(folder, name).rglob("*")
                    if p.name in ("rows.parquet", "adapter_model.safetensors", "adapter_config.json", "history.json")
                    and "checkpoint" not in str(p)}

        def timeless(contents):
            def without(history):
                return [{name: value for name, value in entry.items() if "train_" not in name} for entry in history]

            return {k: without(json.loads(v)) if k.endswith("history.json") else v for k, v in contents.items()}

        straight = timeless(files("straight"))
        broken = Made("said-1", failing, {"rows": drawn_rows(4), "limit": 3})
        with pytest.raises(Killed):  # while the rows are made
            run(Path(folder) / "killed", [stages()[0], Stage("b", broken, reference="start"), stages()[2]], **quick)
        # in stage b before and after its checkpoint, in stage c in its first step
        for step in (2, 4, 2, 1):
            with pytest.raises(KeyboardInterrupt):
                run(Path(folder) / "killed", stages(), callbacks=[Kill(step)], **quick)
        before = len(calls)
        run(Path(folder) / "killed", stages(), **quick)
        assert len(calls) == before  # rows that are there are not made again
        assert timeless(files("killed")) == straight
        # another maker, or other settings of it, is another run
        renamed = stages(name="said-2")
        for other, words in ((stages(limit=4), "settings.limit: 3 there, 4 here"), (renamed, "maker: said-1")):
            with pytest.raises(FileExistsError, match=words):
                run(Path(folder) / "straight", other, **quick)


def test_makers_that_make_nothing_of_use_are_named():
    for make, words in [
        (lambda model, processor: drawn_rows(2).select([]), "stage b: 'draw-1' made no rows"),
        (lambda model, processor: drawn_rows(2).remove_columns("negative"), "'draw-1' made have no column negative"),
    ]:
        with tempfile.TemporaryDirectory() as folder, pytest.raises(ValueError, match=words):
            run(folder, [Stage("b", Made("draw-1", make))])


def test_one_file_of_reference_log_probs_serves_stages_of_several_objectives():
    from mfpo.model.reference import read_reference
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reference.parquet"
        quick = dict(save_strategy="no", route="plain", num_train_epochs=1)
        stages = [Stage("a", drawn_rows(4), objective=preset("dpo")), Stage("b", drawn_rows(8), {"objective": "margin"}),
                  Stage("c", drawn_rows(4))]
        run(Path(folder) / "memory", stages, precompute_ref_log_probs=True, **quick)
        run(Path(folder) / "file", stages, reference_cache=str(file), **quick)
        a, b = saved(Path(folder) / "memory"), saved(Path(folder) / "file")
        print("MEASURED", max(float((a[s][n] - b[s][n]).abs().max()) for s in a for n in a[s]))
        assert all(torch.allclose(a[s][n], b[s][n], atol=1e-4) for s in a for n in a[s])  # other arms beside them in a call
        assert len(read_reference(file).rows) == 8  # each row once, with the arms of all stages
        # where the file cannot hold what a stage is measured against, it says so, and what to do instead
        own = Stage("d", drawn_rows(4), reference="start")
        later = Stage("d", Made("draw-1", lambda model, processor: drawn_rows(4)))
        for stage, words in [(own, "is compared with the model as it starts"), (later, "makes its rows when it starts")]:
            with pytest.raises(ValueError, match=f"reference_cache: stage d {words}.* use precompute_ref_log_probs"):
                run(Path(folder) / "no", [*stages, stage], reference_cache=str(file), **quick)
        with pytest.raises(ValueError, match="the rows of stage a have no column negative, which other stages read"):
            few = Stage("a", drawn_rows(4).remove_columns("negative"), objective=preset("dpo"))
            run(Path(folder) / "no2", [few, *stages[1:]], reference_cache=str(file), **quick)
        aside = {"reference_cache": None, "precompute_ref_log_probs": True}
        mixed = [stages[0], Stage("d", drawn_rows(4), aside, reference="start")]
        run(Path(folder) / "mixed", mixed, reference_cache=str(file), **quick)
        run(Path(folder) / "steps", [stages[0], own], **quick)
        a, b = saved(Path(folder) / "mixed"), saved(Path(folder) / "steps")
        assert all(torch.equal(a[s][n], b[s][n]) for s in a for n in a[s])


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
        first, second = plan_stages(drawn_rows())[:2]
        stages = [first, Stage("own", second.rows, reference="start")]  # 2 steps each
        quick = dict(stages=stages, lora_weights=False, learning_rate=1e-3, num_train_epochs=1, save_steps=1)
        finished = run(Path(folder) / "a", **quick)
        # killed after a stage's first checkpoint, after its last, and before any of the next
        for name, steps, changes in [("b", (1,), {}), ("c", (2, 1), {}), ("d", (3,), {"save_strategy": "no"})]:
            for step in steps:
                with pytest.raises(KeyboardInterrupt):
                    run(Path(folder) / name, callbacks=[Kill(step)], **quick | changes)
            run(Path(folder) / name, **quick | changes)
            a, b = saved(Path(folder) / "a"), saved(Path(folder) / name)
            assert all(torch.equal(a[s][n], b[s][n]) for s in a for n in a[s]), name
        starts = {h["stage"]: h for h in reversed(finished.history) if "loss" in h}
        assert starts["easy"]["rewards/chosen"] == 0 == starts["own"]["rewards/chosen"]


def test_two_processes_go_through_the_stages_as_one():
    import os
    import subprocess
    import sys
    import textwrap

    program = """
    import sys
    from pathlib import Path
    import datasets
    from PIL import Image, ImageDraw
    from mfpo.model.small import small_vlm_for_tests
    from mfpo.model.vlm import lora
    from mfpo.train.config import MFPOConfig
    from mfpo.train.curriculum import train_curriculum
    from mfpo.train.presets import preset
    from mfpo.train.stages import Made, Stage

    def drawn(count, answer):
        rows = []
        for i in range(count):
            image = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(image).rectangle([16 * (i % 4), 16, 16 * (i % 4) + 15, 31], fill=("red", "blue")[i % 2])
            rows.append({"id": str(i), "image": image, "negative": Image.new("RGB", (64, 64), "black"),
                         "question": "which color is it ?", "chosen": "it is red .", "rejected": answer})
        return datasets.Dataset.from_list(rows)

    def made(model, processor):
        with open(Path(sys.argv[1]) / "calls", "a") as file:
            file.write("made\\n")
        return drawn(8, "there is no lamp .")

    def run(folder, batch, **peft):
        model, processor = small_vlm_for_tests()
        Path(folder).mkdir(parents=True, exist_ok=True)
        stages = [Stage("a", drawn(8, "there is no cup ."), objective=preset("dpo")),
                  Stage("b", drawn(8, "no ."), {"gradient_checkpointing": True}, reference="start"),
                  Stage("c", Made("made-1", made), {"precompute_ref_log_probs": True}, reference="start", start="previous")]
        config = MFPOConfig(
            output_dir="unused", bf16=False, use_cpu=True, report_to="none", disable_tqdm=True, route="tree", seed=3,
            per_device_train_batch_size=batch, learning_rate=1e-2, adam_epsilon=1e-3, num_train_epochs=2,
            save_strategy="no", gradient_checkpointing=False)
        train_curriculum(model, stages, config, Path(folder) / "run", processor=processor, peft_config=lora(model, r=4))
        return config.world_size

    if __name__ == "__main__":
        assert run(sys.argv[1], batch=2) == 2
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        program = textwrap.dedent(program)
        file.write_text(program)
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                  "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
                  str(file)]
        done = subprocess.run([*launch, f"{folder}/two"], capture_output=True, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        assert Path(folder, "two", "calls").read_text() == "made\n"  # by one of them
        names = {"__name__": "one_process"}
        exec(program.replace("sys.argv[1]", repr(f"{folder}/one")), names)
        assert names["run"](f"{folder}/one", batch=4) == 1
        one, two = saved(Path(folder) / "one" / "run"), saved(Path(folder) / "two" / "run")
        assert one.keys() == two.keys() == {"1-a", "2-b", "3-c"}
        for stage in one:
            assert max(((one[stage][n] - two[stage][n]).norm() / (1e-6 + one[stage][n].norm())).item()
                       for n in one[stage]) < 1e-3, stage


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
        (lambda: train_curriculum(model, [], settings(), "unused", processor=processor), "at least one"),
        (
            lambda: train_curriculum(model, [Stage("a", rows)] * 2, settings(), "unused", processor=processor),
            "its own name",
        ),
        (lambda: train_curriculum(model, [Stage("a", rows)], settings(), "unused"), "processor is missing"),
        (
            lambda: train_curriculum(
                model, [Stage("a", rows)], settings(), "unused", processor=processor,
                eval_rows={"held_out": rows.remove_columns("negative")},
            ),
            "held_out: there is no column negative, which objective 'mfpo' of stage a reads",
        ),
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
