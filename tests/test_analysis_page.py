# Exported from nbs/analysis/page.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.page import *  # noqa: F403

import base64
import hashlib
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
import pandas as pd
import pytest
from PIL import Image

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Reads a page as a browser would: refuses tags that do not match; keeps attributes, and text by element's id."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text = [], [], {}
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id") or f"{tag}#{len(self.tags)}"))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for _, name in self.open:
            self.text[name] = self.text.get(name, "") + data

    def all(self, tag, name):
        return [attributes[name] for found, attributes in self.tags if found == tag and name in attributes]

    def texts(self, tag):
        return [text for name, text in self.text.items() if name.startswith(f"{tag}#")]


def example(folder):
    picture = Image.new("RGB", (2, 2), (9, 8, 7))
    path = Path(folder) / "p.png"
    picture.save(path)
    scores = {"": ["base", "DPO", "margin"], "CHAIRs ↓": ["52.5 [50, 54]", "–", "9.1 [8, 10]"], "n": [1, None, 2]}
    shown = pd.DataFrame(scores)
    return (
        Page("<script>alert(1)</script>", "a & b", {"commit": "<b>", "tree": "clean"})
        .heading("1 < 2").text("<b>", "two").code("\nx < y")
        .figure(picture, 'say "cheese"', title="Cheese").figure(path, "a file. And more", width=40)
        .table(shown, "What: was measured", title="Scores", csv=pd.DataFrame({"a,b": [1 / 3], "<i>": ['"</pre>"']}))
        .heading("Empty").heading("Last").table(pd.DataFrame({"<i>": ["<u>"]}), "&").table(pd.DataFrame({"x": []}))
    )


def test_cells_are_sorted_by_their_leading_number():
    values = {
        "28.0 [25.9, 30.2]": 28.0, "56 %": 56.0, "−3.1": -3.1, "-3.1": -3.1, "+4": 4.0, "<0.001": 0.001, "1.2e-03": 0.0012,
        "1,234": 1234.0, "× 2": 2.0, ".5": 0.5, "0.55 (0.1 to 0.9)": 0.55, "12 of 14": 12.0, " 7 ": 7.0,
    }
    assert {cell: sort_key(cell) for cell in values} == {cell: (0, value, "") for cell, value in values.items()}
    # What only begins with digits is a word, so that dates and names keep their alphabetical order.
    assert [sort_key(word) for word in ("7B", "2-stage", "2026-11-21", " mDPO", "12:30")] == [
        (1, 0.0, word) for word in ("7b", "2-stage", "2026-11-21", "mdpo", "12:30")
    ]
    assert {sort_key(gone) for gone in ("", " ", "–", "—", "-", "nan", "NaN", "n/a")} == {(2, 0.0, "")}
    # By hand: -3.1 < 4 < 28 = 28 < "dpo" = "DPO" < "mfpo"; the dash has no place.
    assert sort_places(["28.0 [1, 2]", "MFPO", "–", "DPO", "4", "28 %", "dpo", "−3.1"]) == [2, 4, None, 3, 1, 2, 3, 0]
    assert sort_places([]) == []


def test_the_page_is_whole_and_its_links_lead_somewhere():
    with tempfile.TemporaryDirectory() as folder:
        page = Outline(example(folder).html())
    ids = [i for tag, attributes in page.tags for name, i in attributes.items() if name == "id"]
    assert len(ids) == len(set(ids))
    links = [link for link in page.all("a", "href")]
    assert links and all(link[0] == "#" and link[1:] in ids for link in links)
    contents = ["section-1", "figure-1", "figure-2", "table-1", "section-2", "section-3", "table-2", "table-3"]
    assert [link[1:] for link in links[:8]] == [link[1:] for link in links[8:16]] == contents  # at the side, and folded
    assert all(name in ids for _, attributes in page.tags for k, v in attributes.items()
               if k in ("aria-labelledby", "aria-describedby", "data-from") for name in v.split())
    told = ["1 < 2", "Figure 1: Cheese", "Figure 2: a file", "Table 1: Scores", "Empty", "Last", "Table 2: &", "Table 3"]
    assert page.texts("a")[:8] == told
    assert page.texts("figcaption")[0] == 'Figure 1. Cheese. say "cheese"'
    captions = [page.text[f"table-{n}-caption"] for n in (1, 2, 3)]
    assert captions == ["Table 1. Scores. What: was measured", "Table 2. &", "Table 3."]
    assert [t for t, _ in page.tags].count("main") == 1 and page.all("html", "lang") == ["en"]


