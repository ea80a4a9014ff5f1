# Exported from nbs/data/annotated.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.annotated import *  # noqa: F403

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from mfpo.data.rows import read_rows, write_rows


def files_in(folder, count=6):
    """Pictures of 40 x 30 pixels, each with a dog, a ball and, if its number is even, a cat; and their annotation."""
    folder.mkdir(exist_ok=True)
    kinds = [{"id": 7, "name": "dog"}, {"id": 8, "name": "ball"}, {"id": 9, "name": "cat"}, {"id": 10, "name": "apple"}]
    images, notes, captions = [], [], []
    for n in range(1, count + 1):
        Image.fromarray(np.full((30, 40, 3), n, np.uint8)).save(folder / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 40, "height": 30})
        boxes = {7: [1.5, 2.2, 10.1, 5], 8: [-3, 20, 10, 50], **({9: [20, 0, 5, 5]} if n % 2 == 0 else {})}
        notes += [{"image_id": n, "category_id": kind, "bbox": box} for kind, box in boxes.items()]
        captions += [{"image_id": n, "caption": f"A dog {n}."}, {"image_id": n, "caption": " A dog beside an apple. "}]
    instances = {"images": images, "annotations": notes, "categories": kinds}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))
    return instances, captions


def test_rows_are_what_the_files_say():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files_in(folder)
        told = read_annotations(folder / "instances.json", folder / "captions.json")
        assert list(told) == [1, 2, 3, 4, 5, 6] and told[1]["size"] == (40, 30)
        # by hand: 1.5 … 11.6 and 2.2 … 7.2 outwards to whole pixels; the second is cut at the picture's edges
        assert told[1]["objects"] == [{"name": "dog", "box": [1, 2, 12, 8]}, {"name": "ball", "box": [0, 20, 7, 30]}]
        config = PhotographConfig(test=3, validation=3, least=2, questions=2)
        rows, others = (annotated_rows(told, folder, config, split) for split in ("test", "validation"))
        assert sorted([*rows["id"], *others["id"]], key=int) == ["1", "2", "3", "4", "5", "6"]
        row = next(r for r in [*rows, *others] if r["id"] == "1")
        assert row["caption"] == "A dog beside an apple." and row["also"] == [] and np.asarray(row["image"]).mean() == 1
        asked = {q["object"]: (q["question"], q["present"]) for q in row["questions"]}
        # the cat stands beside dogs and balls, the apple beside nothing: only the cat is known to be anywhere
        assert asked == {
            "dog": ("Is there a dog in the image?", True), "ball": ("Is there a ball in the image?", True),
            "cat": ("Is there a cat in the image?", False),
        }
        write_rows(rows, folder / "one.parquet")
        write_rows(annotated_rows(told, folder, config, "test"), folder / "two.parquet")
        assert (folder / "one.parquet").read_bytes() == (folder / "two.parquet").read_bytes()
        assert read_rows(folder / "one.parquet")[0]["objects"] == rows[0]["objects"]
        assert question_about("apple") == "Is there an apple in the image?"


def test_what_captions_name_is_there_and_not_asked_for_as_absent():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        instances, _ = files_in(folder)
        instances["annotations"].append({"image_id": 2, "category_id": 10, "bbox": [0, 0, 2, 2]})
        (folder / "instances.json").write_text(json.dumps(instances))
        told = read_annotations(folder / "instances.json", folder / "captions.json")
        config = PhotographConfig(test=6, validation=0, least=2, questions=3)
        known = annotated_rows(told, folder, config, "test", named=lambda t: [n for n in ("apple", "dog") if n in t])
        first = known[0]
        assert first["also"] == ["apple"] and [q["object"] for q in first["questions"] if not q["present"]] == ["cat"]
        plain = annotated_rows(told, folder, config, "test")[0]
        # the cat stood beside dog and ball three times each, the apple once each
        assert [q["object"] for q in plain["questions"] if not q["present"]] == ["cat", "apple"]


def test_what_cannot_be_used_is_named():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        instances, captions = files_in(folder)
        there = folder / "instances.json", folder / "captions.json"
        told = read_annotations(*there)
        with pytest.raises(ValueError, match=r"6 of 6 pictures .* 5 \+ 3 are wanted"):
            annotated_rows(told, folder, PhotographConfig(test=5, validation=3, least=2), "test")
        with pytest.raises(ValueError, match="3 of 6 pictures"):
            annotated_rows(told, folder, PhotographConfig(test=4, validation=0), "test")
        with pytest.raises(ValueError, match="there are test and validation"):
            annotated_rows(told, folder, PhotographConfig(test=1, validation=0), "train")
        few = PhotographConfig(test=6, validation=0, least=1)
        (folder / "3.png").write_bytes(b"no picture")
        with pytest.raises(ValueError, match=r"3\.png \(picture 3\)"):
            annotated_rows(told, folder, few, "test")
        Image.new("RGB", (30, 40)).save(folder / "3.png")
        with pytest.raises(ValueError, match=r"3\.png: is \(30, 40\) pixels, and \(40, 30\)"):
            annotated_rows(told, folder, few, "test")
        (folder / "3.png").unlink()
        with pytest.raises(ValueError, match=r"3\.png \(picture 3\)"):
            annotated_rows(told, folder, few, "test")
        with pytest.raises(FileNotFoundError, match="none.json: no such file"):
            read_annotations(folder / "none.json", there[1])
        for wrong in ({"test": -1}, {"least": 0}, {"questions": 0}):
            with pytest.raises(ValueError):
                PhotographConfig(**wrong)


def test_broken_annotation_is_named_and_never_half_read():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        there = folder / "instances.json", folder / "captions.json"
        for change, reason in (
            (lambda i: i.pop("categories"), "no list of records 'categories'"),
            (lambda i: i["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 1: bbox is \[1, 2, 3\]"),
            (lambda i: i["annotations"][1].update(bbox=[1, 2, float("nan"), 3]), "annotation 2: bbox"),
            (lambda i: i["annotations"][0].update(category_id=99), "annotation 1: category 99 is not in the file"),
            (lambda i: i["annotations"][0].update(image_id=True), "annotation 1: image_id is True"),
            (lambda i: i["images"][2].update(width="40"), "image 3: width is '40'"),
            (lambda i: i["categories"][0].update(name=None), "category 1: name is None"),
            (lambda i: i["images"].append([]), "no list of records 'images'"),
        ):
            instances, captions = files_in(folder)
            change(instances)
            there[0].write_text(json.dumps(instances))
            with pytest.raises(ValueError, match=reason):
                read_annotations(*there)
        files_in(folder)
        rng, whole = np.random.default_rng(0), there[0].read_bytes()
        for _ in range(200):  # any damage is a ValueError or goes unnoticed, and nothing else
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), 3):
                broken[place] = rng.integers(0, 256)
            there[0].write_bytes(bytes(broken))
            try:
                read_annotations(*there)
            except ValueError:
                pass
