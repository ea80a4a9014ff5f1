# Exported from nbs/data/building.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.building import *  # noqa: F403

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from mfpo.data.keywords import KeywordConfig
from mfpo.data.negatives import ADDED_COLUMNS, Tools, make_negative, negative_preset
from mfpo.data.regions import AnnotatedRegions
from mfpo.data.rows import GROUP_ROWS, dataset_of, read_rows, write_rows

WORDS = KeywordConfig(vocabulary=("cup", "lamp"))


def some_rows(n=6):
    """Rows of 20 × 16 pictures; every third answer names something that is not annotated."""
    rng = np.random.default_rng(0)
    return dataset_of([
        {
            "id": f"row-{k}",
            "image": Image.fromarray(rng.integers(60, 190, (16, 20, 3), dtype=np.uint8)),
            "question": "what ?",
            "chosen": "a lamp ." if k % 3 == 2 else "a cup .",
            "rejected": "a hat .",
            "note": k,
            "objects": [{"name": "cup", "box": [2, 3, 2 + 4 + k % 5, 9]}],
        }
        for k in range(n)
    ])


def mfpo_config(**changes):
    return negative_preset("mfpo", keywords=WORDS, **changes)


def built(rows, finder, config, out=None, **more):
    return build_negatives(rows, finder, config, out, progress=False, **more)


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


class Counting:
    """A finder that counts its calls, and dies at one of them."""

    fingerprint = "counting"

    def __init__(self, dies_at=None):
        self.calls, self.dies_at = 0, dies_at

    def __call__(self, image, words, row):
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        return AnnotatedRegions()(image, words, row)

WORKING = """
import glob, os, random, signal, sys, time
from mfpo.data.building import write_negatives
from mfpo.data.corruptions import alpha_bar
from mfpo.data.keywords import KeywordConfig
from mfpo.data.negatives import negative_preset
from mfpo.data.regions import AnnotatedRegions
from mfpo.data.rows import read_rows

alpha_bar()  # imports what takes long, once for all processes
rows, out = sys.argv[1:3]
config = negative_preset("mfpo", keywords=KeywordConfig(vocabulary=("cup", "lamp")))

def work(workers=1):
    write_negatives(read_rows(rows), AnnotatedRegions(), config, out, progress=False, workers=workers)

def apart(function, *arguments):  # in a process of its own, which has not to import everything again
    process = os.fork()
    if not process:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return process
"""


def script(body, *words, **options):
    """What the script printed; the body comes after the definitions above."""
    command = [sys.executable, "-c", WORKING + body, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **options)

KILLED = """
random.seed(5)
shards = lambda: len(glob.glob(os.path.join(os.path.dirname(out), ".out.parquet.parts", "0*.parquet")))
for k in range(10):
    before, process = shards(), apart(work, 1 + k % 3)
    while shards() == before and not os.path.exists(out) and not os.waitpid(process, os.WNOHANG)[0]:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    print(shards())
work()
"""

SHARED = """
def as_rank(rank):
    os.environ.update(RANK=str(rank), WORLD_SIZE="3")
    time.sleep(0.3 * (rank == late))
    work()

for late in (0, 1, 2):
    processes = [apart(as_rank, rank) for rank in (2, 0, 1)]
    print([os.waitpid(process, 0)[1] for process in processes])
    os.rename(out, f"{out}.{late}")
"""


def test_every_row_as_make_negative_makes_it():
    rows = some_rows(GROUP_ROWS + 6)
    whole = built(rows, AnnotatedRegions(), mfpo_config())
    assert whole.column_names == rows.column_names + list(ADDED_COLUMNS) and whole["note"][:] == list(range(len(rows)))
    for k in (0, 2, GROUP_ROWS + 3):
        alone = make_negative(rows[k], AnnotatedRegions(), mfpo_config())
        assert np.array_equal(np.asarray(whole[k]["negative"]), np.asarray(alone["negative"]))
        assert all(whole[k][name] == alone[name] for name in ADDED_COLUMNS if name != "negative")
        assert np.array_equal(np.asarray(whole[k]["image"]), np.asarray(rows[k]["image"]))
    import datasets

    undecoded = built(rows.cast_column("image", datasets.Image(decode=False)), AnnotatedRegions(), mfpo_config())
    assert undecoded.features == whole.features
    assert undecoded.with_format("arrow")[:].equals(whole.with_format("arrow")[:])


def test_order_and_workers_do_not_matter():
    rows = some_rows(GROUP_ROWS + 9)
    order = np.random.default_rng(1).permutation(len(rows))
    bytes_of = lambda made: dict(zip(made["id"], made.with_format("arrow")[:]["negative"].to_pylist()))  # noqa: E731
    straight = built(rows, AnnotatedRegions(), mfpo_config())
    shuffled = built(rows.select(order), AnnotatedRegions(), mfpo_config(), workers=3)
    assert shuffled["id"][:] == [f"row-{k}" for k in order] and bytes_of(straight) == bytes_of(shuffled)
    other = built(rows.select([0]), AnnotatedRegions(), mfpo_config(seed=1))
    assert bytes_of(other)["row-0"] != bytes_of(straight)["row-0"]
    assert "workers=0" in refused(built, rows, None, mfpo_config(), workers=0)


