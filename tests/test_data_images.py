# Exported from nbs/data/images.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.images import *  # noqa: F403

import io

import numpy as np
from PIL import Image, ImageFile


def picture(size=(12, 9), seed=0):
    """A small RGB picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refused(data, rules=ImageRules()):
    """The kind under which `data` is refused."""
    try:
        check_image(data, rules)
    except ImageError as error:
        assert error.reason and error.remedy
        return error.kind
    return None


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_plain_files_keep_their_bytes():
    for kind in ("PNG", "JPEG"):
        data = encoded(picture(), kind)
        assert check_image(data) == (data, (12, 9), ())
    assert check_image(encoded(picture(), "BMP")).notes == ("BMP kept as PNG",)


def test_convertible_modes():
    rgb = picture()
    for mode in ("1", "L", "P", "CMYK"):
        image = rgb.convert(mode)
        checked = check_image(encoded(image, "TIFF"))
        assert checked.notes == (f"mode {mode} converted to RGB",), checked.notes
        assert np.array_equal(pixels(checked.data), np.asarray(image.convert("RGB")))
    assert (
        check_image(encoded(rgb.convert("YCbCr"), "JPEG")).notes == ()
    )  # a JPEG's own storage: decoded to RGB as ever


def test_transparency_goes_over_the_background():
    # alpha 128 of 255 over white: 255·(127/255) = 127; over black: 0.
    # A hidden colour under alpha 0 must not come through.
    glass = encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert np.all(np.abs(pixels(check_image(glass).data).astype(int) - 127) <= 1)
    assert np.all(pixels(check_image(glass, ImageRules(background=(0, 0, 0))).data) == 0)
    hidden = encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    assert np.all(pixels(check_image(hidden).data) == 255)
    palette = picture().convert("P")
    data = encoded(palette, "PNG", transparency=int(np.asarray(palette)[0, 0]))
    assert np.all(pixels(check_image(data).data)[0, 0] == 255)
    grey_alpha = encoded(Image.new("LA", (2, 2), (9, 0)))
    assert np.all(pixels(check_image(grey_alpha).data) == 255)


def test_more_than_eight_bits_is_refused():
    assert refused(encoded(Image.fromarray(np.full((4, 4), 4000, np.uint16)))) == "more than 8 bits"
    assert refused(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")) == "more than 8 bits"
    assert refused(encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF")) == "more than 8 bits"
    # A 16-bit RGB PNG, written by hand, which Pillow opens as 8-bit RGB without saying so.
    import struct
    import zlib


    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


    for colour_type, channels in ((2, 3), (6, 4), (0, 1), (4, 2)):
        rows = b"".join(b"\0" + bytes(range(2 * channels)) * 3 for _ in range(2))
        deep = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, colour_type, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
        assert refused(deep) == "more than 8 bits", colour_type


def test_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    image = picture((6, 4))
    checked = check_image(encoded(image, "PNG", exif=exif))
    assert checked.size == (4, 6) and "orientation 6" in checked.notes[0]
    assert np.array_equal(pixels(checked.data), np.rot90(np.asarray(image), 3))
    assert Image.open(io.BytesIO(checked.data)).getexif().get(0x0112) is None


def test_refused_files():
    assert refused(b"") == "empty image"
    assert refused(b"just text") == "no image"
    assert refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "no image"  # no decoder that runs programs
    assert refused(encoded(picture((40, 40)), "JPEG")[:-400]) == "broken image"
    assert refused(encoded(picture((30, 30))), ImageRules(max_pixels=899)) == "image too large"
    assert refused(encoded(picture((30, 30))), ImageRules(max_bytes=100)) == "image too large"


def test_a_bomb_is_refused_before_it_is_decoded():
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    assert refused(bomb + b"\0\0\0\0IDAT\0\0\0\0") == "image too large"


def test_truncation_tolerance_set_elsewhere_does_not_leak_in():
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        assert refused(encoded(picture((40, 40)))[:900]) == "broken image"
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def test_any_truncation_is_refused_or_harmless():
    image = picture((16, 16))
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        data = encoded(image, kind)
        whole = pixels(check_image(data).data)
        for cut in range(0, len(data), max(1, len(data) // 60)):
            try:
                checked = check_image(data[:cut])
            except ImageError:
                continue
            assert kind == "WEBP" or cut > len(data) // 2, (kind, cut)
            assert np.array_equal(pixels(checked.data), whole) or kind in ("JPEG", "GIF", "WEBP"), (kind, cut)


def test_random_bytes_never_escape():
    rng = np.random.default_rng(0)
    heads = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"RIFF\0\0\0\0WEBP", b"BM"]
    for i in range(400):
        data = heads[i % len(heads)] + rng.integers(0, 256, int(rng.integers(0, 200)), dtype=np.uint8).tobytes()
        refused(data)  # an ImageError or an image: any other exception fails the test
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
        data = np.frombuffer(encoded(picture((16, 16)), kind), np.uint8)
        for _ in range(150):
            broken = data.copy()
            where = rng.integers(0, len(broken), 3)
            broken[where] = rng.integers(0, 256, 3, dtype=np.uint8)
            refused(broken.tobytes())


def test_label_maps():
    labels = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert check_label_map(encoded(labels), (4, 3)).notes == ()
    indexed = labels.copy()
    indexed.putpalette(
        [v for k in range(256) for v in (k, 255 - k, 0)]
    )  # colours to look at; the indices are the numbers
    assert indexed.mode == "P"
    assert np.array_equal(pixels(check_label_map(encoded(indexed), (4, 3)).data), np.arange(12).reshape(3, 4))
    for bad, size in (
        (encoded(labels), (3, 4)),
        (encoded(labels.convert("RGB")), (4, 3)),
        (encoded(labels, "JPEG"), (4, 3)),
    ):
        try:
            check_label_map(bad, size)
            raise AssertionError("accepted")
        except ImageError as error:
            assert error.kind == "label map"


def test_settings_are_checked():
    for wrong in (
        dict(max_pixels=0),
        dict(max_pixels=10**12),
        dict(max_bytes=0),
        dict(background=(1, 2)),
        dict(formats=()),
    ):
        try:
            ImageRules(**wrong)
            raise AssertionError(wrong)
        except ValueError as error:
            assert next(iter(wrong)) in str(error)
