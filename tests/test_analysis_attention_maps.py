# Exported from nbs/analysis/attention_maps.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.attention_maps import *  # noqa: F403

import hashlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from matplotlib import colormaps
from mfpo.analysis.attention_maps import _grown, _head_grids, _ticks
from mfpo.analysis.figures import save_figure


def panel(**changes):
    """A grey picture of 8 x 8 pixels, its object the lower right quarter, two maps of 2 x 2 patches."""
    maps = {"base": np.full((2, 2), 0.1), "MFPO": np.array([[0.1, 0.1], [0.1, 0.5]])}
    mask = np.zeros((8, 8), dtype=bool)
    mask[4:, 4:] = True
    return {"image": Image.new("RGB", (8, 8), "gray"), "object": "cup", "mask": mask, "attention": maps} | changes


def texts(figure):
    return [text for text in figure.findobj(lambda o: hasattr(o, "get_fontsize")) if text.get_text().strip()]


def test_units_derived_by_hand():
    one = np.array([[0.1, 0.1], [0.1, 0.3]])  # .6 on the image
    assert np.allclose(in_unit(one, "share"), [[1 / 6, 1 / 6], [1 / 6, 1 / 2]])
    assert np.array_equal(in_unit(one, "weight"), one)
    assert np.allclose(in_unit(one), [[2 / 3, 2 / 3], [2 / 3, 2]]) and in_unit(one).mean() == pytest.approx(1)
    # Tokens count alike, whatever they give the image: (1/4 + 0) / 2 and (1/4 + 1) / 2; as weights, the plain mean.
    two = np.stack([np.full((2, 2), 0.2), np.array([[0, 0], [0, 0.01]])])
    assert np.allclose(in_unit(two, "share"), [[0.125, 0.125], [0.125, 0.625]])
    assert np.allclose(in_unit(two, "weight")[1], [0.1, 0.105])
    for bad, unit, message in (
        (one, "percent", "unit 'percent' is unknown; give times, share, weight"),
        (one[0], "times", r"shape \(2,\)"),
        (-one, "weight", "negative"),
        (np.zeros((2, 2)), "share", "none on the image"),
        (np.full((2, 2), np.nan), "weight", "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            in_unit(bad, unit)
    assert in_unit(np.zeros((2, 2)), "weight").max() == 0


def test_overlays_show_what_they_are_given():
    image, strong = Image.new("RGB", (8, 8), "white"), np.array([[0.0, 1.0], [2.0, 4.0]])
    drawn = attention_overlay(image, strong, unit="weight", side=64)
    assert drawn.size == (64, 64) and drawn.mode == "RGB"
    pixels = np.asarray(drawn).astype(float)
    for (row, column), value in np.ndenumerate(strong):
        here = pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32].reshape(-1, 3)
        assert (here == here[0]).all()  # one patch, one colour: white behind viridis, at most .9 opaque
        strength = value / 4
        opacity = 0.9 * strength**0.6
        expected = 255 * ((1 - opacity) + opacity * np.array(colormaps["viridis"](strength)[:3]))
        assert np.abs(here[0] - expected).max() <= 1.5
    # With a larger top all colours are weaker; beyond it they stay at the last.
    weak = np.asarray(attention_overlay(image, strong, unit="weight", top=8, side=64))
    assert not np.array_equal(weak[-1, -1], pixels[-1, -1])
    beyond = np.asarray(attention_overlay(image, 9 * strong, unit="weight", top=4, side=64))
    assert np.array_equal(beyond[-1, 0], pixels[-1, -1])
    # A large picture keeps its size; the outline leaves 2 pixels around the box, then has 2 of white and 2 of black.
    large = attention_overlay(Image.new("RGB", (300, 200)), strong, outline=(100, 50, 200, 150))
    assert large.size == (300, 200)
    values = np.asarray(large)
    assert (values[46:48, 100:200] == 255).all() and (values[50:150, 202:204] == 255).all()
    assert (values[44:46, 100:200] == 0).all() and (values[50:150, 204:206] == 0).all()
    assert not (values[48:152, 98:202] == 255).all(-1).any() and not (values[:44] == 0).all(-1).any()
    smooth = np.asarray(attention_overlay(image, strong, unit="weight", side=64, smooth=True))
    assert len(np.unique(smooth.reshape(-1, 3), axis=0)) > 50
    for options, message in (
        ({"outline": (0, 0, 9, 4)}, "no box .* inside the picture of 8 x 8"),
        ({"outline": np.ones((4, 4))}, r"outline \(4, 4\)"),
        ({"outline": np.zeros((8, 8))}, "with anything in it"),
        ({"top": 0}, "top=0; the strongest colour"),
    ):
        with pytest.raises(ValueError, match=message):
            attention_overlay(image, strong, **options)
    with pytest.raises(ValueError, match="top=0.0"):
        attention_overlay(image, 0 * strong, unit="weight")


def test_masks_grow():
    mask = np.zeros((5, 6), dtype=bool)
    mask[0, 1] = True  # at the picture's end
    expected = np.zeros((5, 6), dtype=bool)
    expected[0:2, 0:3] = True
    assert np.array_equal(_grown(mask, 1), expected) and _grown(mask, 2).sum() == 3 * 4 and mask.sum() == 1


def test_panels_have_their_ratios_and_one_scale():
    wide = panel(object="dog", mask=(0, 0, 8, 4), image=Image.new("RGB", (16, 8)))  # 8 x 4 of 16 x 8: one quarter
    figure = attention_panels([panel(), wide], top=2.5)
    said = [text.get_text() for text in texts(figure)]
    # base: even attention, 1.00; MFPO: .5 / .8 on the lower right quarter: 2.5; .1 / .8 on the upper left: 0.5.
    assert "base\n1.00 ×" in said and "MFPO\n2.50 ×" in said and "1.00 ×" in said and "0.50 ×" in said
    assert "the picture\n“cup”" in said and "“dog”" in said and UNITS["times"] in said
    assert {k: v.ratio for k, v in panel_shares(panel()).items()} == pytest.approx({"base": 1, "MFPO": 2.5})
    assert min(text.get_fontsize() for text in texts(figure)) >= 7
    pictures = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(pictures) == 6
    # One scale: 1 of 2.5 is the even map's colour in both rows, over a grey and over a black picture.
    bar = figure.axes[-1]
    assert bar.get_xlim() == pytest.approx((0, 2.5))
    alone = attention_overlay(panel()["image"], panel()["attention"]["base"], top=2.5)
    assert np.array_equal(pictures[1], np.asarray(alone))
    beside = attention_overlay(wide["image"], wide["attention"]["base"], top=2.5)
    assert np.array_equal(pictures[4], np.asarray(beside)) and not np.array_equal(pictures[4], pictures[5])
    # Without a top, 98 in 100 patches of all maps are below it: of eight values the two largest are 1 and 2.5.
    limit = attention_panels([panel()]).axes[-1].get_xlim()[1]
    assert limit == pytest.approx(np.quantile([1] * 4 + [0.5] * 3 + [2.5], 0.98)) and 1 < limit < 2.5
    share = attention_panels([panel()], unit="share", top=0.25)
    assert UNITS["share"] in [text.get_text() for text in texts(share)] and share.axes[-1].get_xlim() == (0, 0.25)


def test_figures_are_the_same_to_the_byte():
    import tempfile
    from pathlib import Path
    tables = {"base": pd.DataFrame({"layer": [0, 0, 1], "head": [0, 1, 0], "ratio": [1.0, 0.0, np.nan]})}
    with tempfile.TemporaryDirectory() as folder:
        digests = []
        for name in ("a", "b"):
            files = save_figure(attention_panels([panel()]), Path(folder, name), ("png", "pdf"))
            files += save_figure(head_grid(tables), Path(folder, name + "h"), ("png", "pdf"))
            digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


def test_panels_that_do_not_fit_are_named():
    for panels, message in (
        ([], "no panels"),
        ([{k: v for k, v in panel().items() if k != "mask"}], "panel 0 has no mask"),
        ([panel(), panel(attention={"base": np.ones((2, 2))})], "panel 1 has maps of base; .* first, base, MFPO"),
        ([panel(attention={})], "panel 0 has maps of no model"),
        ([panel(mask=np.ones((4, 4)))], "picture of 8 x 8"),
    ):
        with pytest.raises(ValueError, match=message):
            attention_panels(panels)


def test_panels_of_models():
    from mfpo.analysis.attention import image_attention, object_attention, tokens_naming
    from mfpo.model.small import small_vlm_for_tests
    model, processor = small_vlm_for_tests()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    row = {"id": "a", "image": image, "question": "is there a dog ?", "answer": "a red cup .", "objects": [
        {"name": "cup", "box": [32, 16, 48, 32]}, {"name": "dog", "box": [0, 0, 16, 16]}]}
    made = attention_panel({"one": model}, processor, row, "cup")
    assert np.array_equal(np.asarray(made["image"]), np.asarray(image)) and made["attention"]["one"].shape == (1, 4, 4)
    assert panel_shares(made)["one"].ratio == pytest.approx(object_attention(model, processor, [row])["ratio"].item())
    asked = attention_panel({"one": model}, processor, row, "dog", tokens="prompt", layers=[0])
    expected = image_attention(model, processor, image, row["question"], row["answer"], layers=[0])[:1]
    assert np.allclose(asked["attention"]["one"], expected, atol=1e-7)
    wrong = {"zebra": "no object 'zebra'; it has cup, dog", "dog": "does not name 'dog'; give tokens="}
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            attention_panel({"one": model}, processor, row, name)


def test_head_grids_are_laid_out_by_layer_and_head():
    full = pd.DataFrame({"layer": [3, 3, 5, 5], "head": [0, 1, 0, 1], "ratio": [1.0, 2.0, 4.0, 0.5]})
    part = full.drop(index=1)
    (grid, layers, heads), (less, _, _) = _head_grids({"base": full, "MFPO": part}).values()
    assert layers == [3, 5] and heads == [0, 1] and grid.tolist() == [[1, 2], [4, 0.5]]
    assert np.isnan(less[0, 1]) and less[1].tolist() == [4, 0.5]
    figure = head_grid({"base": full, "MFPO": part})
    first, second = (axis for axis in figure.axes if axis.images)
    for axis in (first, second):
        assert (axis.images[0].norm.vmin, axis.images[0].norm.vmax) == (0.25, 4)  # the farthest from 1 is 4
    said = [text.get_text() for text in texts(figure)]
    assert "base\n1.88 ×" in said and "MFPO\n1.83 ×" in said and "1/4" in said and "layer" in said
    assert min(text.get_fontsize() for text in texts(figure)) >= 7
    assert _ticks(range(32)) == ([0, 4, 8, 12, 16, 20, 24, 28], ["0", "4", "8", "12", "16", "20", "24", "28"])
    assert _ticks([3, 5]) == ([0, 1], ["3", "5"])
    for tables, options, message in (
        ({}, {}, "no tables"),
        ({"base": full.drop(columns="head")}, {}, "the table of base has no column head"),
        ({"base": pd.concat([full, full])}, {}, "a layer and head twice"),
        ({"base": full}, {"most": 1}, "a factor above 1"),
    ):
        with pytest.raises(ValueError, match=message):
            head_grid(tables, **options)
