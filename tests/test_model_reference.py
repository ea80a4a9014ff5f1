# Exported from nbs/model/reference.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.reference import *  # noqa: F403

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfpo.model.reference import _parquet

READS = {"chosen_original": ("question", "chosen", "image"), "chosen_negative": ("question", "chosen", "negative")}
MADE = {"model": {"weights": {"lm_head": "ab" * 16}, "config": {"layers": 3}}, "route": "plain", "dtype": "float32"}


def keys(count, **changes):
    """Rows 0 … count - 1; `changes` maps a column to digests of some rows."""
    columns = {name: [f"{name}-{k}" for k in range(count)] for name in ("question", "chosen", "image", "negative")}
    for name, cells in changes.items():
        for k, cell in cells.items():
            columns[name][k] = cell
    return RowKeys(tuple(f"row-{k}" for k in range(count)), {n: tuple(c) for n, c in columns.items()})


class Scorer:
    """Row k has -k - 0.5 nats, and -2 k under the negative; remembers the batches, and stops as a kill would."""

    def __init__(self, stop_after=None):
        self.batches, self.left = [], stop_after

    def __call__(self, batch):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self.batches.append(batch)
        k = np.array(batch, dtype=float)
        return {"chosen_original": -k - 0.5, "chosen_negative": -2 * k}

    @property
    def rows(self):
        return [k for batch in self.batches for k in batch]


def made(path, count=10, scorer=None, rows=None, made_with=MADE, **options):
    options = {"batch_size": 2, "shard_batches": 1} | options
    return score_reference(path, rows or keys(count), READS, scorer or Scorer(), made_with, **options)


def test_what_is_written_is_read_and_equal_content_is_equal_bytes():
    with tempfile.TemporaryDirectory() as folder:
        one, two = (made(Path(folder) / name, notes={"name": "x"}) for name in ("a.parquet", "b.parquet"))
        assert one.read_bytes() == two.read_bytes()
        assert sorted(p.name for p in Path(folder).iterdir()) == ["a.parquet", "b.parquet"]
        scores = read_reference(one)
        assert scores.rows == keys(10) and list(scores.reads.items()) == list(READS.items())
        assert scores.made_with == MADE and scores.notes == {"name": "x"}
        assert scores.logps["chosen_original"].dtype == np.float64
        assert scores.logps["chosen_original"].tolist() == [-k - 0.5 for k in range(10)]
        # any reader of parquet sees the numbers and the description
        assert pd.read_parquet(one)["chosen_negative"].tolist() == [-2.0 * k for k in range(10)]
        assert json.loads(pq.read_schema(one).metadata[b"mfpo_reference"])["made_with"] == MADE
        empty = read_reference(made(Path(folder) / "none.parquet", 0))
        assert len(empty.rows) == 0 and find_rows(empty, keys(0), list(READS)).shape == (0, 2)


