# Exported from nbs/data/finders.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.finders import *  # noqa: F403

import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mfpo.data.boxes import Detections, choose
from mfpo.data.finders import FinderConfig, ModelFinder, load_finder, parts_of
from mfpo.data.regions import AnnotatedRegions, NoRegions, find_many, find_regions
from mfpo.data.tiny import tiny_finder

CPU = dict(device="cpu")


def photograph(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


FOLDER = tempfile.TemporaryDirectory()


def tiny_chain(*kinds, **settings):
    """A finder of tiny random checkpoints."""
    places = [Path(FOLDER.name) / kind for kind in kinds]
    for kind, place in zip(kinds, places):
        if not place.exists():
            tiny_finder(kind, place)
    return load_finder("+".join(map(str, places)), FinderConfig(**CPU, **settings))


def messages(function, *args):
    """(what the call gives, what is logged meanwhile)."""
    records, handler = [], logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("mfpo.data.finders")
    logger.addHandler(handler)
    try:
        return function(*args), records
    finally:
        logger.removeHandler(handler)


def test_settings_are_checked():
    for wrong in (
        dict(box_threshold=1.1), dict(box_threshold="0.3"), dict(mask_threshold=0), dict(mask_threshold=1),
        dict(max_boxes=0), dict(max_boxes=2.5), dict(max_box_area=0), dict(batch_size=0), dict(batch_size=True),
        dict(box_batch=None), dict(prompt="cat"), dict(prompt="{} {}"), dict(dtype="int8"), dict(device=""),
        dict(multimask=1), dict(mask_threshold=float("nan")),
    ):
        assert next(iter(wrong)) in refused(FinderConfig, **wrong), wrong
    assert "cannot be used" in refused(load_finder, "clipseg", FinderConfig(device="nonsense"))
    assert FinderConfig(box_threshold=0).box_threshold == 0


def test_names():
    assert isinstance(load_finder("annotation"), AnnotatedRegions) and isinstance(load_finder("none"), NoRegions)
    import mfpo.data.regions as regions

    assert load_finder("mfpo.data.regions:find_regions") is regions.find_regions
    assert "cannot be imported" in refused(load_finder, "mfpo.data.regions:nothing")
    assert "cannot be imported" in refused(load_finder, "no_such_package.module:finder")
    assert "is tuple" in refused(load_finder, "mfpo.data.finders:DTYPES")
    assert parts_of("grounding-dino+sam2") == ("IDEA-Research/grounding-dino-base", "facebook/sam2.1-hiera-large")
    assert parts_of("owlv2+sam") == ("google/owlv2-base-patch16-ensemble", "facebook/sam-vit-huge")
    assert parts_of("sam3") == ("facebook/sam3", None) and parts_of("clipseg") == ("CIDAS/clipseg-rd64-refined", None)
    assert parts_of("me/my-dino+sam") == ("me/my-dino", "facebook/sam-vit-huge")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a+b").mkdir(), (Path(folder) / "c").mkdir()
        assert parts_of(f"{folder}/a+b") == (f"{folder}/a+b", None)
        assert parts_of(f"{folder}/a+b+{folder}/c") == (f"{folder}/a+b", f"{folder}/c")
        assert parts_of(f"owlv2+{folder}/a+b") == ("google/owlv2-base-patch16-ensemble", f"{folder}/a+b")
    for wrong in ("+", "a+", "+b", "a+b+c", "++"):
        assert "DETECTOR+SEGMENTER" in refused(load_finder, wrong), wrong
    for wrong in ("", "  ", None, 3):
        assert "give annotation" in refused(load_finder, wrong)


def test_any_name_is_a_finder_or_a_clear_refusal():
    rng = np.random.default_rng(0)
    letters = list("ab+:./ -_~%\\\n\t{}é7") + ["sam", "owlv2", "none", "..", "file://", "C:\\", "annotation"]
    for _ in range(300):
        name = "".join(rng.choice(letters, int(rng.integers(1, 7))))
        try:
            load_finder(name, FinderConfig(**CPU))
            assert name in ("annotation", "none"), name
        except ValueError as error:
            assert str(error).strip(), name


def test_chains_that_do_not_chain():
    with tempfile.TemporaryDirectory() as folder:
        at = {kind: str(tiny_finder(kind, Path(folder) / kind)) for kind in ("owlv2", "sam", "clipseg", "sam3")}
        assert "owlv2+" in refused(load_finder, at["sam"], FinderConfig(**CPU))
        pairs = ("sam", "owlv2"), ("owlv2", "owlv2"), ("clipseg", "sam"), ("sam3", "sam"), ("owlv2", "clipseg")
        for first, second in pairs:
            message = refused(load_finder, f"{at[first]}+{at[second]}", FinderConfig(**CPU))
            assert f"{first} + {second} is no chain" in message and "grounding-dino" in message
        (Path(folder) / "other").mkdir()
        (Path(folder) / "other" / "config.json").write_text('{"model_type": "bert"}')
        message = refused(load_finder, f"{folder}/other")
        assert "'bert'" in message and "sam_hq" in message and f"{folder}/other" in message
        assert f"{folder}/nowhere" in refused(load_finder, f"{at['owlv2']}+{folder}/nowhere")


def test_every_chain_in_batches_and_one_by_one():
    images = [photograph(60, 40, 1), photograph(30, 50, 2), photograph(60, 40, 3), photograph(64, 64, 4)]
    words = [["cat"], ["red ball", "dog"], [], ["traffic light", "cat", "cat"]]
    rows = [{"id": name} for name in "abcd"]
    chains = [("grounding-dino",), ("owlv2", "sam"), ("mm-grounding-dino", "sam2"), ("owlvit", "sam_hq"), ("sam3",)]
    chains.append(("clipseg",))
    for kinds in chains:
        finder = tiny_chain(*kinds, box_threshold=0.0, max_boxes=3, max_box_area=1.0, batch_size=3)
        together, words_found = find_many(finder, images, words, rows), 0
        for image, own, row, masks in zip(images, words, rows, together):
            single = find_regions(finder, image, own, row)
            assert list(single) == list(masks) and set(masks) <= set(own)
            for word in masks:
                assert masks[word].dtype == bool and masks[word].shape == image.size[::-1]
                assert (single[word] != masks[word]).mean() < 0.01, (kinds, word)  # rounding at the edge of a mask
                words_found += 1
        assert words_found >= 3, kinds
        assert together[2] == {}


def test_a_word_is_the_union_of_its_boxes():
    # The whole chain against its parts: the detector's boxes, chosen; SAM asked box by box; the union.
    finder = tiny_chain("owlv2", "sam2", box_threshold=0.3, max_boxes=4, max_box_area=0.9)
    image, own = photograph(60, 40, 1), ["cat", "red ball", "dog"]
    masks = find_regions(finder, image, own, {"id": "a"})
    with torch.inference_mode():
        (found,) = finder._detector.detect([image], [[f"a photo of a {word}" for word in own]])
        for word, boxes in zip(own, choose(found, image.size, 0.3, 4, 0.9)):
            union = np.zeros((40, 60), bool)
            for box in boxes:
                union |= finder._segmenter.segment([image], [[box[None]]], ["a"])[0][0]
            assert (union != masks.get(word, np.zeros((40, 60), bool))).mean() < 2e-3
    assert masks and len(own) == 3


def test_what_is_not_found_is_absent():
    for kinds in (("grounding-dino",), ("owlv2", "sam"), ("sam3",)):
        finder = tiny_chain(*kinds, box_threshold=1.0)
        assert find_many(finder, [photograph(60, 40)] * 2, [["cat"], ["dog"]], [{"id": "a"}, {"id": "b"}]) == [{}, {}]
    finder = tiny_chain("grounding-dino", box_threshold=0.0)
    assert find_regions(finder, photograph(60, 40), ["...", "?"], {"id": "a"}) == {}
    assert find_many(finder, [], [], []) == [] and finder(photograph(9, 9), [], {"id": "a"}) == {}


def test_pictures_of_every_kind():
    finder = tiny_chain("owlv2", "sam", box_threshold=0.0, max_box_area=1.0)
    for mode, size in (("L", (40, 30)), ("RGBA", (31, 47)), ("P", (64, 1)), ("RGB", (1, 1))):
        picture = Image.new(mode, size)
        for mask in find_regions(finder, picture, ["cat"], {"id": "a"}).values():
            assert mask.shape == picture.size[::-1]


def test_fingerprints():
    finder = tiny_chain("grounding-dino", "sam")
    text = finder.fingerprint
    assert "grounding-dino grounding-dino " in text and " + sam sam " in text and "batch_size=1" in text
    assert "box_threshold=0.3" in text and "dtype=float32" in text and "device=cpu" in text and "prompt={}" in text
    with tempfile.TemporaryDirectory() as folder:  # wherever the folders lie
        parts = [str(tiny_finder(kind, Path(folder) / "elsewhere" / kind)) for kind in ("grounding-dino", "sam")]
        assert text == load_finder("+".join(parts), FinderConfig(**CPU)).fingerprint
    changes = (
        dict(box_threshold=0.2), dict(mask_threshold=0.4), dict(max_boxes=3), dict(max_box_area=0.5), dict(multimask=True),
        dict(prompt="the {}"), dict(batch_size=2), dict(box_batch=2), dict(dtype="bfloat16"),
    )
    other = [tiny_chain("grounding-dino", "sam", **change).fingerprint for change in changes]
    assert len({text, *other}) == 1 + len(changes)


def test_prompts():
    finder = tiny_chain("clipseg", prompt="the {}, please")
    asked = []
    every = np.ones((3, 4), bool)
    finder._segmenter.find = lambda images, prompts, names: asked.append(prompts) or [[every] * len(prompts[0])]
    assert list(finder(photograph(4, 3), ["cat {}", "dog"], {"id": "a"})) == ["cat {}", "dog"]
    assert asked == [[["the cat {}, please", "the dog, please"]]]


def test_memory_that_runs_out_halves_the_batch():
    finder = tiny_chain("owlv2", "sam", box_threshold=0.0, batch_size=8)
    segment = finder._segmenter.segment


    def chain_that_holds(most, error):
        """The chain, whose segmenter now fails with more than `most` pictures, and the sizes of the batches it is given."""
        sizes, finder.batch_size, finder._segmenter.box_batch = [], 8, 16

        def limited(images, boxes, names):
            sizes.append(len(images))
            if len(images) > most:
                raise error
            return segment(images, boxes, names)

        finder._segmenter.segment = limited
        return finder, sizes


    images = [photograph(40 + k, 30, k) for k in range(7)]
    rows = [{"id": str(k)} for k in range(7)]
    whole, _ = chain_that_holds(99, None)
    expected = find_many(whole, images, [["cat"]] * 7, rows)
    assert sum(map(len, expected)) == 7
    full = "DefaultCPUAllocator: can't allocate memory"
    errors = (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(full), MemoryError())
    for error in errors:
        finder, sizes = chain_that_holds(2, error)
        found, said = messages(find_many, finder, images, [["cat"]] * 7, rows)
        assert sizes == [7, 3, *[1] * 7] and finder.batch_size == 1
        assert len(said) == 2 and "7 pictures at a time; going on with 3" in said[0]  # each new size once
        assert all((a["cat"] != b["cat"]).mean() < 0.01 for a, b in zip(found, expected))
        assert "batch_size=8" in finder.fingerprint  # what was asked for, or a run would not be known again
        find_many(finder, images[:2], [["cat"]] * 2, rows[:2])
        assert sizes[-2:] == [1, 1]  # the smaller size is kept
        finder, sizes = chain_that_holds(0, error)
        try:
            messages(find_many, finder, images, [["cat"]] * 7, rows)
            raise AssertionError("went on")
        except MemoryError as refusal:
            assert "row '0'" in str(refusal) and "40 × 30" in str(refusal) and "smaller checkpoint" in str(refusal)
        assert sizes == [7, 3, 1] + [1] * 4 and finder._segmenter.box_batch == 1  # 16, 8, 4, 2, 1 boxes at a time
    finder, sizes = chain_that_holds(0, OSError("a disk"))
    try:
        find_many(finder, images[:2], [["cat"]] * 2, rows[:2])
        raise AssertionError("went on")
    except RuntimeError as error:
        assert "row '0'" in str(error) and "OSError: a disk" in str(error)


def test_scores_that_are_not_finite_are_refused_by_name():
    finder = tiny_chain("grounding-dino", batch_size=2)
    scores = np.array([[0.5, 0.5], [0.5, np.nan]])
    finder._detector.detect = lambda images, words: [
        Detections(np.zeros((2, 4)), scores if k else scores[:1].repeat(2, 0)) for k in range(len(images))
    ]
    message = refused(find_many, finder, [photograph(9, 9)] * 2, [["cat", "dog"]] * 2, [{"id": "a"}, {"id": "b"}])
    assert "row 'b'" in message and "'dog'" in message and "float32" in message
    finder._detector.detect = lambda images, words: [Detections(np.full((2, 4), np.inf), np.zeros((2, 2)))]
    assert "boxes that are not finite" in refused(finder, photograph(9, 9), ["cat", "dog"], {"id": "a"})


def test_half_precision_is_close():
    # Autocast on this device: scores move a little, and come out as float32 and finite.
    images, own = [photograph(60, 40, 1)], [["cat", "dog"]]
    for kinds in (("grounding-dino",), ("owlv2",)):
        exact, half = (tiny_chain(*kinds, dtype=dtype) for dtype in ("float32", "bfloat16"))
        with torch.inference_mode():
            a = exact._detector.detect(images, own)[0].scores
            with torch.autocast("cpu", torch.bfloat16):
                b = half._detector.detect(images, own)[0].scores
        assert a.shape == b.shape and np.isfinite(b).all() and not np.array_equal(a, b)
    for kinds in (("grounding-dino", "sam"), ("owlv2", "sam2"), ("sam3",), ("clipseg",)):
        finder = tiny_chain(*kinds, dtype="bfloat16", box_threshold=0.01)
        for mask in find_regions(finder, images[0], own[0], {"id": "a"}).values():
            assert mask.shape == (40, 60) and mask.dtype == bool
