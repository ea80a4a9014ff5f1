# Exported from nbs/data/checking.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.checking import *  # noqa: F403

import io

import numpy as np
from PIL import Image

from mfpo.data.images import ImageRules, png_bytes
from mfpo.data.sources import Source

PICTURES = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (6, 8, 3), dtype=np.uint8)) for k in range(3)]
ENCODED = [png_bytes(picture) for picture in PICTURES]
SOURCE = Source("test", lambda: iter(()), {}, [], set())
TEXTS = {"question": "Which ?", "chosen": "a", "rejected": "b"}


def pictures(**record):
    """(columns, kinds and reasons, notes) of a row's pictures."""
    found, reasons, notes = check_pictures(record, SOURCE, ImageRules())
    return found, [(kind, reason) for kind, reason, _ in reasons], notes


def test_several_pictures():
    found, reasons, notes = pictures(images=ENCODED)
    assert found["image"].data == ENCODED[0]
    assert [p.data for p in found["images"]] == ENCODED
    assert found["image_index"] == 0
    assert not reasons and not notes
    found, *_ = pictures(images=ENCODED, image_index=2)
    assert found["image"].data == ENCODED[2] and found["image_index"] == 2
    found, *_ = pictures(images=ENCODED, image=ENCODED[1])  # which it is, is seen
    assert found["image_index"] == 1
    for record in ({"images": ENCODED[:1]}, {"images": ENCODED[:1], "image": ENCODED[0], "image_index": 0},
                   {"image": ENCODED[0], "images": []}, {"image": ENCODED[0], "images": None, "image_index": 0}):
        found, reasons, _ = pictures(**record)
        assert set(found) == {"image"} and found["image"].data == ENCODED[0] and not reasons, record
    buffer = io.BytesIO()
    PICTURES[0].convert("L").save(buffer, "PNG")
    cases = (
        ({"images": ENCODED, "image_index": 3}, [("image_index", "its image_index is '3', and it has 3 pictures")]),
        ({"images": ENCODED, "image_index": True}, [("image_index",
            "its image_index is 'True', and it has 3 pictures")]),
        ({"image": ENCODED[0], "image_index": 1}, [("image_index", "its image_index is '1', and it has 1 picture")]),
        ({"images": ENCODED[:2], "image": ENCODED[2]}, [("image_index", "'image' is none of its images")]),
        ({"images": ENCODED, "image": ENCODED[2], "image_index": 0}, [("image_index", "'image' is not images[0]")]),
        ({"images": "a.png"}, [("wrong type", "'images' is str, not a list of pictures")]),
        ({"images": [ENCODED[0], None, b""]}, [("no image", "images[1]: it has no image"), ("empty image",
            "images[2]: the image is empty (0 bytes)")]),
        ({"images": [], "image": None}, [("no image", "it has no image")]),
    )
    for record, expected in cases:
        found, reasons, _ = pictures(**record)
        assert reasons == expected and not found, record
    assert pictures(images=[ENCODED[0], buffer.getvalue()])[2] == ["images[1]: mode L converted to RGB"]


def test_as_many_markers_as_pictures():
    def question(text, count):
        texts, reasons, notes = check_texts({**TEXTS, "question": text}, count)
        return texts["question"] if not reasons else [kind for kind,
            *_ in reasons], [note.split(" (")[0] for note in notes]


    off = ["<image> taken off the question"]
    assert question("<image>\nWhich ?", 1) == ("Which ?", off) == question("Which ?\n<image>", 1)
    assert question("<image> <image>\nWhich ?", 2) == ("Which ?", off) and question("Which ?", 2) == ("Which ?", [])
    assert question("Left: <image>, right: <image>. Which ?", 2) == ("Left: , right: . Which ?", off)
    assert "in order" in check_texts({**TEXTS, "question": "a <image> b <image>"}, 2)[2][0]
    assert "in order" not in check_texts({**TEXTS, "question": "<image> <image> b"}, 2)[2][0]
    for text, count in (("<image> Which ?", 2), ("<image> Which ? <image>", 1), ("Which <image> ?", 1),
        ("<image>" * 3, 2)):
        assert question(text, count) == (["image token"], []), text
    assert question("<image>", 1)[0] == ["empty question"]
    assert [kind for kind, *_ in check_texts({**TEXTS, "chosen": "<image>"}, 1)[1]] == ["image token"]
