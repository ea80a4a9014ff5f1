# Exported from nbs/runs/size.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.size import *  # noqa: F403

import tempfile
from pathlib import Path

import pytest
from mfpo.evaluate.domain import SCENE_DOMAIN

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pandas as pd
import yaml
from PIL import Image

import mfpo

ROOT = Path(mfpo.__file__).resolve().parents[1]
NAMES = ["bird", "car", "park", "table", "plate", "kitchen", "cup"]  # words that the random model says


def given_files(folder, pictures=24):
    """Pictures with annotation and captions as COCO's, and preference rows about others."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    images, notes, captions, rows = [], [], [], []
    for n in range(2 * pictures):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"photos/{n}.png")
        kinds = [int(k) for k in rng.choice(len(NAMES), 3, replace=False)]
        boxes = {k: [int(v) for v in (*rng.integers(0, 40, 2), *rng.integers(8, 24, 2))] for k in kinds}
        said = f"there is a {NAMES[kinds[0]]} and a {NAMES[kinds[1]]} and a {NAMES[kinds[2]]} ."
        if n < pictures:
            images.append({"id": n, "file_name": f"{n}.png", "width": 64, "height": 64})
            notes += [{"image_id": n, "category_id": k, "bbox": box} for k, box in boxes.items()]
            captions.append({"image_id": n, "caption": said})
        else:
            objects = [{"name": NAMES[k], "box": [b[0], b[1], b[0] + b[2], b[1] + b[3]]} for k, b in boxes.items()]
            wrong = f"there is a {NAMES[kinds[0]]} and a person ."
            row = {"id": str(n), "image": f"{n}.png", "question": "describe the image .", "objects": objects}
            rows.append(row | {"chosen": said, "rejected": wrong})
    kinds = [{"id": k, "name": name} for k, name in enumerate(NAMES)]
    instances = {"images": images, "annotations": notes, "categories": kinds}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def given_settings():
    """The settings of the paper's size, made small."""
    from mfpo.settings import read_params

    params = read_params(ROOT / "studies/paper/params.yaml")
    small = {"max_new_tokens": 16, "batch_size": 8}
    methods = {name: params["methods"][name] for name in ("dpo", "mfpo")}
    terms = {name: params["ablations"]["terms"]["methods"][name] for name in ("no_image", "full")}
    return params | {
        "size": {
            "models": ["model"], "load": {"dtype": "float32"}, "training": {"logging_steps": 1},
            "objects": "build/paper/data/objects.txt", "question": "describe the image .", **small,
        },
        "seeds": [0, 1], "annotation": {"instances": "instances.json", "captions": "captions.json", "images": "photos"},
        "photographs": {"test": 6, "validation": 3, "least": 3, "questions": 2}, "methods": methods,
        "preferences": {"source": "rows.jsonl", "images": "photos", "heldout": 3},
        "training": {"rates": [0.001, 0.01], "epochs": 2, "batch_size": 4, "lora_r": 2, "beta": 0.1},
        "trust": {"attention_rows": 6, **small}, "ablations": {"rate": 0.01, "terms": {"methods": terms}},
        "noise": {"methods": list(methods), "measured": {"steps": [100, 900], "rows": 3, **small}},
        "benchmarks": {
            "folder": "benchmarks", "names": ["object_halbench", "pope"], "methods": list(methods), "batch_size": 8,
            "options": {"object_halbench": {"lemmas": "offline"}},
        },
    }


@contextmanager
def one_thread_pool(processes):
    with ThreadPoolExecutor(1) as pool:
        yield pool


