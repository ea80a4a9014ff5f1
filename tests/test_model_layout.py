# Exported from nbs/model/layout.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.layout import *  # noqa: F403

import pytest
import torch

from mfpo.model.layout import arm_inputs, blank_pictures, concat_padded, first_rows, picture_inputs, picture_names, written_out

ARMS = [("chosen", "original"), ("rejected", "original"), ("chosen", "negative")]


def ids(*rows):
    width = max(map(len, rows))
    return {"input_ids": torch.tensor([[*r, *[0] * (width - len(r))] for r in rows]),
            "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])}


def two_rows():
    """Row 0 has a picture of two patches, row 1 one of three; pictures are their patches' numbers."""
    prompts = {
        image: {**ids([1, 9, 2], [1, 9, 2, 3]), "pixel_values": torch.arange(5).view(5, 1) + start, "grid": torch.tensor([[2], [3]]),
                "token_type_ids": torch.tensor([[0, 1, 0, 0], [0, 1, 0, 0]])}
        for image, start in (("original", 0), ("negative", 10))
    }
    sizes = {image: {"pixel_values": [2, 3], "grid": [1, 1]} for image in prompts}
    return {"prompts": prompts, "answers": {"chosen": ids([5, 6], [5]), "rejected": ids([7], [7, 8, 6])},
            "pad_token_id": 0, "sizes": sizes, "images": {"original": [100, 101], "negative": [100, 102]}}


def test_rows_written_out_by_hand():
    inputs, is_answer = written_out(two_rows(), ARMS[:2])
    assert inputs["input_ids"].tolist() == [
        [1, 9, 2, 5, 6, 0, 0], [1, 9, 2, 3, 5, 0, 0], [1, 9, 2, 7, 0, 0, 0], [1, 9, 2, 3, 7, 8, 6],
    ]
    assert inputs["attention_mask"].sum(1).tolist() == [5, 5, 4, 7]
    assert inputs["token_type_ids"].sum(1).tolist() == [1] * 4
    assert is_answer.int().tolist() == [[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]]
    whole, _ = arm_inputs(two_rows(), ARMS)
    assert whole["pixel_values"].flatten().tolist() == [0, 1, 2, 3, 4] * 2 + [10, 11, 12, 13, 14]
    assert whole["grid"].flatten().tolist() == [2, 3, 2, 3, 2, 3]


def test_pictures_are_cut_out_by_their_sizes():
    batch = two_rows()
    picks = [("negative", 1), ("original", 0)]
    cut = picture_inputs(batch, picks)
    assert cut["pixel_values"].flatten().tolist() == [12, 13, 14, 0, 1] and cut["grid"].flatten().tolist() == [3, 2]
    assert picture_names(batch, picks) == [102, 100]
    del batch["images"]
    assert picture_names(batch, picks) == picks
    del batch["sizes"]
    with pytest.raises(ValueError, match="pixel_values of negative has 5 entries for 2 rows"):
        picture_inputs(batch, picks)


def test_the_first_rows_are_a_batch():
    batch = first_rows(two_rows(), 1)
    inputs, _ = arm_inputs(batch, ARMS)
    assert inputs["pixel_values"].flatten().tolist() == [0, 1, 0, 1, 10, 11]
    assert inputs["input_ids"].tolist() == [[1, 9, 2, 5, 6], [1, 9, 2, 7, 0], [1, 9, 2, 5, 6]]
    assert batch["images"] == {"original": [100], "negative": [100]} and batch["sizes"]["original"] == {"pixel_values": [2], "grid": [1]}


def test_what_else_a_batch_holds_is_cut_too():
    batch = two_rows()
    batch["spans"] = {"chosen": {"changed": torch.tensor([[0.0, 1.0], [1.0, 0.0]])}}
    batch["own"] = {"chosen": torch.tensor([[5, 7], [8, 0]])}
    batch["rows"] = {"tokens/chosen": torch.tensor([2.0, 1.0])}
    few = first_rows(batch, 1)
    assert few["spans"]["chosen"]["changed"].tolist() == [[0, 1]] and few["own"]["chosen"].tolist() == [[5, 7]]
    assert few["rows"]["tokens/chosen"].tolist() == [2] and not {"spans", "own", "rows"} & set(first_rows(two_rows(), 1))


def test_blank_pictures_by_hand():
    prompt = {"input_ids": torch.tensor([[1, 9]]), "pixel_values": torch.ones(1, 3, 2, 2), "image_sizes": torch.tensor([[2, 2]])}
    blank = blank_pictures(prompt)
    assert not blank["pixel_values"].any() and prompt["pixel_values"].all()
    assert blank["input_ids"] is prompt["input_ids"] and blank["image_sizes"] is prompt["image_sizes"]
    tiles = torch.ones(2, 3, 3, 2, 2)
    tiles[0, 2] = 0  # padding: the row has two tiles
    seen = blank_pictures({"pixel_values": tiles, "pixel_attention_mask": torch.ones(2, 3, 2, 2).long()})["pixel_values"]
    assert seen.flatten(2).any(2).tolist() == [[True, True, False], [True, True, True]] and 0 < seen.max() < 1e-4
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(seen.to(dtype).flatten(2).any(2), seen.flatten(2).any(2))


def test_tiles_of_different_number_are_padded():
    tiles = concat_padded([torch.ones(2, 3, 4), torch.ones(1, 5, 4)])
    assert tiles.shape == (3, 5, 4) and tiles.sum() == 2 * 3 * 4 + 5 * 4
    assert concat_padded([torch.ones(7, 6), torch.ones(5, 6)]).shape == (12, 6)


def test_what_the_batch_does_not_hold_is_named():
    with pytest.raises(ValueError, match="answers hold .*not .*own"):
        written_out(two_rows(), [("own", "original")])
