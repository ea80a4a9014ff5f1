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

def unlucky(image, words, row):
    """A finder that fails."""
    raise RuntimeError("no luck")


def test_photographs_become_rows_with_negatives():
    with tempfile.TemporaryDirectory() as folder:
        words = photographs(folder)
        before = {p: p.read_bytes() for p in pathlib.Path(folder).rglob("*") if p.is_file()}
        said = run(*words, "--output", f"{folder}/out.parquet", "--preview", "2")
        rows = read_rows(f"{folder}/out.parquet")
        assert rows["id"] == ["cat", "coffee"] and rows["negative_where"] == ["regions", "regions"]
        assert "2 rows (2 regions); 0 rejected" in said and "2 of 6 keywords were found" in said and "dB (median)" in said
        clean, negative = np.asarray(rows[0]["image"]), np.asarray(rows[0]["negative"])
        inside = np.zeros(clean.shape[:2], bool)
        inside[10:290, 60:430] = True
        assert (clean[~inside] == negative[~inside]).all() and (clean[inside] != negative[inside]).any(-1).mean() > 0.9
        assert Image.open(f"{folder}/out.preview.png").size[0] > 400
        card = pathlib.Path(folder, "out.card.md").read_text()
        assert "yours to state" in card and "corruption.step" in card and "| rejected | 0 |" in card and folder not in card
        assert all(path.read_bytes() == data for path, data in before.items()), "the source is never changed"
        made = {"out.card.md", "out.parquet", "out.preview.png", "photos", "rows.jsonl"}
        assert {p.name for p in pathlib.Path(folder).iterdir()} == made
        # The same command again makes nothing anew; another one is refused, unless told to replace.
        stamp = pathlib.Path(folder, "out.parquet").stat().st_mtime_ns
        run(*words, "--output", f"{folder}/out.parquet")
        assert pathlib.Path(folder, "out.parquet").stat().st_mtime_ns == stamp
        with pytest.raises(BadInput, match="settings.corruption.step: 500 there, 300 here"):
            run(*words, "--output", f"{folder}/out.parquet", "--step", "300")
        run(*words, "--output", f"{folder}/out.parquet", "--step", "300", "--overwrite")


def test_options_are_the_settings_of_the_library():
    from mfpo.data.negatives import NegativeConfig, negative_preset

    assert NegativesOptions().config == negative_preset("mfpo")
    given = NegativesOptions(preset="mdpo", crop_scale=[0.1, 0.3], seed=4, top_k=2, lambda_=0.0).config
    assert given.corruption == negative_preset("mdpo", crop_scale=(0.1, 0.3), seed=4).corruption
    assert given.keywords.top_k == 2 and given.keywords.lambda_ == 0
    for wrong in ({"step": 1000}, {"area_cap": 0.0}, {"preview": -1}, {"limit": 0}, {"workers": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NegativesOptions(**wrong)
    with pytest.raises(ValueError, match="where"):
        NegativesOptions(kind="inpaint", where="global")
    # every setting of the library has an option, but for those of the published normalisation and bounds on long texts
    from mfpo.data.corruptions import Corruption
    from mfpo.data.keywords import KeywordConfig

    settings = {n for cls in (NegativeConfig, Corruption, KeywordConfig) for n in cls.__dataclass_fields__}
    rest = {"keywords", "corruption", "mean", "std", "tolerance", "pipeline", "adjectives", "compounds", "max_words",
            "max_candidates"}
    assert settings - set(NegativesOptions.__dataclass_fields__) == rest


def test_what_falls_back_is_said_and_bad_input_refused():
    with tempfile.TemporaryDirectory() as folder:
        words = photographs(folder, [{k: v for k, v in row.items() if k != "objects"} for row in ROWS])
        said = run(*words, "--output", f"{folder}/out.parquet")
        assert "2 fallback" in said and "in 2 of 2 rows no keyword was found" in said
        for output, message in ((f"{folder}/out.jsonl", "name a .parquet file"), (f"{folder}/out.parquet", "is the input")):
            with pytest.raises(BadInput, match=message):
                run("--rows", f"{folder}/out.parquet", "--output", output)
        with pytest.raises(BadInput, match="--preview_of largest: there are no such rows"):
            run(*words, "--output", f"{folder}/out.parquet", "--preview", "2", "--preview_of", "largest")


def test_bad_rows_are_left_out_only_when_told_so():
    with tempfile.TemporaryDirectory() as folder:
        words = photographs(folder, [*ROWS, {**ROWS[0], "id": "dog", "image": "dog.png"}])
        with pytest.raises(BadInput, match="dog.png"):
            run(*words, "--output", f"{folder}/out.parquet")
        assert not list(pathlib.Path(folder).glob("*out*")) and not list(pathlib.Path(folder).glob(".*"))
        said = run(*words, "--output", f"{folder}/out.parquet", "--skip_bad", "--limit", "1")
        assert "1 rows (1 regions); 1 rejected" in said and read_rows(f"{folder}/out.parquet")["id"] == ["cat"]


def test_a_finder_that_fails_is_named_with_its_row():
    with tempfile.TemporaryDirectory() as folder:
        words = photographs(folder)
        sys.modules["unlucky_finder"] = type(sys)("unlucky_finder")
        sys.modules["unlucky_finder"].find = unlucky
        with pytest.raises(BadInput, match="row 'cat': finder unlucky failed.*no luck"):
            run(*words, "--output", f"{folder}/out.parquet", "--finder", "unlucky_finder:find")
        assert not list(pathlib.Path(folder).glob("*.arrow"))


def test_one_with_another_picture():
    with tempfile.TemporaryDirectory() as folder:
        words = photographs(folder)
        run(*words, "--output", f"{folder}/out.parquet", "--kind", "other", "--where", "global")
        rows = read_rows(f"{folder}/out.parquet")
        assert rows["donor"] == ["coffee", "cat"] and rows["negative_kind"] == ["other", "other"]


def test_a_row_of_several_pictures():
    with tempfile.TemporaryDirectory() as folder:
        several = {**ROWS[0], "images": ["coffee.png", "cat.png"], "image_index": 1}
        several.pop("image")
        words = photographs(folder, [several, ROWS[1]])
        run(*words, "--output", f"{folder}/out.parquet")
        rows = read_rows(f"{folder}/out.parquet")
        assert rows[0]["image"].size == (451, 300) == rows[0]["negative"].size  # the cat: the second of the two
        assert [picture.size for picture in rows[0]["images"]] == [(600, 400), (451, 300)]
