# Exported from nbs/train/trainer.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.trainer import *  # noqa: F403

import tempfile
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import TrainerCallback

from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora
from mfpo.train.arms import CHOSEN, NEGATIVE, REJECTED
from mfpo.train.config import MFPOConfig
from mfpo.train.presets import preset


def drawn_rows(count, **changes):
    """Pictures of a square; the negative has it painted over."""
    rows = []
    for i in range(count):
        image = Image.new("RGB", (64, 64), "white")
        negative = image.copy()
        ImageDraw.Draw(image).rectangle([16 * (i % 4), 16, 16 * (i % 4) + 15, 31], fill=("red", "blue", "green")[i % 3])
        color = ("red", "blue", "green")[i % 3]
        rows.append({
            "id": f"row-{i}", "question": ["describe the image .", "which color is it ?"][i % 2],
            "image": image, "negative": negative, "chosen": f"it is {color} .",
            "rejected": "there is no cup on the table .", "note": "not for the model",
        } | changes)
    return datasets.Dataset.from_list(rows)


def settings(folder, **changes):
    plain = dict(
        output_dir=str(folder), bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        disable_tqdm=True, logging_steps=1, per_device_train_batch_size=4, per_device_eval_batch_size=4,
        learning_rate=1e-2, num_train_epochs=1, save_strategy="no", seed=3,
    )
    return MFPOConfig(**plain | changes)


def small_trainer(folder, rows=None, seed=0, lora_weights=True, **changes):
    model, processor = small_vlm_for_tests(seed)
    keep = {
        k: changes.pop(k)
        for k in ("objective", "encoder", "eval_dataset", "callbacks", "ref_model", "second_model", "compute_metrics")
        if not isinstance(changes.get(k, ""), str)
    }
    peft = {"peft_config": lora(model, r=4)} if lora_weights else {}
    return MFPOTrainer(
        model=model, args=settings(folder, **changes), train_dataset=rows or drawn_rows(8),
        processing_class=processor, **peft, **keep,
    )


class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


def trained(trainer):
    """Trainable weights, by name."""
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def straight_and_resumed(folder, **steps):
    """Two trainers of the same run in a folder: one went through, one was stopped and taken up again."""
    straight = small_trainer(Path(folder) / "a", **steps)
    straight.train()
    small_trainer(Path(folder) / "b", callbacks=[StopAt()], **steps).train()
    resumed = small_trainer(Path(folder) / "b", **steps)
    resumed.train(resume_from_checkpoint=True)
    return straight, resumed

import contextlib
import logging
import math

import numpy as np
import torch.nn.functional as F

from mfpo.model.layout import arm_inputs
from mfpo.model.vlm import save_vlm
from mfpo.train.collator import PreferenceCollator, RowEncoder
from mfpo.train.objectives import Objective
from mfpo.train.scoring import score_arms


def whole_logps(model, batch, arm):
    """log p of every token at each place of the arm's answer, row by row."""
    inputs, is_answer = arm_inputs(batch, [arm])
    logps = model(**inputs).logits.double().log_softmax(-1)
    return [logps[k][is_answer[k].nonzero()[:, 0] - 1] for k in range(len(logps))]


def full_rows(count):
    """`drawn_rows` with the columns that some presets read."""
    colors = ("red", "blue", "green")
    regions = [[{"keyword": colors[i % 3], "found": True, "box": [0, 16, 16, 32]}] for i in range(count)]
    rows = drawn_rows(count).add_column("caption", [i % 2 == 0 for i in range(count)])
    return rows.add_column("regions", regions)


