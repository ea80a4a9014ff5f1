# Exported from nbs/data/scenes.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.scenes import *  # noqa: F403

import dataclasses
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
import numpy as np
import pytest


def test_objects_look_different():
    # No two objects share more than 85 % of their pixels (intersection over union), at equal jitter.
    masks = [render(Scene("", "park", (Placed(n, "red", 0, 0, 2, 2),), (0,) * 16))[1] > 0 for n in OBJECTS]
    overlap = np.array([[(a & b).sum() / (a | b).sum() for b in masks] for a in masks])
    assert overlap[~np.eye(20, dtype=bool)].max() < 0.85


def test_masks_boxes_and_pixels_agree():
    config = WorldConfig()
    for i in range(40):
        scene = draw_scene(config, "test", i)
        image, instances = render(scene)
        assert sorted(set(np.unique(instances)) - {0}) == list(range(1, len(scene.objects) + 1))
        for k, placed in enumerate(scene.objects):
            mask = instances == k + 1
            ys, xs = np.nonzero(mask)
            assert placed.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert (image[mask] == COLORS[placed.color]).all()
            assert (xs // CELL == placed.col).all() and (ys // CELL == placed.row).all()


def test_priors_are_what_they_say():
    # 4000 scenes, 1000 a type: the standard error of a share is at most .016; 5 of them are .08.
    config = WorldConfig()
    scenes = [draw_scene(config, "pretrain", i) for i in range(4000)]
    for kind, names in SCENES.items():
        mine = [s for s in scenes if s.kind == kind]
        for name, prior in zip(names, config.priors):
            assert abs(np.mean([name in s.names for s in mine]) - prior) < 0.08
    strays = np.mean([any(n not in SCENES[s.kind] for n in s.names) for s in scenes])
    assert abs(strays - config.foreign) < 0.04


def test_captions_and_answers_are_read_back():
    config = WorldConfig()
    for i in range(200):
        scene = draw_scene(config, "test", i)
        assert mentioned_objects(caption_text(scene.kind, scene.names)) == scene.names
        questions = scene_questions(config, scene)
        assert [q["present"] for q in questions].count(False) == 2
        for q in questions:
            assert q["present"] == (q["object"] in scene.names)
            assert mentioned_objects(q["answer"]) == ([q["object"]] if q["present"] else [])
    assert mentioned_objects("no , there is no cup .") == []
    assert mentioned_objects("a kitchen with a cup , a cup , a unicorn .") == ["cup"]
    assert (
        caption_text("park", []) == "an empty park ."
        and set(caption_text("park", ["dog", "tree"]).split()) <= set(world_words())
    )


def test_the_world_is_bit_for_bit_the_same_elsewhere():
    code = (
        "import hashlib, sys; from mfpo.data.scenes import *; c = WorldConfig(); "
        "print(hashlib.sha256(b''.join("
        "a.tobytes() for i in range(50) for a in render(draw_scene(c, 'test', i)))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    config = WorldConfig()
    pixels = b"".join(a.tobytes() for i in reversed(range(50)) for a in reversed(render(draw_scene(config, "test", i))))
    here = hashlib.sha256(
        b"".join(a.tobytes() for i in range(50) for a in render(draw_scene(config, "test", i)))
    ).hexdigest()
    assert here == other and len(pixels) == 50 * 64 * 64 * 4
    # A split's size does not change its rows, a seed does.
    assert draw_scene(WorldConfig(test=7), "test", 3) == draw_scene(config, "test", 3)
    assert draw_scene(WorldConfig(seed=1), "test", 3) != draw_scene(config, "test", 3)


def test_written_worlds_verify_and_damage_is_found():
    small = WorldConfig(vision=4, pretrain=4, preference=4, validation=4, test=4)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_world(small, folder)
        found = verify_world(small, folder)
        assert all(f["bytes_equal"] and f["rows"] == 4 for f in found.values()) and set(found) == set(SPLITS)
        with pytest.raises(ValueError, match="vision.parquet is not what these settings draw"):
            verify_world(dataclasses.replace(small, seed=1), folder)
        paths[-1].unlink()
        with pytest.raises(FileNotFoundError, match="test.parquet is missing"):
            verify_world(small, folder)


def test_wrong_settings_are_refused():
    for wrong, message in (
        ({"priors": (0.5,)}, "five probabilities"),
        ({"foreign": 2.0}, "a probability"),
        ({"test": 0}, "1 or more rows"),
    ):
        with pytest.raises(ValueError, match=message):
            WorldConfig(**wrong)
    with pytest.raises(ValueError, match="the world has vision"):
        scene_rows(WorldConfig(), "training")
