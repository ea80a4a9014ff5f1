# Exported from nbs/commands/evaluate.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.evaluate import *  # noqa: F403

import contextlib, io, json, pathlib, tempfile
import numpy as np
import pandas as pd
import pytest
import skimage.data
from PIL import Image
from mfpo.commands.options import BadInput
from mfpo.data.corruptions import Corruption
from mfpo.data.building import build_negatives
from mfpo.data.negatives import NegativeConfig
from mfpo.data.rows import dataset_of, write_rows
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora, save_vlm


def prepared(folder, shift=0.0):
    """Words for `mfpo evaluate`: held-out rows, a base model, and an adapter on it.

    The adapter's second factor is `shift` everywhere (0: no effect).
    """
    import torch
    from peft import get_peft_model

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
        for k in range(5)
    ]
    noise = NegativeConfig(where="global", corruption=Corruption(schedule="linear"))
    write_rows(build_negatives(dataset_of(rows), None, noise, progress=False), folder / "rows.parquet")
    model, processor = small_vlm_for_tests()
    save_vlm(model, processor, folder / "model")
    model.name_or_path = str(folder / "model")
    torch.manual_seed(0)
    model = get_peft_model(model, lora(model, r=4))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(shift)
    model.save_pretrained(folder / "adapter")
    return [
        "--dataset_name",
        f"{folder}/rows.parquet",
        "--model_name_or_path",
        f"{folder}/model",
        "--adapter",
        f"{folder}/adapter",
        "--output_dir",
        f"{folder}/out",
        "--resamples",
        "200",
        "--max_new_tokens",
        "4",
        "--use_cpu",
    ]


def run(*words):
    """(standard output, evaluation.json)."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        main(list(words))
    return out.getvalue(), json.loads(
        pathlib.Path(words[words.index("--output_dir") + 1], "evaluation.json").read_text()
    )


def test_an_adapter_without_effect_has_no_gaps():
    with tempfile.TemporaryDirectory() as folder:
        _, found = run(*prepared(folder))
        assert found["count"] == 5 and all(
            found[name]["estimate"] == 0 for name in ("text_gap", "image_gap", "chosen_reward", "text_accuracy", "fairness")
        )
        assert found["logp_lost"] == found["logp_lost_reference"] and found["made_with"]["beta"] == 0.1


def test_figures_are_those_of_the_rows():
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(folder, shift=0.02)
        out, found = run(*words)
        rows = pd.read_json(f"{folder}/out/rows.jsonl", lines=True)
        assert list(rows["id"]) == [f"row-{k}" for k in range(5)] and "| 5 held-out rows |" in out
        for name, column in (
            ("text_gap", rows["text_gap"]),
            ("text_accuracy", rows["text_gap"] > 0),
            ("unchanged", rows["same"]),
        ):
            np.testing.assert_allclose(found[name]["estimate"], column.mean(), atol=1e-7)
        # Rewards are beta times nats: ten times the beta, ten times the gap.
        # An adapter alone stands for its base with itself.
        alone = [w for w in words if w not in ("--adapter", f"{folder}/adapter")]
        alone[alone.index("--model_name_or_path") + 1] = f"{folder}/adapter"
        _, tenfold = run(*alone, "--beta", "1.0")
        np.testing.assert_allclose(tenfold["text_gap"]["estimate"], 10 * found["text_gap"]["estimate"], rtol=1e-6)
        # The base as a reference model of its own is the same reference.
        _, other = run(*words, "--reference_model_name_or_path", f"{folder}/model")
        np.testing.assert_allclose(other["image_gap"]["estimate"], found["image_gap"]["estimate"], atol=1e-6)


def test_what_is_needed_is_asked_for():
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(folder)
        with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as err:
            main([w for w in words if w not in ("--adapter", f"{folder}/adapter")])
        assert "--reference_model_name_or_path must be given" in err.getvalue()
        for change, message in (
            (["--adapter", folder], "no adapter_config.json"),
            (["--output_dir", f"{folder}/rows.parquet"], "is a file"),
            (["--dataset_name", f"{folder}/other.jsonl"], "no such file"),
        ):
            with pytest.raises(BadInput, match=message):
                run(*words, *change)
    for wrong in ({"beta": 0.0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EvaluateOptions(**wrong)
    assert trained_beta(None) is None


def test_beta_is_that_of_the_run():
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "curriculum.json").write_text(json.dumps({"settings": {"beta": 0.3}}))
        assert trained_beta(folder) == 0.3
