# Exported from nbs/train/collator.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.collator import *  # noqa: F403

from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from mfpo.model.logps import arm_logps
from mfpo.model.small import small_vlm_for_tests
from mfpo.train.objectives import CHOSEN, NEGATIVE, REJECTED, preset


def drawn_row(number, **changes):
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle([8 * (number % 4), 16, 40, 40], fill=("red", "blue", "green")[number % 3])
    row = {"id": f"row-{number}", "question": ["describe the image .", "is there a cup on the table ?"][number % 2],
           "image": image, "negative": Image.new("RGB", (64, 64), (40 * (number % 5), 0, 0)),
           "chosen": "a kitchen with a red cup .", "rejected": "no , there is no cup ."}
    return row | changes


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


def test_the_batch_is_what_the_plain_processor_gives():
    _, processor = small_vlm_for_tests()
    encoder, rows = RowEncoder(processor), [drawn_row(i) for i in range(3)]
    batch = PreferenceCollator(encoder)(rows)
    texts = [encoder.texts(r["question"]) for r in rows]
    for image, column in (("original", "image"), ("negative", "negative")):
        expected = processor(
            images=[r[column] for r in rows], text=texts,
            padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False,
        )
        assert set(expected) == set(batch["prompts"][image])
        assert all(torch.equal(expected[k], batch["prompts"][image][k]) for k in expected)


def test_only_what_the_arms_need_is_read():
    _, processor = small_vlm_for_tests()
    row = drawn_row(0)
    del row["negative"]
    batch = PreferenceCollator(RowEncoder(processor), arms=preset("dpo").arms)([row])
    assert set(batch["prompts"]) == {"original"} and set(batch["answers"]) == {"chosen", "rejected"}
    with pytest.raises(ValueError, match="'row-0': column negative is missing"):
        PreferenceCollator(RowEncoder(processor))([row])


def test_rows_are_processed_once_and_memory_is_bounded():
    _, processor = small_vlm_for_tests()
    encoder = RowEncoder(processor)
    collate = PreferenceCollator(encoder)
    rows = [drawn_row(i) for i in range(4)]
    first = collate(rows)
    kept = dict(encoder._cache)
    second = PreferenceCollator(encoder, arms=preset("dpo").arms)(rows)
    assert encoder._cache.keys() == kept.keys() and all(encoder._cache[k] is kept[k] for k in kept)
    assert torch.equal(first["prompts"]["original"]["pixel_values"], second["prompts"]["original"]["pixel_values"])
    # the key is the content: another picture under the same id is another prompt
    changed = collate([drawn_row(0, image=drawn_row(1)["image"])])
    assert not torch.equal(
        changed["prompts"]["original"]["pixel_values"][0], first["prompts"]["original"]["pixel_values"][0]
    )
    forgetful = RowEncoder(processor, cache_mb=0)
    again = PreferenceCollator(forgetful)(rows)
    assert not forgetful._cache and torch.equal(
        again["prompts"]["negative"]["pixel_values"], first["prompts"]["negative"]["pixel_values"]
    )


def test_a_long_row_is_refused_or_its_answer_cut_but_never_its_image():
    model, processor = small_vlm_for_tests()
    row, encoder = drawn_row(0), RowEncoder(processor)
    prompt = encoder.prompt(row["question"], row["image"])["input_ids"].shape[1]
    answer = len(encoder.answer(row["question"], row["chosen"]))
    fits = PreferenceCollator(encoder, arms=[CHOSEN], max_length=prompt + answer)
    fits.check([row])
    with pytest.raises(
        ValueError, match=f"'row-0', chosen: prompt of {prompt} tokens .* answer of {answer} exceed max_length"
    ):
        replace(fits, max_length=prompt + answer - 1).check([row])
    cut = replace(fits, max_length=prompt + 2, truncation="answer")([row])
    assert cut["answers"]["chosen"]["input_ids"].shape == (1, 2)
    assert (cut["prompts"]["original"]["input_ids"] == model.config.image_token_id).sum() == 16
    assert torch.isfinite(arm_logps(model, cut, [CHOSEN])[CHOSEN]).all()
    with pytest.raises(ValueError, match="exceed max_length"):  # no room for any answer
        replace(fits, max_length=prompt, truncation="answer").check([row])


def test_bad_settings_and_rows_are_refused():
    _, processor = small_vlm_for_tests()
    encoder = RowEncoder(processor)
    for make, words in [
        (lambda: PreferenceCollator(encoder, truncation="left"), "truncation='left'"),
        (lambda: PreferenceCollator(encoder, arms=[("chosen", "cropped")]), "cropped"),
        (lambda: PreferenceCollator(encoder, max_length=1), "max_length=1"),
        (lambda: RowEncoder(processor, cache_mb=-1), "cache_mb=-1"),
        (lambda: RowEncoder(processor.tokenizer), "no tokenizer"),
        (lambda: PreferenceCollator(encoder)([drawn_row(0, rejected="  ")]), "'row-0': the answer rejected is blank"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


def test_undecoded_images_of_datasets_are_read():
    import datasets
    _, processor = small_vlm_for_tests()
    rows = [drawn_row(i) for i in range(2)]
    features = {"image": datasets.Image(), "negative": datasets.Image()}
    table = (
        datasets.Dataset.from_list(rows)
        .cast_column("image", datasets.Image(decode=False)).cast_column("negative", datasets.Image())
    )
    batch, expected = (PreferenceCollator(RowEncoder(processor))(r) for r in ([table[0], table[1]], rows))
    assert all(
        torch.equal(batch["prompts"][k]["pixel_values"], expected["prompts"][k]["pixel_values"])
        for k in ("original", "negative")
    )


def test_known_reference_log_probs_join_the_batch():
    _, processor = small_vlm_for_tests()
    collate = PreferenceCollator(RowEncoder(processor), arms=[CHOSEN, REJECTED])
    rows = [drawn_row(0), drawn_row(1)]
    collate.reference |= {collate.key(rows[0]): (-3.25, -4.5)}
    assert {k: v.tolist() for k, v in collate(rows[:1])["reference"].items()} == {
        "chosen_original": [-3.25], "rejected_original": [-4.5],
    }
    # a batch with a row that is not known, or that was changed, is scored anew
    assert "reference" not in collate(rows) and "reference" not in collate([rows[0] | {"chosen": "a dog ."}])
