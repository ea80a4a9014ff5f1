# Exported from nbs/data/boxes.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.boxes import *  # noqa: F403

import tempfile
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from mfpo.data.boxes import Detections, GroundingDetector, OwlDetector, boxes_mask, captions, choose, corners
from mfpo.data.checkpoints import load_checkpoint
from mfpo.data.tiny import tiny_finder


def tiny(kind):
    with tempfile.TemporaryDirectory() as folder:
        return load_checkpoint(str(tiny_finder(kind, folder)))


def photograph(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_corners_and_choice_by_hand():
    # centre (.5, .25), a quarter wide, half as high, in 200 × 100 and 100 × 200
    assert np.allclose(corners([[0.5, 0.25, 0.25, 0.5]], (200, 100)), [[75, 0, 125, 50]])
    assert np.allclose(corners([[0.5, 0.25, 0.25, 0.5]], (100, 200)), [[37.5, 0, 62.5, 100]])
    boxes = np.array([[-5, 2, 6, 8], [0, 0, 10, 8], [12, 0, 20, 8], [3, 3, 5, 5], [4, 4, 4, 9], [1, 1, 2, 2.0]])
    scores = np.array([[0.5, 0.9, 0.99, 0.7, 0.99, 0.7], [0.1, 0.1, 0.1, 0.3, 0.1, 0.31]]).T
    found = Detections(boxes, scores)
    first, second = choose(found, (10, 8), 0.3, 3)
    # cut at 0; all of the picture; outside; inside; no width. Of the two with .7 the first comes first.
    assert first.tolist() == [[0, 0, 10, 8], [3, 3, 5, 5], [1, 1, 2, 2]] and second.tolist() == [[1, 1, 2, 2]]
    first, _ = choose(found, (10, 8), 0.3, 9, area=0.5)
    assert first.tolist() == [[3, 3, 5, 5], [1, 1, 2, 2], [0, 2, 6, 8]]  # 36 of 80 pixels = .45
    assert [len(c) for c in choose(Detections(np.zeros((0, 4)), np.zeros((0, 2))), (10, 8), 0.3, 3)] == [0, 0]
    mask = boxes_mask(np.array([[0, 0, 2, 3], [8.6, 7.2, 10, 8]]), (10, 8))
    assert mask.shape == (8, 10) and mask.sum() == 6 + 1 and mask[:3, :2].all() and mask[7, 9]
    assert boxes_mask(np.array([[9.8, 7.9, 10, 8]]), (10, 8))[7, 9] and boxes_mask(np.zeros((0, 4)), (4, 4)).sum() == 0


def test_captions_hold_every_word_once():
    assert captions([1, 2, 1], 24) == [[0, 1, 2]]
    assert captions([1, 0, 1], 24) == [[0, 2]] and captions([], 24) == [] and captions([0], 24) == []
    assert captions([3, 3, 3], 10) == [[0, 1], [2]]  # start, 3 + stop, 3 + stop, end = 10
    rng = np.random.default_rng(0)
    for _ in range(200):
        limit = int(rng.integers(5, 40))
        lengths = rng.integers(0, limit - 2, int(rng.integers(0, 30))).tolist()
        groups = captions(lengths, limit)
        assert [k for group in groups for k in group] == [k for k, length in enumerate(lengths) if length]
        assert all(2 + sum(lengths[k] + 1 for k in group) <= limit for group in groups)


def test_grounding_words_against_the_raw_logits():
    loaded = tiny("grounding-dino")
    detector = GroundingDetector(loaded)
    ((ids, places),) = detector.texts(["Traffic lights", "cat", "St. dog?"])
    assert ids == loaded.tokenizer("traffic lights. cat. st dog.")["input_ids"]  # as if the caption were tokenised whole
    pieces = {k: loaded.tokenizer.convert_ids_to_tokens(ids[place]) for k, place in places.items()}
    assert pieces == {0: ["traffic", "light", "##s"], 1: ["cat"], 2: ["s", "##t", "dog"]}
    image = photograph(60, 40)
    with torch.inference_mode():
        (found,) = detector.detect([image], [["traffic lights", "cat", "?"]])
        caption = loaded.tokenizer("traffic lights. cat.", return_tensors="pt")
        raw = loaded.model(**caption, **loaded.processor(images=image, return_tensors="pt"))
    logits = raw.logits[0].double().numpy()
    assert found.scores.shape == (12, 3) and np.isfinite(logits[:, :8]).all() and np.isneginf(logits[:, 8:]).all()
    assert np.allclose(found.scores[:, 0], sigmoid(logits[:, 1:4]).max(1), atol=1e-6)
    assert np.allclose(found.scores[:, 1], sigmoid(logits[:, 5]), atol=1e-6) and not found.scores[:, 2].any()
    x, y, w, h = raw.pred_boxes[0].double().numpy().T
    by_hand = np.stack([(x - w / 2) * 60, (y - h / 2) * 40, (x + w / 2) * 60, (y + h / 2) * 40], 1)
    assert np.allclose(found.boxes, by_hand, atol=1e-4)


def test_grounding_batches_equal_single_pictures():
    for kind in ("grounding-dino", "mm-grounding-dino"):
        detector = GroundingDetector(tiny(kind))
        images = [photograph(60, 40, 1), photograph(30, 50, 2), photograph(60, 40, 3)]
        words = [["cat"], ["red ball", "dog"], ["traffic light", "street", "tennis racket"]]
        with torch.inference_mode():
            together = detector.detect(images, words)
            for image, own, batched in zip(images, words, together):
                (single,) = detector.detect([image], [own])
                assert single.scores.std() > 1e-3  # the scores do differ, so the comparison says something
                assert np.allclose(single.scores, batched.scores, atol=1e-4)  # rounding, no more: 1e-12 in float64
                assert np.allclose(single.boxes, batched.boxes, atol=5e-3)  # pixels


def test_many_words_take_several_captions():
    detector = GroundingDetector(tiny("grounding-dino"))
    assert detector.limit == 24
    words = ["cat", "dog", "cup", "plate", "traffic light", "red ball", "person", "street", "tennis racket", "cat dog cup"]
    texts = detector.texts(words)
    assert len(texts) == 2 and all(len(ids) <= 24 for ids, _ in texts)
    assert sorted(k for _, places in texts for k in places) == list(range(10))
    image = photograph(48, 48)
    with torch.inference_mode():
        (found,) = detector.detect([image], [words])
        first, second = sorted(texts[0][1]), sorted(texts[1][1])
        (a,), (b,) = (detector.detect([image], [[words[k] for k in group]]) for group in (first, second))
    assert found.boxes.shape == (24, 4)  # 12 queries a caption
    assert np.allclose(found.scores[:12, first], a.scores, atol=1e-4) and not found.scores[:12, second].any()
    assert np.allclose(found.scores[12:, second], b.scores, atol=1e-4) and not found.scores[12:, first].any()
    assert np.allclose(found.boxes[12:], b.boxes, atol=5e-3)
    assert len(detector._tokens(["x" * 60])[0]) == 21  # a word longer than a caption is cut (and said)


def test_owl_boxes_against_the_raw_output():
    for kind in ("owlv2", "owlvit"):
        loaded = tiny(kind)
        detector = OwlDetector(loaded)
        for size in ((60, 40), (30, 70)):
            image, words = photograph(*size), ["a cat", "dog"]
            ids = loaded.tokenizer(words, padding="max_length", max_length=24, return_tensors="pt")
            with torch.inference_mode():
                (found,) = detector.detect([image], [words])
                raw = loaded.model(**ids, **loaded.processor(images=image, return_tensors="pt"))
            x, y, w, h = raw.pred_boxes[0].double().numpy().T
            seen = (max(size), max(size)) if kind == "owlv2" else size  # padded to a square, or stretched
            by_hand = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1) * np.array([*seen, *seen])
            assert np.allclose(found.boxes, by_hand, atol=1e-3) and found.boxes.shape == (16, 4)
            assert np.allclose(found.scores, sigmoid(raw.logits[0]), atol=1e-6) and found.scores.shape == (16, 2)
        images = [photograph(60, 40, 1), photograph(30, 50, 2)]
        words = [["cat"], ["red ball", "dog", "cup"]]
        with torch.inference_mode():
            for image, own, batched in zip(images, words, detector.detect(images, words)):
                (single,) = detector.detect([image], [own])
                assert single.scores.std() > 1e-3 and np.allclose(single.scores, batched.scores, atol=1e-5)
                assert np.allclose(single.boxes, batched.boxes, atol=1e-3)


