# Exported from nbs/train/fields.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.fields import *  # noqa: F403


def test_numbers():
    import math

    import pytest

    assert number("1e-1", "beta") == number(0.1, "beta") == 0.1 and number(2, "n") == 2.0
    for value in (math.nan, math.inf, "x", "", None, True, [1], {}, b"1", 10**400, 1j):
        with pytest.raises(ValueError, match="beta=.* must be a finite number"):
            number(value, "beta")


def test_flags():
    import pytest

    assert flag(True, "a") is True and flag(False, "a") is False
    for value in ("no", 0, 1, None, []):
        with pytest.raises(ValueError, match="crossed=.* must be true or false"):
            flag(value, "crossed")


def test_sections():
    from dataclasses import dataclass

    import pytest


    @dataclass(frozen=True)
    class Example:
        size: int
        name: str = "a"


    assert filled(Example, {"size": 3}, "example") == Example(3)
    assert unlike_default(Example(3)) == {"size": 3} and unlike_default(Example(3, "b")) == {"size": 3, "name": "b"}
    for section, words in [(3, "example: 3 is no section; give some of size, name"), ({1: 2}, "no section"),
                           ({"size": 1, "sise": 2}, "unknown setting sise"), ({}, "size is missing")]:
        with pytest.raises(ValueError, match=words):
            filled(Example, section, "example")
