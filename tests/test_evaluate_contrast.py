# Exported from nbs/evaluate/contrast.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.evaluate.contrast import *  # noqa: F403

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mfpo.data.corruptions import Corruption
from mfpo.evaluate.answers import RowSampler, encode_prompts, generate_answers
from mfpo.evaluate.noised import noised_picture
from mfpo.model.small import build_small_vlm, small_vlm_for_tests
from mfpo.model.tiny import tiny_processor, tiny_vlm
from mfpo.settings import row_seed

QUESTIONS = [
    "describe the image .", "is there a cup ?", "what color is it ?",
    "how many dogs are in the image , and of which color are they ?",
]
STRONG = ContrastConfig(corruption=Corruption(step=700))


def drawn_images(count, size=64):
    """Pictures with one coloured box each, at different places."""
    images = []
    for i in range(count):
        image = Image.new("RGB", (size, size), (40 * i % 256, 90, 200 - 20 * i))
        ImageDraw.Draw(image).rectangle([4 * i, 8, 4 * i + 20, 40], fill=(250, 30 * i, 10))
        images.append(image)
    return images


def step_by_step(
    model, processor, image, question, name, config, steps, ends, banned=(), temperature=0.0, top_p=1.0, seed=0
):
    """One answer without cache, batch or padding: two whole forward passes a token, joined in numpy."""
    pictures = [image, noised_picture(image, config.corruption, name)]
    inputs = [dict(encode_prompts(processor, [picture], [question])) for picture in pictures]
    numbers = np.random.default_rng(row_seed(seed, "answers", name, "0")).random(steps)
    said = []
    for step in range(steps):
        with torch.no_grad():
            clean, worse = (model(**one, use_cache=False).logits[0, -1].double().numpy() for one in inputs)
        clean[list(banned)] = worse[list(banned)] = -1e9
        probability = np.exp(clean - clean.max()) / np.exp(clean - clean.max()).sum()
        logits = np.where(
            probability >= config.beta * probability.max(), (1 + config.alpha) * clean - config.alpha * worse, -np.inf
        )
        token = int(logits.argmax())
        if temperature:
            drawn = np.exp((logits - logits.max()) / temperature)
            drawn /= drawn.sum()
            order = np.argsort(-drawn, kind="stable")
            before = drawn[order].cumsum() - drawn[order]
            drawn[order[before >= top_p]] = 0
            token = int(np.searchsorted(drawn.cumsum(), numbers[step] * drawn.sum(), side="right"))
        said.append(token)
        if token in ends:
            break
        for one in inputs:
            for key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
                if key in one:
                    fill = {"input_ids": token, "attention_mask": 1}.get(key, 0)
                    one[key] = torch.cat([one[key], torch.full((1, 1), fill)], dim=1)
    return processor.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_logits_by_hand():
    # p = (.5, .3, .15, .05), q = (.6, .1, .2, .1). alpha 1: p^2 / q = (.41667, .9, .1125, .025), in all 1.45417.
    clean, worse = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log(), torch.tensor([[0.6, 0.1, 0.2, 0.1]]).log()
    joined = contrasted(clean, worse, 1.0, 0.0).softmax(-1)[0].tolist()
    assert joined == pytest.approx([0.286533, 0.618911, 0.077364, 0.017192], abs=1e-5)
    # beta .2: the least is .2 * .5 = .1, so the last token is out and the others share 1.42917.
    joined = contrasted(clean, worse, 1.0, 0.2).softmax(-1)[0].tolist()
    assert joined == pytest.approx([0.291545, 0.629738, 0.078717, 0.0], abs=1e-5) and joined[3] == 0
    # beta 1 leaves the clean picture's best token, or several of them where they are equal.
    assert contrasted(clean, worse, 5.0, 1.0).isfinite()[0].tolist() == [True, False, False, False]
    assert contrasted(torch.zeros(1, 3), torch.randn(1, 3), 5.0, 1.0).isfinite().all()
    # Nothing taken away and nothing ruled out: the very logits.
    scores = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 8
    assert contrasted(scores, scores.flip(0), 0.0, 0.0).equal(scores)
    # A token that is ruled out on both sides, or on the worse one, makes no NaN.
    banned = torch.tensor([[-math.inf, 0.0, 1.0]]), torch.tensor([[-math.inf, -math.inf, 0.0]])
    assert contrasted(*banned, 1.0, 0.0)[0].tolist() == [-math.inf, 0.0, 2.0]
    assert contrasted(*banned, 1.0, 0.1)[0].tolist() == [-math.inf, 0.0, 2.0]
    # The same again, token by token in double precision, from probabilities instead of logits.
    other = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)) * 8
    ours = contrasted(scores, other, 0.7, 0.05).softmax(-1)
    for row in range(5):
        p, q = (np.exp(x[row].double().numpy() - x[row].double().logsumexp(0).item()) for x in (scores, other))
        weight = [pk ** 1.7 / qk ** 0.7 if pk >= 0.05 * max(p) else 0.0 for pk, qk in zip(p, q)]
        assert np.allclose(ours[row], np.array(weight) / sum(weight), atol=1e-6)


