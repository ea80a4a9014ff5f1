# Exported from nbs/data/standins.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.standins import *  # noqa: F403

import numpy as np
import pytest
from PIL import Image


def test_a_hole_takes_the_nearest_colour_and_nothing_else_changes():
    pixels = np.zeros((5, 6, 3), np.uint8)
    pixels[:, :3], pixels[:, 3:] = 10, 200
    hole = np.zeros((5, 6), bool)
    hole[:, 2:5] = True  # columns 2 to 4; column 1 is dark, column 5 light
    painted = np.asarray(BorderPainter()(Image.fromarray(pixels), hole, 0))
    assert (painted[:, 2] == 10).all() and (painted[:, 4] == 200).all()
    assert (painted[~hole] == pixels[~hole]).all()
    with pytest.raises(ValueError, match="whole picture"):
        BorderPainter()(Image.fromarray(pixels), np.ones((5, 6), bool), 0)


def test_the_embedding_is_that_of_the_cells_means():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    cells = pixels.reshape(2, 4, 2, 6, 3).mean((1, 3))  # by hand: two by two cells of 4 x 6 pixels
    expected = np.round(cells).ravel() - 127.5
    found = ColourGrid(2)([Image.fromarray(pixels)])
    assert found.dtype == np.float32 and found.shape == (1, 12)
    assert np.abs(found[0] - expected / np.linalg.norm(expected)).max() < 0.02  # the resize rounds to whole colours
    with pytest.raises(ValueError, match="cells=0"):
        ColourGrid(0)


def test_they_serve_where_models_do():
    from mfpo.data.corruptions import Corruption
    from mfpo.data.donors import RetrievedDonors
    from mfpo.data.negatives import NegativeConfig, Tools, make_negatives
    from mfpo.data.regions import AnnotatedRegions
    from mfpo.data.rows import dataset_of
    from mfpo.data.scenes import WorldConfig, scene_rows

    scenes = scene_rows(WorldConfig(test=12), "test")
    rows = dataset_of([
        {"id": row["id"], "image": row["image"], "instances": row["instances"], "objects": row["objects"], "question": "what ?",
         "chosen": row["caption"], "rejected": "nothing"} for row in scenes
    ])
    pytest.importorskip("faiss")
    found = RetrievedDonors(rows, ColourGrid(), progress=False)
    kinds = {row["id"]: row["scene"] for row in scenes}
    assert all(found.nearest(name)[0] != name for name in kinds)
    assert sum(kinds[found.nearest(name)[0]] == kind for name, kind in kinds.items()) >= 10  # the ground is of the scene type
    config = NegativeConfig(corruption=Corruption(kind="inpaint"), keywords={"top_k": 1})
    made = list(make_negatives(rows, AnnotatedRegions(), config, tools=Tools(painter=BorderPainter())))
    assert all(row["negative_kind"] == "inpaint" and 0 < row["changed_area"] < 0.2 for row in made)
