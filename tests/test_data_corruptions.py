# Exported from nbs/data/corruptions.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.corruptions import *  # noqa: F403

import hashlib
import os
import subprocess
import sys

import numpy as np
from PIL import Image
from skimage import data as photos

from mfpo.settings import row_seed


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


def test_stored_pixels_never_change():
    # Digests of the pixels that the first version of this function made: pictures that are stored depend on them.
    FROZEN = {
        ("cat", "noise"): "1d9095077cdfa178", ("cat", "crop"): "8b169801648a3436",
        ("cat", "black"): "3437ceaa24f34c04", ("cat", "mean"): "162b8dce504c5e75",
        ("astronaut", "noise"): "2d372a0c0d469b27", ("astronaut", "crop"): "1dc4d15afbf7c960",
        ("astronaut", "black"): "1127dea7793023e3", ("astronaut", "mean"): "c3dbfa51816cc7f5",
        ("tiny", "noise"): "432b25188d8e7b6a", ("tiny", "crop"): "204a1021c9a95ca7",
        ("tiny", "black"): "3a073b311824f03c", ("tiny", "mean"): "8f8e65a84f8f00ab",
    }
    pictures = {
        "cat": photo(),
        "astronaut": Image.fromarray(photos.astronaut()).crop((100, 20, 357, 214)),
        "tiny": Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)),
    }
    noises = [
        dict(domain=d, schedule=s, step=t)
        for d in ("unit", "centred")
        for s, t in (("sigmoid", 500), ("linear", 250), ("sigmoid", 0), ("linear", 999))
    ]
    variants = {"noise": noises, "crop": [{}, dict(crop_scale=(0.3, 0.9), crop_ratio=(0.2, 5.0), seed=9)]}
    for (name, kind), expected in FROZEN.items():
        image, (w, h) = pictures[name], pictures[name].size
        box = np.zeros((h, w), bool)
        box[h // 4 : h // 2 + 1, w // 3 : w // 2 + 1] = True
        speckled = np.random.default_rng(1).uniform(size=(h, w)) < 0.3
        made = hashlib.sha256()
        for mask in (None, box, speckled) if kind != "crop" else (None,):
            for settings in variants.get(kind, [{}]):
                worse = corrupt(image, mask, Corruption(kind=kind, **settings), (name, "row"))
                made.update(np.asarray(worse).tobytes())
        assert made.hexdigest()[:16] == expected, (name, kind)


def test_noise_is_the_formula_to_the_bit():
    # The formula on the whole picture at once, in float64, then clamped, rounded and cut out; every domain.
    image = photo()
    pixels = np.asarray(image)
    h, w = pixels.shape[:2]
    noise = np.random.default_rng(row_seed(5, "noise", "cat")).standard_normal(pixels.shape)
    masks = [None, left_half(image), np.zeros((h, w), bool), np.random.default_rng(0).uniform(size=(h, w)) < 0.01]
    masks[2][37:38, 100:101] = True
    for domain, (low, high) in {"unit": (0, 1), "centred": (-1, 1), "normalised": (None, None)}.items():
        if low is None:
            low, high = -np.array(CLIP_MEAN) / CLIP_STD, (1 - np.array(CLIP_MEAN)) / CLIP_STD
        noisy = diffuse(pixels / 255 * (high - low) + low, noise, 300, "linear")
        whole = np.rint(np.clip((noisy - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        for mask in masks:
            expected = whole if mask is None else np.where(mask[..., None], whole, pixels)
            settings = Corruption(domain=domain, schedule="linear", step=300, seed=5)
            assert np.array_equal(np.asarray(corrupt(image, mask, settings, ("cat",))), expected), domain


def test_normalised_noise_by_channel():
    # (x - mean) / std + noise s, brought back, is x shrunk towards the mean plus noise s std: sd 255 s std in 8 bits.
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    kept, n = alpha_bar("sigmoid")[300], 200 * 200
    mean, std = (0.2, 0.5, 0.6), (0.1, 0.2, 0.3)
    worse = np.asarray(corrupt(grey, None, Corruption(step=300, domain="normalised", mean=mean, std=std), ("x",)))
    for channel in range(3):
        values, expected = worse[..., channel].astype(float), (1 - kept) * (255 * std[channel]) ** 2
        centre = 255 * mean[channel] + np.sqrt(kept) * (128 - 255 * mean[channel])
        assert abs(values.var() / (expected + 1 / 12) - 1) < 4 * np.sqrt(2 / n), channel
        assert abs(values.mean() - centre) < 4 * np.sqrt(expected / n), channel
    # at mean 0 and std 1 it is "unit"; at .5 and .5 it is "centred", up to the last bit of the arithmetic
    for mean, std, other in (((0, 0, 0), (1, 1, 1), "unit"), ((0.5,) * 3, (0.5,) * 3, "centred")):
        same = corrupt(grey, None, Corruption(domain="normalised", mean=mean, std=std), ("x",))
        assert np.array_equal(np.asarray(same), np.asarray(corrupt(grey, None, Corruption(domain=other), ("x",))))


def test_nothing_wraps_in_any_domain():
    # A wrapped value would jump: 260 to 4, -3 to 253. So where the value before the clamp is beyond a limit, the limit it is.
    image = Image.fromarray(np.tile(np.repeat(np.array([0, 255], np.uint8), 32)[None, :, None], (64, 1, 3)))
    noise = np.random.default_rng(row_seed(0, "noise", "x")).standard_normal((64, 64, 3))
    for schedule in SCHEDULES:
        for domain in DOMAINS:
            settings = Corruption(schedule=schedule, domain=domain)
            low, high = domain_limits(settings)
            value = (diffuse(np.asarray(image) / 255 * (high - low) + low, noise, 500, schedule) - low) / (high - low) * 255
            made = np.asarray(corrupt(image, None, settings, ("x",)))
            assert (value > 256).mean() > 0.02 and (made[value > 256] == 255).all(), (schedule, domain)
            assert (value < -1).mean() > 0.02 and (made[value < -1] == 0).all(), (schedule, domain)
            wrapped = np.clip(value, -1e6, 1e6).astype(np.int64).astype(np.uint8)
            assert np.abs(wrapped.astype(int) - made).max() > 200, (schedule, domain)  # what POVID's cast would have made


def test_every_kind_everywhere():
    # Every kind, whole picture and region, on odd sizes down to one pixel: 8-bit RGB of the same size, the same again,
    # another row's another where chance has a part, and outside the mask bit-identical.
    def painter(image, mask, seed):
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3), dtype=np.uint8))


    rng = np.random.default_rng(2)
    for size in ((1, 1), (1, 9), (7, 2), (33, 17), (64, 48)):
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        donor = Image.fromarray(rng.integers(0, 256, (13, 21, 3), dtype=np.uint8))
        speckled = rng.uniform(size=size[::-1]) < 0.3
        one = np.zeros(size[::-1], bool)
        one[-1, -1] = True
        for kind, what in KINDS.items():
            assert set(what.settings) <= set(Corruption.__dataclass_fields__) and what.needs in (None, "donor", "painter")
            for mask in (None, one, speckled, np.zeros(size[::-1], bool)):
                make = lambda row: corrupt(image, mask, Corruption(kind=kind), (row,), donor=donor, painter=painter)
                worse = make("a")
                assert worse.size == size and worse.mode == "RGB" and digest(worse) == digest(make("a")), (kind, size)
                if mask is not None:
                    assert np.array_equal(np.asarray(worse)[~mask], np.asarray(image)[~mask]), (kind, size)
                if size == (64, 48) and mask is not one and (mask is None or mask.any()):
                    assert digest(worse) != digest(image), kind
                    assert (digest(make("b")) != digest(worse)) == ("seed" in what.settings), kind


def test_crop_in_a_region():
    # A green and blue box in a red picture: its enlarged part has no red, and it is the box's part by the same draw.
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[...] = (255, 0, 0)
    pixels[10:30, 20:50] = np.random.default_rng(0).integers(0, 256, (20, 30, 3))
    pixels[10:30, 20:50, 0] = 0
    image = Image.fromarray(pixels)
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = np.random.default_rng(1).uniform(size=(20, 30)) < 0.8
    mask[10, 20] = mask[29, 49] = True
    settings = Corruption(kind="crop", crop_scale=(0.2, 0.3))
    made = np.asarray(corrupt(image, mask, settings, ("x",)))
    assert made[mask][:, 0].max() == 0 and np.array_equal(made[~mask], pixels[~mask])
    x0, y0, x1, y1 = crop_box((30, 20), settings, np.random.default_rng(row_seed(0, "crop", "x")))
    assert 0.15 * 600 < (x1 - x0) * (y1 - y0) < 0.35 * 600
    box = Image.fromarray(pixels[10:30, 20:50])
    alone = np.asarray(box.resize((30, 20), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))
    inner = mask[10:30, 20:50].copy()
    inner[[0, -1]] = inner[:, [0, -1]] = False  # at the very edge the two may differ in what lies beyond
    assert np.abs(made[10:30, 20:50][inner].astype(int) - alone[inner]).max() <= 1


def test_blur():
    from scipy.ndimage import gaussian_filter

    image = Image.fromarray(photos.astronaut()).crop((0, 0, 300, 200))
    whole = np.asarray(corrupt(image, None, Corruption(kind="blur", blur_sigma=0.03), ("x",)))
    exact = gaussian_filter(np.asarray(image, np.float64), (9, 9, 0), mode="nearest")  # 0.03 · 300 pixels
    apart = np.abs(whole - exact)[27:-27, 27:-27]  # away from the border, beyond which the two assume different things
    assert apart.mean() < 1 and apart.max() < 6, (apart.mean(), apart.max())  # three box filters against the real one
    for rows, columns in ((slice(90, 130), slice(100, 180)), (slice(0, 9), slice(0, 300)), (slice(150, 200), slice(280, 300))):
        mask = np.zeros((200, 300), bool)
        mask[rows, columns] = True
        made = np.asarray(corrupt(image, mask, Corruption(kind="blur", blur_sigma=0.03), ("x",)))
        assert np.array_equal(made[mask], whole[mask])  # a part of the picture is enough, to the bit
    flat = Image.new("RGB", (50, 30), (10, 200, 77))
    assert digest(corrupt(flat, None, Corruption(kind="blur", blur_sigma=1.0), ("x",))) == digest(flat)


def test_rotate():
    square = Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 21, 3), dtype=np.uint8))
    quarter = np.asarray(corrupt(square, None, Corruption(kind="rotate", angles=(90, 90)), ("x",)))
    apart = quarter.astype(int) - np.rot90(np.asarray(square))  # counter-clockwise
    assert np.abs(apart[1:-1, 1:-1]).max() <= 1
    image = photo()
    for angle in (10, 80, -33):
        settings = Corruption(kind="rotate", angles=(angle, angle))
        made = np.asarray(corrupt(image, None, settings, ("x",))).astype(int)
        theirs = np.asarray(image.rotate(angle, Image.Resampling.BILINEAR)).astype(int)
        assert (np.abs(made - theirs) > 1).any(-1).mean() < 0.002, angle  # up to the corners' outermost pixels
    assert (made[0, 0] == 0).all()
    mask = np.zeros(image.size[::-1], bool)
    mask[100:180, 200:300] = True
    made = np.asarray(corrupt(image, mask, Corruption(kind="rotate", angles=(30, 30)), ("x",))).astype(int)
    theirs = np.asarray(image.rotate(30, Image.Resampling.BILINEAR, center=(250, 140))).astype(int)
    assert np.abs(made[mask] - theirs[mask]).max() <= 1
    drawn = {digest(corrupt(image, None, Corruption(kind="rotate"), (str(k),))) for k in range(3)}
    assert len(drawn) == 3


