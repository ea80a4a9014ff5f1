"""The installed command as a user runs it: photographs to rows to an adapter to figures, killed and taken up, on two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from safetensors.numpy import load_file

from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import save_vlm

ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
# `accelerate launch` itself; on a machine without GPUs, --multi_gpu means several CPU processes (--cpu would mean one).
TWO_PROCESSES = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "mfpo.cli")
PICTURES = {"cat": ("chelsea", [60, 10, 430, 290]), "cup": ("coffee", [170, 60, 430, 330])}


def mfpo(*words, launcher=("-m", "mfpo.cli"), check=True, folder=None):
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, words)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=folder,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs with hand-written rows, a model folder, and the rows with negatives that `mfpo negatives` makes."""
    folder = tmp_path_factory.mktemp("command_line")
    (folder / "photos").mkdir()
    rows = []
    for name, (picture, box) in PICTURES.items():
        Image.fromarray(getattr(skimage.data, picture)()).save(folder / "photos" / f"{name}.png")
        for k, (chosen, rejected) in enumerate(
            [
                ("a {}", "a {} and a dog"),
                ("there is a {}", "there is a {} on a chair"),
                ("no, a {}", "no, a lamp"),
                ("one {}", "one car"),
            ]
        ):
            rows.append(
                {
                    "id": f"{name}-{k}",
                    "image": f"{name}.png",
                    "question": "what is it ?",
                    "chosen": chosen.format(name),
                    "rejected": rejected.format(name),
                    "objects": [{"name": name, "box": box}],
                }
            )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_vlm(*small_vlm_for_tests(), folder / "model")
    done = mfpo(
        "negatives",
        "--rows",
        "rows.jsonl",
        "--images",
        "photos",
        "--output",
        "rows.parquet",
        "--schedule",
        "linear",
        folder=folder,
    )
    assert "8 rows (8 regions)" in done.stderr
    # Flags in a file, as --config takes them; lora_dropout makes the result depend on the state of the random numbers.
    (folder / "train.yaml").write_text(
        "dataset_name: rows.parquet\nmodel_name_or_path: model\nuse_peft: true\nlora_r: 4\nlora_dropout: 0.1\nlearning_rate: 1e-3\n"
        "per_device_train_batch_size: 2\nnum_train_epochs: 10\nsave_steps: 4\nlogging_steps: 4\nuse_cpu: true\n"
    )
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder):
    mfpo("train", "--config", "train.yaml", "--output_dir", "whole", folder=folder)
    return load_file(folder / "whole" / "adapter_model.safetensors")


def test_a_killed_run_goes_on_to_the_same_adapter(folder, uninterrupted):
    command = [sys.executable, "-m", "mfpo.cli", "train", "--config", "train.yaml", "--output_dir", "killed"]
    with open(folder / "killed.log", "wb") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, cwd=folder, stdout=log, stderr=log)
        while process.poll() is None and not list(folder.glob("killed/*/checkpoints/checkpoint-*/trainer_state.json")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "killed" / "adapter_model.safetensors").exists(), "it was killed before its end"
    mfpo(*command[3:], folder=folder)
    resumed = load_file(folder / "killed" / "adapter_model.safetensors")
    assert resumed.keys() == uninterrupted.keys() and any(
        np.abs(w).max() > 0 for n, w in resumed.items() if "lora_B" in n
    )
    for name, weight in uninterrupted.items():
        np.testing.assert_array_equal(resumed[name], weight, err_msg=name)


def evaluated(folder, output, **how):
    """(evaluation.json, ids in rows.jsonl, standard output)."""
    done = mfpo(
        "evaluate",
        "--dataset_name",
        "rows.parquet",
        "--model_name_or_path",
        "model",
        "--adapter",
        "whole",
        "--output_dir",
        output,
        "--max_new_tokens",
        "5",
        "--resamples",
        "200",
        "--use_cpu",
        folder=folder,
        **how,
    )
    ids = [json.loads(line)["id"] for line in (folder / output / "rows.jsonl").read_text().splitlines()]
    return json.loads((folder / output / "evaluation.json").read_text()), ids, done.stdout


