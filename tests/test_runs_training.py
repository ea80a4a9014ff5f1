# Exported from nbs/runs/training.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.training import *  # noqa: F403

import json
import tempfile
from pathlib import Path
import pandas as pd
import pytest
from mfpo.data.pairs import PairConfig, preference_pairs, question_asks
from mfpo.data.rows import write_rows
from mfpo.data.scenes import SCENES, WorldConfig, answer_text, caption_text, scene_rows, world_words
from mfpo.model.small import build_small_vlm
from mfpo.model.vlm import save_vlm
from mfpo.runs.training import _base


def inputs_in(folder):
    """A random base, eight pairs without negatives, their thirds, and six validation scenes."""
    model, processor = build_small_vlm(world_words(), seed=0)
    save_vlm(model, processor, folder / "base")
    world = WorldConfig(preference=40, validation=6)
    rows, config = scene_rows(world, "preference"), PairConfig(rows=8, captions=1.0)
    pairs = preference_pairs(rows, [[caption_text(k, SCENES[k][:4])] for k in rows["scene"]], [], [], config)
    write_rows(pairs, folder / "pairs.parquet")
    write_rows(scene_rows(world, "validation"), folder / "validation.parquet")
    pd.DataFrame(
        {"id": pairs["id"], "difficulty": range(8), "stage": [0, 0, 0, 1, 1, 1, 2, 2]}
    ).to_parquet(folder / "difficulty.parquet")
    return {
        "base": str(folder / "base"),
        **{
            k: str(folder / f"{v}.parquet")
            for k, v in (("rows", "pairs"), ("difficulty", "difficulty"), ("validation", "validation"))
        },
    }


def test_a_method_names_what_it_needs():
    assert Method("DPO", "dpo").negatives is None
    for wrong, message in (
        ({"objective": "mfpo"}, "needs negatives"), ({"objective": "dpo", "negatives": "mdpo"}, "has no use for"),
        ({"objective": "best"}, "unknown"), ({"objective": "povid_stage2"}, "needs negatives"),
        ({"objective": "dpo", "settings": {"gamma": 2}}, "no setting gamma"),
    ):
        with pytest.raises(ValueError, match=message):
            Method("x", **wrong)
    for wrong in ({"rates": ()}, {"rates": (0.0,)}, {"epochs": 0}, {"warmup": 1.0}):
        with pytest.raises(ValueError):
            TrainingConfig(**wrong)


def test_a_run_repeats_and_leaves_the_base_as_it_was():
    import torch
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = inputs_in(folder)
        shared = {"epochs": 1, "batch_size": 4, "lora_r": 2}
        results = [
            train_run(
                **inputs, method={"title": "DPO", "objective": "dpo", "schedule": "easy_to_hard"}, training=shared,
                seed=1, rate=1e-3, folder=str(folder / f"run{i}"),
            )
            for i in range(2)
        ]
        # a random model names nothing: nan, which no == finds equal
        assert repr(results[0]["validation"]) == repr(results[1]["validation"])
        assert results[0]["history"] == results[1]["history"]
        files = [Path(r["weights"], "adapter_model.safetensors").read_bytes() for r in results]
        assert list(results[0]["stages"]) == ["easy", "medium", "hard"]
        assert results[0]["stages"]["hard"] == results[0]["weights"]
        assert files[0] == files[1] and {e["stage"] for e in results[0]["history"]} == {"easy", "medium", "hard"}
        assert not any("lora" in name for name, _ in _base(inputs["base"], ())[0].named_parameters())


def test_a_run_reads_the_reference_file_of_its_base():
    from mfpo.runs.reference import reference_run
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = inputs_in(folder)
        shared, file = {"epochs": 1, "batch_size": 4, "lora_r": 2}, str(folder / "reference.parquet")
        dpo = {"title": "DPO", "objective": "dpo", "schedule": "easy_to_hard"}
        reference_run(inputs["base"], inputs["rows"], [dpo], shared, file)
        results = [
            train_run(**inputs, method=dpo, training=shared, seed=1, rate=1e-3, folder=str(folder / f"run{i}"), reference=r)
            for i, r in enumerate((None, file))
        ]
        # the same run up to rounding: without a file the stages are scored each by itself, in other batches
        losses = [[e["train_loss"] for e in result["history"] if "train_loss" in e] for result in results]
        assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], abs=1e-5)
        sft = {"title": "SFT", "objective": "sft"}
        asked = train_run(**inputs, method=sft, training=shared, seed=1, rate=1e-3, folder=str(folder / "sft"))
        assert asked["history"]
        # the margin alone asks for the chosen answer, DPO for the rejected one too
        less = str(folder / "less.parquet")
        reference_run(inputs["base"], inputs["rows"], [{"title": "margin", "objective": "margin"}], shared, less)
        with pytest.raises(ValueError, match="less.parquet lacks the arm rejected_original; it has chosen_original"):
            train_run(
                **inputs, method=dpo, training=shared, seed=1, rate=1e-3, folder=str(folder / "x"), reference=less
            )


def test_tuning_chooses_by_validation_and_seeds_are_all_trained():
    from mfpo.runs.training import tune_and_train  # other processes find it by this name, not in a notebook
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = inputs_in(folder)
        training = TrainingConfig(rates=(1e-3, 1e-2), epochs=1, batch_size=4, lora_r=2)
        import os
        before = os.getcwd()
        os.chdir(folder)
        try:
            summary = tune_and_train(
                Method("DPO", "dpo"), training, {"0": inputs | {"difficulty": None}, "1": inputs}, [0, 1], "out",
                name="test", progress=False,
            )
        finally:
            os.chdir(before)
        assert list(summary) == ["0", "1"] and repr(summary["0"]) == repr(summary["1"])  # equal inputs
        told = summary["1"]
        assert repr(told) == repr(json.loads((folder / "out" / "1" / "tuning.json").read_text()))
        assert [r["rate"] for r in told["runs"]] == [1e-3, 1e-2]
        assert told["rate"] == max(told["runs"], key=lambda r: (r["F1"], -r["rate"]))["rate"]
        assert sorted(p.name for p in (folder / "out" / "0" / "seed-1").iterdir()) == [
            "adapter_config.json", "adapter_model.safetensors", "history.json",
        ]
        assert not (folder / "build" / "work" / "test").exists()
