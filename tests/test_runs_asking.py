# Exported from nbs/runs/asking.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.asking import *  # noqa: F403

import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from mfpo.benchmarks.registry import NAMES, benchmark
from mfpo.benchmarks.scenes import ExactJudge, write_amber, write_coco, write_halbench, write_mmhal, write_pictures, write_pope
from mfpo.data.abilities import ability_words
from mfpo.data.scenes import WorldConfig, scene_rows, world_words
from mfpo.evaluate.answers import generate_answers
from mfpo.model.small import build_small_vlm
from mfpo.model.vlm import save_vlm
from mfpo.settings import settings_from


def scenes_model(folder):
    model, processor = build_small_vlm({*world_words(), *ability_words()})
    save_vlm(model, processor, folder)
    return model.eval(), processor


def test_a_model_is_asked_every_benchmark_once():
    rows = list(scene_rows(WorldConfig(test=4), "test"))
    plan = BenchmarkPlan(methods=(), scenes=4, names=("pope", "amber"))
    with tempfile.TemporaryDirectory() as build:
        model, processor = scenes_model(Path(build) / "model")
        write_pictures(rows, Path(build) / "benchmarks" / "pictures")
        write_pope(rows, Path(build) / "benchmarks")
        write_amber(rows, Path(build) / "benchmarks")
        calls = []
        def counted(model, processor, pictures, questions, **options):
            calls.append(len(questions))
            return generate_answers(model, processor, pictures, questions, **options)
        with mock.patch("mfpo.evaluate.answers.generate_answers", counted):
            made = ask_run(f"{build}/model", None, plan, build, {"method": "base"}, f"{build}/x/a.parquet")
            table = pd.read_parquet(made["answers"])
            items = [(name, item) for name in plan.names for item in plan.items(name, build)]
            assert sum(calls) == len({(i.image, i.question) for _, i in items}) < len(items)
            # what is in the journal is not asked again, and the table is the same
            again = pd.read_parquet(ask_run(f"{build}/model", None, plan, build, {"method": "base"}, f"{build}/x/a.parquet")["answers"])
            assert sum(calls) == len({(i.image, i.question) for _, i in items}) and again.equals(table)
    by_image = {f"{row['id']}.png": row["image"] for row in rows}
    expected = generate_answers(model, processor, [by_image[i.image] for _, i in items], [i.question for _, i in items], max_new_tokens=40)
    assert table["answer"].tolist() == expected and table["id"].tolist() == [i.id for _, i in items]
    assert set(table["method"]) == {"base"} and table["benchmark"].tolist() == [name for name, _ in items]


def test_published_files_are_asked_as_published_each_from_its_own_folder():
    rows = list(scene_rows(WorldConfig(test=8), "test"))
    section = {"methods": [], "names": ["pope", "chair"], "options": {"pope": {"splits": ["random"]}}, "batch_size": 3}
    with tempfile.TemporaryDirectory() as folder:
        plan = settings_from(BenchmarkPlan, {**section, "folder": folder}, "")
        model, processor = scenes_model(Path(folder) / "model")
        # pictures of the same names, and not the same
        for name, write, some in (("pope", write_pope, rows[:4]), ("chair", write_coco, [{**row, "id": rows[k]["id"]} for k, row in enumerate(rows[4:])])):
            write(some, Path(folder) / name)
            write_pictures(some, Path(folder) / name / "pictures")
        made = pd.read_parquet(ask_run(f"{folder}/model", None, plan, "nowhere", {"seed": 1}, f"{folder}/a.parquet", {"dtype": "float32"})["answers"])
        items = {name: plan.items(name, "nowhere") for name in plan.names}
    assert {item.facts["split"] for item in items["pope"]} == {"random"} and all("suffix" not in item.facts for item in items["chair"])
    assert plan.asking("pope").max_new_tokens == 16 and plan.asking("chair").max_new_tokens == 512
    for name, some in (("pope", rows[:4]), ("chair", rows[4:])):
        pictures = {f"{rows[k]['id']}.png": row["image"] for k, row in enumerate(some)}
        questions = [item.question + plan.asking(name).suffix for item in items[name]]
        expected = generate_answers(model, processor, [pictures[i.image] for i in items[name]], questions, max_new_tokens=plan.asking(name).max_new_tokens)
        assert made.loc[made["benchmark"] == name, "answer"].tolist() == expected, name


