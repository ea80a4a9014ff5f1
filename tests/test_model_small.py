# Exported from nbs/model/small.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.small import *  # noqa: F403

import torch
from PIL import Image


def test_any_text_survives_the_tokenizer():
    _, processor = small_vlm_for_tests()
    tokenizer = processor.tokenizer
    for text in ("a kitchen with a table , a cup and a lamp .", "two zebras ( x2 ) near 45 % of the lake !"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text
    assert tokenizer.tokenize("a cup .") == ["a", "cup", "."]


def test_the_prompt_holds_one_token_for_each_patch():
    model, processor = small_vlm_for_tests()
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is there a cup ?"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    batch = processor(text=[prompt], images=[Image.new("RGB", (40, 90))], return_tensors="pt", add_special_tokens=False)
    assert (batch["input_ids"] == model.config.image_token_index).sum() == 16
    assert batch["pixel_values"].shape == (1, 3, 64, 64)
    words = [t for t in processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) if t != "<image>"]
    assert words == ["<s>", "user", ":", "is", "there", "a", "cup", "?", "assistant", ":"]
    with torch.no_grad():
        assert model(**batch).logits.shape == (1, 26, len(processor.tokenizer))


def test_weights_follow_the_seed_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    (a, _), (b, _), (c, _) = small_vlm_for_tests(0), small_vlm_for_tests(0), small_vlm_for_tests(1)
    assert torch.equal(state, torch.random.get_rng_state())
    same = [torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters())]
    other = [torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters())]
    assert all(same) and not all(other)
