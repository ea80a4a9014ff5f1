# Exported from nbs/runs/given.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.given import *  # noqa: F403

import numpy as np
import pytest
from PIL import Image
from mfpo.data.rows import dataset_of


def rows_of(pictures):
    """A row for every picture number; equal numbers are equal pictures."""
    return dataset_of(
        {"id": str(k), "image": Image.fromarray(np.full((4, 4, 3), n, np.uint8)), "question": "?", "chosen": "a"}
        for k, n in enumerate(pictures)
    )


def test_no_picture_is_trained_on_and_held_out():
    rows = rows_of([0, 1, 1, 2, 3, 3, 3, 4, 5])
    train, held = hold_out(rows, 3, seed=0)
    shades = [{int(np.asarray(p)[0, 0, 0]) for p in part["image"]} for part in (train, held)]
    assert not shades[0] & shades[1] and shades[0] | shades[1] == set(range(6))
    assert len(train) + len(held) == 9 and 3 <= len(held) <= 5
    assert sorted([*train["id"], *held["id"]], key=int) == [str(k) for k in range(9)]
    assert list(train["id"]) == sorted(train["id"], key=int)
    # the choice is the picture's own: it does not depend on where it stands
    other = hold_out(rows.select(range(8, -1, -1)), 3, seed=0)[1]
    assert sorted(other["id"]) == sorted(held["id"])
    assert any(set(hold_out(rows, 3, seed=s)[1]["id"]) != set(held["id"]) for s in range(1, 6))


def test_all_rows_cannot_be_held_out():
    with pytest.raises(ValueError, match="2 rows of 1 pictures, and 1 are to be held out"):
        hold_out(rows_of([7, 7]), 1, seed=0)
    with pytest.raises(ValueError, match="heldout=0"):
        PreferenceConfig("rows.jsonl", heldout=0)
