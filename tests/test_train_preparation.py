# Exported from nbs/train/preparation.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.preparation import *  # noqa: F403

import datasets
import pytest
from PIL import Image

from mfpo.model.small import small_vlm_for_tests
from mfpo.train.arms import CHOSEN, Span
from mfpo.train.collator import PreferenceCollator, RowEncoder
from mfpo.train.own import with_own_tokens

OWN = Span("chosen", "original", "own")


def listed(count=5):
    return [
        {"id": f"row-{k}", "image": Image.new("RGB", (64, 64), (40 * k, 0, 90)), "negative": Image.new("RGB", (64, 64)),
         "question": "what is it ?", "chosen": "a red cup ." * (1 + k % 2), "rejected": "a dog .", "note": "not read"}
        for k in range(count)
    ]


def test_only_what_is_read_is_kept_and_every_row_is_checked():
    collator = PreferenceCollator(RowEncoder(small_vlm_for_tests()[1]), (CHOSEN,))
    rows = prepared_rows(datasets.Dataset.from_list(listed()), collator)
    assert set(rows.column_names) == {"id", "image", "question", "chosen"} and "bytes" in rows[0]["image"]
    bad = listed()
    bad[3]["chosen"] = " "
    with pytest.raises(ValueError, match="'row-3': the answer chosen is blank"):
        prepared_rows(datasets.Dataset.from_list(bad), collator)
    train, evaluated = each_set(len, [1, 2], {"a": [1], "b": None})
    assert (train, evaluated) == (2, {"a": 1, "b": None}) and each_set(len, None, [1]) == (None, 1)


def test_own_tokens_are_added_where_they_are_missing():
    model, processor = small_vlm_for_tests()
    collator = PreferenceCollator(RowEncoder(processor), (CHOSEN, OWN))
    whole = datasets.Dataset.from_list(listed())
    rows = prepared_rows(whole, collator)
    assert lacking_own_tokens(rows, collator) == ["own_tokens"] and "negative" in rows.column_names
    made = with_own(model, rows, collator, batch_size=2)
    assert made["own_tokens"] == with_own_tokens(whole, model, collator.encoder, batch_size=2)["own_tokens"]
    assert all(len(row["own_tokens"]) == len(collator.encoder.answer(row["question"], row["chosen"])) for row in made)
    assert with_own(model, made, collator) is made and lacking_own_tokens(made, collator) == []
    assert [row["own_tokens"] for row in with_own(model, listed(), collator, batch_size=2)] == made["own_tokens"]
    collator.check(made)
    assert len(with_own(model, rows.select([]), collator)) == 0
    plain = PreferenceCollator(collator.encoder, (CHOSEN,))
    assert lacking_own_tokens(iter(listed()), plain) == []
    with pytest.raises(ValueError, match="a stream, without the column own_tokens; add it with"):
        prepared_rows(whole.to_iterable_dataset(), collator)
    with pytest.raises(ValueError, match="'row-0': column negative"):
        with_own(model, rows.remove_columns("negative"), collator)
