# Exported from nbs/evaluate/domain.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.evaluate.domain import *  # noqa: F403

import tempfile
from pathlib import Path

import pytest
from mfpo.data.scenes import OBJECTS, SCENES, WorldConfig, scene_rows


def test_scenes_are_asked_in_their_own_words():
    row = scene_rows(WorldConfig(test=1), "test")[0]
    there = {thing["name"] for thing in row["objects"]}
    assert SCENE_DOMAIN.truths(row) == there and set(SCENE_DOMAIN.named(row["caption"])) == there
    kinds = SCENE_DOMAIN.kinds(row)
    assert set(kinds) == set(OBJECTS)
    assert {name for name, kind in kinds.items() if kind == "typical"} == set(SCENES[row["scene"]])


def test_photographs_are_read_by_classes_with_synonyms_and_plurals():
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "objects.txt"
        path.write_text("dog, puppy\nhot dog\ncouch, sofa\nwine glass\n")
        domain = photograph_domain(path)
        # worked by hand: "hot dog" is no dog, "glasses" alone is no wine glass
        said = "Two puppies on a sofa eat a hot dog beside wine glasses; a man wears glasses."
        assert domain.named(said) == ["dog", "couch", "hot dog", "wine glass"]
        assert domain.names == ("couch", "dog", "hot dog", "wine glass") and domain.kinds({}) == {} and not domain.abilities
        assert domain.truths({"objects": [{"name": "dog"}], "also": ["couch"]}) == {"dog", "couch"}
        assert domain.truths({"objects": [{"name": "dog"}], "also": None}) == {"dog"}


def test_files_without_classes_are_refused():
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "objects.txt"
        with pytest.raises(FileNotFoundError, match="no such file"):
            photograph_domain(path)
        path.write_text("\n , \n")
        with pytest.raises(ValueError, match="names no objects"):
            photograph_domain(path)
        path.write_text("dog, puppy\ncat, puppy\n")
        with pytest.raises(ValueError, match="line 2: 'puppy' belongs to 'dog'"):
            photograph_domain(path)
