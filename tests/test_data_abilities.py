# Exported from nbs/data/abilities.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.abilities import *  # noqa: F403

import numpy as np
import pytest

from mfpo.data.scenes import COLORS, SIZE, WorldConfig, scene_rows, world_words


def test_answers_are_what_the_picture_shows():
    for row in scene_rows(WorldConfig(test=30), "test"):
        pixels, labels = np.asarray(row["image"]), np.asarray(row["instances"])
        colors, places = set(), set()
        for number in range(1, labels.max() + 1):
            ys, xs = np.nonzero(labels == number)
            colors |= {name for name, rgb in COLORS.items() if tuple(pixels[ys[0], xs[0]]) == rgb}
            places.add(f"{'top' if ys.mean() < SIZE / 2 else 'bottom'} {'left' if xs.mean() < SIZE / 2 else 'right'}")
        found = {q["kind"]: named(q["kind"], q["answer"]) for q in ability_questions(row)}
        assert found == {"colors": colors, "places": places, "number": {NUMBERS[labels.max()]}}


def test_what_an_answer_names():
    assert named("places", "bottom left , top right .") == {"bottom left", "top right"} and named("places", "left") == set()
    assert named("colors", "Red, or blue; reddish") == {"red", "blue"} and named("number", "") == set()
    assert is_right("number", "three", "three .") and not is_right("colors", "red .", "red , blue .")
    assert is_right("colors", "blue and red", "red , blue .") and not is_right("colors", "red , blue , black", "red , blue .")
    with pytest.raises(ValueError, match="ability 'size' is unknown"):
        named("size", "big")


def test_every_word_is_known():
    words = {w for row in scene_rows(WorldConfig(vision=40), "vision") for q in ability_questions(row)
             for w in (q["question"] + " " + q["answer"]).split()}
    assert words <= ability_words() and not ability_words() <= set(world_words())
