# Exported from nbs/commands/tools.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.tools import *  # noqa: F403

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfpo.commands.options import BadInput
from mfpo.data.negatives import NegativeConfig, negative_preset
from mfpo.data.rows import dataset_of


def some_rows(n=3, **more):
    rng = np.random.default_rng(0)
    return dataset_of([
        {"id": f"row-{k}", "image": Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)),
         "question": "q", "chosen": "a cup", "rejected": "a hat", **more}
        for k in range(n)
    ])


OUT = Path("out.parquet")


def test_finders_are_found_by_name():
    from mfpo.data.regions import AnnotatedRegions, NoRegions

    config = NegativeConfig()
    annotated = some_rows(objects=[{"name": "cup", "box": [1, 1, 5, 5]}])
    assert isinstance(finder_for(ToolOptions(), annotated, config), AnnotatedRegions)
    assert isinstance(finder_for(ToolOptions(), some_rows(), config), NoRegions)
    assert isinstance(finder_for(ToolOptions(finder="sam3"), some_rows(), negative_preset("global")), NoRegions)
    own = finder_for(ToolOptions(finder="mfpo.data.regions:find_regions"), some_rows(), config)
    assert own is sys.modules["mfpo.data.regions"].find_regions
    for name, message in (
        ("annotation", "no column objects"),
        ("no.such:thing", "cannot be imported"),
        ("mfpo.data.regions:nothing", "cannot be imported"),
        ("nobody/nothing-at-all", "--finder"),
    ):
        with pytest.raises(BadInput, match=message):
            finder_for(ToolOptions(finder=name), some_rows(), config)


def test_only_what_is_needed_is_loaded():
    assert tools_for(ToolOptions(), some_rows(), NegativeConfig(), OUT).fingerprints == {
        "embed": "none", "donors": "none", "painter": "none", "similarity": "none"
    }
    other = tools_for(ToolOptions(), some_rows(), NegativeConfig(where="global", corruption={"kind": "other"}), OUT)
    assert other.donors(some_rows()[0])[0] in ("row-1", "row-2")
    for given, config, message in (
        ({"embedding": "nowhere/at-all"}, NegativeConfig(), "--embedding"),
        ({"similar_by": "nowhere/at-all"}, negative_preset("rdpo"), "--similar_by"),
        ({"painter": "nowhere/at-all"}, negative_preset("adavip"), "--painter"),
        ({"compare_by": "nowhere/at-all"}, NegativeConfig(select="least_similar"), "--compare_by"),
    ):
        with pytest.raises(BadInput, match=message):
            tools_for(ToolOptions(**given), some_rows(), config, OUT)


def test_real_models_of_tiny_size():
    # The classes of the published checkpoints with random weights, saved and loaded by name: they say nothing sensible, but
    # everything between the option and the picture is in use.
    from mfpo.data.negatives import make_negative
    from mfpo.model.small import small_vlm_for_tests
    from mfpo.model.vlm import save_vlm

    with tempfile.TemporaryDirectory() as folder:
        save_vlm(*small_vlm_for_tests(), f"{folder}/llava")
        tools = tools_for(ToolOptions(embedding=f"{folder}/llava"), some_rows(), NegativeConfig(), OUT)
        assert tools.embed(["cup", "table"]).shape[0] == 2 and tools.fingerprints["embed"] != "none"
        row = {**some_rows()[0], "chosen": "A cup on a table."}
        assert make_negative(row, finder_for(ToolOptions(), some_rows(), NegativeConfig()), NegativeConfig(), tools)
