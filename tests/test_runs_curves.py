# Exported from nbs/runs/curves.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.curves import *  # noqa: F403

import tempfile

import datasets
import torch
from PIL import Image
from safetensors.torch import save_file

from mfpo.data.rows import write_rows
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import save_vlm
from mfpo.runs.curves import HALVED, VARIANTS, curve_run, differences_of, draw_curves


def test_differences_by_hand():
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for name, loss, norms, weight in (("tree", [2.0, 1.0], [1.0, 2.2], [3.0, 4.0]), ("plain", [2.0, 1.5], [1.0, 2.0], [3.0, 4.5])):
            save_file({"w": torch.tensor(weight)}, f"{folder}/{name}")
            runs[name] = {"loss": loss, "gradient_norm": norms, "weights": f"{folder}/{name}"}
        found = differences_of(runs, "tree")
    assert found["mean_loss"] == 0.25 and found["largest_loss"] == 0.5
    assert abs(found["largest_gradient_norm"] - 0.1) < 1e-12 and abs(found["weights"] - 0.5 / 29.25**0.5) < 1e-12


def test_a_run_by_trees_follows_the_plain_one():
    with tempfile.TemporaryDirectory() as folder:
        save_vlm(*small_vlm_for_tests(), f"{folder}/base")
        rows = datasets.Dataset.from_list([
            {"id": str(i), "image": Image.new("RGB", (64, 64), color), "negative": Image.new("RGB", (64, 64), "black"),
             "question": "which color is it ?", "chosen": f"it is {color} .", "rejected": "there is no cup on the table ."}
            for i, color in enumerate(("red", "blue", "green", "white") * 2)
        ])
        write_rows(rows, f"{folder}/rows.parquet")
        common = {"base": f"{folder}/base", "rows": f"{folder}/rows.parquet", "seed": 0, "rate": 0.003,
                  "method": {"title": "MFPO", "objective": "mfpo", "negatives": "mfpo"}, "training": {"epochs": 2, "batch_size": 4, "lora_r": 4}}
        runs = {name: curve_run(**common, variant=name, folder=f"{folder}/{k}") for k, name in enumerate(VARIANTS)}
        assert all(len(run["loss"]) == 4 for run in runs.values())
        for name in ("tree", HALVED):
            apart = differences_of(runs, name)
            assert apart["largest_loss"] < 1e-3 and apart["weights"] < 1e-3, (name, apart)
        assert abs(runs["tree"]["loss"][0] - runs["plain"]["loss"][0]) < 1e-5
    assert len(draw_curves({"0.003": runs}).axes) == 2
