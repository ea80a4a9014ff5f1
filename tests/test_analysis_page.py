# Exported from nbs/analysis/page.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.page import *  # noqa: F403

import base64
import re
import tempfile
from pathlib import Path
import pandas as pd
from PIL import Image


def test_nothing_is_fetched_and_everything_is_escaped():
    picture = Image.new("RGB", (2, 2), (9, 8, 7))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.png"
        picture.save(path)
        page = (
            Page("<script>alert(1)</script>", "a & b").heading("1 < 2").text("<b>").code("x < y")
            .figure(picture, 'say "cheese"').figure(path, "file", width=40)
        )
        text = page.table(pd.DataFrame({"<i>": ["<u>"]}), "&").html()
    assert "<script" not in text and not re.search(r"(src|href)=[\"']?(https?:|//)", text)
    assert (
        all(tag not in text for tag in ("<b>", "<u>", "<i>"))
        and "1 &lt; 2" in text
        and 'alt="say &quot;cheese&quot;"' in text
    )
    images = [base64.b64decode(code) for code in re.findall(r"base64,([A-Za-z0-9+/=]+)", text)]
    assert len(images) == 2 and all(data.startswith(b"\x89PNG") for data in images)
    assert re.findall(r'href="#(section-\d)"', text) == re.findall(r'id="(section-\d)"', text) == ["section-1"]
