# Exported from nbs/analysis/noise.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.noise import *  # noqa: F403

import numpy as np
import pytest

from mfpo.data.scenes import WorldConfig, scene_rows, world_words
from mfpo.model.small import build_small_vlm

ROWS = list(scene_rows(WorldConfig(test=4), "test"))


def test_noise_stays_where_it_belongs():
    for row in ROWS:
        before = np.asarray(row["image"])
        whole, keys = (np.asarray(noised_at(row, where, 900)) for where in PLACES)
        inside = key_mask(row)
        assert (keys[~inside] == before[~inside]).all() and (whole[~inside] != before[~inside]).any(-1).mean() > 0.9
    with pytest.raises(ValueError, match="noise in 'the sky' is unknown"):
        noised_at(ROWS[0], "the sky", 100)


def test_every_scene_place_and_step_is_counted_once():
    model, processor = build_small_vlm(world_words(), seed=0)
    table = unchanged_under_noise(model, processor, ROWS, NoiseConfig(steps=(0, 900), rows=3, max_new_tokens=6))
    assert len(table) == 3 * 2 * 2 and not table.duplicated(["id", "where", "step"]).any()
    assert set(table["id"]) == {row["id"] for row in ROWS[:3]}
    for row in ROWS[:3]:
        assert set(table[table["id"] == row["id"]]["decisions"]) == {len(row["questions"])}
    assert (table["decisions_unchanged"] <= table["decisions"]).all() and set(table["unchanged"]) <= {0, 1}


def test_scores_of_a_worked_table():
    # 2 of 4 descriptions and 9 of 12 decisions are the same
    scores = noise_scores({"unchanged": 2, "answers": 4, "decisions": 12, "decisions_unchanged": 9, "rows": 4})
    assert scores == {"answers_unchanged": 50.0, "decisions_unchanged": 75.0}
    assert same_verdict("yes , there is", "Yes.") and not same_verdict("yes", "no") and same_verdict("well", "")


def test_wrong_settings_are_refused():
    for wrong in ({"steps": ()}, {"steps": (100, 100)}, {"steps": (1000,)}, {"rows": 0}, {"schedule": "cosine"}):
        with pytest.raises(ValueError):
            NoiseConfig(**wrong)
