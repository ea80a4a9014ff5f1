# Exported from nbs/commands/negatives.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.negatives import *  # noqa: F403

import contextlib, io, json, pathlib, sys, tempfile
import numpy as np
import pytest
import skimage.data
from PIL import Image
from mfpo.commands.options import BadInput
from mfpo.data.rows import read_rows

ROWS = [
    {
        "id": "cat",
        "image": "cat.png",
        "question": "What is in the picture?",
        "chosen": "A cat looks into the camera.",
        "rejected": "A cat and a dog look into the camera.",
        "objects": [{"name": "cat", "box": [60, 10, 430, 290]}],
    },
    {
        "id": "coffee",
        "image": "coffee.png",
        "question": "What is on the table?",
        "chosen": "A cup of coffee and a spoon on a saucer.",
        "rejected": "A cup of coffee, a spoon and a plate of biscuits.",
        "objects": [{"name": "cup", "box": [170, 60, 430, 330]}],
    },
]


def photographs(folder, rows=ROWS):
    """A rows file and its pictures in `folder`; returns the words that name them."""
    folder = pathlib.Path(folder)
    (folder / "photos").mkdir()
    Image.fromarray(skimage.data.chelsea()).save(folder / "photos" / "cat.png")
    Image.fromarray(skimage.data.coffee()).save(folder / "photos" / "coffee.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--rows", f"{folder}/rows.jsonl", "--images", f"{folder}/photos"]


def run(*words):
    """Standard error of `mfpo negatives`."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        main(list(words))
    return err.getvalue()


def test_photographs_become_rows_with_negatives():
    with tempfile.TemporaryDirectory() as folder:
        words = photographs(folder)
        before = {p: p.read_bytes() for p in pathlib.Path(folder).rglob("*") if p.is_file()}
        said = run(*words, "--output", f"{folder}/out.parquet", "--preview", "2")
        rows = read_rows(f"{folder}/out.parquet")
        assert rows["id"] == ["cat", "coffee"] and rows["negative_where"] == ["regions", "regions"] and "2 regions" in said
        clean, negative = np.asarray(rows[0]["image"]), np.asarray(rows[0]["negative"])
        inside = np.zeros(clean.shape[:2], bool)
        inside[10:290, 60:430] = True
        assert (clean[~inside] == negative[~inside]).all() and (clean[inside] != negative[inside]).any(-1).mean() > 0.9
        assert Image.open(f"{folder}/out.preview.png").size[0] > 400
        assert all(path.read_bytes() == data for path, data in before.items()), "the source is never changed"
        # The same command again makes nothing anew; another one is refused, unless told to replace.
        stamp = pathlib.Path(folder, "out.parquet").stat().st_mtime_ns
        run(*words, "--output", f"{folder}/out.parquet")
        assert pathlib.Path(folder, "out.parquet").stat().st_mtime_ns == stamp
        with pytest.raises(BadInput, match="settings.corruption.step: 500 there, 300 here"):
            run(*words, "--output", f"{folder}/out.parquet", "--step", "300")
        run(*words, "--output", f"{folder}/out.parquet", "--step", "300", "--overwrite")


def test_options_are_the_settings_of_the_library():
    from mfpo.data.negatives import negative_preset

    assert NegativesOptions().config == negative_preset("mfpo")
    given = NegativesOptions(preset="mdpo", crop_scale=[0.1, 0.3], seed=4, top_k=2).config
    assert (
        given.corruption == negative_preset("mdpo", crop_scale=(0.1, 0.3), seed=4).corruption and given.keywords.top_k == 2
    )
    for wrong in ({"step": 1000}, {"kind": "crop"}, {"area_cap": 0.0}, {"preview": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong)) if wrong != {"kind": "crop"} else "where"):
            NegativesOptions(**wrong)


def test_finders_are_found_by_name():
    from mfpo.data.regions import AnnotatedRegions, NoRegions

    assert isinstance(finder_for("auto", ["id", "objects"]), AnnotatedRegions) and isinstance(
        finder_for("auto", ["id"]), NoRegions
    )
    assert finder_for("mfpo.data.regions:find_regions", []) is sys.modules["mfpo.data.regions"].find_regions
    for name, message in (
        ("annotation", "no column objects"),
        ("detector", "give auto"),
        ("no.such:thing", "cannot be imported"),
        ("mfpo.data.regions:nothing", "cannot be imported"),
    ):
        with pytest.raises(BadInput, match=message):
            finder_for(name, ["id"])


def test_what_falls_back_is_said_and_bad_input_refused():
    with tempfile.TemporaryDirectory() as folder:
        words = photographs(folder, [{k: v for k, v in row.items() if k != "objects"} for row in ROWS])
        said = run(*words, "--output", f"{folder}/out.parquet")
        assert "2 fallback" in said and "in 2 of 2 rows no keyword was found" in said
        for output, message in ((f"{folder}/out.jsonl", "name a .parquet file"), (f"{folder}/out.parquet", "is the input")):
            with pytest.raises(BadInput, match=message):
                run("--rows", f"{folder}/out.parquet", "--output", output)
