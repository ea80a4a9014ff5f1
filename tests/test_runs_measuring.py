# Exported from nbs/runs/measuring.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.measuring import *  # noqa: F403

import tempfile
from pathlib import Path
import pandas as pd
from mfpo.data.building import build_negatives
from mfpo.data.negatives import negative_preset
from mfpo.data.pairs import PairConfig, preference_pairs
from mfpo.data.regions import AnnotatedRegions
from mfpo.data.rows import write_rows
from mfpo.data.scenes import SCENES, WorldConfig, caption_text, scene_rows, world_words
from mfpo.model.small import build_small_vlm
from mfpo.model.vlm import save_vlm


def test_the_base_has_no_gap_to_itself_and_another_model_has():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed in (0, 1):
            save_vlm(*build_small_vlm(world_words(), seed=seed), folder / f"model{seed}")
        rows = scene_rows(WorldConfig(test=24), "test")
        pairs = preference_pairs(
            rows, [[caption_text(k, SCENES[k][:4])] for k in rows["scene"]], [], [], PairConfig(rows=4, captions=1.0)
        )
        build_negatives(pairs, AnnotatedRegions(), negative_preset("mfpo"), folder / "pairs.parquet", progress=False)
        write_rows(rows, folder / "test.parquet")
        common = {
            "test": str(folder / "test.parquet"), "pairs": {n: str(folder / "pairs.parquet") for n in ("one", "other")},
            "trust": {"max_new_tokens": 4, "attention_rows": 2}, "beta": 0.1, "noise": {"steps": [900], "rows": 2},
        }
        tables = []
        for seed in (0, 1):
            written = measure_run(
                base=str(folder / "model0"), adapter=None, model=str(folder / f"model{seed}"),
                label={"method": "x", "seed": seed}, folder=str(folder / f"out{seed}"), **common,
            )
            tables.append({k: pd.read_parquet(v) for k, v in written.items()})
        assert (tables[0]["gaps"][["text_gap", "image_gap", "chosen_reward"]].abs() < 1e-6).all(axis=None)
        assert (tables[1]["gaps"]["chosen_reward"].abs() > 1e-3).all()
        one = {
            "base": str(folder / "model0"), "adapter": None, "model": str(folder / "model1"), "brief": True,
            "label": {"method": "x", "seed": 1}, **common, "noise": None,
        }
        short = measure_run(**one, folder=str(folder / "brief"))
        assert list(short) == ["counts", "gaps"]
        counts = pd.read_parquet(short["counts"])
        pd.testing.assert_frame_equal(counts, tables[1]["counts"][list(counts)])
        few = pd.read_parquet(measure_run(**one, folder=str(folder / "few"), scenes=5)["counts"])
        pd.testing.assert_frame_equal(few, counts.head(5))
        try:
            measure_run(**one, folder=str(folder / "none"), scenes=0)
            raise AssertionError("no scenes were taken")
        except ValueError as error:
            assert "scenes=0" in str(error)
        assert tables[1]["gaps"]["negatives"].value_counts().to_dict() == {"one": 4, "other": 4}
        assert len(tables[0]["noise"]) == 2 * 2 and (tables[0]["noise"]["method"] == "x").all()
        assert (
            len(tables[0]["counts"]) == 24
            and (tables[1]["counts"]["seed"] == 1).all()
            and {"logp_clean", "caption", "lost"} <= set(tables[0]["counts"])
        )
