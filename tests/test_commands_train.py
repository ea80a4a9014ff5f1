# Exported from nbs/commands/train.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.train import *  # noqa: F403

import contextlib, io, json, pathlib, re, tempfile
import pytest
import skimage.data
from PIL import Image
from mfpo.commands.options import BadInput
from mfpo.data.corruptions import Corruption
from mfpo.data.building import build_negatives
from mfpo.data.negatives import NegativeConfig
from mfpo.data.rows import dataset_of, write_rows
from mfpo.model.reference import read_reference
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


def test_every_objective_is_listed_with_its_paper():
    from mfpo.train.presets import PRESETS
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as ended:
        main(["--list_objectives", "--use_cpu"])
    assert ended.value.code == 0
    for name, method in PRESETS.items():
        assert f"\n{name}: {method.paper}\n" in "\n" + out.getvalue()
        assert all(f"{setting}={value}" in out.getvalue().replace("\n      ", " ") for setting, value in method.settings.items() if setting != "beta")


def test_an_objective_has_settings_a_file_and_trls_loss_types():
    with tempfile.TemporaryDirectory() as folder:
        words = [*prepared(folder), "--max_steps", "1"]
        fused = run(*words, "--objective", "chip", "--objective_settings", '{"released": true}', "--output_dir", f"{folder}/chip")
        assert "joint, step 1: loss 0.693" in fused  # one sigmoid
        file = pathlib.Path(folder, "mine.yaml")
        file.write_text("beta: 0.5\nterms:\n- {better: [chosen, original], worse: [rejected, original], weight: 2.0}\n")
        assert "joint, step 1: loss 1.386" in run(*words, "--objective", str(file), "--output_dir", f"{folder}/mine")
        stored = json.loads(pathlib.Path(folder, "mine", "curriculum.json").read_text())
        assert stored["settings"]["beta"] == 0.5 and "weight=2.0" in json.dumps(stored)  # what `mfpo evaluate` reads
        hinge = run(*words, "--objective", "dpo", "--loss_type", "hinge", "--output_dir", f"{folder}/hinge")
        assert "joint, step 1: loss 1.000" in hinge
        for more in ([], ["--reference_cache", f"{folder}/povid.parquet"]):  # own tokens are made once, for all stages
            own = run(*words, "--objective", "povid_stage2", "--output_dir", f"{folder}/povid{len(more)}", "--curriculum", "easy_to_hard", *more)
            assert "easy, step 1: loss 0.693" in own and "hard, step 1: loss" in own
        assert "chosen_original_own" in read_reference(f"{folder}/povid.parquet").logps
        kept = run(*words, "--objective", "chip", "--output_dir", f"{folder}/guided", "--precompute_ref_log_probs")
        assert "joint, step 1: loss 3.466" in kept  # 5 log 2


def test_stages_of_other_objectives_by_name():
    with tempfile.TemporaryDirectory() as folder:
        words = [*prepared(folder), "--max_steps", "4"]
        first = run(*words, "--objective", "mfpo", "--curriculum", "image_first", "--output_dir", f"{folder}/image")
        assert re.search("image, step 1 → 2: loss 0.693 .*\nwhole, step 1 → 2: loss .*gap/text", first)
        own = run(*words, "--objective", "povid_stage2", "--curriculum", "povid", "--output_dir", f"{folder}/povid")
        # three quarters of the steps, then one; the reference of the second stage is what the first left
        assert re.search("answers, step 1 → 3: loss 0.693 .*\nown, step 1: loss 0.693", own)
        for more, message in (
            (["--objective", "dpo", "--curriculum", "povid"], "povid_stage2"),
            (["--objective", "dpo", "--curriculum", "image_first"], "differ in the picture"),
            (["--objective", "povid_stage2", "--curriculum", "povid", "--reference_cache", f"{folder}/x.parquet"], "--precompute_ref_log_probs"),
        ):
            with pytest.raises(BadInput, match=message):
                run(*words, *more, "--output_dir", f"{folder}/wrong")
        assert not pathlib.Path(folder, "x.parquet").exists()


