# Exported from nbs/commands/reference.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.reference import *  # noqa: F403

import contextlib, io, pathlib, tempfile
import pytest
import skimage.data
from PIL import Image
from mfpo.commands.options import BadInput
from mfpo.data.corruptions import Corruption
from mfpo.data.building import build_negatives
from mfpo.data.negatives import NegativeConfig
from mfpo.data.rows import dataset_of, read_rows, write_rows
from mfpo.model.reference import read_reference
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import save_vlm


def prepared(folder):
    """Words that `mfpo reference` and `mfpo train` share: a small model and six rows with negatives in `folder`."""
    pictures = [
        Image.fromarray(skimage.data.chelsea()).resize((80, 64)),
        Image.fromarray(skimage.data.coffee()).resize((80, 64)),
    ]
    rows = [
        {
            "id": f"row-{k}", "image": pictures[k % 2], "question": "what is it ?", "chosen": ("a cat", "a cup")[k % 2],
            "rejected": f"a dog and {k} cups",
        }
        for k in range(6)
    ]
    noise = NegativeConfig(where="global", corruption=Corruption(schedule="linear"))
    write_rows(build_negatives(dataset_of(rows), None, noise, progress=False), f"{folder}/rows.parquet")
    save_vlm(*small_vlm_for_tests(), pathlib.Path(folder) / "model")
    return [
        "--dataset_name", f"{folder}/rows.parquet", "--model_name_or_path", f"{folder}/model",
        "--reference_cache", f"{folder}/reference.parquet", "--per_device_train_batch_size", "2", "--use_cpu",
        "--disable_tqdm", "true",
    ]


def run(*words, command=None):
    """Standard error of `mfpo reference`, or of another command."""
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        (command or main)(list(words))
    return err.getvalue()


def test_the_file_is_the_one_that_training_asks_for():
    from mfpo.commands.train import main as train
    with tempfile.TemporaryDirectory() as folder:
        words, file = prepared(folder), pathlib.Path(folder, "reference.parquet")
        said = run(*words)
        assert "reference.parquet: 6 rows; mean log-probs in nats: chosen_original -" in said and "it was there" not in said
        first = file.read_bytes()
        assert "it was there, and is right" in run(*words)
        more = ["--use_peft", "--lora_r", "4", "--num_train_epochs", "1", "--logging_steps", "1"]
        for name, other in (
            ("mfpo", []), ("dpo", ["--objective", "dpo", "--seed", "5"]), ("easy", ["--curriculum", "easy_to_hard"])
        ):
            assert "loss" in run(*words, *more, *other, "--output_dir", f"{folder}/{name}", command=train)
        assert file.read_bytes() == first
        assert read_reference(file).notes["negatives"] == "6 noise in global"
        with pytest.raises(BadInput, match="dtype: float32 there, bfloat16 here"):
            run(*words, "--dtype", "bfloat16")
        with pytest.raises(BadInput, match="autocast: None there, bfloat16 here"):
            run(*words, *more, "--bf16", "true", "--output_dir", f"{folder}/bf16", command=train)
        file.unlink()
        assert "it was there" not in run(*words, "--dtype", "bfloat16") and file.read_bytes() != first


def test_held_out_rows_join_and_arms_can_be_named():
    with tempfile.TemporaryDirectory() as folder:
        words, file = prepared(folder), pathlib.Path(folder, "reference.parquet")
        others = read_rows(f"{folder}/rows.parquet").map(lambda row: {"id": row["id"] + "-b", "chosen": row["chosen"] + " ."})
        write_rows(others, f"{folder}/heldout.parquet")
        run(*words, "--eval_dataset_name", f"{folder}/heldout.parquet", "--arms", "rejected_original", "rejected_negative")
        scores = read_reference(file)
        assert list(scores.logps) == ["rejected_original", "rejected_negative"]
        assert len(scores.rows) == 6  # what these arms read is the same in both sets, and is scored once
        file.unlink()
        run(*words, "--eval_dataset_name", f"{folder}/heldout.parquet")
        assert len(read_reference(file).rows) == 12