def test_both_halves_get_one_token():
    prompt = torch.zeros(4, 3, dtype=torch.long)
    scores = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    sampler = RowSampler(np.array([[0.2], [0.9]]), 3, 1.0)
    out = Contrast(1.0, 0.0, [sampler])(prompt, scores)
    assert out[:2].equal(out[2:]) and out[:2].equal(sampler(prompt[:2], 2 * scores[:2] - scores[2:]))


def test_alpha_and_beta_zero_are_plain_decoding():
    nothing = ContrastConfig(alpha=0, beta=0, corruption=Corruption(step=900))
    model, processor = small_vlm_for_tests(3)
    images, questions = drawn_images(6), (QUESTIONS * 2)[:6]
    for options in ({}, {"temperature": 0.8, "top_p": 0.9, "seed": 5, "ids": list("abcdef")}):
        plain = generate_answers(model, processor, images, questions, max_new_tokens=10, **options)
        assert contrast_answers(model, processor, images, questions, nothing, max_new_tokens=10, **options) == plain
        assert contrast_answers(model, processor, images, questions, STRONG, max_new_tokens=10, **options) != plain
    # beta 1 leaves the clean picture's best token: greedy decoding whatever is contrasted.
    only = ContrastConfig(alpha=4.0, beta=1.0, corruption=Corruption(step=900))
    assert contrast_answers(model, processor, images, questions, only, max_new_tokens=10) == generate_answers(
        model, processor, images, questions, max_new_tokens=10
    )


def test_tokens_are_those_of_whole_forward_passes():
    # Rows of different lengths (so padding), and many tokens that end an answer (so rows end one after the other).
    model, processor = small_vlm_for_tests(3)
    ends = processor.tokenizer.convert_tokens_to_ids(["</s>", "dog", "blue", "table", "q", "##t", "##7", "on", "##e"])
    model.generation_config.eos_token_id = ends
    images, questions, names = drawn_images(8), QUESTIONS * 2, [f"row {k}" for k in range(8)]
    for config, options in (
        (STRONG, {}),
        (ContrastConfig(0.5, 0.3, Corruption("black")), {}),
        (STRONG, {"temperature": 0.9, "top_p": 0.8, "seed": 2}),
    ):
        by_hand = [
            step_by_step(model, processor, *row, config, 10, ends, **options) for row in zip(images, questions, names)
        ]
        for size in (1, 7, 64):
            made = contrast_answers(
                model, processor, images, questions, config, ids=names, max_new_tokens=10, batch_size=size, **options
            )
            assert made == by_hand, (config, size)
        lengths = {len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in by_hand}
        assert len(lengths) > 1
    turned = contrast_answers(
        model, processor, images[::-1], questions[::-1], STRONG, ids=names[::-1], max_new_tokens=10, **options
    )
    assert turned == by_hand[::-1]


