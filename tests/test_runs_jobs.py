# Exported from nbs/runs/jobs.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.jobs import *  # noqa: F403

import json
import math
import tempfile
from pathlib import Path
import pytest
from mfpo.runs.jobs import run_jobs  # other processes find its parts by this name, not in a notebook


def test_jobs_run_once_and_keep_their_order():
    with tempfile.TemporaryDirectory() as folder:
        jobs = {f"root-{n}": {"numerator": n, "denominator": 2} for n in (9, 4, 1)}
        import statistics
        results = run_jobs(
            statistics.fmean, {k: {"data": [v["numerator"], 2 * v["numerator"]]} for k, v in jobs.items()},
            folder=folder, progress=False,
        )
        assert results == {"root-9": 13.5, "root-4": 6.0, "root-1": 1.5} and list(results) == list(jobs)
        Path(folder, "root-4.json").write_text("-1")  # a kept result is read, not computed
        again = run_jobs(statistics.fmean, {k: {"data": [0]} for k in jobs}, folder=folder, progress=False)
        assert again == {"root-9": 13.5, "root-4": -1, "root-1": 1.5}


def test_processes_keep_memory_only_in_the_context():
    import os
    os.environ["MALLOC_MMAP_MAX_"] = "7"
    with kept_memory():
        assert {name: os.environ[name] for name in KEPT_MEMORY} == KEPT_MEMORY
    assert os.environ.pop("MALLOC_MMAP_MAX_") == "7" and "MALLOC_TRIM_THRESHOLD_" not in os.environ
    # glibc reads them when a process starts: workers have them, this process has not
    with workers(1) as pool:
        assert [pool.submit(os.getenv, name).result() for name in KEPT_MEMORY] == list(KEPT_MEMORY.values())
    assert not set(KEPT_MEMORY) & set(os.environ)


def test_a_failure_is_named_and_the_rest_is_kept():
    import statistics
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(RuntimeError, match="run 'empty' failed: .*data point"):
            run_jobs(
                statistics.fmean, {"good": {"data": [1, 2]}, "empty": {"data": []}},
                folder=folder, processes=1, progress=False,
            )
        assert json.loads(Path(folder, "good.json").read_text()) == 1.5 and not Path(folder, "empty.json").exists()
        with pytest.raises(ValueError, match="processes is 0"):
            run_jobs(statistics.fmean, {}, folder=folder, processes=0)


def test_work_is_kept_until_it_is_done():
    with tempfile.TemporaryDirectory() as root:
        with pytest.raises(KeyboardInterrupt):
            with work_folder("stage", {"rate": 1}, root) as first:
                (first / "half").write_text("done")
                raise KeyboardInterrupt
        with work_folder("stage", {"rate": 1}, root) as again:
            assert again == first and (again / "half").read_text() == "done"
        assert not first.exists()
        with pytest.raises(KeyboardInterrupt):
            with work_folder("stage", {"rate": 1}, root) as first:
                raise KeyboardInterrupt
        with work_folder("stage", {"rate": 2}, root) as other:
            assert other != first and not first.exists()


def test_two_processes_do_not_share_a_folder():
    with tempfile.TemporaryDirectory() as root:
        with work_folder("stage", 1, root):
            with pytest.raises(RuntimeError, match="stage is in use by another process"):
                with work_folder("stage", 1, root, wait=0):
                    pass
        with work_folder("stage", 1, root, wait=0) as free:
            assert free.is_dir()


def test_digests_follow_content_and_name():
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        for place in (one, two):
            place.mkdir()
            (place / "a").write_text("x")
        assert file_digest(one) == file_digest(two)
        before = file_digest(two)
        (two / "b").write_text("x")
        assert file_digest(two) != before and len(source_digest()) == 16
