# Exported from nbs/runs/preparing.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.preparing import *  # noqa: F403

import tempfile
from pathlib import Path
import pandas as pd
import pytest
from mfpo.data.rows import read_rows, write_rows
from mfpo.data.scenes import WorldConfig, scene_rows

TINY = {"vision_steps": 2, "align_steps": 40, "context_steps": 1, "batch_size": 16, "align_lr": 0.01}


def test_a_base_its_pairs_and_their_difficulty():
    world = WorldConfig(vision=16, pretrain=64, preference=160)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split in ("vision", "pretrain", "preference"):
            write_rows(scene_rows(world, split), folder / f"{split}.parquet")
        losses = pretrain_run(str(folder / "vision.parquet"), str(folder / "pretrain.parquet"), TINY, 0, str(folder))
        assert set(losses) == {"vision", "alignment", "context"} and (folder / "base" / "model.safetensors").is_file()
        found = []
        for i in range(2):
            config = {"rows": 40, "captions": 0.0}
            found.append(pairs_run(
                str(folder / "base"), str(folder / "preference.parquet"), config, {}, str(folder / f"pairs{i}.parquet")
            ))
        assert found[0] == found[1] and found[0]["questions"] == 40
        assert (folder / "pairs0.parquet").read_bytes() == (folder / "pairs1.parquet").read_bytes()
        told = difficulty_run(
            str(folder / "base"), str(folder / "pairs0.parquet"), {"samples": 3, "temperature": 0.5},
            str(folder / "difficulty.parquet"),
        )
        table = pd.read_parquet(folder / "difficulty.parquet")
        assert table["id"].tolist() == read_rows(folder / "pairs0.parquet")["id"] and told["size"] == [14, 13, 13]
        assert (table[["difficulty", "weighted", "words", "tokens"]] >= 0).all(axis=None) and set(table["kind"]) == {"question"}
        assert (table["words"] >= table["difficulty"] - 1e-12).all()  # what is the same in words is the same in meaning
        assert (
            told["kind"] == ["question"] * 3
            and told["max"][0] <= told["min"][1] + 1e-12
            and told["max"][1] <= told["min"][2] + 1e-12
        )
        with pytest.raises(ValueError, match="samples is 1"):
            difficulty_run(str(folder / "base"), str(folder / "pairs0.parquet"), {}, str(folder / "no.parquet"))


def test_negatives_of_every_kind_without_a_model():
    from mfpo.data.pairs import PairConfig, preference_pairs
    from mfpo.data.scenes import SCENES, caption_text
    rows = scene_rows(WorldConfig(preference=40), "preference")
    pairs = preference_pairs(
        rows, [[caption_text(k, SCENES[k][:4])] for k in rows["scene"]], [], [], PairConfig(rows=6, captions=1.0)
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(pairs, folder / "pairs.parquet")
        for name, where, kind in (
            ("noise", "regions", "noise"), ("crop", "global", "crop"), ("other", "global", "retrieved"),
            ("gone", "regions", "inpaint"), ("random", "random", "noise"),
        ):
            config = {"where": where, "corruption": {"kind": kind}}
            told = negatives_run(str(folder / "pairs.parquet"), config, str(folder / f"{name}.parquet"))
            made = read_rows(folder / f"{name}.parquet")
            assert told["rows"] == len(made) == 6 and sum(told["where"].values()) == pytest.approx(1)
            assert made["id"] == pairs["id"] and (told["area"] == 1) == (where == "global"), (name, told)


def test_meaning_is_objects_and_yes_or_no():
    assert same_meaning("a park with a dog .", "a kitchen with a dog .")
    assert not same_meaning("a park with a dog .", "a park with a dog , a tree .")
    assert not same_meaning("no , there is no dog .", "a street .")
    with pytest.raises(ValueError):
        SamplingConfig(samples=0)
