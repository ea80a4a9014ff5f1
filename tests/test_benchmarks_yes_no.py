# Exported from nbs/benchmarks/yes_no.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.yes_no import *  # noqa: F403


def test_each_rule_reads_what_its_script_reads():
    import pytest

    from mfpo.benchmarks.yes_no import read_exact, read_first_word, read_pope, reading

    #       text                              POPE   exact  first word
    cases = [("Yes",                          True,  True,  True),
             ("No",                           False, False, False),
             ("no, there is not.",            False, None,  False),
             ("Yes, but no dog.",             False, None,  True),
             ("Yes. There is no dog.",        True,  None,  True),   # only the first sentence counts
             ("NO",                           True,  None,  False),  # three spellings of no are known, this is none
             ("No!",                          True,  None,  False),  # and punctuation other than , and . stays on the word
             ("There isn't one",              True,  None,  None),
             ("There is\nno dog",             True,  None,  None),   # a line break is no space: the word is "is\nno"
             ("Nothing there",                True,  None,  None),
             ("",                             True,  None,  None),
             (".No",                          True,  None,  False),  # the first sentence is empty
             (" No",                          False, None,  False),
             ("yes",                          True,  None,  True)]
    for text, pope, exact, first in cases:
        assert (read_pope(text), read_exact(text), read_first_word(text)) == (pope, exact, first), text
    with pytest.raises(ValueError, match="known ways to read an answer are pope, exact, first word"):
        reading("official")


def test_shares_are_those_worked_out_by_hand():
    import numpy as np
    import pytest

    from mfpo.benchmarks.yes_no import confusion, shares

    # Truth: yes yes yes no no. Said: yes no (neither) yes no. Right: the first and the last.
    counts = confusion([True, False, None, True, False], [True, True, True, False, False], list("abcde"))
    found = {name: float(value) for name, value in shares(counts.sum().to_dict()).items()}
    assert found == pytest.approx({
        "accuracy": 40, "precision": 50, "recall": 100 / 3, "F1": 40, "yes_ratio": 40, "unread": 20,  # F1: 2 * 1 / (2 + 3)
    })
    no = shares(counts.sum().to_dict(), positive="no")
    assert (no["precision"], no["recall"], no["F1"]) == (50, 50, 50)
    assert np.isnan(shares(confusion([False], [True], ["a"]).sum().to_dict())["precision"])  # nobody said yes
    with pytest.raises(ValueError, match="1 answers, 2 labels"):
        confusion([True], [True, False], ["a"])