def run_code(notebook, **parameters):
    """The code of a pipeline's notebook with its parameters, as papermill runs it, in this process."""
    cells = json.loads((ROOT / f"nbs/experiments/{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {"display": lambda *shown: None}
    for cell in (c for c in cells if c["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), notebook, "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            assert set(parameters) <= set(names), f"{notebook} has no parameter {set(parameters) - set(names)}"
            names |= parameters


def test_without_a_section_all_is_the_miniatures():
    size = size_of(None)
    assert size.domain is SCENE_DOMAIN and size.model("build", 1) == "build/base/1/base"
    assert size.model("build/balance", 2, "grounded") == "build/balance/base/2/grounded"


def test_a_section_names_checkpoints_and_photographs():
    with tempfile.TemporaryDirectory() as temporary:
        objects = Path(temporary) / "objects.txt"
        objects.write_text("dog, puppy\n")
        size = size_of({
            "models": ["some/model"], "load": {"dtype": "bfloat16"}, "objects": str(objects), "question": "What?",
        })
        assert size.model("build", 0) == "some/model"
        with pytest.raises(ValueError, match=r"base 1: size\.models has 1"):
            size.model("build", 1)
        assert size.domain.question == "What?" and size.domain.named("puppies") == ["dog"]
        before = size.described(temporary)
        objects.write_text("dog, hound\n")
        assert size.described(temporary) != before  # the file's contents decide, not its name
        assert size_of({"objects": str(objects)}).domain.question == "Describe this image in detail."


def test_wrong_sections_are_refused():
    for wrong, reason in (
        ({"load": {"devise": "cpu"}}, "devise"), ({"question": "What?"}, "objects is not"), ({"modelz": []}, "modelz"),
        ({"models": "some/model"}, r"give a list, one model a base: \[some/model\]"),
        ({"batch_size": 0}, "1 or more"),
    ):
        with pytest.raises(ValueError, match=reason):
            size_of(wrong)


def test_the_same_notebooks_measure_given_models_on_photographs():
    import matplotlib

    import mfpo.runs.ablation
    import mfpo.runs.jobs
    from mfpo.commands.difficulty import main as difficulty
    from mfpo.benchmarks.scenes import write_coco, write_halbench, write_pictures, write_pope
    from mfpo.commands.negatives import main as negatives
    from mfpo.data.scenes import WorldConfig, scene_rows
    from mfpo.model.small import small_vlm_for_tests
    from mfpo.model.vlm import save_vlm

    matplotlib.use("Agg")
    before, kept = os.getcwd(), (mfpo.runs.jobs.workers, mfpo.runs.ablation.workers)
    mfpo.runs.jobs.workers = mfpo.runs.ablation.workers = one_thread_pool
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given_files(folder)
        save_vlm(*small_vlm_for_tests(), folder / "model")
        os.chdir(folder)
        try:
            Path("params.yaml").write_text(yaml.safe_dump(given_settings()))
            at = {"settings": "params.yaml", "build": "build/paper"}
            data = {"data": "build/paper/data"}
            run_code("photographs", settings="params.yaml", out="build/paper/data")
            run_code("preferences", settings="params.yaml", out="build/paper/pairs")
            for split, preset in (("train", "mfpo"), ("heldout", "mfpo"), ("heldout", "global")):
                name = preset if split == "train" else f"{split}-{preset}"
                rows, output = f"build/paper/pairs/0-{split}.parquet", f"build/paper/negatives/0-{name}.parquet"
                negatives(f"--rows {rows} --preset {preset} --output {output} --workers 1".split())
            sampling = "--model model --samples 2 --max_new_tokens 6 --use_cpu"
            rows, output = "build/paper/pairs/0-train.parquet", "build/paper/difficulty/0.parquet"
            difficulty(f"--rows {rows} {sampling} --output {output}".split())
            run_code("reference", **at, out="build/paper/reference")
            for method in ("dpo", "mfpo"):
                run_code("train", **at, **data, method=method, out=f"build/paper/train/{method}")
            run_code("checks", **at, **data, out="build/paper/checks", figures="results/figures")
            run_code("answers", **at, **data, trained="build/paper/train", out="build/paper/answers")
            run_code("attention", **at, **data, out="build/paper/attention")
            run_code("ablations", **at, **data, table="terms", out="build/paper/ablations/terms")
            with pytest.raises(FileNotFoundError, match="(?s)benchmarks/object_halbench is no folder.*obj_halbench_300"):
                run_code("benchmarks", **at, out="results", resamples=20)
            scenes = list(scene_rows(WorldConfig(test=4), "test"))
            for name, write in (("object_halbench", write_coco), ("object_halbench", write_halbench), ("pope", write_pope)):
                write(scenes, Path("benchmarks") / name)
                write_pictures(scenes, Path("benchmarks") / name / "pictures")
            run_code("benchmarks", **at, out="results", resamples=20)
            for notebook, more in (("figure1", data), ("scores", data), ("tables", {}), ("verdict", {})):
                run_code(notebook, **at, **more, out="results", resamples=20)
            table, noise, verdict = (pd.read_csv(f"results/{name}.csv") for name in ("table1", "noise", "verdict"))
            counts = pd.read_parquet("build/paper/answers/counts.parquet")
            answers, published = pd.read_parquet("build/paper/benchmarks.parquet"), pd.read_csv("results/benchmarks.csv")
        finally:
            os.chdir(before)
            mfpo.runs.jobs.workers, mfpo.runs.ablation.workers = kept
        assert list(table["method"]) == ["base", "dpo", "mfpo"] and table["CHAIRs"].notna().all()
        trained = table[table["method"] != "base"]
        assert (trained["text_gap"] > 0).all() and (trained["chosen_reward"].abs() > 1e-4).all()
        # two methods from two seeds on six photographs; no abilities, no kinds: nothing of the world's scenes
        assert len(counts) == 2 * 2 * 6 and not [c for c in counts if c.endswith("_right") or "typical" in c]
        # of each picture two objects that are there and two that are not
        assert set(counts["questions"]) == {4} and set(counts["present"]) == {2} and set(counts["true_objects"]) == {3}
        assert set(noise["method"]) == {"base", "DPO", "MFPO, easy to hard"} and set(noise["step"]) == {100, 900}
        assert set(verdict["where"]) == {"Table 1", "Table 4", "Figure 1", "Figure 2"} and len(verdict) == 6
        # the base, and two methods from two seeds: a description of each picture; by split, as many objects that are there as not
        asked = sum(3 * 2 * min(3, len(row["objects"])) for row in scenes)
        assert list(published["method"]) == ["base", "dpo", "mfpo"] and len(answers) == 5 * (4 + asked)
        assert published["pope_yes_ratio"].between(0, 100).all() and "object_halbench_CHAIRs" in published
        text = (folder / "results/benchmarks.md").read_text()
        assert f"POPE: {asked} questions" in text and "lemmas offline" in text and "is not the published file" in text
        text = (folder / "results/table1.md").read_text()
        assert "2 training seeds, 6 test pictures" in text and "blind" not in text.lower()
        assert "32 more were not measured" in (folder / "results/verdict.md").read_text()
        assert sorted(path.stem for path in (folder / "results/figures").glob("*.png")) == [
            "ablations", "base_answers", "base_checks", "chairs_recall", "figure1_attention", "figure1_heads",
            "figure1_noise", "reward_balance", "verdict",
        ]
