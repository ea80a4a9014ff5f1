# Exported from nbs/commands/train.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.train import *  # noqa: F403

import contextlib, io, json, pathlib, tempfile
import pytest
import skimage.data
from PIL import Image
from mfpo.commands.options import BadInput
from mfpo.data.corruptions import Corruption
from mfpo.data.building import build_negatives
from mfpo.data.negatives import NegativeConfig
from mfpo.data.rows import dataset_of, write_rows
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import load_vlm, save_vlm


def prepared(folder, **changes):
    """Words for `mfpo train`: a small model and six rows with negatives in `folder`.

    `changes` maps a row number to new cells.
    """
    folder = pathlib.Path(folder)
    pictures = [
        Image.fromarray(skimage.data.chelsea()).resize((80, 64)),
        Image.fromarray(skimage.data.coffee()).resize((80, 64)),
    ]
    rows = [
        {
            "id": f"row-{k}",
            "image": pictures[k % 2],
            "question": "what is it ?",
            "chosen": ("a cat", "a cup")[k % 2],
            "rejected": ("a dog and a cat", "a cup and a plate")[k % 2],
        }
        for k in range(6)
    ]
    for number, cells in changes.items():
        rows[int(number.removeprefix("row"))].update(cells)
    noise = NegativeConfig(where="global", corruption=Corruption(schedule="linear"))
    write_rows(build_negatives(dataset_of(rows), None, noise, progress=False), folder / "rows.parquet")
    save_vlm(*small_vlm_for_tests(), folder / "model")
    return [
        "--dataset_name",
        f"{folder}/rows.parquet",
        "--model_name_or_path",
        f"{folder}/model",
        "--output_dir",
        f"{folder}/run",
        "--use_peft",
        "--lora_r",
        "4",
        "--learning_rate",
        "1e-3",
        "--per_device_train_batch_size",
        "2",
        "--num_train_epochs",
        "1",
        "--logging_steps",
        "1",
        "--disable_tqdm",
        "true",
        "--use_cpu",
    ]


def run(*words):
    """Standard error of `mfpo train`."""
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        main(list(words))
    return err.getvalue()


def test_a_run_leaves_an_adapter_and_is_not_repeated():
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(folder)
        said = run(*words)
        assert "6 rows are in order" in said and "joint, step 1 → 3: loss 2.079 →" in said  # 3 log 2 before the first step
        adapter = pathlib.Path(folder) / "run" / "adapter_model.safetensors"
        first = adapter.read_bytes()
        model, _ = load_vlm(f"{folder}/model", adapter=adapter.parent)
        assert any(weight.abs().sum() > 0 for name, weight in model.named_parameters() if "lora_B" in name)
        run(*words)
        assert adapter.read_bytes() == first
        with pytest.raises(BadInput, match="settings.learning_rate: 0.001 there, 0.002 here"):
            run(*words, "--learning_rate", "2e-3")


def test_rows_are_refused_before_any_training():
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(folder, row1={"chosen": "a cup " * 60})
        with pytest.raises(BadInput, match="1 of 6 rows cannot be used") as refused:
            run(*words, "--max_length", "80")
        assert "row 'row-1'" in str(refused.value) and not pathlib.Path(folder, "run").exists()
        assert "going on with the other 5 rows" in run(*words, "--max_length", "80", "--skip_bad")


def test_a_curriculum_measures_difficulty_once():
    with tempfile.TemporaryDirectory() as folder:
        words = [*prepared(folder), "--curriculum", "easy_to_hard", "--objective", "dpo"]
        said = run(*words)
        assert [line.split(",")[0] for line in said.splitlines()[-4:-1]] == ["easy", "medium", "hard"]
        stored = json.loads(pathlib.Path(folder, "run.difficulty.json").read_text())
        assert len(stored["difficulty"]) == 6 and stored["measure"] == "token_entropy"


def test_a_file_of_reference_log_probs_is_made_used_and_refused():
    with tempfile.TemporaryDirectory() as folder:
        words = [*prepared(folder), "--route", "plain"]
        plain = run(*words, "--precompute_ref_log_probs")
        first = pathlib.Path(folder, "run", "adapter_model.safetensors").read_bytes()
        cached = [*words, "--reference-cache", f"{folder}/reference.parquet"]
        assert run(*cached, "--output_dir", f"{folder}/again").splitlines()[-2] == plain.splitlines()[-2]
        assert pathlib.Path(folder, "again", "adapter_model.safetensors").read_bytes() == first
        with pytest.raises(BadInput, match="reference.parquet is out of date .* max_length: 1024 there, 500 here. Remove"):
            run(*cached, "--output_dir", f"{folder}/other", "--max_length", "500")
        pathlib.Path(folder, "reference.parquet").write_text("")
        with pytest.raises(BadInput, match="reference.parquet is no file of reference log-probs"):
            run(*cached, "--output_dir", f"{folder}/other2")


def test_options_have_trls_names():
    with tempfile.TemporaryDirectory() as folder:
        options, config, model_args = parse(
            [
                "--dataset_name",
                "x",
                "--model_name_or_path",
                "m",
                "--output_dir",
                folder,
                "--beta",
                "0.2",
                "--objective",
                "dpo",
                "--use_peft",
                "--lora_alpha",
                "8",
                "--lr_scheduler_type",
                "cosine",
                "--use_cpu",
            ]
        )
        assert (config.beta, config.objective, model_args.lora_alpha, config.save_steps) == (0.2, "dpo", 8, 0.1)
    for words in (
        ["--resume_from_checkpoint", "x"],
        ["--model_init_kwargs", '{"dtype": "float32"}'],
        ["--eval_strategy", "epoch"],
    ):
        with tempfile.TemporaryDirectory() as folder, pytest.raises(BadInput, match=words[0]):
            run(*prepared(folder), *words)
