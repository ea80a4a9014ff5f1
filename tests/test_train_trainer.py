# Exported from nbs/train/trainer.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.trainer import *  # noqa: F403

import tempfile
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image, ImageDraw

from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora
from mfpo.train.objectives import CHOSEN, NEGATIVE, REJECTED, preset


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
        k: changes.pop(k) for k in ("objective", "encoder", "eval_dataset", "callbacks", "ref_model")
        if not isinstance(changes.get(k, ""), str)
    }
    peft = {"peft_config": lora(model, r=4)} if lora_weights else {}
    return MFPOTrainer(
        model=model, args=settings(folder, **changes), train_dataset=rows or drawn_rows(8),
        processing_class=processor, **peft, **keep,
    )


def trained(trainer):
    """Trainable weights, by name."""
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def test_text_dpo_is_trl_s_loss_and_gradient():
    from trl import DPOConfig, DPOTrainer

    def talk(row):
        return {
            "prompt": [{"role": "user", "content": row["question"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }

    rows = drawn_rows(6)
    with tempfile.TemporaryDirectory() as folder:
        ours = small_trainer(folder, rows, objective="dpo")
        model, processor = small_vlm_for_tests()
        conversation = datasets.Dataset.from_list([talk(r) | {"image": r["image"]} for r in rows])
        plain = {
            k: v for k, v in settings(folder).to_dict().items()
            if k in ("output_dir", "bf16", "gradient_checkpointing", "use_cpu", "report_to", "seed")
        }
        theirs = DPOTrainer(
            model=model, args=DPOConfig(**plain), train_dataset=conversation, processing_class=processor,
            peft_config=lora(model, r=4),
        )
        results = []
        for trainer, data in ((ours, rows), (theirs, conversation)):
            generator = torch.Generator().manual_seed(0)
            for name, weight in trainer.model.named_parameters():
                if "lora_B" in name:  # a LoRA starts at zero, where the loss is log 2 whatever the code does
                    weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
            batch = trainer.data_collator([dict(data[i]) for i in range(6)])
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
            results.append((loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}))
    (loss, gradients), (expected, expected_gradients) = results
    assert abs(expected - 0.6931) > 1e-3 and abs(loss - expected) < 1e-5 * abs(expected)
    assert gradients.keys() == expected_gradients.keys() and len(gradients) > 0
    for name, gradient in expected_gradients.items():
        assert ((gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9), name


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

    RUNS = {"checkpointed": {"gradient_checkpointing": True}, "projector": {"projector": True}, "lasting": {"image_memory_mb": 8}}

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
    from transformers import TrainerCallback

    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    with tempfile.TemporaryDirectory() as folder:
        steps = dict(num_train_epochs=2, save_strategy="steps", save_steps=3)
        straight = small_trainer(Path(folder) / "a", **steps)
        straight.train()
        stopped = small_trainer(Path(folder) / "b", callbacks=[StopAt()], **steps)
        stopped.train()
        resumed = small_trainer(Path(folder) / "b", **steps)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == straight.state.global_step == 4
        weights = trained(straight)
        assert all(torch.equal(weights[n], p) for n, p in trained(resumed).items())


def test_evaluation_and_own_objectives_work():
    with tempfile.TemporaryDirectory() as folder:
        from mfpo.train.objectives import Objective, Term
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


def test_settings_can_come_from_a_command_line():
    from transformers import HfArgumentParser
    line = [
        "--output_dir", "unused", "--bf16", "false", "--use_cpu", "true",
        "--objective_weights", '{"image": 0, "text": 2}', "--eta", "0.5",
    ]
    (config,) = HfArgumentParser(MFPOConfig).parse_args_into_dataclasses(line)
    assert config.make_objective() == preset("mfpo", eta=0.5, weights={"image": 0, "text": 2})


def test_options_without_effect_are_refused():
    with tempfile.TemporaryDirectory() as folder:
        for changes, words in [
            ({"loss_type": ["ipo"]}, "loss_type"),
            ({"label_smoothing": 0.1}, "label_smoothing"),
            ({"beta": 0.0}, "beta=0.0"),
            ({"objective": "ppo"}, "'ppo' is unknown"),
            ({"route": "fast"}, "route='fast'"),
            ({"image_memory_mb": -1}, "image_memory_mb=-1"),
            ({"objective": "dpo", "eta": 1.0}, "eta=1.0"),
            ({"truncation": "left"}, "truncation='left'"),
            ({"objective_weights": {"picture": 1.0}}, "no term picture"),
            ({"reference_cache": " "}, "reference_cache is empty"),
        ]:
            with pytest.raises(ValueError, match=words):
                settings(folder, **changes)
        with pytest.raises(ValueError, match="compute_metrics"):
            model, processor = small_vlm_for_tests()
            MFPOTrainer(
                model=model, args=settings(folder), train_dataset=drawn_rows(2), processing_class=processor,
                compute_metrics=len,
            )
