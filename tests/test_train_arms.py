# Exported from nbs/train/arms.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.arms import *  # noqa: F403


def test_the_reading_of_all_tokens_is_the_arm():
    assert span_of(CHOSEN, "all") == CHOSEN == as_reading(["chosen", "original", "all"])
    assert as_reading(("chosen", "original")) == CHOSEN
    assert as_reading(Span("chosen", "original", "all")) == CHOSEN and type(as_reading(tuple(CHOSEN))) is Arm
    assert as_reading(["chosen", "original", "own"]) == Span("chosen", "original", "own") != CHOSEN
    assert {("chosen", "negative"): 1}[NEGATIVE] == 1  # an arm is the pair of its names
    assert arms_of([CHOSEN, Span("chosen", "original", "own"), NEGATIVE]) == (CHOSEN, NEGATIVE)


def test_names_in_logs_and_in_files():
    assert [reward_name(arm) for arm in (CHOSEN, REJECTED, NEGATIVE)] == ["chosen", "rejected", "negative"]
    assert reward_name(MIRROR) == MIRROR.label == "rejected_negative"
    assert reward_name(span_of(CHOSEN, "changed")) == "chosen_original_changed"


def test_what_is_no_arm_is_refused():
    import pytest

    for value in ("chosen", ["chosen"], ["a", "b", "c", "d"], ["chosen", 3], [], ["chosen", ""], None, 3, {"a": 1, "b": 2},
                  {"chosen", "original"}, "ab", [["chosen"], "original"], b"ab"):
        with pytest.raises(ValueError, match="is no arm"):
            as_reading(value)