def test_another_picture():
    # A donor of 200 × 50 for a picture of 60 × 30 loses its sides, 50 pixels each: its middle 100 × 50 remains.
    donor = np.zeros((50, 200, 3), np.uint8)
    donor[:, :100], donor[:, 100:] = (255, 0, 0), (0, 0, 255)
    donor[:, :45] = donor[:, 155:] = (0, 255, 0)  # not to be seen
    image = Image.new("RGB", (60, 30), (9, 9, 9))
    for kind in ("other", "retrieved"):
        made = np.asarray(corrupt(image, None, Corruption(kind=kind), ("x",), donor=Image.fromarray(donor)))
        assert made[..., 1].max() == 0 and (made[:, :28] == (255, 0, 0)).all() and (made[:, 32:] == (0, 0, 255)).all()
    mask = left_half(image)
    made = np.asarray(corrupt(image, mask, Corruption(kind="other"), ("x",), donor=Image.fromarray(donor).convert("P")))
    assert (made[:, 30:] == 9).all() and made[:, :28, 0].min() > 200
    same = photo()
    assert digest(corrupt(Image.new("RGB", same.size), None, Corruption(kind="other"), ("x",), donor=same)) == digest(same)


def test_inpaint():
    asked = []


    def painter(image, mask, seed):
        asked.append((mask.sum(), seed))
        return Image.new("RGB", image.size, (1, 2, 3))


    image = photo()
    mask = left_half(image)
    made = np.asarray(corrupt(image, mask, Corruption(kind="inpaint", seed=4), ("x",), painter=painter))
    assert (made[mask] == (1, 2, 3)).all() and np.array_equal(made[~mask], np.asarray(image)[~mask])
    corrupt(image, None, Corruption(kind="inpaint", seed=4), ("x",), painter=painter)
    corrupt(image, None, Corruption(kind="inpaint", seed=4), ("y",), painter=painter)
    seeds = [row_seed(4, "inpaint", "x")] * 2 + [row_seed(4, "inpaint", "y")]
    assert asked == list(zip((mask.sum(), mask.size, mask.size), seeds))  # without a mask, all is to be painted
    for wrong in (lambda *_: Image.new("RGB", (3, 3)), lambda *_: None):
        assert "painter" in refused(corrupt, image, mask, Corruption(kind="inpaint"), ("x",), painter=wrong)


