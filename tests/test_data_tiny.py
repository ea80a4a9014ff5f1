# Exported from nbs/data/tiny.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.tiny import *  # noqa: F403


def test_every_kind_is_written_and_read_back():
    import tempfile
    from pathlib import Path

    import torch
    from transformers import AutoConfig

    from mfpo.data.tiny import _FAMILIES

    state = torch.random.get_rng_state()
    with tempfile.TemporaryDirectory() as folder:
        for kind in _FAMILIES:
            path = tiny_finder(kind, Path(folder) / kind)
            assert AutoConfig.from_pretrained(path).model_type == kind
            assert (path / "model.safetensors").stat().st_size < 1_000_000 and not list(path.glob("*.bin"))
        same, other = tiny_finder("sam", Path(folder) / "same"), tiny_finder("sam", Path(folder) / "other", seed=1)
        weights = [(p / "model.safetensors").read_bytes() for p in (Path(folder) / "sam", same, other)]
        assert weights[0] == weights[1] != weights[2]
    assert torch.equal(state, torch.random.get_rng_state())
    try:
        tiny_finder("yolo", "nowhere")
        raise AssertionError("not refused")
    except ValueError as error:
        assert "'yolo'" in str(error) and "grounding-dino" in str(error)