def test_groups_are_bounded_by_their_pixels():
    # 320 pixels a picture: with room for 1,000 a group is closed at the fourth.
    rows, seen = some_rows(10), []


    class Watching(Counting):
        def find_many(self, images, words, rows):
            seen.append(len(images))
            return [AnnotatedRegions()(*one) for one in zip(images, words, rows)]


    expected = built(rows, AnnotatedRegions(), mfpo_config())
    import mfpo.data.building as library

    with mock.patch.object(library, "GROUP_PIXELS", 1000):
        few = library.build_negatives(rows, Watching(), mfpo_config(), progress=False, workers=2)
    assert seen == [4, 4, 2] and few.with_format("arrow")[:].equals(expected.with_format("arrow")[:])


def test_a_resumed_run_gives_the_same_bytes():
    rows = some_rows(2 * GROUP_ROWS + 5)
    with tempfile.TemporaryDirectory() as folder:
        smooth = Path(folder) / "smooth.parquet"
        built(rows, Counting(), mfpo_config(), smooth)
        out, parts = Path(folder) / "out.parquet", Path(folder) / ".out.parquet.parts"
        for dies_at in (GROUP_ROWS + 7, 3):
            try:
                built(rows, Counting(dies_at), mfpo_config(), out)
                raise AssertionError("went on")
            except KeyboardInterrupt:
                assert not out.exists() and sorted(p.name for p in parts.iterdir()) == ["000000.parquet", "run.json"]
        last = Counting()
        made = built(rows, last, mfpo_config(), out, workers=2)
        assert last.calls == GROUP_ROWS + 5  # the first shard was not made again
        assert out.read_bytes() == smooth.read_bytes()
        assert sorted(p.name for p in Path(folder).iterdir()) == ["out.parquet", "smooth.parquet"]
        assert made["id"][:] == rows["id"][:]
        again = Counting()
        assert write_negatives(rows, again, mfpo_config(), out, progress=False) and again.calls == 0
        in_memory = built(rows, Counting(), mfpo_config())
        assert in_memory.with_format("arrow")[:].to_pylist() == made.with_format("arrow")[:].to_pylist()


