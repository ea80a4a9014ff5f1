# Exported from nbs/data/inpainting.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.inpainting import *  # noqa: F403

import json
import tempfile
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mfpo.data.corruptions import Corruption, corrupt


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def tiny_tokenizer():
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefgh", *(f"{c}</w>" for c in "abcdefgh")]
    return CLIPTokenizer(vocab={w: k for k, w in enumerate(words)}, merges=[], model_max_length=12)


def tiny_pipeline(folder, seed=0, channels=9):
    """A random Stable Diffusion inpainting pipeline of the real classes, saved as safetensors."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8), norm_num_groups=2, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=18, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    ))
    pipeline = StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=text, tokenizer=tiny_tokenizer(), unet=unet, scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return str(folder)


def noise_picture(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def hole(size):
    mask = np.zeros(size[::-1], bool)
    mask[size[1] // 3 : size[1] // 2 + 1, size[0] // 4 : size[0] // 2 + 1] = True
    return mask


SMALL = dict(steps=2, long_side=64)


def test_paints_the_hole_and_nothing_else():
    with tempfile.TemporaryDirectory() as folder:
        name = tiny_pipeline(folder)
        paint, again = load_inpainter(name, **SMALL), load_inpainter(name, InpaintConfig(**SMALL))
        for size in ((101, 67), (9, 40), (1, 1)):
            image, mask = noise_picture(size), hole(size)
            first = np.asarray(paint(image, mask, 5))
            assert first.shape == (*size[::-1], 3) and np.array_equal(first[~mask], np.asarray(image)[~mask])
            assert np.array_equal(np.asarray(again(image, mask, 5)), first), size
            other = np.asarray(paint(image, mask, 6))
            assert (other[mask] != first[mask]).any() and (first[mask] != np.asarray(image)[mask]).any(), size
            assert np.array_equal(np.asarray(paint(image, mask, 5)), first)  # whatever was painted between
        whole = np.asarray(paint(image, np.ones_like(mask), 5))
        assert (whole != np.asarray(image)).mean() > 0.5
        empty = paint(image, np.zeros_like(mask), 5)
        assert np.array_equal(np.asarray(empty), np.asarray(image)) and empty is not image
        assert paint.pipeline.safety_checker is None and paint.pipeline._progress_bar_config["disable"]


def test_as_a_corruption():
    image, mask = noise_picture((101, 67)), hole((101, 67))
    with tempfile.TemporaryDirectory() as folder:
        paint = load_inpainter(tiny_pipeline(folder), **SMALL)
        make = lambda row, **changes: np.asarray(corrupt(image, mask, Corruption(kind="inpaint", **changes), (row,), painter=paint))
        first = make("a")
        assert np.array_equal(make("a"), first) and not np.array_equal(make("b"), first)
        assert not np.array_equal(make("a", seed=1), first) and np.array_equal(first[~mask], np.asarray(image)[~mask])


def test_agrees_with_the_pipeline_itself():
    # At the pipeline's own size nothing is resized: inside the hole stands what the pipeline gives for the same arguments.
    from diffusers import StableDiffusionInpaintPipeline

    image, mask = noise_picture((64, 48)), hole((64, 48))
    with tempfile.TemporaryDirectory() as folder:
        name = tiny_pipeline(folder)
        paint = load_inpainter(name, steps=3, guidance=3.0, long_side=64, prompt="a b", negative_prompt="c")
        pipe = StableDiffusionInpaintPipeline.from_pretrained(name, safety_checker=None, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        theirs = pipe(prompt="a b", negative_prompt="c", image=image, mask_image=Image.fromarray(mask.astype(np.uint8) * 255),
                      height=48, width=64, num_inference_steps=3, guidance_scale=3.0, strength=1.0, output_type="np",
                      generator=torch.Generator().manual_seed(9)).images[0]
        made = np.asarray(paint(image, mask, 9))[mask]
        assert np.abs(made - theirs[mask] * 255).max() <= 0.51


def test_a_plain_pipeline_paints_too():
    # A checkpoint whose network has 4 channels (no mask among its inputs) is blended by diffusers.
    image, mask = noise_picture((40, 24)), hole((40, 24))
    with tempfile.TemporaryDirectory() as folder:
        paint = load_inpainter(tiny_pipeline(folder, channels=4), **SMALL)
        made = np.asarray(paint(image, mask, 1))
        assert np.array_equal(made[~mask], np.asarray(image)[~mask]) and (made[mask] != np.asarray(image)[mask]).any()


def test_fingerprint_names_weights_and_settings():
    with tempfile.TemporaryDirectory() as folder:
        one, two = tiny_pipeline(Path(folder) / "one"), tiny_pipeline(Path(folder) / "two", seed=1)
        first = load_inpainter(one, **SMALL).fingerprint
        moved = str(Path(one).rename(Path(folder) / "moved"))
        assert load_inpainter(moved, **SMALL).fingerprint == first and len(first) < 400
        others = [load_inpainter(two, **SMALL), load_inpainter(moved, steps=3, long_side=64), load_inpainter(moved, prompt="a", **SMALL)]
        assert len({first, *(p.fingerprint for p in others)}) == 4
        note = Path(moved) / "scheduler" / "scheduler_config.json"
        note.write_text(json.dumps({**json.loads(note.read_text()), "beta_end": 0.03}))
        assert load_inpainter(moved, **SMALL).fingerprint != first


def test_sizes():
    assert working_size((640, 480), 512) == (512, 384) and working_size((101, 67), 512) == (512, 336)  # 339.6 -> 336
    assert working_size((101, 67), None) == (104, 64) and working_size((1000, 3), 512) == (512, 8)
    assert working_size((640, 480), 1024, 16) == (1024, 768) and working_size((1, 1), None) == (8, 8)
    rng = np.random.default_rng(0)
    for _ in range(200):
        h, w, height, width = rng.integers(1, 60, 4)
        mask = np.zeros((h, w), bool)
        y, x = rng.integers(h), rng.integers(w)
        mask[y, x] = True
        grown = resized_mask(mask, (int(width), int(height)))
        assert grown.shape == (height, width)
        # in whole numbers: [k h, (k + 1) h) of the new and [y H, (y + 1) H) of the old overlap
        meets = lambda new, old, at: [k * old < (at + 1) * new and at * new < (k + 1) * old for k in range(new)]
        assert np.array_equal(grown, np.outer(meets(height, h, y), meets(width, w, x)))
        assert grown.any()


def test_wrong_settings_and_pictures():
    for wrong in (dict(prompt=None), dict(negative_prompt=3), dict(steps=0), dict(steps=2.0), dict(long_side=4),
                  dict(long_side="big"), dict(guidance=-1), dict(guidance=float("nan")), dict(strength=1.5),
                  dict(strength=0.0), dict(dtype="int8"), dict(dtype=None)):
        assert refused(InpaintConfig, **wrong).startswith(next(iter(wrong))), wrong
    assert "not one is left" in refused(InpaintConfig, steps=3, strength=0.2)
    assert "colour" in refused(load_inpainter, "nobody/nothing", colour="red")
    with tempfile.TemporaryDirectory() as folder:
        paint = load_inpainter(tiny_pipeline(folder), **SMALL)
        image, mask = noise_picture((20, 10)), hole((20, 10))
        assert "mask" in refused(paint, image, mask.T, 0) and "RGB" in refused(paint, image.convert("L"), mask, 0)
        assert "mask" in refused(paint, image, mask.astype(np.uint8), 0)


def test_what_cannot_be_loaded():
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        empty.mkdir()
        for name in (str(empty), str(empty / "absent"), "nobody/nothing"):
            assert refused(load_inpainter, name).startswith(name)
        name = tiny_pipeline(Path(folder) / "cut")
        weights = Path(name) / "unet" / "diffusion_pytorch_model.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:100])
        assert refused(load_inpainter, name).startswith(name)
        weights.rename(weights.with_suffix(".bin"))  # pickled weights are not read
        assert "safetensors" in refused(load_inpainter, name)


def test_memory_and_numbers():
    # A pipeline that runs out of memory, fails otherwise, or gives no numbers.
    image, mask = noise_picture((20, 10)), hole((20, 10))
    with tempfile.TemporaryDirectory() as folder:
        paint = load_inpainter(tiny_pipeline(folder), **SMALL)
        real = paint.pipeline

        class Failing:
            device = "cuda:0"

            def __init__(self, error=None):
                self.error = error

            def __call__(self, height, width, **_):
                if self.error:
                    raise self.error
                return types.SimpleNamespace(images=[np.full((height, width, 3), np.nan)])

        for error, said in ((torch.OutOfMemoryError("CUDA out of memory"), "long_side=64"),
                            (RuntimeError("can't allocate memory: you tried to allocate 9 bytes"), "cuda:0"),
                            (RuntimeError("shapes differ"), "shapes differ")):
            paint.pipeline = Failing(error)
            try:
                paint(image, mask, 0)
                raise AssertionError("did not fail")
            except RuntimeError as raised:
                assert said in str(raised), raised
        paint.pipeline = Failing()
        assert "float32" in refused(paint, image, mask, 0)
        paint.pipeline = real
        # a setting that the pipeline does not take
        class Without(type(real)):
            def __call__(self, prompt, image, mask_image, height, width, strength, num_inference_steps, guidance_scale, generator):
                pass
        other = Without(**real.components, requires_safety_checker=False)
        assert "negative_prompt" in refused(DiffusionPainter, "x", other, InpaintConfig(negative_prompt="cup"))
        DiffusionPainter("x", other, InpaintConfig())