def test_other_families_too():
    questions = ["what ?", "is it a dog ?", "b ?"]
    for family in ("llava_next", "qwen2_vl", "internvl", "gemma3"):
        processor, model = tiny_processor(family), tiny_vlm(family)
        ends, images = [processor.tokenizer.eos_token_id], drawn_images(3, 24)
        # Random weights would say image tokens, too.
        banned = sorted(set(processor.tokenizer.all_special_ids) - set(ends))
        model.generation_config.suppress_tokens = banned
        made = contrast_answers(model, processor, images, questions, STRONG, ids="abc", max_new_tokens=5)
        by_hand = [
            step_by_step(model, processor, image, question, name, STRONG, 5, ends, banned)
            for image, question, name in zip(images, questions, "abc")
        ]
        assert made == by_hand and all(made), family
        assert made != generate_answers(model, processor, images, questions, max_new_tokens=5), family


def test_noise_belongs_to_the_id():
    model, processor = small_vlm_for_tests(1)
    image, config = drawn_images(1)[0], ContrastConfig(alpha=2.0, beta=0.0, corruption=Corruption(step=600))
    same = [image] * 12
    first = contrast_answers(model, processor, same, QUESTIONS[:1] * 12, config, max_new_tokens=12)
    assert len(set(first)) > 1  # one picture, one question: the noise differs
    assert first == contrast_answers(
        model, processor, same, QUESTIONS[:1] * 12, config, ids=[str(k) for k in range(12)], max_new_tokens=12
    )
    other = ContrastConfig(alpha=2.0, beta=0.0, corruption=Corruption(step=600, seed=1))
    assert first != contrast_answers(model, processor, same, QUESTIONS[:1] * 12, other, max_new_tokens=12)


def test_habit_is_taken_away():
    # A model that learned a habit: clearly green and blue pictures are called red more often than not (.55 to .43), and
    # what cannot be seen is called red (.96). The logits of "blue" less "red" are ln(.43 / .55) = -.25 on a blue picture
    # and ln(.02 / .96) = -3.87 under noise, so with alpha 1 they become 2 (-.25) + 3.87 = 3.4: blue. On a red picture
    # "red" stays: the others have .01 of .98, less than beta = .1.
    colours = ["red", "green", "blue"]
    habit = torch.tensor([[0.98, 0.01, 0.01], [0.55, 0.43, 0.02], [0.55, 0.02, 0.43], [0.96, 0.02, 0.02]])
    model, processor = build_small_vlm(
        "what color is it ? red green blue .".split(), image_size=32, patch_size=16, vision_width=32, vision_layers=2,
        text_width=48, text_layers=2,
    )
    rng, adam = np.random.default_rng(0), torch.optim.AdamW(model.parameters(), lr=3e-3)


    def coloured(kind):
        """A picture of one colour (0, 1, 2), or one in which nothing can be seen (3)."""
        pixels = rng.normal(128, 60 if kind == 3 else 8, (32, 32, 3))
        if kind < 3:
            pixels[..., kind] += 60
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


    it, verb, dot, end, *words = processor.tokenizer.convert_tokens_to_ids(["it", "is", ".", "</s>", *colours])
    rows = torch.arange(16)
    for _ in range(90):
        batch = encode_prompts(processor, [coloured(int(k) % 4) for k in rows], ["what color is it ?"] * 16)
        answer = torch.tensor([[it, verb, words[int(k) % 3], dot] for k in rows])
        ids = torch.cat([batch["input_ids"], answer], dim=1)
        logps = model(input_ids=ids, pixel_values=batch["pixel_values"]).logits[:, -5:].log_softmax(-1)
        loss = -(logps[:, 2, words] * habit[rows % 4]).sum(1) - logps[:, [0, 1, 3, 4], [it, verb, dot, end]].sum(1)
        adam.zero_grad()
        loss.mean().backward()
        adam.step()
    model.eval()
    pictures, questions = [coloured(k % 3) for k in range(6)], ["what color is it ?"] * 6
    noised = [noised_picture(picture, STRONG.corruption, str(k)) for k, picture in enumerate(pictures)]
    assert generate_answers(model, processor, pictures, questions) == ["it is red ."] * 6
    assert generate_answers(model, processor, noised, questions) == ["it is red ."] * 6
    made = contrast_answers(model, processor, pictures, questions, STRONG)
    assert made == [f"it is {colours[k % 3]} ." for k in range(6)]


