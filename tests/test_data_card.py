# Exported from nbs/data/card.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.card import *  # noqa: F403

import copy

import pytest
import yaml

from mfpo.data.formats import FORMATS
from mfpo.data.report import Problem, Report
from mfpo.data.rows import row_features

NOTE = {"config": {"where": "regions", "corruption": {"kind": "noise", "step": 500, "scale": (0.01, 0.2)}},
        "finder": "/home/someone/finders/mine.py", "strict": True, "painter": None}
SUMMARY = {"rows": 12_000, "where": {"regions": 11_000, "fallback": 1_000}, "changed area": {"mean": 1 / 3}}


def card(name="rlhf-v", **options):
    report = Report(f"/home/someone/{name}.parquet", 12_100, read=12_100, pairs=12_000, format=FORMATS.get(name))
    report.rows += [Problem("a", f"row {k}", "image missing", "…") for k in range(100)]
    report.notes.append(Problem("b", "row 1", "mode L converted to RGB", "…"))
    return data_card(report, NOTE, SUMMARY, {"/somewhere/out.parquet": "rows | pictures"}, **options)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_front_matter_is_the_hubs():
    head = front(card())
    assert head["license"] == "cc-by-nc-4.0" and head["size_categories"] == ["10K<n<100K"] and "rlhf-v" in head["tags"]
    assert "visual-question-answering" in head["task_categories"] and head["pretty_name"] == "RLHF-V with negatives"
    for name in FORMATS:
        head = front(card(name))
        assert (head["license"], "license_name" in head) == ((FORMATS[name].licence,
            False) if FORMATS[name].licence else ("other", True))
    assert front(card("vlfeedback"))["license_name"] == "not-stated-by-the-source"
    assert front(card("mfpo"))["license_name"] == front(card("none"))["license_name"] == "yours-to-state"
    assert front(card("mfpo"))["pretty_name"] == "mfpo with negatives"
    for count, size in ((5, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**8, "n>10M")):
        assert front(data_card(Report("x"), {}, {"rows": count}))["size_categories"] == [size]
    assert front(data_card(Report("x"), {}, {}, name='a: "b"\n- c'))["pretty_name"] == 'a: "b"\n- c'


def test_the_page_says_terms_settings_and_findings():
    text = card()
    assert "This set" not in text.split("## Source")[0]
    assert "non-commercial, too" in text
    assert "2312.00849" in text
    assert "2410.15334" in text
    assert "| config.corruption.step | 500 |" in text and "| config.corruption.scale | 0.01, 0.2 |" in text
    assert "| strict | yes |" in text and "| painter | – |" in text and "| where.fallback | 1000 |" in text
    assert "| changed area.mean | 0.333333 |" in text and "| left out: image missing | 100 |" in text
    assert "| note: mode L converted to RGB | 1 |" in text and "| out.parquet | rows \\| pictures |" in text
    assert "| finder | mine.py |" in text
    assert "states no licence" in card("vlfeedback") and "yours to state" in card("mfpo") and "Flickr" in card("povid")
    for name in row_features():
        assert f"| {name} | " in text and MEANINGS[name] in text
    assert "| image | picture | " in text
    assert "| images | list of picture | " in text
    assert "| region_snr | float64 |" in text


def test_the_page_is_of_its_inputs_alone():
    note, summary = copy.deepcopy((NOTE, SUMMARY))
    assert card() == card() and (note, summary) == (NOTE, SUMMARY)
    assert "/home" not in card() and "someone" not in card() and "/somewhere" not in card()
    for value in ("a | b", "a\n| b |", "<script>", "\\|", "\x1b[31m", "x" * 5000, "\ud800", float("nan"), {"a": {}},
        [], {1: [None]}):
        text = data_card(Report("x"), {"value": value}, {})
        (line,) = [line for line in text.split("\n") if line.startswith("| value")]
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3 and "<" not in line and len(line) < 700
        text.encode("utf-8")
