# Exported from nbs/data/masks.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.masks import *  # noqa: F403

import tempfile
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

import mfpo.data.masks as module
from mfpo.data.checkpoints import load_checkpoint
from mfpo.data.masks import BoxSegmenter, ClipSegmenter, Sam3Segmenter, resized
from mfpo.data.tiny import tiny_finder

SIZES = ((60, 40), (30, 50), (64, 64))


def tiny(kind):
    with tempfile.TemporaryDirectory() as folder:
        return load_checkpoint(str(tiny_finder(kind, folder)))


def photograph(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def test_sam_by_the_processors_own_way():
    # One box on one picture through the model's whole forward; the mask by the processor's own post-processing where there
    # is one. A union is the union of such calls, whatever the batch of pictures or boxes.
    boxes = [[[4, 6, 30, 28], [10, 2, 22, 36]], [[1, 1, 9, 40]]]
    for kind in ("sam", "sam_hq", "sam2"):
        loaded = tiny(kind)
        for multimask in (False, True):
            unions = {}
            for size in SIZES:
                image = photograph(*size, size[0])
                inputs = loaded.processor(images=image, return_tensors="pt")
                seen = inputs["reshaped_input_sizes"][0].tolist() if kind != "sam2" else (64, 64)
                unions[size] = []
                for group in boxes:
                    union = np.zeros(size[::-1], bool)
                    for box in group:
                        scale = np.array([seen[1] / size[0], seen[0] / size[1]] * 2)
                        placed = torch.tensor(np.array(box) * scale, dtype=torch.float32)[None, None]
                        with torch.inference_mode():
                            raw = loaded.model(
                                pixel_values=inputs["pixel_values"], input_boxes=placed, multimask_output=multimask
                            )
                        best = int(raw.iou_scores[0, 0].argmax())
                        assert raw.pred_masks.shape[2] == (3 if multimask else 1)
                        low = raw.pred_masks[:, 0, best : best + 1]
                        if kind == "sam2":
                            value = torch.nn.functional.interpolate(low, size[::-1], mode="bilinear", align_corners=False)
                        else:
                            (value,) = loaded.processor.post_process_masks(
                                [low], [size[::-1]], [seen], binarize=False, pad_size={"height": 64, "width": 64}
                            )
                        union |= value[0, 0].numpy() > 0
                    unions[size].append(union)
            images = [photograph(*size, size[0]) for size in SIZES]
            groups = [[np.array(group, float) for group in boxes] + [np.zeros((0, 4))]] * 3
            for box_batch in (1, 2, 8):
                segmenter = BoxSegmenter(loaded, 0.5, multimask, box_batch)
                with torch.inference_mode():
                    for size, masks in zip(SIZES, segmenter.segment(images, groups, ["a", "b", "c"])):
                        assert len(masks) == 3 and not masks[2].any()  # a group without boxes has no mask
                        for mask, union in zip(masks, unions[size]):
                            assert mask.shape == size[::-1] and (mask != union).mean() < 2e-3 and 0 < union.mean() < 1


def test_sam_masks_land_on_the_right_pixels():
    # The decoder answers with the box that it was prompted with, drawn on its own grid of 16 × 16 for an input of 64 × 64.
    # Landscape and portrait: SAM pads, SAM 2 stretches.
    class Echo:
        def __init__(self, loaded):
            self.config = loaded.model.config
            self.get_image_embeddings = lambda pixels: pixels

        def __call__(self, input_boxes, image_embeddings, multimask_output):
            masks = torch.full((1, len(input_boxes[0]), 1, 16, 16), -5.0)
            for k, (x0, y0, x1, y1) in enumerate((input_boxes[0] / 4).round().int().tolist()):
                masks[0, k, 0, y0:y1, x0:x1] = 5.0
            return SimpleNamespace(pred_masks=masks, iou_scores=torch.ones(1, len(input_boxes[0]), 1))


    for kind in ("sam", "sam2"):
        loaded = tiny(kind)
        echo = SimpleNamespace(**{**loaded.__dict__, "model": Echo(loaded)})
        for width, height in ((128, 64), (64, 128)):
            box = np.array([[32.0, 16, 56, 48]])
            ((mask,),) = BoxSegmenter(echo, 0.5, False, 4).segment([photograph(width, height)], [[box]], ["a"])
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.abs(np.array(edges) - box[0]).max() <= 1, (kind, edges)


def test_mask_threshold_and_memory():
    loaded = tiny("sam")
    image, group = photograph(60, 40), [np.array([[4.0, 6, 30, 28], [10, 2, 22, 36], [3, 3, 50, 30]])]
    areas = []
    with torch.inference_mode():
        for threshold in (0.1, 0.5, 0.9):
            ((mask,),) = BoxSegmenter(loaded, threshold, False, 8).segment([image], [group], ["a"])
            areas.append(mask.mean())
        assert areas[0] > areas[1] > areas[2]
        whole, module.VALUES = module.VALUES, 1  # one picture-sized map at a time
        ((small,),) = BoxSegmenter(loaded, 0.9, False, 8).segment([image], [group], ["a"])
        module.VALUES = whole
    assert np.array_equal(small, mask)


def test_sam3_against_its_forward():
    loaded = tiny("sam3")
    images = [photograph(*size, size[0]) for size in SIZES]
    words = [["cat"], ["red ball", "dog"], ["street"]]


    def by_hand(image, word, threshold, mask_threshold):
        """One picture and one word through the model's own forward, post-processed as SAM 3's processor does."""
        ids = loaded.tokenizer([word], padding="max_length", max_length=32, return_tensors="pt")
        with torch.inference_mode():
            raw = loaded.model(pixel_values=loaded.processor(images=image, return_tensors="pt")["pixel_values"], **ids)
        scores = (raw.pred_logits.sigmoid() * raw.presence_logits.sigmoid())[0]
        masks = torch.nn.functional.interpolate(
            raw.pred_masks.sigmoid(), image.size[::-1], mode="bilinear", align_corners=False
        )
        return scores, (masks[0][scores > threshold] > mask_threshold).any(0).numpy()


    scores, _ = by_hand(images[0], "cat", 0, 0.5)
    threshold = float(scores.sort().values[-3:-1].mean())  # two of the six instances count
    seen = 0
    for batch in (1, 3):
        with torch.inference_mode():
            found = Sam3Segmenter(loaded, threshold, 0.5, 10, 1.0, batch).find(images, words, ["a", "b", "c"])
        for image, own, masks in zip(images, words, found):
            for word, mask in zip(own, masks, strict=True):
                expected = by_hand(image, word, threshold, 0.5)[1]
                assert mask.shape == image.size[::-1] and (mask != expected).mean() < 2e-3
                seen += expected.any() and not expected.all()
    assert seen >= 2
    with torch.inference_mode():
        ((none,),) = Sam3Segmenter(loaded, 0.999999, 0.5, 10, 1.0, 2).find(images[:1], [["cat"]], ["a"])
        ((small,),) = Sam3Segmenter(loaded, 0.0, 0.5, 10, 0.0, 2).find(images[:1], [["cat"]], ["a"])
    assert not none.any() and not small.any()


def test_sam3_instances_land_on_the_right_pixels():
    # Two instances with known masks and scores: .9 × .9 counts, .9 × .4 does not.
    masks = torch.full((1, 2, 8, 8), -9.0)
    masks[0, 0, 2:4, 4:8], masks[0, 1, 6:8, 0:2] = 9.0, 9.0
    logit = lambda p: float(np.log(p / (1 - p)))
    answer = SimpleNamespace(
        pred_logits=torch.tensor([[logit(0.9), logit(0.4)]]), presence_logits=torch.tensor([[logit(0.9)]]),
        pred_masks=masks, pred_boxes=torch.tensor([[[0.5, 0.25, 1, 0.5], [0, 0.75, 0.25, 1]]]),
    )
    segmenter = Sam3Segmenter(tiny("sam3"), 0.5, 0.5, 10, 0.95, 4)
    for width, height in ((160, 40), (40, 160)):
        mask = segmenter._union(answer, 0, (width, height), "a")
        expected = np.zeros((height, width), bool)
        expected[height // 4 : height // 2, width // 2 :] = True
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert [columns[0], rows[0], columns[-1], rows[-1]] == [width // 2, height // 4, width - 1, height // 2 - 1]
        assert (mask != expected).mean() < 0.01  # bilinear values round the corners
    segmenter.area = 0.1
    assert not segmenter._union(answer, 0, (40, 40), "a").any()  # its box covers an eighth
    answer.pred_logits[0, 1] = float("nan")
    assert "not finite" in refused(segmenter._union, answer, 0, (40, 40), "row 'x': what SAM 3 finds")


def test_clipseg_against_its_forward():
    loaded = tiny("clipseg")
    images = [photograph(*size, size[0]) for size in SIZES]
    words = [["a photo of a cat"], ["red ball", "dog", "cup"], ["street"]]
    for batch in (1, 2, 8):
        segmenter = ClipSegmenter(loaded, 0.5, batch)
        with torch.inference_mode():
            maps, found = segmenter.maps(images, words), segmenter.find(images, words, ["a", "b", "c"])
            for image, own, values, masks in zip(images, words, maps, found):
                for word, value, mask in zip(own, values, masks, strict=True):
                    ids = loaded.tokenizer([word], return_tensors="pt")
                    pixels = loaded.processor(images=image, return_tensors="pt")["pixel_values"]
                    raw = loaded.model(pixel_values=pixels, **ids).logits.reshape(1, 32, 32)
                    assert torch.allclose(value, raw[0], atol=1e-4) and value.std() > 1e-3
                    expected = resized(raw.sigmoid(), image.size)[0].numpy() > 0.5
                    assert mask.shape == image.size[::-1] and (mask != expected).mean() < 2e-3


def test_numbers_that_are_not_finite_are_refused():
    loaded = tiny("clipseg")
    torch.nn.init.constant_(loaded.model.decoder.film_add.bias, float("nan"))
    with torch.inference_mode():
        message = refused(ClipSegmenter(loaded, 0.5, 4).find, [photograph(30, 20)], [["cat"]], ["row 'x'"])
    assert "row 'x'" in message and "float32" in message
