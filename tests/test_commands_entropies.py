# Exported from nbs/commands/entropies.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.entropies import *  # noqa: F403

import math, pathlib, tempfile, types
import pytest
from PIL import Image
from mfpo.commands.options import BadInput
from mfpo.data.journal import Journal
from mfpo.data.rows import dataset_of


def work(folder, **options):
    """Five rows and a journal that is empty."""
    rows = dataset_of([
        {"id": f"r{k}", "image": Image.new("RGB", (8, 8), (k, 0, 0)), "question": f"{k} ?", "chosen": "yes", "rejected": "no"} for k in range(5)
    ])
    return Work(types.SimpleNamespace(**options), rows, Journal(pathlib.Path(folder) / "journal", {"run": 1}))


def test_blocks_begin_at_fixed_places_and_keep_what_is_there():
    with tempfile.TemporaryDirectory() as folder:
        made = []
        def make(block):
            made.append((block.start, block.stop))
            return [{"value": k} for k in block]
        one = work(folder)
        with one.journal:
            one.journal.add((one.keys[2], {"value": "old"}))
            one.through("title", one.keys, 2, make)
            assert made == [(0, 2), (2, 4), (4, 5)], "the row that is there is read with its neighbour"
            assert [one.journal[key]["value"] for key in one.keys] == [0, 1, "old", 3, 4]
            one.through("title", one.keys, 2, make)
            assert len(made) == 3


def test_keys_know_what_a_record_depends_on():
    with tempfile.TemporaryDirectory() as folder:
        one = work(folder, judges=True, same="words")
        with one.journal:
            keys = {*one.keys, *one.token_keys, *one.renamed("likelihood"), *one.judged_keys()}
            assert len(keys) == 20
            first = one.judged_keys()
            place = pathlib.Path(folder) / "nli"
            place.mkdir()
            (place / "config.json").write_text("{}")
            for more in ({"judge_threshold": None, "judge_question": True}, {"judge_threshold": 0.5, "judge_question": True},
                         {"judge_threshold": None, "judge_question": False}):
                one.options = types.SimpleNamespace(judges=True, same="nli", judge=place, **more)
                assert not keys & set(one.judged_keys())
                keys |= set(one.judged_keys())
            (place / "config.json").write_text('{"id2label": {}}')
            assert not keys & set(one.judged_keys()), "a judge that was trained again is another judge"


def test_weighted_rows_by_hand():
    from mfpo.train.difficulty import weighted_entropy
    with tempfile.TemporaryDirectory() as folder:
        for likelihood, repeats, expected in (
            # a (twice) e^-2 and 2 tokens, b e^-4 and 4 tokens: by the token both e^-1, so halves; with repeats 2/3 and 1/3
            ("mean", False, math.log(2)), ("mean", True, math.log(3) - 2 / 3 * math.log(2)), ("sum", False, None),
        ):
            one = work(pathlib.Path(folder) / f"{likelihood}{repeats}", entropy="weighted", judges=True, weighs=True, same="words", likelihood=likelihood, count_repeats=repeats)
            with one.journal:
                for keys, record in ((one.keys, {"answers": ["a", "b", "a"], "cut": 0}), (one.judged_keys(), {"clusters": [0, 1, 0]}),
                                     (one.renamed("likelihood"), {"logps": [-2.0, -4.0, -2.0], "tokens": [2, 4, 2]})):
                    one.journal.add(*((key, record) for key in keys))
                found = row_records(one)
            p = 1 / (1 + math.exp(-2))
            expected = -(p * math.log(p) + (1 - p) * math.log(1 - p)) if expected is None else expected
            assert len(found) == 5 and all(abs(record["difficulty"] - expected) < 1e-15 for record in found)


def test_numbers_that_are_none_name_their_rows():
    with tempfile.TemporaryDirectory() as folder:
        one = work(folder)
        with one.journal, pytest.raises(BadInput, match="not finite for rows 'r2', 'r3': try --dtype float32"):
            one._check_finite(range(1, 4), [0.5, math.nan, -math.inf])
