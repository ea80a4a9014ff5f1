# Exported from nbs/data/corruptions.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.corruptions import *  # noqa: F403

import hashlib
import os
import subprocess
import sys

import numpy as np
from PIL import Image
from skimage import data as photos


def photo():
    return Image.fromarray(photos.chelsea())


def left_half(image):
    mask = np.zeros(image.size[::-1], bool)
    mask[:, : image.size[0] // 2] = True
    return mask


def digest(image):
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


ELSEWHERE = """
import hashlib, numpy as np
from PIL import Image
from skimage import data
from mfpo.data.corruptions import Corruption, corrupt
image = Image.fromarray(data.chelsea())
for c in (Corruption(kind="crop", seed=3), Corruption(seed=3)):
    print(hashlib.sha256(np.asarray(corrupt(image, None, c, ("cat",))).tobytes()).hexdigest())
"""


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def test_schedule_values():
    # From the formula, in float64, to 4 digits; the sigmoid row is the one that the papers of this family share.
    table = {
        100: 0.9966,
        200: 0.9878,
        300: 0.9623,
        400: 0.8928,
        500: 0.7448,
        600: 0.5391,
        700: 0.3513,
        800: 0.2181,
        900: 0.1331,
        999: 0.0812,
    }
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.005 - 1e-5) + 1e-5
    exact = np.cumprod(1 - betas)
    for step, value in table.items():
        assert round(float(exact[step]), 4) == value and round(float(alpha_bar("sigmoid")[step]), 4) == value, step
    assert np.allclose(alpha_bar("sigmoid"), exact, rtol=1e-4)
    linear = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    assert np.allclose(alpha_bar("linear"), linear, rtol=1e-4, atol=1e-7) and round(float(linear[500]), 4) == 0.0778


def test_diffuse_agrees_with_diffusers():
    import torch
    from diffusers import DDPMScheduler

    rng = np.random.default_rng(0)
    signal, noise = rng.uniform(size=(5, 7, 3)), rng.standard_normal((5, 7, 3))
    scheduler = DDPMScheduler(1000, beta_schedule="sigmoid", beta_start=1e-5, beta_end=0.005)
    for step in (0, 500, 999):
        theirs = scheduler.add_noise(torch.tensor(signal), torch.tensor(noise), torch.tensor([step])).numpy()
        assert np.allclose(diffuse(signal, noise, step), theirs, atol=1e-6)


def test_noise_power():
    # (m' - sqrt(abar) m) has mean power 1 - abar; n squared standard normals have mean 1, standard error sqrt(2 / n).
    n = 120_000
    rng = np.random.default_rng(1)
    signal, noise = rng.uniform(size=n), rng.standard_normal(n)
    for schedule, step in (("sigmoid", 300), ("sigmoid", 500), ("linear", 500), ("sigmoid", 999)):
        kept = alpha_bar(schedule)[step]
        power = np.mean((diffuse(signal, noise, step, schedule) - np.sqrt(kept) * signal) ** 2)
        assert abs(power / (1 - kept) - 1) < 4 * np.sqrt(2 / n), (schedule, step)


def test_noise_power_in_the_picture():
    # On grey, with weak noise, next to nothing is clamped: inside the mask the pixels have the variance
    # (1 - abar) 255^2, plus 1/12 for the rounding, about the mean sqrt(abar) 128.
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    mask = left_half(grey)
    kept, n = alpha_bar("sigmoid")[200], mask.sum() * 3
    inside = np.asarray(corrupt(grey, mask, Corruption(step=200), ("x",)))[mask].astype(float)
    expected = (1 - kept) * 255**2
    assert abs(inside.var() / (expected + 1 / 12) - 1) < 4 * np.sqrt(2 / n)
    assert abs(inside.mean() - np.sqrt(kept) * 128) < 4 * np.sqrt(expected / n)
    # [-1, 1] is twice as wide, so that the same step has half the noise on the scale of the pixels
    centred = np.asarray(corrupt(grey, mask, Corruption(step=200, domain="centred"), ("x",)))[mask].astype(float)
    assert abs(centred.var() / (expected / 4 + 1 / 12) - 1) < 4 * np.sqrt(2 / n)


def test_outside_the_mask_nothing_changes():
    image = photo()
    for k, (schedule, domain) in enumerate([("sigmoid", "unit"), ("linear", "centred")]):
        mask = np.random.default_rng(k).uniform(size=image.size[::-1]) < 0.3
        for kind in ("noise", "black", "mean"):
            worse = np.asarray(corrupt(image, mask, Corruption(kind=kind, schedule=schedule, domain=domain), ("cat",)))
            assert worse.dtype == np.uint8 and np.array_equal(worse[~mask], np.asarray(image)[~mask])
            assert (worse[mask] != np.asarray(image)[mask]).any(-1).mean() > 0.9
    nothing = np.zeros(image.size[::-1], bool)
    assert digest(corrupt(image, nothing, Corruption(), ("cat",))) == digest(image)