def test_every_cut_and_every_flipped_bit_is_told():
    with tempfile.TemporaryDirectory() as folder:
        path = made(Path(folder) / "reference.parquet")
        data, wrong = path.read_bytes(), Path(folder) / "wrong.parquet"
        bad = [data[:n] for n in range(len(data))]
        bad += [data + b"0", data[1:], data + data, data[: len(data) // 2] + data[len(data) // 2 + 1 :]]
        for at in range(len(data)):
            bad.append(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        generator = np.random.default_rng(0)
        bad += [generator.bytes(n) for n in (1, 8, 1000)] + [b"PAR1" + generator.bytes(500) + b"PAR1"]
        for content in bad:
            wrong.write_bytes(content)
            with pytest.raises(ReferenceFileError, match="wrong.parquet .*Remove the file, or give another --ref"):
                read_reference(wrong)
        wrong.write_bytes(data)
        assert read_reference(wrong).rows == keys(10)


def test_anything_else_is_refused_by_name():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pd.DataFrame({"id": ["row-0"], "chosen_original": [-1.0]}).to_parquet(folder / "table.parquet")
        (folder / "empty.parquet").write_bytes(b"")
        (folder / "text.parquet").write_text("reference log-probs")
        (folder / "folder.parquet").mkdir()
        (folder / "mark.parquet").write_bytes(MARK)
        # with a right checksum: what another version of the library might write
        whole = pq.read_table(made(folder / "whole.parquet"))
        about = whole.schema.metadata[b"mfpo_reference"].decode()
        for name, text, table in (
            ("format", about.replace('"format": 1', '"format": 2'), whole), ("keys", '{"format": 1}', whole),
            ("list", "[]", whole), ("json", about[:-1], whole), ("arms", about, whole.drop_columns(["chosen_negative"])),
            ("cells", about, whole.drop_columns(["digest_image"])),
        ):
            bare = table.replace_schema_metadata(None)
            (folder / f"{name}.parquet").write_bytes(_parquet(bare, {"mfpo_reference": text}))
        (folder / "nothing.parquet").write_bytes(_parquet(whole.replace_schema_metadata(None), {}))
        for name, words in (
            ("table", "no file of reference"), ("empty", "no file of"), ("text", "no file of"),
            ("folder", "cannot be read"),
            ("mark", "damaged"), ("format", "format 2, not 1"), ("keys", "another version"), ("list", "another version"),
            ("json", "another version"), ("arms", "another version"), ("cells", "another version"),
            ("nothing", "another version"),
        ):
            with pytest.raises(ReferenceFileError, match=f"{name}.parquet .*{words}"):
                read_reference(folder / f"{name}.parquet")
        with pytest.raises(FileNotFoundError, match="absent.parquet: no such file"):
            read_reference(folder / "absent.parquet")
        with pytest.raises(FileNotFoundError, match="absent"):
            read_reference(folder / "absent" / "reference.parquet")


def test_a_killed_run_goes_on_and_every_row_is_scored_once():
    for stop in range(6):
        with tempfile.TemporaryDirectory() as folder:
            path, first, second = Path(folder) / "reference.parquet", Scorer(stop_after=stop), Scorer()
            if stop < 5:
                with pytest.raises(KeyboardInterrupt):
                    made(path, scorer=first)
                assert not path.exists() and len(list(part_of(path).glob("*.parquet"))) == stop
            made(path, scorer=second if stop < 5 else first)
            assert sorted(first.rows + second.rows) == list(range(10))  # each once
            whole = made(Path(folder) / "whole.parquet")
            assert path.read_bytes() == whole.read_bytes() and not part_of(path).exists()


def test_a_kill_inside_a_shard_costs_that_shard_and_another_batch_size_may_go_on():
    with tempfile.TemporaryDirectory() as folder:
        path, first, second = Path(folder) / "reference.parquet", Scorer(stop_after=3), Scorer()
        with pytest.raises(KeyboardInterrupt):
            made(path, 11, first, shard_batches=2)  # shards of 4: one is finished, one half
        made(path, 11, second, batch_size=3, shard_batches=7)
        assert [list(b) for b in second.batches] == [[4, 5, 6], [7], [8, 9, 10]]
        assert read_reference(path).logps["chosen_negative"].tolist() == [-2.0 * k for k in range(11)]


def test_a_part_that_cannot_be_gone_on_with_is_refused_by_name():
    def begun(folder, name):
        path = Path(folder) / name
        with pytest.raises(KeyboardInterrupt):
            made(path, scorer=Scorer(stop_after=2))
        return path

    with tempfile.TemporaryDirectory() as folder:
        path = begun(folder, "stale.parquet")
        for changes, words in (
            ({"made_with": MADE | {"route": "tree"}}, "route: plain there, tree here"),
            ({"rows": keys(10, image={3: "other"})}, "content: 10 rows, "), ({"count": 12}, "content: 10 rows, "),
        ):
            with pytest.raises(ReferenceFileError, match=f"stale.parquet.part is unfinished .*{words}.* Remove .*stale"):
                made(path, **changes)
        made(path)  # nothing was spoilt
        damaged = begun(folder, "damaged.parquet")
        shard = part_of(damaged) / "000001.parquet"
        shard.write_bytes(shard.read_bytes()[:-3])
        with pytest.raises(ReferenceFileError, match="000001.parquet .* Remove .*damaged.parquet.part"):
            made(damaged)
        swapped = begun(folder, "swapped.parquet")
        (part_of(swapped) / "000001.parquet").write_bytes((part_of(swapped) / "000000.parquet").read_bytes())
        with pytest.raises(ReferenceFileError, match="000001.parquet belongs to another run"):
            made(swapped)
        for content in ("", "{", "[]", "{}", '{"shard_rows": 0}', '{"shard_rows": "x"}'):
            part = part_of(Path(folder) / "plan.parquet")
            part.mkdir(exist_ok=True)
            (part / PLAN).write_text(content)
            with pytest.raises(ReferenceFileError, match="plan.parquet.part is no unfinished"):
                made(Path(folder) / "plan.parquet")
        foreign = part_of(Path(folder) / "mine.parquet")
        foreign.mkdir()
        (foreign / "notes.txt").write_text("mine")
        with pytest.raises(ReferenceFileError, match="mine.parquet.part is no unfinished"):
            made(Path(folder) / "mine.parquet")
        part_of(Path(folder) / "file.parquet").write_text("mine")
        with pytest.raises(ReferenceFileError, match="file.parquet.part is no unfinished"):
            made(Path(folder) / "file.parquet")
        empty = part_of(Path(folder) / "cut.parquet")  # killed before the plan was there
        empty.mkdir()
        (empty / ".plan.json.x1").write_text('{"sha')
        assert made(Path(folder) / "cut.parquet").exists()


def test_processes_share_the_shards_and_the_first_puts_them_together():
    import threading

    with tempfile.TemporaryDirectory() as folder:
        path, gate = Path(folder) / "reference.parquet", threading.Barrier(3)
        scorers, errors = [Scorer() for _ in range(3)], []

        def work(rank, rows):
            try:
                made(path, scorer=scorers[rank], rows=rows, share=(rank, 3), wait=gate.wait)
            except ReferenceFileError as error:
                errors.append(str(error))

        def together(rows):
            threads = [threading.Thread(target=work, args=(rank, rows)) for rank in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)

        together(keys(10))
        assert [s.rows for s in scorers] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5]] and not errors
        assert path.read_bytes() == made(Path(folder) / "alone.parquet").read_bytes()
        # all get as much to do: 12 batches are 6 shards of 2, not 4 of 3
        path, scorers = Path(folder) / "even.parquet", [Scorer() for _ in range(3)]
        threads = [
            threading.Thread(
                target=made, args=(path, 24, scorers[rank]),
                kwargs=dict(share=(rank, 3), wait=gate.wait, shard_batches=3),
            )
            for rank in range(3)
        ]
        [thread.start() for thread in threads], [thread.join(60) for thread in threads]
        assert [len(s.rows) for s in scorers] == [8, 8, 8] and read_reference(path).rows == keys(24)
        # what one refuses, all refuse, and none is left waiting
        path = Path(folder) / "stale.parquet"
        with pytest.raises(KeyboardInterrupt):
            made(path, scorer=Scorer(stop_after=1))
        together(keys(8))
        assert len(errors) == 3 and all("begun with something else" in error for error in errors)


def test_what_differs_is_named_with_both_values():
    with tempfile.TemporaryDirectory() as folder:
        scores = read_reference(made(Path(folder) / "reference.parquet"))
    check_made_with(scores, MADE)
    check_made_with(scores, json.loads(json.dumps(MADE)) | {})
    other = {"model": {"weights": {"lm_head": "cd" * 16}, "config": {"layers": 3}}, "route": "tree", "dtype": "float32"}
    with pytest.raises(ReferenceFileError) as refused:
        check_made_with(scores, other)
    text = str(refused.value)
    assert "reference.parquet is out of date" in text and "route: plain there, tree here" in text
    assert f"model.weights.lm_head: {'ab' * 16} there, {'cd' * 16} here" in text and text.endswith(REMEDY)
    with pytest.raises(ReferenceFileError, match="note: None there, .{60,120} … .{30,} here") as refused:
        check_made_with(scores, MADE | {"note": "x" * 5000})
    assert len(str(refused.value)) < 600
    with pytest.raises(ReferenceFileError, match="and 4 more"):
        check_made_with(scores, MADE | {f"item{k}": k for k in range(12)})


def test_rows_are_known_by_their_content_and_by_what_the_asked_arms_read():
    with tempfile.TemporaryDirectory() as folder:
        scores = read_reference(made(Path(folder) / "reference.parquet", notes={"negatives": "noise, regions"}))
    turned = RowKeys(("x", "y"), {name: values[3:1:-1] for name, values in keys(10).columns.items()})
    assert find_rows(scores, turned, ["chosen_negative", "chosen_original"]).tolist() == [[-6.0, -3.5], [-4.0, -2.5]]
    # of an arm that does not read the negative, rows with other negatives (or none) are known
    other = keys(10, negative={0: "else", 7: "else"})
    assert find_rows(scores, other, ["chosen_original"]).ravel().tolist() == [-k - 0.5 for k in range(10)]
    bare = RowKeys(other.ids, {n: c for n, c in other.columns.items() if n != "negative"})
    assert find_rows(scores, bare, ["chosen_original"]).shape == (10, 1) and find_rows(scores, bare, []).shape == (10, 0)
    with pytest.raises(ReferenceFileError, match=(
        r"its negatives: noise, regions\) does not hold 2 of 10 rows: 'row-0' \(another negative\), "
        r"'row-7' \(another negative\). Remove"
    )):
        find_rows(scores, other, ["chosen_negative"])
    with pytest.raises(ReferenceFileError, match=r"does not hold 3 of 13 rows: 'row-10' \(unknown\)"):
        find_rows(scores, keys(13), ["chosen_original"])
    with pytest.raises(ReferenceFileError, match=r"'row-4' \(another question, image\) and 5 more"):
        find_rows(scores, keys(10, question=dict.fromkeys(range(10), "?"), image={4: "?"}), ["chosen_original"])
    with pytest.raises(ReferenceFileError, match="lacks the arm rejected_original; it has chosen_"):
        find_rows(scores, keys(2), ["rejected_original"])
    with pytest.raises(ValueError, match="different lengths"):
        RowKeys(("a",), {"image": ("x", "y")})


def test_only_rounding_is_forgiven():
    there = np.array([[-100.0, -0.5], [-900.0, -4.0]])
    allowed = 1e-4 * np.array([[10.0, 1.0], [30.0, 2.0]])  # float32: 1e-4 times the root of the size, at least 1
    assert np.allclose(rounding(there, "float32"), allowed)
    assert np.allclose(rounding(there, "bfloat16, float32"), rounding(there, "bfloat16"))
    assert (rounding(there, "float8") > 0.1).all()
    check = lambda here, precision="float32": check_scores(Path("f"), ["a", "b"], ["x", "y"], there, here, precision)
    check(there), check(there + 0.99 * allowed), check(there - 0.99 * allowed), check(there + 0.2, "bfloat16")
    moved = there.copy()
    moved[1, 1] += 3e-4
    with pytest.raises(ReferenceFileError, match=(
        "row 'b', y, has -4 nats there and -3.9997 when .* 0.0003 apart where 0.0002 is rounding in float32"
    )):
        check(moved)
    moved[0, 0] = np.nan
    with pytest.raises(ReferenceFileError, match="row 'a', x, has -100 nats there and nan"):
        check(moved)
    check_scores(Path("f"), [], ["x"], np.zeros((0, 1)), np.zeros((0, 1)), "float32")


def test_numbers_that_are_none_are_not_stored():
    def broken(batch):
        return {"chosen_original": -np.ones(len(batch)), "chosen_negative": np.where(np.array(batch) == 5, np.nan, -1)}

    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(ValueError, match="row 'row-5': the reference log-prob of chosen_negative is nan"):
            made(Path(folder) / "reference.parquet", scorer=broken)
        with pytest.raises(ValueError, match="batch_size=0"):
            made(Path(folder) / "reference.parquet", batch_size=0)
