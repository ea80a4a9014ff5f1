# Exported from nbs/model/logps.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.logps import *  # noqa: F403

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from mfpo.model.logps import choose_route
from mfpo.model.small import small_vlm_for_tests

ARMS = [("chosen", "original"), ("rejected", "original"), ("chosen", "negative")]
QUESTIONS = ["describe the image .", "is there a cup on the red table ?"]
ANSWERS = {"chosen": ["a kitchen with a cup .", "yes ."], "rejected": ["a street .", "no , there is no cup on it ."]}


def square(color):
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle([16, 16, 40, 40], fill=color)
    return image


def prompt_text(question):
    return f"<s> user : <image> {question} assistant :"


def two_rows(processor, negative=("black", "yellow")):
    """The batch layout, made with the processor alone."""
    def images(colors):
        return dict(processor(images=[square(c) for c in colors], text=[prompt_text(q) for q in QUESTIONS],
                              padding=True, padding_side="right", return_tensors="pt"))

    answers = {
        k: processor.tokenizer([f"{a} </s>" for a in v], padding=True, padding_side="right", return_tensors="pt")
        for k, v in ANSWERS.items()
    }
    return {"prompts": {"original": images(["red", "blue"]), "negative": images(negative)},
            "answers": {k: {n: v[n] for n in ("input_ids", "attention_mask")} for k, v in answers.items()},
            "pad_token_id": processor.tokenizer.pad_token_id}


def one_by_one(model, processor, question, answer, color):
    """The same number without padding, batching or slicing: full logits of one sequence."""
    inputs = processor(images=[square(color)], text=[f"{prompt_text(question)} {answer} </s>"], return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    n = len(processor.tokenizer(f"{answer} </s>").input_ids)
    logps = F.log_softmax(model(**inputs).logits.double(), dim=-1)[0, :-1]
    return logps.gather(1, inputs["input_ids"][0, 1:, None])[-n:].sum()


def test_equals_one_sequence_at_a_time():
    model, processor = small_vlm_for_tests()
    model = model.double()
    batch = two_rows(processor)
    for prompt in batch["prompts"].values():
        prompt["pixel_values"] = prompt["pixel_values"].double()
    with torch.no_grad():
        logps = arm_logps(model, batch, ARMS)
        for (answer, image), values in logps.items():
            for i, color in enumerate(["red", "blue"] if image == "original" else ["black", "yellow"]):
                expected = one_by_one(model, processor, QUESTIONS[i], ANSWERS[answer][i], color)
                torch.testing.assert_close(values[i], expected, rtol=1e-12, atol=0)


def test_gradients_equal_one_sequence_at_a_time():
    model, processor = small_vlm_for_tests()
    weight = model.model.language_model.layers[0].self_attn.q_proj.weight
    (grad,) = torch.autograd.grad(arm_logps(model, two_rows(processor), ARMS)["rejected", "original"].sum(), weight)
    alone = sum(
        one_by_one(model, processor, QUESTIONS[i], ANSWERS["rejected"][i], c) for i, c in enumerate(["red", "blue"])
    )
    (expected,) = torch.autograd.grad(alone, weight)
    assert ((grad - expected).norm() / expected.norm()).item() < 1e-5


def test_a_random_model_finds_every_word_about_equally_likely():
    # the head is nearly uniform at initialisation: -log V a token, V = 157 words
    model, processor = small_vlm_for_tests()
    with torch.no_grad():
        logps = arm_logps(model, two_rows(processor), [("chosen", "original")])["chosen", "original"]
    tokens = torch.tensor([len(processor.tokenizer(f"{a} </s>").input_ids) for a in ANSWERS["chosen"]])
    uniform = -torch.log(torch.tensor(float(model.config.text_config.vocab_size)))
    torch.testing.assert_close(logps / tokens, uniform.expand(2), rtol=0.1, atol=0)
    assert logps.dtype == torch.float32


def test_only_the_negative_arm_sees_the_negative_image():
    model, processor = small_vlm_for_tests()
    with torch.no_grad():
        a = arm_logps(model, two_rows(processor), ARMS)
        b = arm_logps(model, two_rows(processor, negative=("red", "blue")), ARMS)
    assert all(torch.equal(a[arm], b[arm]) for arm in ARMS[:2])
    torch.testing.assert_close(b[ARMS[2]], b[ARMS[0]], rtol=1e-5, atol=0)  # the negative is the original here
    assert (a[ARMS[2]] - a[ARMS[0]]).abs().max() > 1e-3


def test_sums_are_exact_in_double():
    # a float32 running sum of 1e8 and many 1s stays at 1e8
    values = torch.tensor([1e8] + [1.0] * 50, dtype=torch.float32)
    assert float(sum_over_answers(values, torch.ones(1, 51, dtype=torch.bool))[0]) == 1e8 + 50


def test_unknown_routes_and_arms_are_refused():
    model, processor = small_vlm_for_tests()
    with pytest.raises(ValueError, match="'fast' is unknown; there is plain, tree, auto"):
        arm_logps(model, two_rows(processor), ARMS, route="fast")
    with pytest.raises(ValueError, match="answers hold .*not .*own"):
        arm_logps(model, two_rows(processor), [("own", "original")])
