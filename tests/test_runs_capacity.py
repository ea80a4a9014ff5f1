# Exported from nbs/runs/capacity.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.capacity import *  # noqa: F403

import pytest
import torch
from mfpo.runs.benchmark import Bench
from mfpo.runs.workload import Shape

TINY = dict(width=32, layers=2, heads=2, intermediate=48, vocabulary=64, vision_width=16, vision_layers=2, vision_heads=2, image_side=3,
            prompt=6, answer=8, batch=3, lora_r=2)


def test_memory_is_that_of_the_logits():
    # logits of 4 samples x 3 arms x about 33 positions x 60000 tokens in float32: about 95 MB each time they are held
    shape = {**TINY, "vocabulary": 60000, "prompt": 16, "batch": 4}
    found = {name: peak_memory(shape, name) for name in ("published", "tree")}
    assert 2 * 90 < found["published"] < 8 * 100 and found["tree"] < found["published"] / 2, found


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="memory of published: the process failed:(.|\\n)*layers=0 must be 1 or more"):
        peak_memory({**TINY, "layers": 0}, "published")


def test_batches_are_doubled_until_they_do_not_fit():
    class Small(Bench):
        """A device on which seven rows are too many."""

        def step(self, name):
            if len(self.batch["images"]["original"]) > 7:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
            return super().step(name)


    bench = Small(Shape(**TINY), trl=False)
    records = largest_batch(bench, "published", rounds=1)
    assert [(r["batch"], r["fits"]) for r in records] == [(1, True), (2, True), (4, True), (8, False)]
    assert records[2]["pairs_per_second"] == 4 / records[2]["seconds"] and records[2]["mfu"] is None and "seconds" not in records[3]
    bench.load(4)
    assert records[2]["flops"] == bench.flops("published")
    assert [r["batch"] for r in largest_batch(bench, "tree", limit=2, rounds=1)] == [1, 2]


    class Broken(Small):
        def step(self, name):
            raise RuntimeError("shapes do not match")


    with pytest.raises(RuntimeError, match="shapes do not match"):
        largest_batch(Broken(Shape(**TINY), trl=False), "published", rounds=1)


def test_the_same_path_as_on_a_gpu():
    records = capacity(TINY, ["published", "trl", "tree_remembered"], device="cpu", checkpointing=True, limit=2, rounds=1)
    assert [(r["variant"], r["batch"]) for r in records] == [(v, b) for v in ("published", "tree_remembered", "trl") for b in (1, 2)]
    assert all(r["fits"] and r["checkpointing"] for r in records)


def test_peaks_are_found_by_the_devices_name():
    names = ("NVIDIA H200 NVL", "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB", "NVIDIA A10", "NVIDIA L4", "NVIDIA L40S", "NVIDIA GeForce RTX 4090")
    assert [device_peak(name) for name in names] == [835e12, 989e12, 989e12, 756e12, 312e12, 125e12, 121e12, 362e12, 165.2e12]
    assert device_peak("NVIDIA A10G") is None and device_peak("AMD EPYC") is None
    for error, is_memory in ((MemoryError(), True), (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), True), (RuntimeError("x"), False)):
        assert out_of_memory(error) is is_memory
