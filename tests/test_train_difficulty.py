# Exported from nbs/train/difficulty.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.difficulty import *  # noqa: F403

import math

import numpy as np
import pytest


def test_entropy_of_a_split_by_hand():
    # clusters of 3, 2 and 1 out of 6: -(1/2 ln 1/2 + 1/3 ln 1/3 + 1/6 ln 1/6) = ln 6 - (3 ln 3 + 2 ln 2) / 6
    expected = math.log(6) - (3 * math.log(3) + 2 * math.log(2)) / 6
    assert abs(semantic_entropy([0, 1, 0, 2, 1, 0]) - expected) < 1e-15
    assert semantic_entropy([0, 0, 0]) == 0 and math.copysign(1, semantic_entropy([0])) == 1
    assert abs(semantic_entropy(range(7)) - math.log(7)) < 1e-15
    with pytest.raises(ValueError, match="at least one"):
        semantic_entropy([])


def test_words_decide_not_their_order_or_number():
    assert same_words("a cup and two tables .", "Two tables, a cups")
    assert not same_words("a cup .", "a cup and a table .")
    assert not same_words("there is a cup .", "there is no cup .")
    assert content_words("The dogs are running on the benches") >= {"dog", "bench"}
    answers = ["a cup , a dog .", "a dog and a cup", "a cup", "a cup , a dog .", "no cup"]
    assert cluster_answers(answers) == [0, 0, 1, 0, 2]


def test_any_equivalence_is_taken_and_asked_little():
    calls = []
    def shorter_or_equal(a, b):
        calls.append((a, b))
        return len(a) <= len(b)
    assert cluster_answers(["aa", "bb", "c", "bb"], both_ways(shorter_or_equal)) == [0, 0, 1, 0]
    assert len(calls) == 3  # twice for bb, once for c (the first direction fails), not again for the repeated answer


def test_thirds_are_equal_and_do_not_depend_on_order():
    for n in (1, 2, 7, 8, 9, 100):
        ids = [f"r{i}" for i in range(n)]
        values = np.random.default_rng(n).integers(0, 3, n).astype(float)
        stage = thirds(values, ids)
        sizes = np.bincount(stage, minlength=3)
        assert sizes.max() - sizes.min() <= 1 and sizes.sum() == n
        assert all(values[stage == a].max() <= values[stage == b].min() for a, b in ((0, 1), (1, 2)) if sizes[b])
        shuffled = np.random.default_rng(0).permutation(n)
        assert (thirds(values[shuffled], [ids[i] for i in shuffled]) == stage[shuffled]).all()


def test_groups_are_ranked_each_by_itself():
    # Six easy questions and six hard captions: together they would be told apart, by kind each stage holds two of both.
    values, kinds = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5], ["question"] * 6 + ["caption"] * 6
    ids = [f"r{i}" for i in range(12)]
    assert thirds(values, ids).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert thirds(values, ids, kinds).tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert (thirds(values, ids, ["same"] * 12) == thirds(values, ids)).all()
    with pytest.raises(ValueError, match="11 groups for 12 rows"):
        thirds(values, ids, kinds[1:])


def test_thirds_refuse_what_cannot_be_ranked():
    with pytest.raises(ValueError, match="twice.*'a'"):
        thirds([1, 2], ["a", "a"])
    with pytest.raises(ValueError, match=r"not a number in rows \['b'\]"):
        thirds([1, float("nan")], ["a", "b"])
    with pytest.raises(ValueError, match="2 difficulties for 1 ids"):
        thirds([1, 2], ["a"])


def test_token_entropy_of_an_even_head_is_log_vocabulary():
    import torch
    from PIL import Image
    from mfpo.model.small import small_vlm_for_tests

    model, processor = small_vlm_for_tests()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all words equally likely
    prompt = dict(processor(
        images=[Image.new("RGB", (64, 64))], text=["<s> user : <image> describe the image . assistant :"],
        return_tensors="pt",
    ))
    answer = processor.tokenizer(["a kitchen with a cup . </s>"], return_tensors="pt")
    batch = {
        "prompts": {"original": prompt},
        "answers": {"chosen": {k: answer[k] for k in ("input_ids", "attention_mask")}},
        "pad_token_id": processor.tokenizer.pad_token_id,
    }
    entropy = token_entropy(model, batch)
    assert entropy.shape == (1,) and abs(entropy[0] - math.log(model.config.text_config.vocab_size)) < 1e-5
