# Exported from nbs/runs/ablation.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.ablation import *  # noqa: F403

import json
import os
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from mfpo.data.pairs import PairConfig, preference_pairs
from mfpo.data.rows import read_rows, write_rows
from mfpo.data.scenes import SCENES, WorldConfig, caption_text, scene_rows, world_words
from mfpo.model.small import build_small_vlm
from mfpo.model.vlm import save_vlm
from mfpo.runs.ablation import Ablation, ablate, reference_sets  # other processes find what they run by name
from mfpo.runs.preparing import negatives_run
from mfpo.runs.training import Method


def main_job(folder):
    """What the main job's stages leave, for one random base: the settings, with files in `folder`."""
    model, processor = build_small_vlm(world_words(), seed=0)
    save_vlm(model, processor, folder / "build/base/0/base")
    world = WorldConfig(preference=40, test=6)
    for split in ("preference", "test"):
        (folder / "data").mkdir(exist_ok=True)
        write_rows(scene_rows(world, split), folder / f"data/{split}.parquet")
    said = {split: [[caption_text(k, SCENES[k][:4])] for k in scene_rows(world, split)["scene"]] for split in ("preference", "test")}
    negatives = {"mfpo": {"where": "regions", "corruption": {"kind": "noise"}}, "crop": {"where": "global", "corruption": {"kind": "crop"}}}
    negatives["again"] = {"where": "global", "corruption": {"kind": "crop", "seed": 1}}
    for name, split, rows in (("train", "preference", 6), ("heldout", "test", 3)):
        (folder / "build/pairs").mkdir(exist_ok=True)
        pairs = preference_pairs(scene_rows(world, split), said[split], [], [], PairConfig(rows=rows, captions=1.0))
        write_rows(pairs, folder / f"build/pairs/0-{name}.parquet")
        out = folder / f"build/negatives/0-{'mfpo' if name == 'train' else 'heldout-mfpo'}.parquet"
        out.parent.mkdir(exist_ok=True)
        negatives_run(str(folder / f"build/pairs/0-{name}.parquet"), negatives["mfpo"], str(out))
        if name == "train":
            (folder / "build/difficulty").mkdir()
            ids = list(pairs["id"])
            pd.DataFrame({"id": ids, "difficulty": range(6), "stage": [0, 0, 1, 1, 2, 2]}).to_parquet(folder / "build/difficulty/0.parquet")
    return {
        "bases": [0], "seeds": [0], "processes": 1, "negatives": negatives,
        "heldout_negatives": {"key regions": "mfpo", "another picture": "crop"}, "pairs": {"rows": 6, "captions": 1.0}, "sampling": {},
        "training": {"epochs": 1, "batch_size": 2, "lora_r": 2, "beta": 0.1}, "trust": {"max_new_tokens": 4},
    }


def test_a_table_is_trained_and_measured_and_a_second_time_the_same():
    spec = Ablation(
        methods={
            "order": {"title": "MFPO", "objective": "mfpo", "negatives": "mfpo", "schedule": "easy_to_hard"},
            "crop": {"title": "on crops", "objective": "mfpo", "negatives": "crop"},
            "fault": {"title": "other crops", "objective": "mfpo", "negatives": "crop", "reference_draw": "again"},
            "none": {"title": "the same crops", "objective": "mfpo", "negatives": "crop", "reference_draw": "crop"},
        },
        by_stage=True, scenes=4,
    )
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        params = main_job(folder)
        os.chdir(folder)
        try:
            tables = []
            for _ in range(2):
                found = ablate(spec, params, 1e-3, "out", progress=False)
                tables.append({name: pd.read_parquet(f"out/{name}.parquet") for name in ("counts", "gaps")})
                histories = json.loads(Path("out/histories.json").read_text())
        finally:
            os.chdir(before)
        # MFPO's are the main job's
        assert list(found["negatives"]) == ["negatives-0-crop", "negatives-0-again"] and "pairs" not in found
        assert list(histories) == ["order-0-0", "crop-0-0", "fault-0-0", "none-0-0"]
        # a reference that is handed the pictures that it has already changes nothing, and one with others does
        assert histories["none-0-0"] == histories["crop-0-0"] != histories["fault-0-0"]
        for name, table in tables[0].items():
            pd.testing.assert_frame_equal(table, tables[1][name])
        stages = tables[0]["counts"].groupby("method")["stage"].unique().map(list).to_dict()
        assert stages == {"order": ["easy", "medium", "hard"], "crop": ["joint"], "fault": ["joint"], "none": ["joint"]}
        assert len(tables[0]["counts"]) == 6 * 4 and not (folder / "build/work/out").exists()
        # the base's rewards are nought by definition, and these models have moved
        assert (tables[0]["gaps"]["chosen_reward"] != 0).any() and set(tables[0]["gaps"]["negatives"]) == {"key regions"}


def test_who_reads_a_reference_file():
    methods = {
        "sft": Method("SFT", "sft"), "dpo": Method("DPO", "dpo"), "crop": Method("mDPO", "mdpo", "mdpo"),
        "povid": Method("POVID", "povid_stage2", "povid", "povid"), "full": Method("MFPO", "mfpo", "mfpo"),
    }
    titles = {kind: [m.title for m in mine] for kind, mine in reference_sets(methods).items()}
    assert titles == {"mfpo": ["DPO", "MFPO"], "mdpo": ["mDPO"]}
    drawn = {"x": Method("drawn anew", "mdpo", "mdpo", reference_draw="other")}
    assert list(reference_sets(drawn)) == ["mdpo", "other"]
    with pytest.raises(ValueError, match="'dpo' has no negatives"):
        Method("x", "dpo", reference_draw="mdpo")


def test_what_is_no_table():
    with pytest.raises(ValueError, match="without methods"):
        Ablation(methods={})
    with pytest.raises(ValueError, match="has no use for negatives"):
        Ablation(methods={"x": {"title": "x", "objective": "dpo", "negatives": "mfpo"}})
    with pytest.raises(ValueError, match="method x"):
        Ablation(methods={"x": {"title": "x", "objective": "dpo", "rate": 1}})