def test_what_is_wrong_with_an_objective_is_told():
    with tempfile.TemporaryDirectory() as folder:
        words, file = prepared(folder), pathlib.Path(folder, "mine.yaml")
        for text, more, said in (
            (None, ["--objective", "ppo"], "objective 'ppo' is unknown; use one of ['dpo', "),
            (None, ["--objective", f"{folder}/none.yaml"], "there is no such file; give a YAML file, or a preset: dpo, "),
            ("terms: [{better: [chosen, original]", [], "mine.yaml, line 1, column 36: "),
            ("name: dpo\nbeta: 0.5", ["--beta", "0.2"], "beta=0.2, but "),
            ("name: dpo", ["--loss_type", "ipo"], "write loss_type into it"),
            (None, ["--objective", "mfpo", "--objective_settings", "{gamma}"], "is no JSON"),
            (None, ["--objective", "mfpo", "--objective_settings", '{"gamma": 1}'], "has no setting gamma; its own are ['eta']"),
            (None, ["--eta", "0.5"], "unknown option --eta (a setting of the objective: --objective_settings '{\"eta\": 0.5}')"),
        ):
            if text is not None:
                file.write_text(text)
                more = ["--objective", str(file), *more]
            with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as ended:
                main([*words, *more])
            assert ended.value.code == 2 and said in " ".join(err.getvalue().split()), (more, err.getvalue())
        with pytest.raises(BadInput, match="'mrpo' mixes two references, and no second one is given"):
            run(*words, "--objective", "mrpo")
        with pytest.raises(BadInput, match="--second_reference none.parquet: no such file; 'mfpo reference' makes it"):
            run(*words, "--objective", "mrpo", "--second_reference", "none.parquet")
        with pytest.raises(BadInput, match="no column caption"):
            run(*words, "--objective", "sena")


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


def test_a_file_of_difficulties_is_joined_by_id():
    import pandas as pd
    with tempfile.TemporaryDirectory() as folder:
        words = [*prepared(folder), "--curriculum", "easy_to_hard", "--objective", "dpo"]
        file = pathlib.Path(folder, "d.parquet")
        table = pd.DataFrame({"id": [f"row-{k}" for k in (5, 0, 3, 1, 4, 2, 9)], "difficulty": [0.1] * 7, "stage": [0, 0, 0, 2, 2, 2, 1]})
        table.to_parquet(file)
        said = run(*words, "--difficulty", str(file))
        assert "d.parquet: 3 easy, 0 medium, 3 hard rows\n6 rows are in order" in said
        assert [line.split(",")[0] for line in said.splitlines()[-3:-1]] == ["easy", "hard"]  # nothing is medium
        assert not pathlib.Path(folder, "run.difficulty.json").exists(), "nothing is measured"
        # The file goes before columns of the rows.
        from mfpo.data.rows import read_rows
        plain = read_rows(f"{folder}/rows.parquet")
        staged = plain.add_column("stage", [1] * 6).add_column("difficulty", [9.0] * 6)
        options = TrainOptions(difficulty=str(file), curriculum="hard_to_easy")
        with contextlib.redirect_stderr(io.StringIO()) as err:
            joined = [with_difficulty(options, rows) for rows in (plain, staged)]
        assert all(rows["stage"][:] == [0, 2, 2, 0, 2, 0] and set(rows["difficulty"]) == {0.1} for rows in joined)
        assert err.getvalue().count("goes before it") == 1 and with_difficulty(TrainOptions(), staged) is staged
        table[table["id"] != "row-3"].to_parquet(file)
        with pytest.raises(BadInput, match="d.parquet lacks 1 of 6 rows .'row-3'.; run 'mfpo difficulty' on the rows"):
            run(*words, "--difficulty", str(file), "--output_dir", f"{folder}/fourth")
        for more, message in (
            (["--difficulty", "entropy"], "difficulty='entropy': give token_entropy, semantic_entropy, or a .parquet"),
            (["--difficulty", str(file), "--curriculum", "joint"], "has no effect with curriculum=joint"),
        ):
            with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as ended:
                main([*words, *more])
            assert ended.value.code == 2 and message in " ".join(err.getvalue().split()), err.getvalue()


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
