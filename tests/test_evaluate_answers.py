# Exported from nbs/evaluate/answers.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.evaluate.answers import *  # noqa: F403

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from mfpo.model.small import small_vlm_for_tests


def drawn_images(count):
    """Pictures with one coloured box each, at different places."""
    images = []
    for i in range(count):
        image = Image.new("RGB", (64, 64), (40 * i % 256, 90, 200 - 20 * i))
        ImageDraw.Draw(image).rectangle([4 * i, 8, 4 * i + 20, 40], fill=(250, 30 * i, 10))
        images.append(image)
    return images


QUESTIONS = [
    "describe the image .",
    "is there a cup ?",
    "what color is it ?",
    "how many dogs are in the image , and of which color are they ?",
]


def test_answers_do_not_depend_on_the_batch_size():
    model, processor = small_vlm_for_tests(3)
    images, questions = drawn_images(7), (QUESTIONS * 2)[:7]
    greedy = [
        generate_answers(model, processor, images, questions, max_new_tokens=12, batch_size=size) for size in (1, 7, 3)
    ]
    assert greedy[0] == greedy[1] == greedy[2] and len(set(greedy[0])) > 1
    options = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 0.9, "samples": 3, "seed": 5}
    sampled = [generate_answers(model, processor, images, questions, batch_size=size, **options) for size in (1, 7, 64)]
    assert sampled[0] == sampled[1] == sampled[2]
    assert [len(row) for row in sampled[0]] == [3] * 7 and all(len(set(row)) > 1 for row in sampled[0])


def test_samples_follow_seed_and_id():
    model, processor = small_vlm_for_tests()
    images, questions, options = drawn_images(3), QUESTIONS[:3], {"max_new_tokens": 10, "temperature": 1.0}
    by_name = generate_answers(model, processor, images, questions, ids=["a", "b", "c"], **options)
    turned = generate_answers(model, processor, images[::-1], questions[::-1], ids=["c", "b", "a"], **options)
    assert by_name == turned[::-1]
    assert by_name != generate_answers(model, processor, images, questions, ids=["a", "b", "c"], seed=1, **options)
    assert by_name != generate_answers(model, processor, images, questions, ids=["d", "e", "f"], **options)


def test_the_sampler_draws_from_the_distribution():
    # 20000 rows of one distribution at temperature 2: p is proportional to exp(logit / 2), so to (4, 2, 1, 1) for logits
    # 2 ln (4, 2, 1, 1).
    logits = (2 * torch.tensor([4.0, 2.0, 1.0, 1.0]).log()).expand(20000, 4)
    numbers = np.random.default_rng(0).random((20000, 1))
    prompt = torch.zeros(20000, 5, dtype=torch.long)
    shares = torch.bincount(RowSampler(numbers, 5, 2.0)(prompt, logits).argmax(-1), minlength=4) / 20000
    assert np.allclose(shares, [0.5, 0.25, 0.125, 0.125], atol=0.012)
    # top_p .6: the first token has .5, the second reaches it; 4/6 and 2/6 remain.
    shares = torch.bincount(RowSampler(numbers, 5, 2.0, 0.6)(prompt, logits).argmax(-1), minlength=4) / 20000
    assert np.allclose(shares, [2 / 3, 1 / 3, 0, 0], atol=0.012)
    # A token of probability zero is never drawn, not even by the number 0, and the largest number finds a token.
    edge = torch.tensor([[float("-inf"), 0.0, float("-inf")]] * 2)
    assert RowSampler(np.array([[0.0], [1.0]]), 5, 1.0)(prompt[:2], edge).argmax(-1).tolist() == [1, 1]


def test_a_cold_sampler_is_greedy_decoding():
    model, processor = small_vlm_for_tests(1)
    images, questions = drawn_images(3), QUESTIONS[:3]
    greedy = generate_answers(model, processor, images, questions, max_new_tokens=8)
    assert generate_answers(model, processor, images, questions, max_new_tokens=8, temperature=1e-6) == greedy
    # Greedy decoding by hand, without cache or padding.
    inputs = encode_prompts(processor, images[1:2], questions[1:2])
    ids = inputs["input_ids"]
    for _ in range(8):
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"]).logits[
                :, -1
            ]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    by_hand = ids[0, inputs["input_ids"].shape[1] :].tolist()
    end = processor.tokenizer.eos_token_id
    by_hand = by_hand[: by_hand.index(end)] if end in by_hand else by_hand
    assert greedy[1] == processor.tokenizer.decode(by_hand, skip_special_tokens=True).strip()


def test_prompts_are_padded_left_with_one_beginning():
    model, processor = small_vlm_for_tests()
    batch = encode_prompts(processor, drawn_images(2), ["is it ?", QUESTIONS[3]])
    start, pad = processor.tokenizer.bos_token_id, processor.tokenizer.pad_token_id
    assert (
        (batch["input_ids"] == start).sum(1).tolist() == [1, 1]
        and batch["input_ids"][0, 0] == pad
        and batch["input_ids"][1, 0] == start
    )
    assert batch["attention_mask"][0, 0] == 0 and batch["attention_mask"][0, -1] == 1
    model.train()
    generate_answers(model, processor, drawn_images(1), QUESTIONS[:1], max_new_tokens=2)
    assert model.training and all(module.training for module in model.modules())


def test_yes_and_no_are_read_from_the_first_word():
    said = {
        "Yes.": True,
        " yes , there is a cup .": True,
        "NO": False,
        "no , there is no cup .": False,
        "Not really": None,
        "A cup, yes": None,
        "": None,
    }
    assert {text: parse_yes_no(text) for text in said} == said
    model, processor = small_vlm_for_tests()
    answers = yes_no(model, processor, drawn_images(2), ["is there a cup ?", "is there a dog ?"])
    assert len(answers) == 2 and set(answers) <= {True, False, None}


def test_bad_calls_are_refused():
    model, processor = small_vlm_for_tests()
    images = drawn_images(2)
    for questions, options, message in (
        ([QUESTIONS[0]], {}, "2 images for 1 questions"),
        ([QUESTIONS[0], " "], {}, "question 1 is ' '"),
        (QUESTIONS[:2], {"samples": 2}, "2 samples at temperature 0"),
        (QUESTIONS[:2], {"top_p": 0.0}, "top_p=0.0"),
        (QUESTIONS[:2], {"ids": ["a", "a"]}, "1 different ids for 2 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_answers(model, processor, images, questions, **options)
    assert generate_answers(model, processor, [], []) == []