def perturbed(trainer, scale=0.3):
    """A LoRA starts at zero; from here on policy and reference differ."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight.data = scale * torch.randn(weight.shape, generator=generator)
    return trainer


def step_of(trainer, count=4):
    """Loss and gradients of the first rows."""
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in range(count)]))
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def test_text_dpo_is_trl_s_loss_and_gradient():
    from trl import DPOConfig, DPOTrainer
    from mfpo.train.links import LINKS

    def talk(row):
        return {
            "prompt": [{"role": "user", "content": row["question"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }

    def loss_and_gradients(trainer, data):
        generator = torch.Generator().manual_seed(0)
        for name, weight in trainer.model.named_parameters():
            weight.grad = None
            if "lora_B" in name:  # a LoRA starts at zero, where the loss is log 2 whatever the code does
                weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
        loss = trainer.compute_loss(trainer.model, trainer.data_collator([dict(data[i]) for i in range(6)]))
        loss.backward()
        return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}

    rows = drawn_rows(6)
    conversation = datasets.Dataset.from_list([talk(r) | {"image": r["image"]} for r in rows])
    cases = [{"loss_type": kind, "label_smoothing": 0.1 if kind in ("robust", "exo_pair", "aot") else 0.0} for kind in (*LINKS, "sft")]
    cases += [
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
        {"loss_type": "discopop", "discopop_tau": 0.5}, {"loss_type": "ipo", "beta": 0.5}, {"loss_type": "sigmoid_norm", "beta": 2.0},
    ]
    known = ("output_dir", "bf16", "gradient_checkpointing", "use_cpu", "report_to", "seed")
    seen = set()
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            ours = small_trainer(folder, rows, objective="dpo", **case)
            model, processor = small_vlm_for_tests()
            plain = {k: v for k, v in settings(folder).to_dict().items() if k in known}
            theirs = DPOTrainer(
                model=model, args=DPOConfig(**plain | case), train_dataset=conversation, processing_class=processor,
                peft_config=lora(model, r=4),
            )
            (loss, gradients), (expected, wanted) = loss_and_gradients(ours, rows), loss_and_gradients(theirs, conversation)
        assert abs(loss - expected) < 1e-5 * max(abs(expected), 0.1), (case, loss, expected)
        assert gradients.keys() == wanted.keys() and len(gradients) > 0
        for name, gradient in wanted.items():
            assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-8, (case, name)
        seen.add(round(expected, 6))
    assert len(seen) > len(cases) - 3  # they are losses of different values, sigmoid's among them not log 2
    assert all(abs(value - 0.693147) > 1e-4 for value in seen)


def test_a_smoothed_sigmoid_is_conservative_dpo():
    import torch.nn.functional as F

    with tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(folder, drawn_rows(1), objective="dpo", label_smoothing=0.2)
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.data = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        loss = trainer.compute_loss(trainer.model, trainer.data_collator([dict(trainer.train_dataset[0])]))
    gap = torch.tensor(trainer._metrics["train"]["gap/text"][0])
    assert abs(gap) > 0.01 and abs(loss.item() - (-0.8 * F.logsigmoid(gap) - 0.2 * F.logsigmoid(-gap)).item()) < 1e-6


def test_training_starts_at_3_log_2_and_prefers_the_chosen():
    import math
    with tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(folder, drawn_rows(12), num_train_epochs=6)
        trainer.train()
    logs = [h for h in trainer.state.log_history if "loss" in h]
    assert abs(logs[0]["loss"] - 3 * math.log(2)) < 1e-4 and logs[-1]["loss"] < 1.5
    assert logs[-1]["gap/text"] > 0.5 and 0 <= logs[-1]["fairness"] <= 1


def test_policy_and_reference_get_the_same_pixels_and_nothing_is_scored_twice():
    with tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(folder, drawn_rows(4), route="plain")
        calls = []
        def watch(module, args, kwargs, output):
            active = any(not m.disable_adapters for m in trainer.model.modules() if hasattr(m, "disable_adapters"))
            calls.append((active, kwargs["pixel_values"].clone(), kwargs["input_ids"].clone()))
        trainer.model.get_base_model().register_forward_hook(watch, with_kwargs=True)
        trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
    (policy, pixels, ids), (reference, reference_pixels, reference_ids) = calls
    assert policy and not reference and torch.equal(pixels, reference_pixels) and torch.equal(ids, reference_ids)
    assert len(pixels) == 3 * 4  # three arms of four rows
    assert torch.equal(pixels[:4], pixels[4:8]) and not torch.equal(pixels[:4], pixels[8:])


def test_the_tower_runs_once_for_every_picture():
    for options, expected in (({}, [5, 5]), ({"image_memory_mb": 8}, [1, 1, 1, 1, 1]), ({"route": "plain"}, [12, 12, 12, 12])):
        with tempfile.TemporaryDirectory() as folder:
            trainer = small_trainer(folder, drawn_rows(4), **{"route": "tree"} | options)
            tower, calls = trainer.model.get_base_model().model.vision_tower, []
            tower.register_forward_pre_hook(lambda m, a, kw: calls.append(len(a[0] if a else kw["pixel_values"])), with_kwargs=True)
            rows = [trainer.train_dataset[i] for i in range(4)]
            losses = [trainer.compute_loss(trainer.model, trainer.data_collator(rows)) for _ in range(2)]
        assert calls == expected and losses[0].item() == losses[1].item()


def test_a_run_by_trees_is_the_run_by_rows_of_their_own():
    def final_weights(options, route):
        changed, torch_state = dict(options), torch.random.get_rng_state()
        projector, whole = changed.pop("projector", False), changed.pop("whole", False)
        with tempfile.TemporaryDirectory() as folder:
            model, processor = small_vlm_for_tests()
            if whole:
                model.model.vision_tower.requires_grad_(whole == "with tower")
            trainer = MFPOTrainer(
                model=model, ref_model=small_vlm_for_tests()[0] if whole else None, train_dataset=drawn_rows(8),
                processing_class=processor, args=settings(folder, route=route, num_train_epochs=2, adam_epsilon=1e-3, **changed),
                peft_config=None if whole else lora(model, r=4, projector=projector),
            )
            trainer.train()
        torch.random.set_rng_state(torch_state)
        return trained(trainer), [h["loss"] for h in trainer.state.log_history if "loss" in h]

    for options in (
        {}, {"objective": "mdpo"}, {"projector": True}, {"whole": True, "learning_rate": 1e-3}, {"whole": "with tower", "learning_rate": 1e-3},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, {"precompute_ref_log_probs": True},
        {"image_memory_mb": 8}, {"objective": "sft"},
    ):
        (tree, tree_losses), (plain, plain_losses) = (final_weights(options, route) for route in ("tree", "plain"))
        assert tree.keys() == plain.keys() and len(tree) > 0, options
        assert max(abs(t - p) for t, p in zip(tree_losses, plain_losses, strict=True)) < 1e-4, options
        distance = max(((tree[n] - plain[n]).norm() / (1e-6 + plain[n].norm())).item() for n in tree)
        assert distance < 1e-3, (options, distance)


def test_two_processes_train_as_one():
    import os
    import subprocess
    import sys
    import textwrap

    program = """
    import sys
    import datasets
    from PIL import Image, ImageDraw
    from mfpo.model.small import small_vlm_for_tests
    from mfpo.model.vlm import lora
    from mfpo.train.trainer import MFPOConfig, MFPOTrainer

    RUNS = {"checkpointed": {"gradient_checkpointing": True}, "projector": {"projector": True}, "lasting": {"image_memory_mb": 8},
            "divergence": {"objective": "chip", "gradient_checkpointing": True}, "guided": {"objective": "vdpo"},
            "own": {"objective": "povid_stage2", "precompute_ref_log_probs": True},
            "own_each": {"objective": "povid_stage2", "objective_settings": {"released": True}}, "balanced": {"balance": "gap"}}

    def run(folder, name, batch):
        options = dict(RUNS[name])
        rows = []
        for i in range(8):
            image = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(image).rectangle([16 * (i % 4), 16, 16 * (i % 4) + 15, 31], fill=("red", "blue")[i % 2])
            rows.append({"id": str(i), "image": image, "negative": Image.new("RGB", (64, 64), "black"),
                         "question": ["describe the image .", "which color is it ?"][i % 2],
                         "chosen": "it is red ." if i % 2 == 0 else "the table is blue and white .", "rejected": "there is no cup ."})
        model, processor = small_vlm_for_tests()
        peft = lora(model, r=4, projector=options.pop("projector", False))
        args = MFPOConfig(
            output_dir=f"{folder}/{name}", bf16=False, use_cpu=True, report_to="none", disable_tqdm=True, logging_steps=1,
            per_device_train_batch_size=batch, learning_rate=1e-2, adam_epsilon=1e-3, num_train_epochs=2, save_strategy="no", seed=3,
            route="tree", **{"gradient_checkpointing": False, **options})
        trainer = MFPOTrainer(model=model, args=args, train_dataset=datasets.Dataset.from_list(rows),
                              processing_class=processor, peft_config=peft)
        trainer.train()
        trainer.save_model(f"{folder}/{name}/weights")
        return trainer.accelerator.num_processes

    if __name__ == "__main__":
        for name in RUNS:
            assert run(sys.argv[1], name, batch=2) == 2
    """
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        program = textwrap.dedent(program)
        file.write_text(program)
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(file), f"{folder}/two"]
        done = subprocess.run(launch, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        names = {"__name__": "one_process"}
        exec(program, names)
        for name in names["RUNS"]:
            assert names["run"](f"{folder}/one", name, batch=4) == 1
            one, two = (load_file(f"{folder}/{n}/{name}/weights/adapter_model.safetensors") for n in ("one", "two"))
            assert one.keys() == two.keys()
            assert max(((one[n] - two[n]).norm() / (1e-6 + one[n].norm())).item() for n in one) < 1e-3, name


def test_only_the_adapter_learns_and_without_it_the_model_is_the_reference():
    with tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(folder)
        base = {n: p.clone() for n, p in trainer.model.named_parameters() if "lora" not in n}
        start = trained(trainer)
        trainer.train()
        assert all(torch.equal(base[n], p) for n, p in trainer.model.named_parameters() if n in base)
        assert all("lora" in n for n in start) and any(not torch.equal(start[n], p) for n, p in trained(trainer).items())


def test_precomputed_reference_gives_the_same_run():
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for early in (False, True):
            trainer = small_trainer(folder, num_train_epochs=2, precompute_ref_log_probs=early, eval_dataset=drawn_rows(3))
            trainer.train()
            assert trainer.args.precompute_ref_log_probs == early and (len(trainer.data_collator.reference) == 8) == early
            runs.append((trainer.state.log_history[-2]["loss"], trainer.evaluate()["eval_gap/text"], trained(trainer)))
        (loss, gap, weights), (early_loss, early_gap, early_weights) = runs
        # the reference is scored in other batches, so float32 rounding differs
        assert abs(loss - early_loss) < 1e-4 and abs(gap - early_gap) < 1e-4
        assert all(torch.allclose(weights[n], early_weights[n], atol=2e-3) for n in weights)


def test_a_run_with_a_reference_file_is_the_run_that_scores_for_itself():
    from mfpo.model.reference import ReferenceFileError, read_reference
    with tempfile.TemporaryDirectory() as folder:
        file, runs = str(Path(folder) / "reference.parquet"), []
        options = dict(num_train_epochs=2, eval_dataset=drawn_rows(10).select([8, 9]))
        for settings_of_run in ({"precompute_ref_log_probs": True}, {"reference_cache": file}, {"reference_cache": file}):
            trainer = small_trainer(Path(folder) / "run", **options, **settings_of_run)
            assert trainer.args.precompute_ref_log_probs and len(trainer.data_collator.reference) == 10
            trainer.train()
            losses = [h["loss"] for h in trainer.state.log_history if "loss" in h]
            runs.append((losses, trainer.evaluate()["eval_gap/text"], trained(trainer)))
        assert len(read_reference(file).rows) == 10
        for losses, gap, weights in runs[1:]:  # in the same bits: scored into the file, and read from it
            assert losses == runs[0][0] and gap == runs[0][1]
            assert all(torch.equal(weight, runs[0][2][name]) for name, weight in weights.items())
        # DPO reads two of the three columns; SFT has no reference, and asks for no file
        assert len(small_trainer(folder, objective="dpo", reference_cache=file).data_collator.reference) == 8
        sft = small_trainer(folder, objective="sft", reference_cache=str(Path(folder) / "none.parquet"))
        assert sft.data_collator.reference == {} and not (Path(folder) / "none.parquet").exists()
        for changes, words in (
            ({"seed": 1}, "model.weights.lm_head"), ({"max_length": 512}, "max_length: 1024 there, 512 here"),
            ({"rows": drawn_rows(12)}, r"does not hold 2 of 12 rows: 'row-10' \(unknown\)"),
            ({"bf16": True}, "autocast: None there, bfloat16 here"),
        ):
            with pytest.raises(ReferenceFileError, match=words):
                small_trainer(folder, reference_cache=file, **changes)


def test_full_fine_tuning_reads_the_file_of_its_reference():
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "reference.parquet")
        tables = []
        for changes in ({}, {"lora_weights": False, "ref_model": small_vlm_for_tests()[0]}):
            trainer = small_trainer(folder, reference_cache=file, **changes)
            tables.append(dict(trainer.data_collator.reference))
        assert tables[0] == tables[1] and len(tables[0]) == 8


def test_a_precomputed_reference_is_in_the_precision_of_training():
    with tempfile.TemporaryDirectory() as folder:
        losses = []
        for early in (False, True):
            trainer = small_trainer(folder, bf16=True, precompute_ref_log_probs=early, max_steps=1)
            trainer.train()
            losses.append(next(h["loss"] for h in trainer.state.log_history if "loss" in h))
        # an adapter starts at zero: where policy and reference see the same batches, every reward is exactly zero
        assert losses[0] == losses[1] == pytest.approx(3 * 0.693147, abs=1e-6)


def test_an_adapter_to_go_on_from_is_its_own_reference():
    from peft import get_peft_model
    with tempfile.TemporaryDirectory() as folder:
        model, processor = small_vlm_for_tests()
        model = get_peft_model(model, lora(model, r=4))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(generator=torch.Generator().manual_seed(0))
        trainer = MFPOTrainer(model=model, args=settings(folder), train_dataset=drawn_rows(4), processing_class=processor)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        assert abs(trainer.compute_loss(trainer.model, batch).item() - 3 * 0.693147) < 1e-5


def test_full_fine_tuning_takes_a_second_model():
    with tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(folder, lora_weights=False, ref_model=small_vlm_for_tests(0)[0], learning_rate=1e-3)
        trainer.train()
        first = next(h for h in trainer.state.log_history if "loss" in h)
        assert abs(first["loss"] - 3 * 0.693147) < 1e-4 and trainer.evaluate(drawn_rows(4))["eval_gap/text"] > 0


def test_sft_asks_no_reference():
    with tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(folder, objective="sft", route="tree")  # `auto` would try both routes first
        calls = []
        trainer.model.get_base_model().register_forward_hook(lambda *a: calls.append(1))
        trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
        assert len(calls) == 1


def test_accumulated_gradients_are_those_of_the_whole_batch():
    with tempfile.TemporaryDirectory() as folder:
        whole = small_trainer(folder, max_steps=1, per_device_train_batch_size=8)
        parts = small_trainer(folder, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=4)
        for trainer in (whole, parts):
            trainer.train()
        grad = [next(h["grad_norm"] for h in t.state.log_history if "grad_norm" in h) for t in (whole, parts)]
        losses = [next(h["loss"] for h in t.state.log_history if "loss" in h) for t in (whole, parts)]
        assert abs(grad[0] - grad[1]) < 1e-4 * grad[0] and abs(losses[0] - losses[1]) < 1e-5


def test_a_resumed_run_ends_in_the_same_bits():
    with tempfile.TemporaryDirectory() as folder:
        steps = dict(num_train_epochs=2, save_strategy="steps", save_steps=3)
        straight, resumed = straight_and_resumed(folder, **steps)
        assert resumed.state.global_step == straight.state.global_step == 4
        weights = trained(straight)
        assert all(torch.equal(weights[n], p) for n, p in trained(resumed).items())


def test_evaluation_and_own_objectives_work():
    with tempfile.TemporaryDirectory() as folder:
        from mfpo.train.objectives import Objective
        from mfpo.train.terms import Term
        image_only = Objective((Term(CHOSEN, NEGATIVE, name="image"),), name="image_only")
        trainer = small_trainer(folder, objective=image_only, eval_dataset={"near": drawn_rows(4), "far": drawn_rows(2)})
        scores = trainer.evaluate()
    assert abs(scores["eval_near_loss"] - 0.6931) < 1e-4 and "eval_far_loss" in scores
    assert trainer.objective.arms == (CHOSEN, NEGATIVE) and "rejected" not in trainer.train_dataset.column_names


def test_rows_that_cannot_be_trained_on_are_refused_before_training():
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(ValueError, match="'row-0', chosen: prompt of .* exceed max_length=20"):
            small_trainer(folder, max_length=20)
        with pytest.raises(ValueError, match="'row-0': column negative is missing"):
            small_trainer(folder, drawn_rows(4).remove_columns("negative"))
        assert small_trainer(folder, drawn_rows(4).remove_columns("negative"), objective="dpo").objective.name == "dpo"


def test_compute_metrics_is_refused():
    with tempfile.TemporaryDirectory() as folder, pytest.raises(ValueError, match="compute_metrics needs logits"):
        small_trainer(folder, compute_metrics=len)


def test_every_preset_is_the_same_by_every_way():
    from mfpo.train.methods import PRESETS

    AT_START = {
        "dpo": 1, "margin": 1, "dpo_margin": 2, "mdpo": 3, "mfpo": 3, "rdpo": 2, "rlhfv": 1, "povid_stage1": 1, "povid_stage2": 1,
        "chip": 5, "mrpo": 1, "mfpo_objects": 3, "mfpo_mirror": 4,
    }  # times log 2
    cases = [(name, {}) for name in PRESETS]
    cases += [("chip", {"released": True}), ("povid_stage2", {"released": True}), ("rdpo", {"released": True}), ("rlhfv", {"released": True}),
              ("vdpo", {"by": "reference"}), ("vdpo", {"contrast": True}), ("vdpo", {"diverged": True}), ("mrpo", {"crossed": True})]
    for name, own in cases:
        objective = preset(name, **own)
        second = {"second_model": small_vlm_for_tests()[0]} if not isinstance(objective.reference, str) else {}
        with tempfile.TemporaryDirectory() as folder:
            trainer = small_trainer(folder, full_rows(4), objective=objective, precompute_ref_log_probs=True, **second)
            start, results = step_of(trainer)[0], {}
            perturbed(trainer)
            for cached in (True, False):
                assert bool(trainer.data_collator.reference) == (cached and bool(objective.reference_readings))
                for route in ("plain", "tree"):
                    trainer.args.route = route
                    results[cached, route] = step_of(trainer)
                trainer.data_collator.reference = {}
        if name in AT_START and not own:
            assert abs(start - AT_START[name] * math.log(2)) < 1e-4, (name, start)
        if name == "adavip":
            assert abs(start - math.log(3)) < 1e-4
        expected, gradients = results.pop((False, "plain"))
        assert gradients and sum(g.norm() for g in gradients.values()) > 1e-3, name
        for way, (loss, others) in results.items():
            assert abs(loss - expected) < 1e-4 * max(1, abs(expected)), (name, own, way, loss, expected)
            assert others.keys() == gradients.keys()
            for key, gradient in gradients.items():
                assert (others[key] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, (name, own, way, key)


def test_divergence_of_an_adapter_by_hand():
    objective = Objective((preset("dpo").terms[0], preset("chip").terms[-1]), name="text and divergence")
    assert [term.name for term in objective.terms] == ["text", "token"]
    for route in ("plain", "tree"):
        with tempfile.TemporaryDirectory() as folder:
            trainer = perturbed(small_trainer(folder, full_rows(4), objective=objective, route=route))
            batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
            loss = trainer.compute_loss(trainer.model, batch)
            with torch.no_grad():
                ours = {arm: whole_logps(trainer.model, batch, arm) for arm in (CHOSEN, REJECTED)}
                with trainer.model.disable_adapter():
                    theirs = {arm: whole_logps(trainer.model, batch, arm) for arm in (CHOSEN, REJECTED)}
        divergence = {arm: torch.stack([(p.exp() * (p - q)).sum() for p, q in zip(theirs[arm], ours[arm])]) for arm in ours}
        for arm, name in ((CHOSEN, "kl/chosen"), (REJECTED, "kl/rejected")):
            assert trainer._metrics["train"][name] == [pytest.approx(divergence[arm].mean().item(), rel=1e-5)]
        ids = {arm: [i[m.bool()] for i, m in zip(*batch["answers"][arm.answer].values())] for arm in ours}
        sums = {arm: torch.stack([(q - p).gather(1, i[:, None]).sum() for p, q, i in zip(theirs[arm], ours[arm], ids[arm])]) for arm in ours}
        text = -F.logsigmoid(0.1 * (sums[CHOSEN] - sums[REJECTED])).mean()
        token = 0.1 * 0.1 * (divergence[REJECTED] - divergence[CHOSEN]).mean()  # gamma * beta * (KL(y_l) - KL(y_w))
        assert abs(loss.item() - (text + token).item()) < 1e-5


def test_half_precision_starts_where_full_precision_does():
    for name, times in (("chip", 5), ("povid_stage2", 1), ("mfpo_objects", 3)):
        for early in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                trainer = small_trainer(folder, full_rows(4), objective=name, bf16=True, precompute_ref_log_probs=early, max_steps=1)
                trainer.train()
            logs = trainer.state.log_history[0]
            assert abs(logs["loss"] - times * math.log(2)) < 1e-4 and logs["displaced"] == 0, (name, early, logs)


def test_own_tokens_of_three_kinds():
    from mfpo.train.own import with_own_tokens

    rows, model = drawn_rows(4), small_vlm_for_tests()[0]
    with tempfile.TemporaryDirectory() as folder:
        fixed = small_trainer(folder, rows, objective="povid_stage2", eval_dataset={"near": drawn_rows(2)})
        expected = with_own_tokens(rows, model, fixed.data_collator.encoder, batch_size=4)["own_tokens"]
        assert fixed.train_dataset["own_tokens"] == expected
        assert fixed.eval_dataset["near"]["own_tokens"] == expected[:2]
        column = [[9] * len(tokens) for tokens in expected]
        given = small_trainer(folder, rows.add_column("own_tokens", column), objective="povid_stage2")
        assert given.train_dataset["own_tokens"] == column
        start = step_of(fixed)[0]
        perturbed(fixed)
        assert abs(start - math.log(2)) < 1e-5 and fixed.evaluate(rows)["eval_loss"] == pytest.approx(step_of(fixed)[0], abs=1e-5)
        with pytest.raises(ValueError, match="'row-1': column own_tokens has 2 token ids, and the answer chosen has"):
            small_trainer(folder, rows.add_column("own_tokens", [expected[0], [1, 2], *expected[2:]]), objective="povid_stage2")

        def proposed(trainer, adapter):
            """By whole logits: the likeliest tokens on the negative picture, with the adapter on or off."""
            batch = PreferenceCollator(trainer.data_collator.encoder, (CHOSEN, NEGATIVE))([dict(row) for row in rows])
            with torch.no_grad(), contextlib.nullcontext() if adapter else trainer.model.disable_adapter():
                return batch, [logps.argmax(-1) for logps in whole_logps(trainer.model, batch, NEGATIVE)]

        def own_reward(trainer, tokens_of_policy, tokens_of_reference, batch):
            with torch.no_grad():
                ours = whole_logps(trainer.model, batch, CHOSEN)
                with trainer.model.disable_adapter():
                    theirs = whole_logps(trainer.model, batch, CHOSEN)
            parts = [q.gather(1, a[:, None]).sum() - p.gather(1, b[:, None]).sum()
                     for p, q, a, b in zip(theirs, ours, tokens_of_policy, tokens_of_reference)]
            return 0.1 * torch.stack(parts).mean().item()

        for whose in ("reference", "policy", "each"):
            objective = Objective(preset("povid_stage2").terms, own=whose)
            trainer = perturbed(small_trainer(folder, rows, objective=objective, precompute_ref_log_probs=True), scale=1.0)
            held = next(iter(trainer.data_collator.reference.values()))
            assert len(held) == (3 if whose == "reference" else 2)  # what moves is in no table
            step_of(trainer)
            (batch, of_policy), (_, of_reference) = proposed(trainer, True), proposed(trainer, False)
            assert any((a != b).any() for a, b in zip(of_policy, of_reference))
            pair = {"reference": (of_reference,) * 2, "policy": (of_policy,) * 2, "each": (of_policy, of_reference)}[whose]
            reward = trainer._metrics["train"]["rewards/chosen_original_own"]
            assert reward == [pytest.approx(own_reward(trainer, *pair, batch), abs=1e-4)], whose


def test_a_second_reference_from_a_file_or_a_model():
    from mfpo.train.reference import cached_reference

    rows = drawn_rows(6)
    with tempfile.TemporaryDirectory() as folder:
        file, other = str(Path(folder) / "second.parquet"), small_vlm_for_tests(1)[0]
        plain = collator_of(preset("dpo"), RowEncoder(small_vlm_for_tests()[1]), 1024)
        table = cached_reference(other, rows, plain, file, batch_size=3)
        results = []
        for changes in ({"second_reference": file}, {"second_model": other}, {"second_reference": file, "precompute_ref_log_probs": True}):
            trainer = perturbed(small_trainer(folder, rows, objective="mrpo", eval_dataset=rows.select([0]), **changes))
            results.append(step_of(trainer))
            trainer.evaluate()
        assert all(abs(loss - results[0][0]) < 1e-5 for loss, _ in results)
        # by hand: 1 / ref = alpha / first + (1 - alpha) / second, the extra model first, clipped to the initial one
        first, initial = [], []
        for model, out in ((other, first), (small_vlm_for_tests()[0], initial)):
            out += score_arms(model, [dict(r) for r in rows.select(range(4))], plain, (CHOSEN, REJECTED), batch_size=4).values()
        policy = score_arms(trainer.model, [dict(r) for r in rows.select(range(4))], plain, (CHOSEN, REJECTED), batch_size=4)
        size = [np.abs(a + b) / 2 for a, b in zip(first, initial)]
        share = size[0] / (size[0] + size[1])
        clipped = [np.clip(a, b * (1 + 0.1 * s), b * (1 - 0.1 * s)) for a, b, s in zip(first, initial, (share, 1 - share))]
        gaps = [np.abs(one[0] - one[1]) for one in (first, initial)]
        alpha = gaps[0] / (gaps[0] + gaps[1])
        mixed = [-np.log(alpha * np.exp(-a + b) + (1 - alpha)) + b for a, b in zip(clipped, initial)]
        margin = 0.1 * ((policy[CHOSEN] - mixed[0]) - (policy[REJECTED] - mixed[1]))
        assert abs(results[0][0] - np.log1p(np.exp(-margin)).mean()) < 1e-5
        # what cannot be
        for changes, words in (
            ({"objective": "mrpo"}, "mixes two references, and no second one is given; give either second_reference"),
            ({"objective": "dpo", "second_reference": file}, "'dpo' has no second reference, and second_reference is given; leave"),
            ({"objective": "mrpo", "second_reference": file, "second_model": other}, "second_reference and second_model is given"),
            ({"objective": "mrpo", "second_reference": file, "rows": drawn_rows(7)}, r"second.parquet does not hold 1 of 7 rows: 'row-6'"),
            ({"objective": "mrpo", "second_reference": file, "max_length": 40, "truncation": "answer"}, "answers end elsewhere"),
            ({"objective": "mrpo", "second_reference": file + "x"}, "no such file"),
            ({"objective": "mrpo", "second_model": other, "ref_model": other, "lora_weights": False}, "second_model is the policy, or"),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=words):
                small_trainer(folder, **{"rows": rows} | changes)
        trainer = small_trainer(folder, rows, objective="mrpo", second_reference=file)
        with pytest.raises(ValueError, match="rows row-6 are not in the file of the second reference"):
            trainer.evaluate(drawn_rows(7).select([6]))


def test_without_a_reference_none_is_made():
    from trl.trainer import dpo_trainer
    load = dpo_trainer.create_model_from_path
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(Exception):  # this model has no name under which TRL could load it once more
            small_trainer(folder, lora_weights=False)
        for name in ("sft", "simpo"):
            trainer = small_trainer(folder, objective=name, lora_weights=False, learning_rate=1e-3)
            assert trainer.ref_model is None and dpo_trainer.create_model_from_path is load
            trainer.train()
            assert "displaced" not in trainer.state.log_history[0]
        path = Path(folder) / "model"
        save_vlm(*small_vlm_for_tests(), path)
        named = MFPOTrainer(model=str(path), args=settings(folder, objective="simpo"), train_dataset=drawn_rows(2))
        assert named.ref_model is None and named.model is not None
        with pytest.raises(ValueError, match="sync_ref_model=True: objective 'sft' has no reference"):
            small_trainer(folder, objective="sft", sync_ref_model=True, lora_weights=False)


def test_names_in_the_log():
    PAIR = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "displaced"}

    def of_terms(*names):
        return {f"{kind}/{name}" for kind in ("loss", "gap", "accuracy") for name in names}

    EXPECTED = {
        "dpo": of_terms("text") | PAIR,
        "mfpo": of_terms("text", "image", "margin") | PAIR | {"rewards/negative", "fairness"},
        "chip": of_terms("text", "image", "segment") | PAIR | {
            "loss/token", "rewards/negative", "fairness", "rewards/chosen_original_changed", "rewards/rejected_original_changed",
            "kl/chosen", "kl/rejected"},
        "adavip": of_terms("adaptive") | PAIR | {"gap/text", "gap/image", "fairness", "rewards/negative"},
        "povid_stage2": of_terms("text", "own") | PAIR | {"rewards/chosen_original_own"},
        "simpo": of_terms("text") | PAIR - {"displaced"},
        "sft": {"loss/sft"},
    }
    balance = {"balance/weight_text", "balance/weight_image"}
    cases = [(name, {}, names) for name, names in EXPECTED.items()]
    cases += [("mfpo", {"balance": kind}, EXPECTED["mfpo"] | balance | {f"balance/{what}_text", f"balance/{what}_image"})
              for kind, what in (("gradient", "norm"), ("gap", "gap"))]
    for name, changes, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            trainer = small_trainer(folder, full_rows(4), objective=name, max_steps=1, eval_dataset=full_rows(2), **changes)
            trainer.train()
            trainer.evaluate()
        train, evaluated = (
            {key.removeprefix("eval_") for key in entry if "/" in key or key.endswith(("fairness", "displaced"))}
            for entry in (trainer.state.log_history[0], trainer.state.log_history[-1])
        )
        assert train == evaluated == expected, (name, changes, train ^ expected)


def test_chosen_answers_that_lose_likelihood_are_told_once():
    class Heard(logging.Handler):
        def __init__(self):
            super().__init__()
            self.lines = []
        def emit(self, record):
            if "chosen answers" in record.getMessage():
                self.lines.append(record.getMessage())

    heard = Heard()
    logging.getLogger().addHandler(heard)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = small_trainer(folder, drawn_rows(4), objective="dpo", learning_rate=0.0, num_train_epochs=4)
            trainer.train()
            assert heard.lines == [] and {h["displaced"] for h in trainer.state.log_history if "displaced" in h} == {0.0}
            for seed in range(20):  # a direction in which both answers fall, the rejected one further
                for name, weight in trainer.model.named_parameters():
                    if "lora_B" in name:
                        weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
                trainer._metrics["train"].clear()
                step_of(trainer)
                means = {name: values[0] for name, values in trainer._metrics["train"].items()}
                if means["rewards/chosen"] < 0 < means["rewards/margins"]:
                    break
            else:
                raise AssertionError("no such direction")
            trainer._metrics["train"].clear()
            trainer.train()  # at a rate of 0
    finally:
        logging.getLogger().removeHandler(heard)
    shown = [h for h in trainer.state.log_history if "displaced" in h]
    assert shown[-1]["displaced"] == means["displaced"] > 0 and len(heard.lines) == 1
    assert f"mean reward is {means['rewards/chosen']:.3g} (below zero in {means['displaced']:.0%} of the rows)" in heard.lines[0]
    assert "Add a margin term" in heard.lines[0]


def test_a_balanced_run_goes_on_with_its_weights():
    for changes in ({"balance": "gradient", "balance_every": 1}, {"balance": "gap"}):
        with tempfile.TemporaryDirectory() as folder:
            steps = dict(num_train_epochs=2, save_strategy="steps", save_steps=3, **changes)
            straight, resumed = straight_and_resumed(folder, **steps)
            weights = straight.balancer.weights
            assert resumed.balancer.weights == weights and weights["margin"] == 1.0 and weights["image"] != 1.0
            assert all(torch.equal(p, dict(resumed.model.named_parameters())[n]) for n, p in trained(straight).items())
            losses = [h for h in straight.state.log_history if "loss" in h]
            assert losses[-1]["balance/weight_image"] == pytest.approx(weights["image"])
            other = small_trainer(Path(folder) / "b", **{k: v for k, v in steps.items() if "balance" not in k})
            other.train(resume_from_checkpoint=True)
            plain = small_trainer(Path(folder) / "c", num_train_epochs=2, save_strategy="steps", save_steps=3)
            plain.train()
            with pytest.raises(ValueError, match="balance.json is missing: the checkpoint was made without balance"):
                small_trainer(Path(folder) / "c", **steps).train(resume_from_checkpoint=True)