def test_without_sections_tables_stand_in_the_contents_themselves():
    frame = pd.DataFrame({"a": [1]})
    text = Page("t").table(frame, "first. second").table(frame, "at 0.5 of it. More").heading("s").table(frame).html()
    page = Outline(text)
    assert page.texts("a")[:4] == ["Table 1: first", "Table 2: at 0.5 of it", "s", "Table 3"]
    bare = Page("t").text("x").html()
    assert "<nav" not in bare and "<details" not in bare and '"listed"' not in bare and "<dl" not in bare
    Outline(bare)


def test_nothing_is_fetched_and_everything_is_escaped():
    with tempfile.TemporaryDirectory() as folder:
        text = example(folder).html()
        with pytest.raises(ValueError, match="x.pdf is no PNG"):
            (Path(folder) / "x.pdf").write_bytes(b"%PDF")
            Page("t").figure(Path(folder) / "x.pdf", "c")
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text) and "url(" not in text and "@import" not in text
    assert text.count("<script") == 1 and all(tag not in text for tag in ("<u>", "<i>", "<b>\""))
    page = Outline(text)
    assert page.texts("title") == page.texts("h1") == ["<script>alert(1)</script>"]
    assert page.texts("p") == ["a & b", "<b>", "two"]
    assert page.texts("dt") == ["commit", "tree"] and page.texts("dd") == ["<b>", "clean"]
    assert page.all("img", "alt") == ['Cheese say "cheese"', "a file. And more"] and page.all("img", "width") == ["40"]
    images = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in page.all("img", "src")]
    assert len(images) == 2 and all(data.startswith(b"\x89PNG") for data in images)
    # The browser is told to run this script and no other, and to load nothing.
    (policy,) = page.all("meta", "content")[:1]
    for tag in ("style", "script"):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert " style=" not in text and not re.search(r" on[a-z]+=", text.split("<script>")[0])  # the policy would refuse them


def test_a_table_carries_its_order_and_its_digits():
    with tempfile.TemporaryDirectory() as folder:
        text = example(folder).html()
        page = Outline(text)
        path = Path(folder) / "raw.csv"
        path.write_bytes(b"\xef\xbb\xbfa,b\r\n0.333333333333,x\r\n")
        from_file = Outline(Page("t").table(pd.DataFrame({"a": ["0.3"]}), csv=path).html())
        assert example(folder).html() == text  # the same bytes again
    cells = [(a.get("data-place"), page.text.get(f"td#{i}")) for i, (tag, a) in enumerate(page.tags, 1) if tag == "td"]
    # Columns one by one: base < DPO < margin; 9.1 < 52.5 and the dash last; 1 < 2 and the empty cell last.
    assert cells[:9] == [("0", "base"), ("1", "52.5 [50,\u00a054]"), ("0", "1.0"), ("1", "DPO"), (None, "–"), (None, "–"),
                         ("2", "margin"), ("0", "9.1 [8,\u00a010]"), ("1", "2.0")]
    # A line feed after <pre> is dropped by browsers, not by this parser.
    assert page.text["table-1-csv"] == '\n"a,b",<i>\n0.3333333333333333,"""</pre>"""\n'
    assert page.text["table-2-csv"] == "\n<i>\n<u>\n" and page.text["table-3-csv"] == "\nx\n"
    assert from_file.text["table-1-csv"] == "\na,b\n0.333333333333,x\n"
    buttons = [a for tag, a in page.tags if tag == "button"]
    assert [b["data-from"] for b in buttons] == ["table-1-csv", "table-2-csv", "table-3-csv"]
    assert all("hidden" in b for b in buttons)  # the script shows them
    # A column without a number is set to the left.
    assert [tag for tag, a in page.tags if a.get("class") == "left"] == ["th", "td", "td", "td", "th", "td", "th"]
    assert set(page.all("th", "scope")) == {"col"} and len(page.all("div", "tabindex")) == 3
    with pytest.raises(TypeError, match="csv is a list; give a table"):
        Page("t").table(pd.DataFrame({"a": [1]}), csv=[1])
    with pytest.raises(FileNotFoundError):
        Page("t").table(pd.DataFrame({"a": [1]}), csv="nothing.csv")