def test_settings_in_effect():
    # A setting that a kind is said to read changes its pixels; one that it is not said to read does not.
    image = Image.fromarray(photos.astronaut()).resize((48, 48))
    donor = photo()
    changes = dict(
        step=300, schedule="linear", domain="centred", crop_scale=(0.5, 0.6), crop_ratio=(3.0, 4.0), seed=1,
        mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7), blur_sigma=0.1, angles=(-20.0, -10.0),
    )
    painter = lambda image, mask, seed: Image.new("RGB", image.size, (seed % 256, seed % 255, 0))
    make = lambda settings: digest(corrupt(image, None, settings, ("x",), donor=donor, painter=painter))
    for kind in KINDS:
        for domain in DOMAINS if kind == "noise" else ("unit",):
            plain = Corruption(kind=kind, domain=domain)
            for name, value in changes.items():
                value = "unit" if value == domain else value
                changed = Corruption(**{"kind": kind, "domain": domain, name: value})
                says = changed.in_effect() != plain.in_effect()
                assert (make(changed) != make(plain)) == says, (kind, domain, name)
    assert set(changes) | {"kind"} == set(Corruption.__dataclass_fields__)


def test_snr_by_hand():
    # Values 30, 40, 0 of one pixel changed by 0, 0, 5: 10 log10(2500 / 25) = 20 dB; 0 dB where all turns black.
    one, two = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8)
    one[0, 0], two[0, 0] = (30, 40, 0), (30, 40, 5)
    one[0, 1], two[0, 1] = (200, 200, 200), (0, 0, 0)
    image, negative = Image.fromarray(one), Image.fromarray(two)
    first = np.array([[True, False]])
    assert region_snr(image, negative, first) == 20.0 and region_snr(image, negative, ~first) == 0.0
    assert abs(region_snr(image, negative) - 10 * np.log10((2500 + 120_000) / (25 + 120_000))) < 1e-12
    assert region_snr(image, image) is None and region_snr(image, negative, np.zeros((1, 2), bool)) is None
    assert region_snr(Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2), "white")) is None  # a black region
    assert region_snr(negative, image, first) == 10 * np.log10(2525 / 25)  # a change down counts like one up
    for wrong in (image.convert("L"), Image.new("RGB", (3, 3))):
        assert "one size" in refused(region_snr, image, wrong)
    assert "shape" in refused(region_snr, image, negative, np.zeros((3, 3), bool))


