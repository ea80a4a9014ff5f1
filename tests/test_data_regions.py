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


def test_phrases_are_looked_up_by_their_longest_known_end():
    image = Image.new("RGB", (10, 8))
    names = ["light", "traffic light", "Dogs", "hot dog"]
    objects = [{"name": name, "box": [k, 0, k + 1, 1 + k]} for k, name in enumerate(names)]
    row = {"id": "r", "objects": objects}
    words = ["red traffic lights", "bright light", "small dog", "hot dogs", "traffic", "cat", ""]
    found = find_regions(AnnotatedRegions(), image, words, row)
    assert {word: int(mask.sum()) for word, mask in found.items()} == {
        "red traffic lights": 2, "bright light": 1, "small dog": 3, "hot dogs": 4
    }


def test_polygons_and_runs():
    from mfpo.data.regions import coco_mask

    # A square of 3 × 2 pixels by corners at whole pixels; a triangle over the pixel centres by hand; runs down the columns.
    shape, row = (4, 6), {"id": "r"}
    square = np.zeros(shape, bool)
    square[1:3, 2:5] = True
    assert np.array_equal(coco_mask([[2, 1, 5, 1, 5, 3, 2, 3]], shape, row), square)
    assert np.array_equal(coco_mask([[5, 3, 5, 1, 2, 1, 2, 3]], shape, row), square)  # the other way round
    # below the diagonal of a square of 4: centres with y > x; on the diagonal itself the centre counts to the left side
    triangle = coco_mask([[0, 0, 4, 4, 0, 4]], shape, row)
    assert not np.triu(triangle[:, :4], 1).any() and np.tril(triangle[:, :4], -1).sum() == 6 and not triangle[:, 4:].any()
    beyond = coco_mask([[-9, -9, 99, -9, 99, 1, -9, 1]], shape, row)  # cut at the borders
    assert beyond[0].all() and not beyond[1:].any()
    assert coco_mask([[2, 1, 5, 1, 5, 3, 2, 3], [0, 0, 1, 0, 1, 1, 0, 1]], shape, row).sum() == 7  # a union
    assert coco_mask([], shape, row).sum() == 0
    runs = {"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}  # columns of 4: two full columns above, one more pixel, …
    assert np.array_equal(coco_mask(runs, shape, row), square)
    assert coco_mask({"size": [4, 6], "counts": [0, 24]}, shape, row).all()


def test_polygons_against_scikit_image():
    # It counts pixel centres, too, at whole coordinates: the polygon is moved by half a pixel. Random edges hit none.
    from skimage.draw import polygon2mask

    from mfpo.data.regions import coco_mask

    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = tuple(int(x) for x in rng.integers(5, 60, 2))
        corners = rng.uniform(-5, 65, (int(rng.integers(3, 9)), 2))
        mine = coco_mask([corners.ravel().tolist()], shape, {"id": "r"})
        assert np.array_equal(mine, polygon2mask(shape, corners[:, ::-1] - 0.5))


def test_objects_with_masks():
    image, row = annotated(with_labels=False)
    row["objects"][0]["mask"] = [[1, 1, 3, 1, 3, 3, 1, 3]]
    masks = find_regions(AnnotatedRegions(), image, ["cup", "plate"], row)
    assert masks["cup"].sum() == 4 and masks["plate"].sum() == 4 + 6  # the plates have boxes only
    assert find_regions(AnnotatedRegions(boxes_only=True), image, ["cup"], row)["cup"].sum() == 9
    row["instances"] = annotated()[1]["instances"]
    assert find_regions(AnnotatedRegions(), image, ["cup"], row)["cup"].sum() == 6  # the label map goes first
    row["objects"] = {"name": ["cup", "dog"], "mask": [None, [[0, 0, 2, 0, 2, 2, 0, 2]]], "box": [[0, 0, 1, 1], None]}
    row["instances"] = None
    for absent in (None, {"size": None, "counts": None}):
        row["objects"]["mask"][0] = absent
        masks = find_regions(AnnotatedRegions(), image, ["cup", "dog"], row)
        assert (masks["cup"].sum(), masks["dog"].sum()) == (1, 4)
    for wrong, expected in (
        ({"size": [8, 10], "counts": "PPYo0"}, "compressed"),
        ({"size": [8, 10], "counts": b"PPYo0"}, "compressed"),
        ({"size": [10, 8], "counts": [80]}, "size [10, 8]"),
        ({"size": [8, 10], "counts": [79]}, "79"),
        ({"size": [8, 10], "counts": [81, -1]}, "no number"),
        ({"size": [8, 10], "counts": [79.5, 0.5]}, "no number"),
        ({"counts": [80]}, "size None"),
        ({}, "size None"),
        ([[1, 2, 3, 4]], "three corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three corners"),
        ([[1, 2, 3, 4, 5, float("nan")]], "three corners"),
        ([1, 2, 3, 4, 5, 6], "three corners"),
        ([["a", "b", "c", "d", "e", "f"]], "three corners"),
        ([None], "three corners"),
        ("polygon", "str"),
        (7, "int"),
    ):
        row["objects"] = [{"name": "cup", "mask": wrong}]
        message = refused(AnnotatedRegions(), image, ["cup"], row)
        assert expected in message and "row 'r'" in message, (wrong, message)


def test_many_pictures_at_once():
    from mfpo.data.regions import find_many, out_of_memory

    image, row = annotated()
    good = mask_of(np.s_[0:2, 0:2])
    calls = []


    class Batched:
        fingerprint = "batched"

        def __call__(self, image, words, row):
            raise AssertionError("asked one by one")

        def find_many(self, images, words, rows):
            calls.append([row["id"] for row in rows])
            for row in rows:
                if row["id"] == "bad":
                    raise KeyError("no such column")
                if row["id"] == "full":
                    raise MemoryError("no room")
            if len(rows) > 2:
                raise OSError("too many")
            return [{word: good for word in own if word != "fork"} for own in words]


    rows = [{"id": name} for name in ("p", "q")]
    found = find_many(Batched(), [image] * 2, [["b", "a"], ["fork"]], rows)
    assert [list(f) for f in found] == [["b", "a"], []] and calls == [["p", "q"]]
    looped = find_many(lambda image, words, row: {words[0]: good}, [image] * 2, [["b", "a"], ["fork"]], rows)
    assert [list(f) for f in looped] == [["b"], ["fork"]]
    assert find_many(Batched(), [], [], []) == []
    for ids, expected in (
        (["p", "bad"], "row 'bad': finder Batched failed (KeyError"),
        (["p", "q", "s"], "rows 'p' … 's' together, though not one by one: finder Batched failed (OSError"),
    ):
        try:
            find_many(Batched(), [image] * len(ids), [["a"]] * len(ids), [{"id": name} for name in ids])
            raise AssertionError("went on")
        except RuntimeError as error:
            assert expected in str(error), error
    for ask in (find_many, lambda finder, images, words, rows: find_regions(finder.find_one, images[0], words[0], rows[0])):
        finder = Batched()
        finder.find_one = lambda image, words, row: finder.find_many([image], [words], [row])[0]
        try:
            ask(finder, [image], [["a"]], [{"id": "full"}])
            raise AssertionError("went on")
        except MemoryError as error:
            assert str(error) == "no room"
    cases = ([{}], "gave 1 for 2"), (None, "NoneType"), ([{}, {"x": good}], "not asked"), ([{}, []], "dict")
    for answers, expected in cases:
        wrong = Batched()
        wrong.find_many = lambda images, words, rows: answers
        message = refused(find_many, wrong, [image] * 2, [["a"]] * 2, rows)
        assert expected in message and ("row 'q'" in message or "Batched" in message)
    assert "one each" in refused(find_many, Batched(), [image], [["a"]] * 2, rows)
    texts = "DefaultCPUAllocator: can't allocate memory: you tried", "MPS backend out of memory", "CUDA out of memory."
    cases = [MemoryError(), *map(RuntimeError, texts)]
    assert all(map(out_of_memory, cases)) and not any(map(out_of_memory, (ValueError("out of memory"), KeyError(1))))
