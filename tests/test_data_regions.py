# Exported from nbs/data/regions.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.regions import *  # noqa: F403

import numpy as np
from PIL import Image


def annotated(with_labels=True):
    """A 10 × 8 picture: a cup (2 × 3 pixels of a 3 × 3 box), a plate at the border, and a second plate."""
    labels = np.zeros((8, 10), np.uint8)
    labels[1:4, 1:3], labels[0:2, 8:10], labels[5:8, 5:7] = 1, 2, 3
    objects = [
        {"name": "cup", "box": [1, 1, 4, 4]},
        {"name": "plate", "box": [8, 0, 12, 2]},
        {"name": "plate", "box": [5, 5, 7, 8]},
    ]
    row = {"id": "r", "objects": objects, "instances": Image.fromarray(labels) if with_labels else None}
    return Image.new("RGB", (10, 8)), row


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def mask_of(*slices):
    mask = np.zeros((8, 10), bool)
    for piece in slices:
        mask[piece] = True
    return mask


def test_annotated_masks_and_boxes():
    image, row = annotated()
    masks = find_regions(AnnotatedRegions(), image, ["Plates", "cup", "fork"], row)
    assert list(masks) == ["Plates", "cup"] and masks["Plates"].sum() == 4 + 6 and masks["cup"].sum() == 6
    masks = find_regions(AnnotatedRegions(boxes_only=True), image, ["Plates", "cup"], row)
    assert masks["Plates"].sum() == 4 + 6 and masks["cup"].sum() == 9  # the box at the border is cut there
    image, row = annotated(with_labels=False)
    assert find_regions(AnnotatedRegions(), image, ["cup"], row)["cup"].sum() == 9
    row["objects"] = {"name": ["cup"], "box": [[0, 0, 2, 2]]}  # a struct of lists, as some readers give it
    assert find_regions(AnnotatedRegions(), image, ["cups"], row)["cups"].sum() == 4
    assert (
        find_regions(AnnotatedRegions(), image, ["cup"], {"id": "r"})
        == find_regions(NoRegions(), image, ["cup"], row)
        == {}
    )


def test_annotation_that_does_not_fit_is_named():
    image, row = annotated()
    small = {**row, "instances": Image.new("L", (3, 3))}
    more = {**row, "objects": row["objects"][:1]}
    assert "'r'" in refused(AnnotatedRegions(), image, ["cup"], small) and "(3, 3)" in refused(
        AnnotatedRegions(), image, ["cup"], small
    )
    assert "labels up to 3" in refused(AnnotatedRegions(), image, ["cup"], more)
    for box in ([4, 4, 4, 8], [1, 2, 3], None):
        wrong = {"id": "r", "objects": [{"name": "cup", "box": box}]}
        assert "x0 < x1" in refused(AnnotatedRegions(), image, ["cup"], wrong)


def test_any_finder_is_checked():
    image, row = annotated()
    good = mask_of(np.s_[0:2, 0:2])
    assert list(find_regions(lambda image, words, row: {"b": good, "a": good}, image, ["a", "b", "c"], row)) == [
        "a",
        "b",
    ]
    assert (
        find_regions(lambda image, words, row: {"a": ~(good | ~good)}, image, ["a"], row) == {}
    )  # an empty mask is no find
    for answer, expected in (
        ([good], "dict"),
        ({"x": good}, "not asked"),
        ({"a": good.T}, "shape"),
        ({"a": good.astype(int)}, "type"),
    ):
        message = refused(find_regions, lambda image, words, row: answer, image, ["a"], row)
        assert expected in message and "'r'" in message and "<lambda>" in message
    try:
        find_regions(lambda image, words, row: row["no such column"], image, ["a"], row)
        raise AssertionError("went on")
    except RuntimeError as error:
        assert "row 'r': finder <lambda> failed (KeyError" in str(error)


def test_boxes_and_dilation():
    corner = mask_of(
        np.s_[0, 0], np.s_[1, 1], np.s_[5:7, 5], np.s_[6, 5:8]
    )  # two pieces; pixels that touch at a corner are one
    assert np.array_equal(region_of({"a": corner}, "box"), mask_of(np.s_[0:2, 0:2], np.s_[5:7, 5:8]))
    assert np.array_equal(region_of({"a": mask_of(np.s_[3, 3])}, dilate=2), mask_of(np.s_[1:6, 1:6]))
    assert np.array_equal(region_of({"a": mask_of(np.s_[0, 0])}, dilate=1), mask_of(np.s_[0:2, 0:2]))
    assert np.array_equal(
        region_of({"a": mask_of(np.s_[0, 0]), "b": mask_of(np.s_[7, 9])}), mask_of(np.s_[0, 0], np.s_[7, 9])
    )
    assert region_of({}) is None
    source = mask_of(np.s_[0, 0])
    region_of({"a": source}, "box", 1)
    assert source.sum() == 1  # the finder's own mask is not written to
    assert bounding_box(mask_of(np.s_[2:4, 3:9])) == [3, 2, 9, 4]


def test_area_cap():
    big, small, other = (
        mask_of(np.s_[:, :6]),
        mask_of(np.s_[0:2, 8:10]),
        mask_of(np.s_[4:8, 6:8]),
    )  # 48, 4, 8 of 80 pixels
    masks = {"street": big, "cup": small, "dog": other}
    assert list(shape_masks(masks)) == ["street", "cup", "dog"]
    assert list(shape_masks(masks, area_cap=0.65)) == [
        "street",
        "cup",
    ]  # 48 + 4 = 52 of 80 = .65; the dog would make .75
    assert list(shape_masks(masks, area_cap=0.2)) == ["cup", "dog"]
    assert list(shape_masks(masks, area_cap=0.01)) == [
        "cup"
    ]  # nothing fits: the smallest, rather than the whole picture
    for wrong in (dict(shape="ball"), dict(dilate=-1), dict(area_cap=0), dict(area_cap=1.1)):
        assert next(iter(wrong)) in refused(region_of, masks, **wrong)