def test_snr_of_noise():
    # Values 60..190 under weak noise: nothing is clamped, so the closed form holds, up to rounding (1/12 of a level²).
    # The change is -(1 - a) x + s e, of mean square (1 - a)² x² + s²; its mean over n values has relative error < sqrt(2/n).
    rng = np.random.default_rng(3)
    pixels = rng.integers(60, 191, (150, 200, 3), dtype=np.uint8)
    image, mask = Image.fromarray(pixels), np.zeros((150, 200), bool)
    mask[20:120, 30:170] = True
    x, n = pixels[mask].astype(float), 3 * mask.sum()
    for step, domain, centre, width in ((100, "unit", 0, 255), (150, "centred", 127.5, 127.5), (200, "centred", 127.5, 127.5)):
        kept = alpha_bar("sigmoid")[step]
        change = (1 - np.sqrt(kept)) ** 2 * ((x - centre) ** 2).mean() + (1 - kept) * width**2 + 1 / 12
        negative = corrupt(image, mask, Corruption(step=step, domain=domain), ("x",))
        error = 10 / np.log(10) * 4 * np.sqrt(2 / n)
        assert abs(region_snr(image, negative, mask) - 10 * np.log10((x**2).mean() / change)) < error, (step, domain)


def test_what_does_not_fit_is_refused():
    image = photo()
    assert "RGB" in refused(corrupt, image.convert("L"), None, Corruption(), ("x",))
    assert "shape" in refused(corrupt, image, np.zeros((3, 3), bool), Corruption(), ("x",))
    assert "type" in refused(corrupt, image, np.zeros(image.size[::-1], int), Corruption(), ("x",))
    for kind, needed in (("other", "donor"), ("retrieved", "donor"), ("inpaint", "painter")):
        assert needed in refused(corrupt, image, None, Corruption(kind=kind), ("x",))
    for wrong in (
        dict(kind="smear"), dict(kind=["noise"]), dict(step=1000), dict(step=-1), dict(step=5.0), dict(step=True),
        dict(schedule="cosine"), dict(domain="clip"), dict(domain=None), dict(seed=1.5), dict(seed="0"),
        dict(crop_scale=(0.3, 0.2)), dict(crop_scale=(0.1, 2)), dict(crop_scale=0.1), dict(crop_scale=(0.1, "0.2")),
        dict(crop_ratio=(0, 1)), dict(crop_ratio=(1, 2, 3)), dict(mean=(0.5, 0.5)), dict(mean=(0.5, 0.5, 122.0)),
        dict(mean=0.5), dict(std=(0.2, 0.2, 0)), dict(std=(0.2, 0.2, float("nan"))), dict(blur_sigma=0),
        dict(blur_sigma=1.5), dict(blur_sigma="0.1"), dict(angles=(80, 10)), dict(angles=(0, 0)), dict(angles=(0, 200)),
        dict(angles=(float("nan"), 1)),
    ):
        assert refused(Corruption, **wrong).startswith(f"{next(iter(wrong))}="), wrong
    assert Corruption(angles=[1, 2], crop_scale=[0.1, 0.2]).angles == (1, 2)  # lists, as YAML gives them