def test_step_extremes():
    image = photo()
    before = np.asarray(image).astype(int)
    first = np.asarray(corrupt(image, None, Corruption(step=0), ("cat",))).astype(int)
    assert np.abs(first - before).max() <= 6  # sd sqrt(1.2e-5) · 255 = 0.9, and the clamp only helps: 6 is beyond 5 sd
    last = np.asarray(corrupt(image, None, Corruption(step=999, schedule="linear"), ("cat",)))
    other = np.asarray(
        corrupt(Image.new("RGB", image.size, "red"), None, Corruption(step=999, schedule="linear"), ("cat",))
    )
    assert np.abs(last.astype(int) - other).max() <= 3  # nothing of the picture is left: sqrt(4e-5) · 255 = 1.6


def test_values_are_clamped_not_wrapped():
    white, black = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "black")
    noised = np.asarray(corrupt(white, None, Corruption(step=200), ("x",)))
    assert noised.min() > 100 and (noised == 255).mean() > 0.3  # a wrapped white pixel would be near 0
    noised = np.asarray(corrupt(black, None, Corruption(step=200), ("x",)))
    assert noised.max() < 155 and (noised == 0).mean() > 0.4


def test_same_negative_in_any_order_and_process():
    image = photo()
    settings = [Corruption(seed=3), Corruption(kind="crop", seed=3)]
    ids = ("cat", "dog")
    first = [digest(corrupt(image, None, c, (name,))) for c in settings for name in ids]
    np.random.seed(0)
    second = [digest(corrupt(image, None, c, (name,))) for c in reversed(settings) for name in reversed(ids)]
    assert first == second[::-1] and len(set(first)) == 4
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "5"},
    )
    assert run.stdout.split() == [first[2], first[0]]


def test_the_same_noise_at_other_steps_and_in_other_regions():
    image = Image.new("RGB", (40, 40), (128, 128, 128))
    whole = np.asarray(corrupt(image, None, Corruption(step=300), ("x",)))
    half = np.asarray(corrupt(image, left_half(image), Corruption(step=300), ("x",)))
    assert np.array_equal(half[:, :20], whole[:, :20]) and (half[:, 20:] == 128).all()
    weaker = np.asarray(corrupt(image, None, Corruption(step=200), ("x",))).astype(float)
    assert np.corrcoef(weaker.ravel(), whole.astype(float).ravel())[0, 1] > 0.99
    assert digest(corrupt(image, None, Corruption(seed=1), ("x",))) != digest(
        corrupt(image, None, Corruption(seed=2), ("x",))
    )


def test_crop():
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(4000):
        x0, y0, x1, y1 = crop_box((300, 200), Corruption(), rng)
        assert 0 <= x0 < x1 <= 300 and 0 <= y0 < y1 <= 200
        areas.append((x1 - x0) * (y1 - y0) / 60_000)
    assert 0.009 < min(areas) < 0.02 and 0.19 < max(areas) < 0.205
    assert abs(np.mean(areas) - 0.105) < 4 * 0.19 / np.sqrt(12 * 4000)  # uniform between .01 and .2
    image = photo()
    worse = corrupt(image, None, Corruption(kind="crop"), ("cat",))
    assert worse.size == image.size and worse.mode == "RGB"
    assert corrupt(Image.new("RGB", (1, 1)), None, Corruption(kind="crop"), ("dot",)).size == (1, 1)
    x0, y0, x1, y1 = crop_box((1000, 2), Corruption(crop_scale=(1, 1), crop_ratio=(1, 1)), rng)
    assert (x1 - x0, y1 - y0) == (45, 2)  # sqrt(2000) = 44.7 fits the width, not the height


def test_black_and_mean():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = (200, 100, 7)
    image, mask = Image.fromarray(pixels), np.array([[True, False], [False, False]])
    assert np.asarray(corrupt(image, mask, Corruption(kind="black"), ("x",))).max() == 0
    assert np.asarray(corrupt(image, mask, Corruption(kind="mean"), ("x",)))[0, 0].tolist() == [
        50,
        25,
        2,
    ]  # of the whole picture


def test_what_does_not_fit_is_refused():
    image = photo()
    assert "RGB" in refused(corrupt, image.convert("L"), None, Corruption(), ("x",))
    assert "shape" in refused(corrupt, image, np.zeros((3, 3), bool), Corruption(), ("x",))
    assert "type" in refused(corrupt, image, np.zeros(image.size[::-1], int), Corruption(), ("x",))
    assert "crop" in refused(corrupt, image, left_half(image), Corruption(kind="crop"), ("x",))
    for wrong in (
        dict(kind="blur"),
        dict(step=1000),
        dict(step=-1),
        dict(step=5.0),
        dict(schedule="cosine"),
        dict(domain="clip"),
        dict(crop_scale=(0.3, 0.2)),
        dict(crop_scale=(0.1, 2)),
        dict(crop_ratio=(0, 1)),
    ):
        assert next(iter(wrong)) in refused(Corruption, **wrong)
