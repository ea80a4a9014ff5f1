# Exported from nbs/runs/costs.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.costs import *  # noqa: F403

import tempfile
from pathlib import Path
import pytest
import torch
from mfpo.data.building import build_negatives
from mfpo.data.negatives import NegativeConfig
from mfpo.data.pairs import PairConfig, preference_pairs
from mfpo.data.rows import read_rows, write_rows
from mfpo.data.scenes import SCENES, WorldConfig, caption_text, scene_rows, world_words
from mfpo.model.small import build_small_vlm
from mfpo.model.tree import grouped, plan_trees
from mfpo.model.vlm import save_vlm
from mfpo.train.collator import PreferenceCollator
from mfpo.train.encoder import RowEncoder
from mfpo.train.presets import preset


def inputs_in(folder):
    """A random base and eight pairs with negatives."""
    model, processor = build_small_vlm(world_words(), seed=0)
    save_vlm(model, processor, folder / "base")
    rows = scene_rows(WorldConfig(preference=40), "preference")
    said = [[caption_text(k, SCENES[k][:4])] for k in rows["scene"]]
    pairs = preference_pairs(rows, said, [], [], PairConfig(rows=8, captions=1.0))
    write_rows(build_negatives(pairs, None, NegativeConfig(where="global"), progress=False), folder / "rows.parquet")
    return str(folder / "base"), str(folder / "rows.parquet"), processor


def test_counts_are_those_of_the_trees():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, rows, processor = inputs_in(folder)
        shared, told, dpo = {"batch_size": 8, "lora_r": 2, "epochs": 1}, {}, {"title": "dpo", "objective": "dpo"}
        for name in ("dpo", "mfpo", "vdpo", "simpo"):
            method = {"title": name, "objective": name, **({"negatives": "mfpo"} if name == "mfpo" else {})}
            told[name] = cost_run(base, rows, method, shared, str(folder / name), beside=dpo, rounds=3)
            arms = preset(name).arms
            batch = PreferenceCollator(RowEncoder(processor), arms)(list(read_rows(rows)))
            calls = grouped(plan_trees(batch, arms))  # every step has all eight rows, so the same calls
            expected = sum(len(call) * max(map(len, call)) for call in calls) / 8
            assert told[name]["tokens_policy"] == expected and told[name]["arms"] == len(arms)
            assert len(told[name]["seconds"]) == len(told[name]["beside_seconds"]) == 3 and min(told[name]["seconds"]) > 0
        assert [told[n]["pictures_policy"] for n in ("dpo", "mfpo")] == [1, 2]
        # the reference is scored before training, by the same calls; without one, never; V-DPO's guide in every step
        for name in ("dpo", "mfpo"):
            assert (told[name]["tokens_once"], told[name]["pictures_once"]) == (told[name]["tokens_policy"], told[name]["pictures_policy"])
            assert told[name]["tokens_step"] == told[name]["pictures_step"] == 0  # and nothing is scored twice to compare
        assert told["simpo"]["tokens_once"] == 0 and told["vdpo"]["tokens_step"] >= told["vdpo"]["tokens_policy"]
        assert told["mfpo"]["mib"] > told["dpo"]["mib"] > 0
        for wrong in ({"rounds": 0}, {"beside": {"title": "mrpo", "objective": "mrpo"}}):
            with pytest.raises(ValueError, match="rounds=0 must be|beside: mrpo mixes two references; take"):
                cost_run(base, rows, dpo, shared, str(folder / "wrong"), **{"beside": dpo, **wrong})
        # what was measured before, or failed, changes no count, and nothing of it is left in the base
        again = cost_run(base, rows, dpo, shared, str(folder / "again"), beside=dpo, rounds=1)
        timeless = {k: v for k, v in told["dpo"].items() if "seconds" not in k}
        assert {k: v for k, v in again.items() if "seconds" not in k} == timeless


def test_kept_tensors_are_counted_once_and_weights_are_not():
    layer, x = torch.nn.Linear(4, 4, bias=False), torch.ones(8, 4)
    with kept_for_backward(layer) as kept:
        y = layer(x)  # keeps x (the weight is no part of it)
        z = (y * y).sum() + (y * 2).sum()  # keeps y, once
    assert sum(kept.values()) == 2 * 8 * 4 * 4  # two tables of 8 x 4 float32