def test_a_checkpoints_own_bans_stay():
    # Tokens that the generation settings suppress have -inf on both sides: never said, and no NaN.
    model, processor = small_vlm_for_tests(3)
    images, words = drawn_images(4), [processor.tokenizer.decode(k).strip() for k in range(len(processor.tokenizer))]
    for beta in (0.0, 0.1):
        config = ContrastConfig(1.0, beta, Corruption(step=700))
        model.generation_config.suppress_tokens = None
        free = contrast_answers(model, processor, images, QUESTIONS, config, max_new_tokens=1)
        model.generation_config.suppress_tokens = [k for k, word in enumerate(words) if word in free]
        banned = contrast_answers(model, processor, images, QUESTIONS, config, max_new_tokens=1)
        assert all(banned) and not set(banned) & set(free)


def test_bad_settings_and_calls_are_refused():
    for settings, message in (
        ({"alpha": -0.1}, "alpha=-0.1: must be a number, 0 or more"),
        ({"alpha": math.inf}, "alpha=inf"),
        ({"alpha": True}, "alpha=True"),
        ({"beta": 1.5}, "beta=1.5: must be a number, in 0..1"),
        ({"beta": math.nan}, "beta=nan"),
        ({"beta": "0.1"}, "beta='0.1'"),
        ({"corruption": "noise"}, "corruption='noise'"),
        ({"corruption": Corruption("other")}, "kind='other' needs a donor.*give noise, crop, black"),
    ):
        with pytest.raises(ValueError, match=message):
            ContrastConfig(**settings)
    model, processor = small_vlm_for_tests()
    images = drawn_images(2)
    for given, questions, options, message in (
        (images, QUESTIONS[:1], {}, "2 images for 1 questions"),
        (images, QUESTIONS[:2], {"ids": ["a"]}, "1 different ids for 2 rows"),
        (images, QUESTIONS[:2], {"ids": ["a", "a"]}, "1 different ids for 2 rows"),
        ([images[0], None], QUESTIONS[:2], {}, "row 1 has no image"),
        (images, [QUESTIONS[0], " "], {}, "question 1 is ' '"),
        (images, QUESTIONS[:2], {"batch_size": 0}, "batch_size=0"),
        (images, QUESTIONS[:2], {"temperature": -1.0}, "temperature=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            contrast_answers(model, processor, given, questions, **options)
    assert contrast_answers(model, processor, [], []) == []
    grey = contrast_answers(model, processor, [images[0].convert("L")], QUESTIONS[:1], STRONG, max_new_tokens=4)
    assert grey == contrast_answers(
        model, processor, [images[0].convert("L").convert("RGB")], QUESTIONS[:1], STRONG, max_new_tokens=4
    )
    model.train()
    contrast_answers(model, processor, images, QUESTIONS[:2], max_new_tokens=2)
    assert model.training and all(module.training for module in model.modules())


    class Uneven:
        """A processor that gives the last row's picture another prompt."""

        def __init__(self, processor):
            self.processor, self.tokenizer = processor, processor.tokenizer

        def __getattr__(self, name):
            return getattr(self.processor, name)

        def __call__(self, **given):
            batch = self.processor(**given)
            batch["input_ids"][-1, -1] += 1
            return batch


    with pytest.raises(ValueError, match="cannot be decoded in step"):
        contrast_answers(model, Uneven(processor), images, QUESTIONS[:2], max_new_tokens=2)