def test_one_file_for_several_objectives():
    from mfpo.commands.train import main as train
    with tempfile.TemporaryDirectory() as folder:
        words, file = prepared(folder), pathlib.Path(folder, "reference.parquet")
        mine = pathlib.Path(folder, "mine.yaml")
        mine.write_text("terms: [{better: [rejected, negative], worse: [rejected, original]}]")
        run(*words, "--objective", "dpo", "--objectives", "povid_stage2", "chip", str(mine))
        scores = read_reference(file)
        assert list(scores.logps) == [
            "chosen_original", "rejected_original", "chosen_original_own", "chosen_negative", "chosen_original_changed",
            "rejected_original_changed", "rejected_negative",
        ]
        assert scores.made_with["spans"] == {"changed": 1}
        first, more = file.read_bytes(), ["--use_peft", "--lora_r", "4", "--max_steps", "1", "--logging_steps", "1"]
        for name in ("dpo", "mfpo", "chip", "povid_stage2", "rlhfv", str(mine)):
            out = f"{folder}/run_{pathlib.Path(name).stem}"
            assert "loss" in run(*words, *more, "--objective", name, "--output_dir", out, command=train)
        assert file.read_bytes() == first
        with pytest.raises(BadInput, match="lacks the arm chosen_original_diverged"):
            run(*words, *more, "--objective", "vdpo", "--objective_settings", '{"gamma": 1, "diverged": true}',
                "--output_dir", f"{folder}/vdpo", command=train)
        file.unlink()
        run(*words, "--objective", "povid_stage2", "--objective_settings", '{"released": true}')  # tokens of each step
        assert list(read_reference(file).logps) == ["chosen_original", "rejected_original"]
        file.unlink()
        run(*words, "--arms", "chosen_original", "chosen_original_diverged", "rejected_blank", "chosen_negative_top")
        assert list(read_reference(file).logps) == [
            "chosen_original", "chosen_original_diverged", "rejected_blank", "chosen_negative_top"]


def test_a_second_model_for_a_mixture():
    from mfpo.commands.train import main as train
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(folder)
        save_vlm(*small_vlm_for_tests(1), pathlib.Path(folder) / "other")
        second = f"{folder}/second.parquet"
        run(*words, "--objective", "mrpo", "--model_name_or_path", f"{folder}/other", "--reference_cache", second)
        more = ["--objective", "mrpo", "--use_peft", "--lora_r", "4", "--max_steps", "1", "--logging_steps", "1"]
        said = run(*words, *more, "--second_reference", second, "--output_dir", f"{folder}/run", command=train)
        assert "joint, step 1: loss" in said and "loss 0.693" not in said  # the mixture is not the policy's start
        same = run(*words, *more, "--second_reference", f"{folder}/reference.parquet", "--output_dir", f"{folder}/same", command=train)
        assert "joint, step 1: loss 0.693" in same


def test_what_cannot_be_scored_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(folder)
        for more, message in (
            (["--objective", "sft"], "--objective sft has no reference whose numbers"), (["--arms", "chosen"], "--arms"),
            (["--arms", "chosen_cropped", "chosen_original"], "chosen_cropped: an arm is"),
            (["--arms", "best_original"], "best_original"), (["--arms", "chosen_original_kl"], "chosen_original_kl: an arm"),
            (["--arms", "chosen_original_changes"], "one of own, top, changed, "),
            (["--arms", "chosen_original", "--objectives", "chip"], "--arms and --objectives both say"),
            (["--objectives", "chips"], "objective 'chips' is unknown"), (["--objectives", "none.yaml"], "no such file"),
            (["--max_length", "10"], "6 of 6 rows cannot be used"), (["--fsdp"], "DeepSpeed or FSDP"),
        ):
            with pytest.raises(BadInput, match=message):
                run(*words, *more)
        rows = read_rows(f"{folder}/rows.parquet").remove_columns("negative")
        write_rows(rows, f"{folder}/plain.parquet")
        with pytest.raises(BadInput, match="no column negative; 'mfpo negatives' makes it"):
            run(*words, "--dataset_name", f"{folder}/plain.parquet")
        assert "2 rows" not in run(*words, "--dataset_name", f"{folder}/plain.parquet", "--objective", "dpo")
        with pytest.raises(BadInput, match="reference.parquet lacks the arm chosen_negative"):
            run(*words)
        pathlib.Path(folder, "reference.parquet").write_bytes(b"PAR1")
        with pytest.raises(BadInput, match="reference.parquet is no file of reference log-probs"):
            run(*words)
        with pytest.raises(SystemExit) as ended:
            run(*[w for w in words if "reference" not in w])
        assert ended.value.code == 2
