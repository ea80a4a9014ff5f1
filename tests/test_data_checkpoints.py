# Exported from nbs/data/checkpoints.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.checkpoints import *  # noqa: F403

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mfpo.data.tiny import tiny_finder


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def photograph(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_every_family_loads_by_its_own_class():
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("grounding-dino", "mm-grounding-dino", "owlv2", "owlvit", "sam", "sam_hq", "sam2", "sam3", "clipseg"):
            loaded = load_checkpoint(str(tiny_finder(kind, Path(folder) / kind)))
            assert loaded.kind == kind and not loaded.model.training
            assert (loaded.tokenizer is None) == (kind in ("sam", "sam_hq", "sam2"))
            (made,) = pixel_values(loaded.processor, [photograph(40, 30)])
            expected = {"grounding-dino": (96, 128), "mm-grounding-dino": (96, 128), "sam3": (56, 56), "clipseg": (32, 32)}
            assert tuple(made["pixel_values"].shape) == (1, 3, *expected.get(kind, (64, 64))), kind
            again = load_checkpoint(str(tiny_finder(kind, Path(folder) / "elsewhere" / kind)))
            other = load_checkpoint(str(tiny_finder(kind, Path(folder) / "other" / kind, seed=1)))
            assert loaded.digest == again.digest != other.digest and loaded.fingerprint == again.fingerprint


def test_video_checkpoints_of_sam2_and_sam3():
    # The published checkpoints hold a video model; the single-picture class takes its part out of them.
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        for kind in ("sam2", "sam3"):
            path = tiny_finder(kind, Path(folder) / kind)
            plain = load_checkpoint(str(path))
            config, weights = json.loads((path / "config.json").read_text()), load_file(path / "model.safetensors")
            if kind == "sam2":
                config["model_type"], more = "sam2_video", weights["no_memory_embedding"].clone()
                weights["memory_encoder.projection.weight"] = more
            else:  # the detector lies beside the tracker
                config = {"model_type": "sam3_video", "detector_config": config}
                weights = {f"detector_model.{name}": tensor for name, tensor in weights.items()}
            (path / "config.json").write_text(json.dumps(config))
            save_file(weights, path / "model.safetensors", {"format": "pt"})
            video = load_checkpoint(str(path))
            assert video.kind == f"{kind}_video" and type(video.model) is type(plain.model)
            assert all((a == b).all() for a, b in zip(plain.model.parameters(), video.model.parameters(), strict=True))


def test_square_processor_against_those_that_need_no_torchvision():
    # SAM's processor resizes the longer side and pads: on a square picture it does what SAM 2's does.
    with tempfile.TemporaryDirectory() as folder:
        sam = load_checkpoint(str(tiny_finder("sam", Path(folder) / "sam")))
        sam2 = load_checkpoint(str(tiny_finder("sam2", Path(folder) / "sam2")))
        square = photograph(90, 90)
        a, b = (pixel_values(x.processor, [square])[0]["pixel_values"] for x in (sam, sam2))
        assert np.allclose(a, b, atol=1e-6) and a.std() > 0.5
        # SAM 3: mean and std of one half, and the picture stretched, by hand
        sam3 = load_checkpoint(str(tiny_finder("sam3", Path(folder) / "sam3")))
        picture = photograph(80, 31)
        by_hand = np.asarray(picture.resize((56, 56), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 127.5 - 1
        made = pixel_values(sam3.processor, [picture])[0]["pixel_values"][0]
        assert np.allclose(made, by_hand, atol=1e-5)
        # settings of the checkpoint win over the family's
        settings = {"size": {"height": 28, "width": 28}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
        (Path(folder) / "sam3" / "preprocessor_config.json").write_text(json.dumps(settings))
        made = pixel_values(load_checkpoint(str(Path(folder) / "sam3")).processor, [picture])[0]["pixel_values"]
        assert tuple(made.shape) == (1, 3, 28, 28) and 0 <= made.min() and made.max() <= 1
        (Path(folder) / "sam3" / "preprocessor_config.json").write_text(json.dumps({"size": {"longest_edge": 28}}))
        assert "height and width" in refused(load_checkpoint, str(Path(folder) / "sam3"))


def test_pictures_are_not_turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    with tempfile.TemporaryDirectory() as folder:
        photograph(30, 20).save(Path(folder) / "turned.jpg", exif=exif)
        turned = Image.open(Path(folder) / "turned.jpg")
        assert turned.getexif()[0x0112] == 6 and bare(turned).size == (30, 20)
        assert not bare(turned).getexif() and np.array_equal(np.asarray(bare(turned)), np.asarray(turned))
    assert bare(Image.new("LA", (3, 2))).mode == "RGB"


def test_errors_say_what_to_do():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "empty").mkdir()
        assert "config.json" in refused(model_type, str(folder / "empty"))
        (folder / "empty" / "config.json").write_text("{not json")
        assert str(folder / "empty") in refused(model_type, str(folder / "empty"))
        (folder / "empty" / "config.json").write_text('{"model_type": "llava"}')
        message = refused(model_type, str(folder / "empty"))
        assert "'llava'" in message and "grounding-dino" in message and "clipseg" in message
        message = refused(model_type, "nobody/no-such-model")
        assert "nobody/no-such-model: cannot" in message and ("HF_HUB_OFFLINE" in message or "network" in message)
        for name in ("", " facebook/sam-vit-huge"):
            assert "give a folder" in refused(model_type, name)
        path = tiny_finder("sam", folder / "sam")
        import torch
        from safetensors.torch import load_file, save_file

        weights = load_file(path / "model.safetensors")
        save_file({k: v for k, v in weights.items() if "iou_token" not in k}, path / "model.safetensors", {"format": "pt"})
        message = refused(load_checkpoint, str(path))
        assert "1 weights are missing" in message and "iou_token" in message
        (path / "model.safetensors").write_bytes(b"broken")
        assert str(path) in refused(load_checkpoint, str(path))
        (path / "model.safetensors").unlink()
        torch.save(weights, path / "pytorch_model.bin")  # a pickle is never read
        assert "safetensors" in refused(load_checkpoint, str(path))
        path = tiny_finder("clipseg", folder / "clipseg")
        for file in path.glob("tokenizer*"):
            file.unlink()
        message = refused(load_checkpoint, str(path))
        assert str(path) in message and "knows no words" in message
        path = tiny_finder("owlv2", folder / "owlv2")
        (path / "preprocessor_config.json").unlink()
        assert str(path) in refused(load_checkpoint, str(path))
    from mfpo.data.checkpoints import _refused

    assert "hf auth login" in str(_refused("facebook/sam3", OSError("You are trying to access a gated repo.")))


def test_long_texts_are_cut_and_said():
    import logging

    with tempfile.TemporaryDirectory() as folder:
        loaded = load_checkpoint(str(tiny_finder("clipseg", Path(folder))))
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("mfpo.data.finders").addHandler(handler)
    ids, mask = tokenized(loaded, ["cat", "x" * 40], 32)
    logging.getLogger("mfpo.data.finders").removeHandler(handler)
    assert ids.shape == mask.shape == (2, 32) and mask[0].sum() == 5 and mask[1].sum() == 32  # start, c, a, t, end
    assert len(records) == 1 and "xxx" in records[0].getMessage() and "32" in records[0].getMessage()
