# Exported from nbs/data/negatives.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.negatives import *  # noqa: F403

import numpy as np
from PIL import Image

from mfpo.data.corruptions import Corruption, corrupt
from mfpo.data.keywords import KeywordConfig
from mfpo.data.regions import AnnotatedRegions

WORDS = KeywordConfig(vocabulary=("cup", "lamp"))


def some_row(k=0, **changes):
    """A row with a 20 × 16 picture; every third answer names something that is not annotated."""
    rng = np.random.default_rng(k)
    return {
        "id": f"row-{k}",
        "image": Image.fromarray(rng.integers(60, 190, (16, 20, 3), dtype=np.uint8)),
        "chosen": "a lamp ." if k % 3 == 2 else "a cup .",
        "objects": [{"name": "cup", "box": [2, 3, 6 + k % 5, 9]}],
        **changes,
    }


def mfpo_config(**changes):
    return negative_preset("mfpo", keywords=WORDS, **changes)


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def test_key_regions_and_fallback():
    several = [some_row(k) for k in range(6)]
    for before, row in zip(several, make_negatives(several, AnnotatedRegions(), mfpo_config())):
        assert tuple(row) == ADDED_COLUMNS and row["negative_kind"] == "noise" and row["donor"] is None
        assert row["keyword_source"] == "vocabulary"
        old, new = np.asarray(before["image"]), np.asarray(row["negative"])
        if before["chosen"] == "a lamp .":
            assert row["negative_where"] == "fallback" and row["region_area"] == 1 and row["keywords"] == ["lamp"]
            assert row["regions"] == [{"keyword": "lamp", "found": False, "box": None}] and row["changed_area"] > 0.9
        else:
            x0, y0, x1, y1 = before["objects"][0]["box"]
            assert row["regions"] == [{"keyword": "cup", "found": True, "box": [x0, y0, x1, y1]}]
            assert row["negative_where"] == "regions"
            mask = np.zeros((16, 20), bool)
            mask[y0:y1, x0:x1] = True
            assert np.array_equal(old[~mask], new[~mask]) and row["region_area"] == mask.mean()
            assert row["changed_area"] == (old != new).any(-1).mean() > 0
            assert np.array_equal(new, np.asarray(corrupt(before["image"], mask, Corruption(), (before["id"],))))
            power = (old[mask].astype(float) ** 2).sum() / ((new[mask].astype(float) - old[mask]) ** 2).sum()
            assert np.isclose(row["region_snr"], 10 * np.log10(power))


def test_presets():
    row = some_row()
    whole = make_negative(row, AnnotatedRegions(), negative_preset("global"))
    assert whole["negative_where"] == "global" and whole["region_area"] == 1
    assert whole["keywords"] == [] and whole["regions"] == [] and whole["keyword_source"] == ""
    crop = make_negative(row, AnnotatedRegions(), negative_preset("mdpo"))
    assert crop["negative_kind"] == "crop" and crop["negative_where"] == "global"
    somewhere = make_negative(row, AnnotatedRegions(), negative_preset("random"))
    assert somewhere["negative_where"] == "random" and abs(somewhere["region_area"] - 0.2) < 0.03
    chip = make_negative(row, AnnotatedRegions(), negative_preset("chip"))
    assert chip["region_snr"] > whole["region_snr"]  # noise in units of the model's own scale is milder
    config = negative_preset("mfpo", step=300, schedule="linear", seed=4, shape="box", dilate=2)
    assert config.corruption == Corruption(step=300, schedule="linear", seed=4)
    assert (config.shape, config.dilate) == ("box", 2)
    assert "mfpo, global" in refused(negative_preset, "mfp") and "stepp" in refused(negative_preset, "mfpo", stepp=1)


def test_random_regions_have_the_share_they_say():
    areas, seen = [], np.zeros((60, 80))
    for seed in range(1500):
        mask = random_region((80, 60), 0.2, seed)
        areas.append(mask.mean())
        seen += mask
    assert abs(np.mean(areas) - 0.2) < 0.002 and max(abs(np.array(areas) - 0.2)) < 0.01  # whole pixels: half a row of 60
    assert seen.min() > 0 and abs(seen.mean() / 1500 - 0.2) < 0.002  # no pixel is out of reach
    assert random_region((80, 60), 1.0, 0).all() and random_region((1, 1), 0.2, 0).all()


