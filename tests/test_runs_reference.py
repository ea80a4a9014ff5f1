# Exported from nbs/runs/reference.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.reference import *  # noqa: F403

import tempfile
from pathlib import Path
import pytest
from mfpo.data.building import build_negatives
from mfpo.data.negatives import NegativeConfig
from mfpo.data.pairs import PairConfig, preference_pairs
from mfpo.data.rows import read_rows, write_rows
from mfpo.data.scenes import SCENES, WorldConfig, caption_text, scene_rows, world_words
from mfpo.model.reference import part_of, read_reference
from mfpo.model.small import build_small_vlm
from mfpo.model.vlm import load_vlm, save_vlm
from mfpo.train.collator import PreferenceCollator, RowEncoder
from mfpo.train.scoring import score_arms

DPO, MFPO = {"title": "DPO", "objective": "dpo"}, {"title": "MFPO", "objective": "mfpo", "negatives": "mfpo"}
SFT, SHARED = {"title": "SFT", "objective": "sft"}, {"batch_size": 4}


def inputs_in(folder):
    """Two random bases and eight pairs with negatives."""
    for seed in (0, 1):
        save_vlm(*build_small_vlm(world_words(), seed=seed), folder / f"base{seed}")
    rows = scene_rows(WorldConfig(preference=40), "preference")
    said = [[caption_text(k, SCENES[k][:4])] for k in rows["scene"]]
    pairs = preference_pairs(rows, said, [], [], PairConfig(rows=8, captions=1.0))
    write_rows(build_negatives(pairs, None, NegativeConfig(where="global"), progress=False), folder / "rows.parquet")
    return [str(folder / "base0"), str(folder / "rows.parquet")]


def test_the_file_holds_what_the_methods_ask_for():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs, out = inputs_in(folder), str(folder / "out" / "reference.parquet")
        told = reference_run(*inputs, [SFT, DPO, MFPO], SHARED, out)
        scores = read_reference(out)
        assert list(scores.logps) == ["chosen_original", "rejected_original", "chosen_negative"] and told["rows"] == 8
        assert scores.notes["negatives"] == "8 noise in global"
        model, processor = load_vlm(inputs[0])
        collator = PreferenceCollator(RowEncoder(processor))
        expected = score_arms(model, read_rows(inputs[1]), collator, batch_size=8, route="plain")
        assert told["mean"] == pytest.approx({arm.label: expected[arm].mean() for arm in collator.arms}, abs=1e-4)
        before = Path(out).stat().st_mtime_ns
        assert reference_run(*inputs, [SFT, DPO, MFPO], SHARED, out) == told and Path(out).stat().st_mtime_ns == before
        # another base makes it anew, as does a part that was begun for one
        other = reference_run(str(folder / "base1"), inputs[1], [DPO, MFPO], SHARED, out)
        assert other["mean"] != told["mean"]
        Path(out).unlink()
        part_of(out).mkdir()
        (part_of(out) / "plan.json").write_text("{}")
        assert reference_run(*inputs, [MFPO], SHARED, out) == told
        assert [p.name for p in Path(out).parent.iterdir()] == ["reference.parquet"]
        assert list(reference_run(*inputs, [DPO], SHARED, str(folder / "dpo.parquet"))["mean"]) == [
            "chosen_original", "rejected_original",
        ]
        with pytest.raises(ValueError, match="no method of .'SFT'. has a reference"):
            reference_run(*inputs, [SFT], SHARED, str(folder / "none.parquet"))