def test_killed_at_ten_random_moments():
    # Killed again and again a little after each new shard (with another number of threads each time), then left alone: the
    # same bytes as without any kill.
    rows = some_rows(40 * GROUP_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        source = write_rows(rows, Path(folder) / "rows.parquet")
        smooth, out = Path(folder) / "smooth.parquet", Path(folder) / "out.parquet"
        built(rows, AnnotatedRegions(), mfpo_config(), smooth)
        killed = script(KILLED, source, out)
        assert killed.returncode == 0, killed.stderr
        shards = [int(line) for line in killed.stdout.split()]
        assert len(shards) == 10 and shards == sorted(shards) and 0 < shards[0] < shards[-1] < 40, shards
        assert out.read_bytes() == smooth.read_bytes()
        assert sorted(p.name for p in Path(folder).iterdir()) == ["out.parquet", "rows.parquet", "smooth.parquet"]


def test_several_processes_share_the_work():
    rows = some_rows(9 * GROUP_ROWS + 7)
    with tempfile.TemporaryDirectory() as folder:
        source = write_rows(rows, Path(folder) / "rows.parquet")
        smooth, out = Path(folder) / "smooth.parquet", Path(folder) / "out.parquet"
        built(rows, AnnotatedRegions(), mfpo_config(), smooth)
        shared = script(SHARED, source, out)
        assert shared.stdout.split("\n")[:3] == ["[0, 0, 0]"] * 3, shared.stderr
        assert all(Path(f"{out}.{late}").read_bytes() == smooth.read_bytes() for late in range(3))
        assert not list(Path(folder).glob(".*"))  # nothing is left behind, whoever was last
    # the mark goes before the shards: whoever still writes one, and loses it, must know by then that all is done
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch("mfpo.data.building.shutil.rmtree", lambda path, **_: seen.append(sorted(os.listdir(path)))):
            built(some_rows(3), AnnotatedRegions(), mfpo_config(), Path(folder) / "out.parquet")
    assert seen == [["000000.parquet"]]
    shards = list("abcdefg")
    assert Share(1, 3).order(shards) == ["b", "e", "g", "f", "d", "c", "a"] and Share().order(shards) == shards


def test_a_full_disk_leaves_the_finished_shards():
    import resource

    rows = some_rows(3 * GROUP_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        source = write_rows(rows, Path(folder) / "rows.parquet")
        smooth, out = Path(folder) / "smooth.parquet", Path(folder) / "out.parquet"
        built(rows, AnnotatedRegions(), mfpo_config(), smooth)
        limit = smooth.stat().st_size // 2  # a shard fits, the whole file does not
        limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
        full = script("work()", source, out, preexec_fn=limited)
        parts = Path(folder) / ".out.parquet.parts"
        assert full.returncode == 1 and "the finished shards are kept in" in full.stderr and not out.exists()
        assert sorted(p.name for p in parts.iterdir()) == [*(f"00000{k}.parquet" for k in range(3)), "run.json"]
        assert all(len(read_rows(parts / f"00000{k}.parquet")) == GROUP_ROWS for k in range(3))
        last = Counting()
        last.fingerprint = AnnotatedRegions().fingerprint
        built(rows, last, mfpo_config(), out)
        assert last.calls == 0 and out.read_bytes() == smooth.read_bytes()


def test_the_work_of_another_run_is_refused():
    rows = some_rows(GROUP_ROWS + 2)
    with tempfile.TemporaryDirectory() as folder:
        out, parts = Path(folder) / "out.parquet", Path(folder) / ".out.parquet.parts"
        try:
            built(rows, Counting(GROUP_ROWS + 1), mfpo_config(), out)
        except KeyboardInterrupt:
            assert parts.exists()
        message = refused(built, rows, Counting(), mfpo_config(step=300), out)
        assert "settings.corruption.step: 500 there, 300 here" in message
        assert str(parts) in message and "rows:" not in message
        assert "rows:" in refused(built, rows.select(range(5)), Counting(), mfpo_config(), out)
        assert "finder: counting there" in refused(built, rows, AnnotatedRegions(), mfpo_config(), out)
        embed = lambda words: np.eye(len(words))  # noqa: E731
        embed.fingerprint = "one-hot"
        message = refused(built, rows, Counting(), mfpo_config(), out, tools=Tools(embed=embed))
        assert "tools.embed: none there, one-hot here" in message
        built(rows, Counting(), mfpo_config(), out)
        before = out.read_bytes()
        changed = rows.map(lambda row: {"chosen": row["chosen"] + " ."})
        assert "rows:" in refused(built, changed, Counting(), mfpo_config(), out)
        assert out.read_bytes() == before
        built(rows, Counting(), mfpo_config(step=300), out, overwrite=True)
        assert out.read_bytes() != before
        again = Counting()
        built(rows, again, mfpo_config(step=300), out, overwrite=True)
        assert again.calls == 0  # overwrite does not repeat what is there


def test_a_damaged_output_is_refused():
    rows = some_rows(3)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        built(rows, Counting(), mfpo_config(), out)
        whole = out.read_bytes()
        for damaged in (whole[: len(whole) // 2], b""):
            out.write_bytes(damaged)
            assert "out.parquet" in refused(built, rows, Counting(), mfpo_config(), out)
            assert out.read_bytes() == damaged
        built(rows, Counting(), mfpo_config(), out, overwrite=True)
        assert out.read_bytes() == whole


def test_a_row_that_fails_is_named():
    def broken(image, words, row):
        if row["note"] == 70:
            raise RuntimeError("no luck")
        return {}


    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        try:
            built(some_rows(GROUP_ROWS + 9), broken, mfpo_config(), out)
            raise AssertionError("went on")
        except RuntimeError as error:
            assert "row 'row-70'" in str(error) and "no luck" in str(error)
        assert not out.exists()


def test_a_negative_that_equals_its_picture_is_said():
    black = dataset_of(
        [{"id": "night", "image": Image.new("RGB", (8, 8)), "question": "q", "chosen": "a", "rejected": "b"}]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        night = built(black, None, negative_preset("global", kind="black"))
    assert night[0]["changed_area"] == 0 and night[0]["region_snr"] is None
    assert any("night" in str(w.message) for w in caught)


def test_the_summary_counts_what_is_there():
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        rows = built(some_rows(9), AnnotatedRegions(), mfpo_config(), out)
        summary = summarise(out)
        assert summary["rows"] == 9 and summary["where"] == {"regions": 6, "fallback": 3} and summary["unchanged"] == []
        assert summary["keywords"] == {"asked": 9, "found": 6, "rows_without": 0} and summary["kinds"] == {"noise": 9}
        areas = [area for area, where in zip(rows["region_area"], rows["negative_where"]) if where == "regions"]
        assert np.isclose(summary["region_area"]["mean"], np.mean(areas))
        assert np.isclose(summary["region_area"]["50%"], np.median(areas))
        plain = write_rows(some_rows(2), Path(folder) / "plain.parquet")
        assert "no column negative_kind" in refused(summarise, plain)
