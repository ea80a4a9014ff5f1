# Exported from nbs/train/encoder.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.encoder import *  # noqa: F403

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mfpo.model.small import small_vlm_for_tests
from mfpo.model.tiny import tiny_processor


def drawn_row(number, **changes):
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle([8 * (number % 4), 16, 40, 40], fill=("red", "blue", "green")[number % 3])
    row = {"id": f"row-{number}", "question": ["describe the image .", "is there a cup on the table ?"][number % 2],
           "image": image, "chosen": "a kitchen with a red cup .", "rejected": "no , there is no cup ."}
    return row | changes


def test_equal_content_has_equal_keys_and_other_content_has_others():
    values = [
        "a", "1", 1, 2, 0.5, None, [], [1, 2], [[1], 2], ["1", 2], {"a": 1}, [{"a": 1}], b"a bytes", "[1, 2]",
        Image.new("RGB", (4, 4)), Image.new("RGB", (2, 8)), Image.new("RGB", (4, 4), "red"), {"bytes": b"p", "path": None},
        [Image.new("RGB", (4, 4), "red")], [{"keyword": "cup", "found": True, "box": [0, 1, 2, 3]}],
        [{"keyword": "cup", "found": False, "box": None}], float("nan"),
    ]
    assert len({content_digest(value) for value in values}) == len(values)
    for equal in [
        (1, 1.0, True, np.int64(1), np.float32(1), np.bool_(True), torch.tensor(1)),
        ([1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2]), [1.0, np.int32(2)]),
        ({"a": 1, "b": [2]}, {"b": (2.0,), "a": True}),
        ([b"x"], [bytearray(b"x")]),
    ]:
        assert len({content_digest(value) for value in equal}) == 1
    # parts do not run into each other
    assert content_digest("ab", "c") != content_digest("a", "bc") and content_digest([1], [2]) != content_digest([1, 2])


def test_prompt_and_answer_together_are_the_templated_dialogue():
    _, processor = small_vlm_for_tests()
    encoder, row = RowEncoder(processor), drawn_row(0)
    tokens = (
        encoder.prompt(row["question"], row["image"])["input_ids"][0].tolist()
        + encoder.answer(row["question"], row["chosen"]).tolist()
    )
    dialogue = encoder.texts(row["question"], row["chosen"])
    expected = processor(
        images=[row["image"]], text=[dialogue], return_tensors="pt", add_special_tokens=False
    )["input_ids"][0].tolist()
    assert (
        tokens == expected
        and tokens[-1] == processor.tokenizer.eos_token_id
        and tokens.count(processor.tokenizer.eos_token_id) == 1
    )


def test_an_answer_is_closed_where_the_template_does_not_close_it():
    _, processor = small_vlm_for_tests()
    tokenizer = processor.tokenizer
    assert answer_tokens(tokenizer, "user : a", "user : a cup . ", "cup .") == [
        *tokenizer("cup .")["input_ids"], tokenizer.eos_token_id,
    ]
    # a template that writes the turn differently: the answer is tokenised alone
    assert answer_tokens(tokenizer, "user : a", "red : cup .", "cup .") == [
        *tokenizer("cup .")["input_ids"], tokenizer.eos_token_id,
    ]


def test_a_blank_picture_keeps_everything_but_the_pixels():
    for family, kept in [("llava", set()), ("llava_next", {"image_sizes"}), ("qwen2_vl", {"image_grid_thw"}),
                         ("idefics3", {"pixel_attention_mask"})]:
        prompt = RowEncoder(tiny_processor(family)).prompt("what is there ?", drawn_row(0)["image"].resize((24, 16)))
        blank = blanked(prompt)
        assert blank.keys() == prompt.keys() and kept < set(prompt)
        for key, value in prompt.items():
            assert blank[key].shape == value.shape and blank[key].dtype == value.dtype
            if key != "pixel_values":
                assert torch.equal(blank[key], value)
            else:  # Idefics drops tiles of zeros as padding: a real tile keeps one value, too small to be seen
                assert blank[key].abs().max() <= (2**-14 if family == "idefics3" else 0)
        assert prompt["pixel_values"].any()  # what the encoder remembers is as it was
    with pytest.raises(ValueError, match="image 'blank': the processor gives .'input_ids'., and no pixels"):
        blanked({"input_ids": torch.zeros(1, 3)})