def test_a_run_twice_scores_as_once():
    rows = list(scene_rows(WorldConfig(test=96), "test"))
    options = {"amber": {"nouns": "offline", "similar": "offline", "read": "first word"}}
    plan = BenchmarkPlan(methods=(), scenes=96, names=("object_halbench", "chair", "amber", "pope", "mmhal"), options=options)
    with tempfile.TemporaryDirectory() as build:
        for write in (write_pope, write_amber, write_coco, write_halbench, write_mmhal):
            write(rows, Path(build) / "benchmarks")
        rng = np.random.default_rng(0)
        for name in plan.names:
            what, items = benchmark(name), plan.items(name, build)
            said = ["Yes.", "No.", "there is a cup and a bed .", "a red lamp on the left ."]
            runs = [pd.DataFrame({"base": 0, "seed": seed, "id": [i.id for i in items], "answer": rng.choice(said, len(items))}) for seed in (0, 1)]
            def judge(requests):
                return ExactJudge([{**row, "id": identity} for identity, _ in requests for row in rows if identity.endswith("|" + row["id"])])
            def scored(kept, *runs):
                more = {"judge": judge, "journal": f"{build}/{kept}"} if what.requests and what.judge == "needed" else {}
                return pooled_scores(what, items, pd.concat(runs), options=plan.options.get(name, {}), n=20, **more).values
            once, twice = scored("once", runs[0]), scored("twice", runs[0], runs[0].assign(seed=1))
            both, other = scored("both", *runs), scored("other", runs[1])
            for metric, value in once.items():
                assert twice[metric].estimate == pytest.approx(value.estimate, rel=1e-12, nan_ok=True), (name, metric)
            # the counts of two runs add up, so that their joint score lies between those of each
            for metric in (m for m in once if np.isfinite(once[m].estimate) and m in both):
                low, high = sorted((once[metric].estimate, other[metric].estimate))
                assert low - 1e-9 <= both[metric].estimate <= high + 1e-9 or "F1" in metric, (name, metric)


def test_wrong_plans_are_refused():
    good = {"methods": ["dpo"], "folder": "given", "names": ["pope"]}
    assert settings_from(BenchmarkPlan, good, "").place("pope", "build") == "given/pope"
    assert settings_from(BenchmarkPlan, {"methods": [], "scenes": 2}, "").place("pope", "build") == "build/benchmarks"
    for change, reason in (
        ({"scenes": 5}, "one of the two"), ({"folder": None}, "one of the two"), ({"names": ["popes"]}, "'popes' is unknown"),
        ({"names": ["pope", "hallusion"]}, "hallusion cannot be pooled"), ({"names": ["mmhal"]}, "mmhal is scored by a judge: add judges"),
        ({"options": {"pope": {"splts": []}}}, "no option splts"), ({"judges": {"pope": {"model": "m"}}}, "scored without one"),
        ({"names": "pope"}, r"names is 'pope'; give a list: \[pope\]"), ({"methods": "dpo"}, "give a list"),
        ({"names": ["mmhal"], "judges": {"mmhal": {"modl": "m"}}}, "mmhal has modl; give model"), ({"names": ["mmhal"], "judges": {"mmhal": {"base_url": "x"}}}, "mmhal has no model"),
        ({"options": {"amber": {}}}, "which names has not"), ({"names": []}, "one benchmark or more"), ({"batch_size": 0}, "1 or more"),
        ({"method": []}, "unknown setting method"),
    ):
        with pytest.raises(ValueError, match=reason):
            settings_from(BenchmarkPlan, {**good, **change}, "benchmarks")
    assert set(JOINT) < set(NAMES)
    judged = BenchmarkPlan(methods=(), folder="given", names=("mmhal",), judges={"mmhal": {"model": "m", "base_url": "http://127.0.0.1:9/v1"}})
    writer = judged.writer("mmhal")(SimpleNamespace(settings={"temperature": 0.25}))
    assert (writer.model, writer.temperature, writer.base_url) == ("m", 0.25, "http://127.0.0.1:9/v1") and judged.asking("mmhal").max_new_tokens == 512
    assert settings_from(BenchmarkPlan, good, "").writer("pope") is None
