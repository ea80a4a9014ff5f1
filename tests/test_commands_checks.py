# Exported from nbs/commands/checks.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.checks import *  # noqa: F403

import contextlib, io, json, pathlib, tempfile
import numpy as np
import pytest
from PIL import Image
from mfpo.commands.options import BadInput


def written(folder, rows):
    """A rows file in `folder` with a picture for each row; `picture` overrides its bytes."""
    folder = pathlib.Path(folder)
    for number, row in enumerate(rows):
        name = row.setdefault("image", f"{number}.png")
        if row.pop("broken", False):
            (folder / name).write_bytes(b"no picture")
        else:
            Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(folder / name)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def row(identity, **changes):
    return {"id": identity, "question": "what is it ?", "chosen": "a cat", "rejected": "a dog", **changes}


def test_all_reasons_are_in_one_report():
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row("good"),
            row("broken", broken=True),
            row("equal", rejected="a cat"),
            row("long", chosen="a b c d e f g h"),
        ]
        options = RowOptions(dataset_name=written(folder, rows), report=f"{folder}/report.jsonl")
        count = lambda row, answer: len(answer.split())  # noqa: E731
        with pytest.raises(BadInput) as refused:
            checked_rows(options, "train", count_tokens=count, max_length=5)
        text = str(refused.value)
        assert "3 of 4 rows cannot be used" in text and "--skip_bad" in text
        assert all(f"row '{name}'" in text for name in ("broken", "equal", "long")) and "row 'good'" not in text
        entries = [json.loads(line) for line in pathlib.Path(options.report).read_text().splitlines()]
        assert [e["row"] for e in entries if e["level"] == "bad"] == ["broken", "equal", "long"]
        options.skip_bad = True
        with contextlib.redirect_stderr(io.StringIO()) as err:
            assert checked_rows(options, "train", count_tokens=count, max_length=5)["id"] == ["good"]
        assert "going on with the other 1 rows" in err.getvalue()


def test_missing_columns_and_files_are_named():
    with tempfile.TemporaryDirectory() as folder:
        options = RowOptions(dataset_name=written(folder, [row("a")]))
        with pytest.raises(BadInput, match="no column negative; 'mfpo negatives' makes it"):
            checked_rows(options, "train", needs=("negative",))
        with pytest.raises(BadInput, match="no-such.jsonl"):
            checked_rows(RowOptions(dataset_name=f"{folder}/no-such.jsonl"), "train")
        with pytest.raises(BadInput, match="1 of 1 rows"):
            checked_rows(RowOptions(dataset_name=written(folder, [row("a", chosen=" ")]), skip_bad=True), "train")
    for columns in ("{", "[1]", '{"chosen": 1}'):
        with pytest.raises(ValueError, match="--columns"):
            RowOptions(columns=columns)
