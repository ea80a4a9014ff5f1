# Exported from nbs/analysis/robustness.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.robustness import *  # noqa: F403

import numpy as np
import pytest
from PIL import Image
from mfpo.model.small import small_vlm_for_tests


def test_losses_of_three_answers_derived_by_hand():
    # a: true table, cup; the cup is lost; the false dog is lost. b: true tree stays, false car stays. c: nothing said.
    clean, noised = [["table", "cup", "dog"], ["tree", "car"], []], [["table", "lamp"], ["car", "tree"], ["bench"]]
    truths = [{"table", "cup"}, {"tree"}, {"bench"}]
    counts = mentions_lost(clean, noised, truths)
    assert counts.to_numpy().tolist() == [[2, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]
    counts = reliance_counts(
        ["Table, cup and dog!", "a tree", ""],
        ["table cup and dog", "a car", "bench"],
        clean=clean,
        noised=noised,
        truths=truths,
    )
    scores = reliance_scores(counts.sum())
    assert {name: float(value) for name, value in scores.items()} == pytest.approx(
        {"mentions_lost": 100 / 3, "false_mentions_lost": 50, "unchanged": 100 / 3}
    )
    assert np.isnan(reliance_scores(counts.iloc[2:].sum())["mentions_lost"])
    assert logp_lost([-3.0, -1.0], [-5.0, -0.5]).tolist() == [2.0, -0.5]
    with pytest.raises(ValueError, match="1 clean, 2 noised, 1 truths"):
        mentions_lost([[]], [[], []], [[]])
    with pytest.raises(ValueError, match="shapes"):
        logp_lost([1.0], [1.0, 2.0])


def test_a_negative_that_is_the_picture_changes_nothing():
    model, processor = small_vlm_for_tests()
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    rows = [{"id": name, "image": image, "negative": image, "question": "describe the image ."} for name in "ab"]
    found = compare_with_negatives(model, processor, rows, mentions=str.split, truths=[set(), set()], max_new_tokens=6)
    assert found["unchanged"].tolist() == [1, 1] and found["false_lost"].sum() == 0 and list(found.index) == ["a", "b"]
    assert (found["clean_answer"] == found["noised_answer"]).all() and "logp_lost" not in found
    with pytest.raises(ValueError, match="row b has no negative"):
        compare_with_negatives(
            model, processor, [rows[0], rows[1] | {"negative": None}], mentions=str.split, truths=[set(), set()]
        )
    with pytest.raises(ValueError, match="both score and answers"):
        compare_with_negatives(model, processor, rows, mentions=str.split, truths=[set(), set()], answers=["a cup"] * 2)


def test_pictures_reach_the_scorer_and_the_answers():
    model, processor = small_vlm_for_tests()
    images = [Image.new("RGB", (64, 64), color) for color in ((250, 0, 0), (0, 250, 0))]
    negatives = [Image.new("RGB", (64, 64), color) for color in ((0, 0, 0), (0, 0, 0))]
    rows = [
        {"id": i, "image": a, "negative": b, "question": "describe the image ."}
        for i, (a, b) in enumerate(zip(images, negatives))
    ]


    def brightness(pictures, questions, answers):  # stands in for a model's log-probs
        return [np.asarray(picture).mean() * len(answer) for picture, answer in zip(pictures, answers)]


    found = compare_with_negatives(
        model,
        processor,
        rows,
        mentions=str.split,
        truths=[set(), set()],
        score=brightness,
        answers=["ab", "c"],
        max_new_tokens=4,
    )
    assert np.allclose(found["logp_lost"], [2 * 250 / 3, 250 / 3])
    from mfpo.evaluate.answers import generate_answers

    for column, pictures in (("clean_answer", images), ("noised_answer", negatives)):
        assert found[column].tolist() == generate_answers(
            model, processor, pictures, ["describe the image ."] * 2, max_new_tokens=4
        )


def test_the_curve_begins_at_one():
    model, processor = small_vlm_for_tests(2)
    images = [Image.new("RGB", (64, 64), color) for color in ((250, 0, 0), (0, 0, 250))]
    black = [Image.new("RGB", (64, 64))] * 2
    found = answers_under_noise(
        model, processor, images, {0: images, 900: black}, ["describe the image ."] * 2, ids=["a", "b"], max_new_tokens=8
    )
    table = found.pivot(index="id", columns="level", values="unchanged")
    assert table[0].tolist() == [1, 1] and len(found) == 4 and set(found["level"]) == {0, 900}
    with pytest.raises(ValueError, match="1 images at level 900 for 2 rows"):
        answers_under_noise(model, processor, images, {900: black[:1]}, ["describe the image ."] * 2)
