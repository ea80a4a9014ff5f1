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


def test_what_was_read_is_said_and_read_once():
    from unittest import mock

    from mfpo.data import checking

    with tempfile.TemporaryDirectory() as folder:
        rows = [row("a"), row("b", broken=True), row("a", image="9.png"), row("c", chosen="a b c d e f g h")]
        options = RowOptions(dataset_name=written(folder, rows), skip_bad=True, report=f"{folder}/report.jsonl")
        count = lambda row, answer: len(answer.split())  # noqa: E731
        with mock.patch.object(checking, "check_image", wraps=checking.check_image) as looked:
            with contextlib.redirect_stderr(io.StringIO()):
                kept, report = read_checked(options, "train", (), count, 5, cache=f"{folder}/cache.arrow")
            assert looked.call_count == 4  # each picture once
        # of two rows with one id the first is good: it stays
        assert kept["id"][:] == ["a"]
        assert report.format.name == "mfpo"
        assert (report.read, report.bad, report.pairs) == (4, 3, 1)
        assert sorted(report.rows.counts) == ["duplicate id", "no image", "too long"]
        assert "3 bad rows" in report.summary() and len(pathlib.Path(options.report).read_text().splitlines()) == 3
        assert pathlib.Path(f"{folder}/cache.arrow").exists()
        options.skip_bad = False
        with pytest.raises(BadInput, match="3 of 4 rows"):
            read_checked(options, "train", (), count, 5, cache=f"{folder}/cache.arrow")
        assert not pathlib.Path(f"{folder}/cache.arrow").exists()
        pathlib.Path(f"{folder}/empty.jsonl").write_text("")
        with pytest.raises(BadInput, match="No row is left"):
            checked_rows(RowOptions(dataset_name=f"{folder}/empty.jsonl"), "train")


def test_rows_with_several_pictures_need_a_command_that_can():
    with tempfile.TemporaryDirectory() as folder:
        rows = [row("one"), row("two")]
        path = written(folder, rows)
        rows[1] = {**{k: v for k, v in rows[1].items() if k != "image"}, "images": ["0.png", "1.png"], "image_index": 1}
        pathlib.Path(path).write_text("".join(json.dumps(r) + "\n" for r in rows))
        options = RowOptions(dataset_name=path)
        with pytest.raises(BadInput,
            match="row 'two'.*it has 2 pictures, and this command uses one; write the picture"):
            checked_rows(options, "train")
        kept = checked_rows(options, "train", several_images=True)
        assert kept["id"][:] == ["one", "two"] and kept["image_index"][:] == [None, 1]
        options.skip_bad = True
        with contextlib.redirect_stderr(io.StringIO()):
            assert checked_rows(options, "train")["id"][:] == ["one"]


def test_formats_and_pairs_are_options():
    from mfpo.commands.options import parse_options

    given = parse_options([RowOptions], ["--format", "vlfeedback", "--min_gap", "0.5", "--answer_pairs", "all"],
        "mfpo x", "")[0]
    assert given.format == "vlfeedback" and (given.pair_rules.pairs, given.pair_rules.min_gap) == ("all", 0.5)
    with pytest.raises(ValueError, match="min_gap"):
        RowOptions(min_gap=-1)
    answers = [{"model": m, "response": f"of {m}", "annotations": {a: {"Rating": r} for a in
                ("Helpfulness", "Visual Faithfulness",
                    "Ethical Considerations")}} for m, r in (("x", "5"), ("y", "3"), ("z", "4"))]
    with tempfile.TemporaryDirectory() as folder:
        written(folder, [{}])
        record = {"id": "v", "prompt": "what ?", "completions": answers, "img_path": "0.png"}
        pathlib.Path(f"{folder}/set.json").write_text(json.dumps([record]))
        options = RowOptions(dataset_name=f"{folder}/set.json")
        rows, report = read_checked(options, "train")
        assert report.format.name == "vlfeedback" and rows["rejected_source"][:] == ["y"]
        options = RowOptions(dataset_name=f"{folder}/set.json", answer_pairs="all", min_gap=1.5)
        assert checked_rows(options, "train")["chosen_source"][:] == ["x"]


def test_rows_on_disk_go_with_the_process():
    import os, subprocess, sys

    with tempfile.TemporaryDirectory() as folder:
        code = "import sys; from mfpo.commands.checks import row_cache; p = row_cache(sys.argv[1]); p.touch(); print(p.name)"
        environment = {**os.environ, "RANK": "3"}
        done = subprocess.run([sys.executable, "-c", code, f"{folder}/run/"], capture_output=True, text=True, env=environment)
        assert done.stdout == ".run.rows3.arrow\n" and not list(pathlib.Path(folder).iterdir()), done.stderr