def test_known_boxes_land_on_the_right_pixels():
    # The model says: one box, in its own coordinates, around a thing whose pixels in the picture are known.
    thing = (30, 6, 54, 18)  # x0, y0, x1, y1
    for kind, cls in (("grounding-dino", GroundingDetector), ("owlv2", OwlDetector), ("owlvit", OwlDetector)):
        loaded = tiny(kind)
        detector = cls(loaded)
        for width, height in ((80, 20), (60, 100)):
            side = max(width, height)
            w, h = (side, side) if kind == "owlv2" else (width, height)
            x0, y0, x1, y1 = thing
            box = [(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h]
            below = [0.1, (height + 5) / h, 0.1, 6 / h]  # a box in OWLv2's padding, or under the picture
            tokens = torch.full((1, 2, 24), -9.0)
            tokens[0, :, 1] = 9.0
            logits = tokens if kind == "grounding-dino" else torch.full((1, 2, 1), 9.0)
            answer = SimpleNamespace(logits=logits, pred_boxes=torch.tensor([[box, below]]))
            detector.checkpoint.model.forward = lambda **kwargs: answer
            (found,) = detector.detect([photograph(width, height)], [["cat"]])
            (kept,) = choose(found, (width, height), 0.3, 5)
            expected = np.zeros((height, width), bool)
            expected[6:18, 30:54] = True
            mask = boxes_mask(kept, (width, height))
            inside = below[1] * h - 3 < height
            assert np.allclose(kept[0], thing, atol=1e-4) and len(kept) == 1 + inside, (kind, kept)
            assert np.array_equal(boxes_mask(kept[:1], (width, height)), expected)
