# Exported from nbs/evaluate/noised.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.evaluate.noised import *  # noqa: F403

import numpy as np
import pytest
from PIL import Image, ImageDraw
from mfpo.data.corruptions import Corruption, corrupt
from mfpo.data.writers import Failure, Reply
from mfpo.evaluate.answers import generate_answers
from mfpo.model.small import small_vlm_for_tests

QUESTIONS = ["describe the image .", "is there a cup ?", "what color is it ?"]


def some_rows(count=6, chosen="a cup"):
    rows = []
    for k in range(count):
        image = Image.new("RGB", (64, 64), (40 * k % 256, 90, 200 - 20 * k))
        ImageDraw.Draw(image).rectangle([4 * k, 8, 4 * k + 20, 40], fill=(250, 30 * k % 256, 10))
        rows.append({"id": f"row {k}", "image": image, "question": QUESTIONS[k % 3], "chosen": chosen})
    return rows


def test_noised_answers_are_those_of_the_noised_pictures():
    model, processor = small_vlm_for_tests(3)
    rows, config = some_rows(), DrawConfig(max_new_tokens=8, temperature=0.7, seed=2, batch_size=4)
    made = dict(noised_answers(model, processor, rows, Corruption(step=700), config))
    pictures = [corrupt(row["image"], None, Corruption(step=700), (row["id"],)) for row in rows]
    by_hand = generate_answers(model, processor, pictures, [row["question"] for row in rows], max_new_tokens=8,
                               temperature=0.7, seed=2, ids=[row["id"] for row in rows])
    assert [made[row["id"]].text for row in rows] == by_hand
    assert all(r.attempts == 1 and 0 < r.completion_tokens and r.cut == (r.completion_tokens >= 8) for r in made.values())
    clean = dict(clean_answers(model, processor, rows, config))
    assert [clean[row["id"]].text for row in rows] == generate_answers(
        model, processor, [row["image"] for row in rows], [row["question"] for row in rows], max_new_tokens=8,
        temperature=0.7, seed=2, ids=[row["id"] for row in rows])


def test_what_equals_the_chosen_answer_is_drawn_again():
    model, processor = small_vlm_for_tests(3)
    rows, config = some_rows(), DrawConfig(max_new_tokens=8, temperature=0.9, batch_size=3)
    first = dict(noised_answers(model, processor, rows, config=config))
    # The model's own first answers become the chosen ones of rows 1 and 4, in capitals and with other blanks.
    for k in (1, 4):
        rows[k]["chosen"] = "  " + first[f"row {k}"].text.upper() + " ."
    second = dict(noised_answers(model, processor, rows, config=config))
    assert [second[f"row {k}"].attempts for k in range(6)] == [1, 2, 1, 1, 2, 1]
    assert all(second[i].text == first[i].text for i in ("row 0", "row 2", "row 3", "row 5"))
    assert all(second[i].text != first[i].text for i in ("row 1", "row 4"))
    # The second draw has noise of its own and random numbers of its own.
    picture = noised_picture(rows[1]["image"], Corruption(), "row 1", 1)
    assert not np.array_equal(picture, noised_picture(rows[1]["image"], Corruption(), "row 1"))
    (by_hand,) = generate_answers(model, processor, [picture], [rows[1]["question"]], max_new_tokens=8, temperature=0.9,
                                  ids=["row 1\x1fdraw 1"])
    assert second["row 1"].text == by_hand
    for size in (1, 6):  # whatever the batch, and whatever else is drawn
        other = dict(noised_answers(model, processor, rows[1:], config=DrawConfig(max_new_tokens=8, temperature=0.9, batch_size=size)))
        assert {i: r.text for i, r in other.items()} == {i: r.text for i, r in second.items() if i != "row 0"}


def test_rows_that_cannot_be_had_are_failures():
    model, processor = small_vlm_for_tests(3)
    rows = some_rows(4)
    stubborn = DrawConfig(max_new_tokens=4, samples=3)  # greedy: this model's words do not depend on the noise
    free = dict(noised_answers(model, processor, rows, Corruption(step=1), stubborn))
    for row in rows[:2]:
        row["chosen"] = free[row["id"]].text
    rows[3]["images"] = [rows[3]["image"]] * 2
    made = dict(noised_answers(model, processor, rows, Corruption(step=1), stubborn))
    assert len(made) == 4 and made["row 0"] == Failure(
        "same", "under the noise the model says what the chosen answer says in each of 3 draws", 3)
    assert isinstance(made["row 2"], Reply) and made["row 3"].kind == "several pictures"
    # A model that may write nothing but the end says nothing.
    end = processor.tokenizer.eos_token_id
    model.generation_config.suppress_tokens = [t for t in range(len(processor.tokenizer)) if t != end]
    silent = dict(clean_answers(model, processor, rows[:2], stubborn))
    assert silent["row 0"] == Failure("empty", "the model says nothing", 1), "clean and greedy: one draw tells"


def test_rows_are_read_a_batch_at_a_time():
    model, processor = small_vlm_for_tests()
    taken = []


    def counted():
        for row in some_rows(9):
            taken.append(row["id"])
            yield row


    answers = noised_answers(model, processor, counted(), config=DrawConfig(max_new_tokens=2, batch_size=3))
    next(answers)
    assert len(taken) == 3
    assert len(list(answers)) == 8 and list(noised_answers(model, processor, [])) == []


def test_bad_calls_are_refused():
    for wrong in ({"max_new_tokens": 0}, {"batch_size": 1.5}, {"samples": 0}, {"temperature": -1}, {"top_p": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DrawConfig(**wrong)
    model, processor = small_vlm_for_tests()
    with pytest.raises(ValueError, match="question 0 is ' '"):
        list(clean_answers(model, processor, [some_rows(1)[0] | {"question": " "}]))
