# Exported from nbs/settings.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.settings import *  # noqa: F403

import dataclasses
import pytest

@dataclasses.dataclass(frozen=True)
class Example:
    steps: int
    rate: float = 0.5

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; give 1 or more")


def test_settings_are_filled_and_unknown_keys_refused():
    assert settings_from(Example, {"steps": 3}, "here") == Example(3, 0.5)
    for section, message in (
        ({"steps": 3, "stps": 1}, "here: unknown setting stps; known are steps, rate"),
        ({}, "here: setting steps is missing"),
        (None, "here: setting steps is missing"),
        ({"steps": 0}, "here: steps is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            settings_from(Example, section, "here")


def test_row_seeds_are_a_function_of_their_parts_alone():
    # The first 8 bytes of BLAKE2b-64("0\x1frow-1"), little-endian, without the lowest bit.
    import hashlib
    expected = int.from_bytes(hashlib.blake2b(b"0\x1frow-1", digest_size=8).digest(), "little") // 2
    assert row_seed(0, "row-1") == expected < 2**63
    # "a", "bc" and "ab", "c" are different parts though they join to the same letters.
    assert row_seed(0, "a", "bc") != row_seed(0, "ab", "c")
    assert len({row_seed(s, str(i)) for s in range(10) for i in range(100)}) == 1000


def test_a_failed_write_leaves_the_old_file():
    import pathlib, tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "deep" / "file.txt"
        write_atomic(path, "first")
        with pytest.raises(TypeError):
            write_atomic(path, 3.14)
        assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_differences_name_the_place():
    there = {"rows": "3 rows", "settings": {"rate": 0.1, "stages": [{"name": "easy"}, {"name": "hard"}]}}
    here = {"rows": "3 rows", "settings": {"rate": 0.2, "stages": [{"name": "easy"}, {"name": "all"}]}, "seed": 1}
    assert differences(there, there) == []
    assert differences(there, here) == [
        "seed: None there, 1 here", "settings.rate: 0.1 there, 0.2 here", "settings.stages[1].name: hard there, all here",
    ]
    assert differences([1], [1, 2], "rates") == ["rates: [1] there, [1, 2] here"]


def test_a_file_of_settings_extends_another():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "study").mkdir()
        (folder / "params.yaml").write_text("bases: [0, 1]\ntraining: {rate: 1, epochs: 3}\n")
        (folder / "study" / "params.yaml").write_text("extends: ../params.yaml\ntraining: {rate: 2}\n")
        assert read_params(folder / "params.yaml") == {"bases": [0, 1], "training": {"rate": 1, "epochs": 3}}
        assert read_params(folder / "study" / "params.yaml") == {"bases": [0, 1], "training": {"rate": 2}}
        for text, error, message in (
            ("extends: params.yaml", ValueError, "extends itself"), ("- 1", ValueError, "holds no sections"),
            ("", ValueError, "holds no sections"), ("a: [1", ValueError, "no YAML.*line"),
            ("extends: other.yaml", FileNotFoundError, "other.yaml: no such"),
        ):
            (folder / "params.yaml").write_text(text)
            with pytest.raises(error, match=message):
                read_params(folder / "params.yaml")
