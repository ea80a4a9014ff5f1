# Exported from nbs/benchmarks/registry.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.registry import *  # noqa: F403


def test_every_benchmark_says_what_it_needs():
    import pytest

    from mfpo.benchmarks.registry import NAMES, benchmark, check_options, listing, takes
    from mfpo.benchmarks.records import Benchmark

    for name in NAMES:
        what = benchmark(name)
        assert isinstance(what, Benchmark) and what.name == name and what.pictures
        assert all(source.licence and source.origin for source in what.sources) and what.sources
        names = [metric.name for metric in what.metrics]
        assert len(set(names)) == len(names)
        assert what.judge != "needed" or what.requests is not None
        everything = {option: None for option in what.options}
        reached = takes(what.load, everything) | takes(what.score, everything) | (takes(what.requests, everything) if what.requests else {})
        assert set(reached) == set(what.options), (name, set(what.options) - set(reached))  # no option that nobody reads
        assert f"{name}: " in listing([name]) and all(source.name in listing([name]) for source in what.sources)
    with pytest.raises(ValueError, match="'vqa' is unknown; there are object_halbench, chair, amber, pope"):
        benchmark("vqa")
    with pytest.raises(ValueError, match="pope: no option split; there are splits: which of random"):
        check_options(benchmark("pope"), {"split": "random"})