def test_the_adapter_is_evaluated_alike_on_one_and_two_processes(folder, uninterrupted):
    one, ids, said = evaluated(folder, "scores_one")
    assert one["count"] == 8 and one["text_gap"]["estimate"] > 0 and "reward gap, answers" in said
    two, same_ids, _ = evaluated(folder, "scores_two", launcher=TWO_PROCESSES)
    assert ids == same_ids and two["text_gap"]["estimate"] == pytest.approx(one["text_gap"]["estimate"], abs=1e-5)


def test_two_processes_train_as_one(folder):
    # Two processes with one row each take the steps of one process with two rows; without dropout they see the same loss.
    same = ("--config", "train.yaml", "--lora_dropout", "0.0", "--num_train_epochs", "2")
    mfpo(
        "train",
        *same,
        "--output_dir",
        "two",
        "--per_device_train_batch_size",
        "1",
        launcher=TWO_PROCESSES,
        folder=folder,
    )
    assert json.loads((folder / "two" / "curriculum.json").read_text())["processes"] == 2
    mfpo("train", *same, "--output_dir", "one", folder=folder)
    two, one = (load_file(folder / run / "adapter_model.safetensors") for run in ("two", "one"))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-4, err_msg=name)


def test_bad_rows_end_with_1_and_one_report(folder):
    (folder / "bad.jsonl").write_text(
        '{"id": "a", "image": "../secret.png", "question": "q", "chosen": "x", "rejected": "x"}\n'
    )
    done = mfpo(
        "train",
        "--dataset_name",
        "bad.jsonl",
        "--images",
        "photos",
        "--model_name_or_path",
        "model",
        "--objective",
        "dpo",
        "--output_dir",
        "never",
        check=False,
        folder=folder,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and not (folder / "never").exists()
    assert "leads out of" in done.stderr and "are the same text" in done.stderr


@pytest.fixture(scope="module")
def questions(folder):
    """POPE's questions about the photographs, in the published form, each asked often enough to be cut off in."""
    lines = [
        {"question_id": k, "image": f"{name}.png", "text": f"is there a {thing} , {k} ?", "label": label}
        for k, (name, thing, label) in enumerate([("cat", "cat", "yes"), ("cat", "dog", "no"), ("cup", "cup", "yes"), ("cup", "lamp", "no")] * 10)
    ]
    (folder / "pope").mkdir()
    (folder / "pope" / "coco_pope_random.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["evaluate", "--benchmark", "pope", "--data", "pope", "--images", "photos", "--model_name_or_path", "model", "--use_cpu",
            "--per_device_eval_batch_size", "3", "--max_new_tokens", "6", "--resamples", "50", "--output_dir"]


def benchmark_scores(output):
    record = json.loads((output / "scores.json").read_text())
    return (output / "answers.jsonl").read_bytes(), record["metrics"], record["count"]


def test_a_benchmark_is_the_same_on_one_and_two_processes_and_after_a_kill(folder, questions):
    mfpo(*questions, "asked_one", folder=folder)
    expected = benchmark_scores(folder / "asked_one")
    assert expected[2] == 40
    mfpo(*questions, "asked_two", launcher=TWO_PROCESSES, folder=folder)
    assert benchmark_scores(folder / "asked_two") == expected

    journal = folder / "asked_killed" / "answers.journal"
    run = subprocess.Popen(
        [sys.executable, "-m", "mfpo.cli", *questions, "asked_killed"], cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 200
    while not (journal.is_file() and journal.read_bytes().count(b"\n") > 6) and time.monotonic() < until:
        time.sleep(0.01)
    run.kill()
    run.wait()
    kept = journal.read_bytes()
    assert 6 < kept.count(b"\n") < 41 and not (folder / "asked_killed" / "scores.json").exists()
    said = mfpo(*questions, "asked_killed", folder=folder).stderr
    assert "going on with" in said and benchmark_scores(folder / "asked_killed") == expected
    assert journal.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