def test_settings_are_checked():
    from mfpo.settings import settings_from

    section = {
        "where": "regions",
        "corruption": {"step": 300},
        "keywords": {"vocabulary": ["cup"], "top_k": 2},
        "shape": "box",
    }
    config = settings_from(NegativeConfig, section, "params.yaml: negatives")
    assert config.corruption.step == 300 and config.keywords == KeywordConfig(vocabulary=("cup",), top_k=2)
    assert "params.yaml: negatives" in refused(
        settings_from, NegativeConfig, {"corruption": {"steps": 300}}, "params.yaml: negatives"
    )
    for wrong in (
        dict(where="somewhere"),
        dict(select="best"),
        dict(random_area=0),
        dict(shape="ball"),
        dict(dilate=-1),
        dict(area_cap=2),
        dict(where="global", corruption=Corruption(kind="inpaint")),
    ):
        assert next(iter(wrong)) in refused(NegativeConfig, **wrong)


def test_neighbours_do_not_matter():
    several = [some_row(k) for k in range(6)]
    together = make_negatives(several, AnnotatedRegions(), mfpo_config())
    for k in (5, 0):
        alone = make_negative(several[k], AnnotatedRegions(), mfpo_config())
        assert np.array_equal(np.asarray(alone["negative"]), np.asarray(together[k]["negative"]))
    other = make_negative(several[0], AnnotatedRegions(), mfpo_config(seed=1))
    assert not np.array_equal(np.asarray(other["negative"]), np.asarray(together[0]["negative"]))


def test_tools_are_asked_for_before_any_row():
    for config, name in (
        (negative_preset("rdpo"), "donors"),
        (negative_preset("adavip"), "painter"),
        (NegativeConfig(select="least_similar"), "similarity"),
    ):
        assert f"needs {name}" in refused(Tools().check, config)
    Tools().check(negative_preset("mfpo"))


def test_another_picture_is_named():
    cat = Image.new("RGB", (20, 16), (1, 2, 3))
    made = make_negative(some_row(), AnnotatedRegions(), negative_preset("rdpo"), Tools(donors=lambda row: ("cat", cat)))
    assert made["donor"] == "cat" and made["negative_kind"] == "retrieved" and made["region_area"] == 1
    assert (np.asarray(made["negative"]) == (1, 2, 3)).all()


def test_the_one_region_that_fits_least():
    # Two regions; the painter makes what it paints black. The stand-in likeness counts pixels that are not black, so that
    # the larger region's picture is the less similar one.
    both = some_row(chosen="a cup and a lamp .", objects=[
        {"name": "lamp", "box": [0, 0, 3, 3]}, {"name": "cup", "box": [5, 5, 15, 15]}])


    def black(image, mask, seed):
        pixels = np.array(image)
        pixels[mask] = 0
        return Image.fromarray(pixels)


    tools = Tools(
        painter=black, similarity=lambda made, text: np.array([(np.asarray(m) > 0).any(-1).mean() for m in made])
    )
    config = negative_preset("adavip", keywords=WORDS)
    made = make_negative(both, AnnotatedRegions(), config, tools)
    assert {r["keyword"]: r["found"] for r in made["regions"]} == {"cup": True, "lamp": False}
    assert made["region_area"] == made["changed_area"] == 100 / 320 and made["negative_kind"] == "inpaint"
    assert np.isclose(made["region_snr"], 0)  # all of the signal is gone: as much error as signal
    fallen = make_negative(some_row(2), AnnotatedRegions(), config, tools)
    assert (fallen["negative_kind"], fallen["negative_where"]) == ("noise", "fallback")


def test_a_plain_function_is_a_finder():
    def upper_half(image, words, row):
        mask = np.zeros(image.size[::-1], bool)
        mask[: mask.shape[0] // 2] = True
        return {words[0]: mask}


    made = make_negative(some_row(), upper_half, mfpo_config())
    assert made["region_area"] == 0.5 and made["regions"][0]["box"] == [0, 0, 20, 8]


    def broken(image, words, row):
        return {words[0]: np.ones(3, bool)}


    assert refused(make_negative, some_row(), broken, mfpo_config()).startswith("row 'row-0': finder broken")
    grey = some_row(id="grey", image=Image.new("L", (8, 8)), objects=[])
    assert refused(make_negative, grey, AnnotatedRegions(), mfpo_config()).startswith("row 'grey': image has mode L")


def test_what_a_long_answer_leaves_out_is_said():
    from mfpo.data.keywords import KeywordConfig as Settings

    long = some_row(chosen="a cup . " * 30)
    few = negative_preset("mfpo", keywords=Settings(vocabulary=("cup",), max_words=10))
    assert make_negative(long, AnnotatedRegions(), few)["keyword_source"] == "vocabulary (50 words unread)"


def test_area_cap_and_shape_reach_the_row():
    row = some_row()
    made = make_negative(row, AnnotatedRegions(), mfpo_config(dilate=1))
    x0, y0, x1, y1 = row["objects"][0]["box"]
    assert made["regions"][0]["box"] == [x0 - 1, y0 - 1, x1 + 1, y1 + 1]
