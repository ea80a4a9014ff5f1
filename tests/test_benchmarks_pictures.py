# Exported from nbs/benchmarks/pictures.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.pictures import *  # noqa: F403


def test_pictures_are_found_or_named():
    import base64
    import io
    import tempfile
    from pathlib import Path

    import pytest
    from PIL import Image

    from mfpo.benchmarks.pictures import Pictures
    from mfpo.benchmarks.records import Item

    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (255, 0, 0)).save(buffer, "PNG")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "val" / "x").mkdir(parents=True)
        (folder / "val" / "a.png").write_bytes(buffer.getvalue())
        (folder / "b.png").write_bytes(b"no picture")
        pictures = Pictures(folder)
        item = lambda image, **facts: Item(str(image), "?", image, "g", facts)
        assert pictures.path("a.png") == pictures.path("val/a.png") == folder / "val" / "a.png"
        assert pictures.path("other/a.png") is None
        assert pictures.open(item("a.png")).size == (3, 2) and pictures.open(item("a.png")).getpixel((0, 0)) == (255, 0, 0)
        assert pictures.open(item(None)) is None
        inside = item(None, picture=base64.b64encode(buffer.getvalue()).decode())
        assert Pictures(None).open(inside).size == (3, 2)
        pictures.check([item("a.png"), inside, item(None)], "nowhere")
        with pytest.raises(FileNotFoundError, match="2 of 3 pictures are missing .c.png, d.png.: not in .*They are on the moon"):
            pictures.check([item("c.png"), item("a.png"), item("d.png"), item("d.png")], "They are on the moon")
        with pytest.raises(FileNotFoundError, match="no folder of pictures is given"):
            Pictures(None).check([item("a.png")], "")
        with pytest.raises(ValueError, match="item 'b.png', picture 'b.png'.*not an image"):
            pictures.open(item("b.png"))
        with pytest.raises(ValueError, match="no base64"):
            pictures.open(item(None, picture="*"))
        for bad in ("../a.png", "/etc/passwd"):
            with pytest.raises(ValueError, match="leads out of"):
                pictures.path(bad)
        (folder / "val" / "x" / "a.png").write_bytes(b"")
        with pytest.raises(ValueError, match="there are 2 pictures 'a.png'"):
            Pictures(folder).path("a.png")
        with pytest.raises(FileNotFoundError, match="is no folder"):
            Pictures(folder / "none")
