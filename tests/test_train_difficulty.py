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


def test_weighted_entropy_by_hand():
    # Clusters {1/2, 1/4} and {1/8}: of 7/8 in all the shares are 6/7 and 1/7.
    logps, clusters = np.log([0.5, 0.25, 0.125]), [0, 0, 1]
    expected = -(6 / 7 * math.log(6 / 7) + 1 / 7 * math.log(1 / 7))
    assert np.allclose(np.exp(cluster_logps(clusters, logps)), [0.75, 0.125], rtol=1e-15)
    assert abs(weighted_entropy(clusters, logps) - expected) < 1e-15
    assert abs(weighted_entropy([4, 4, 7], logps) - expected) < 1e-15  # the numbers of clusters are names
    # eq. 4: -(ln 3/4 + ln 1/8) / 2 = ln(32/3) / 2
    assert abs(weighted_entropy(clusters, logps, estimator="mean") - math.log(32 / 3) / 2) < 1e-15
    # -(ln 1/2 + ln 1/4 + ln 1/8) / 3 = 2 ln 2
    assert abs(predictive_entropy(logps) - 2 * math.log(2)) < 1e-15


def test_equal_likelihoods_are_the_discrete_entropy():
    # With every draw counted and equal log-probs the shares of probability are the shares of answers, however improbable:
    # e^-1000 is 0 in floating point, so the sum must be of logarithms.
    for clusters in ([0, 1, 0, 2, 1, 0], [0] * 6, list(range(6))):
        for level in (0.0, -3.0, -1000.0, -1e5):
            assert abs(weighted_entropy(clusters, [level] * 6) - semantic_entropy(clusters)) < 1e-10
    # Two answers 1 nat apart, far below: shares 1 / (1 + e^-1) and its complement.
    p = 1 / (1 + math.exp(-1))
    assert abs(weighted_entropy([0, 1], [-5000.0, -5001.0]) + p * math.log(p) + (1 - p) * math.log(1 - p)) < 1e-9
    one = weighted_entropy([0, 0, 0], [-1.0, -2.0, -30.0])
    assert one == 0 and math.copysign(1, one) == 1


def test_an_answer_drawn_twice_is_one_wording():
    # cup drawn three times at 0.6, dog once at 0.2: as wordings 3/4 and 1/4, as draws 1.8 and 0.2 of 2.
    answers, clusters, logps = ["cup", "dog", "cup", "cup"], [0, 1, 0, 0], np.log([0.6, 0.2, 0.6, 0.6])
    once = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    often = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert abs(weighted_entropy(clusters, logps, answers) - once) < 1e-15
    assert abs(weighted_entropy(clusters, logps) - often) < 1e-15
    with pytest.raises(ValueError, match="'cup' is in clusters 0 and 2; equal answers mean the same"):
        weighted_entropy([0, 1, 2, 0], logps, answers)


def test_probability_zero_and_what_is_no_probability():
    assert weighted_entropy([0, 1], [-1.0, -math.inf]) == 0  # the other cluster has all of it
    assert weighted_entropy([0, 1, 1], [-1.0, -math.inf, -1.0]) == pytest.approx(math.log(2), abs=1e-15)
    assert weighted_entropy([0, 1], [-1.0, -math.inf], estimator="mean") == math.inf == predictive_entropy([-math.inf, 0])
    assert weighted_entropy([0, 0], [0.0, 0.0], estimator="mean") == 0  # 2 in all: no less than 0
    with pytest.raises(ValueError, match="all sampled answers have probability 0"):
        weighted_entropy([0, 1], [-math.inf] * 2)
    for logps, message in (
        ([-1.0, math.nan], "log-prob 1 is nan"), ([0.5, -1.0], "log-prob 0 is 0.5"), ([], "at least one"),
        ([[-1.0], [-2.0]], r"shape \(2, 1\)"), ([-1.0], "2 clusters for 1 log-probs"),
    ):
        with pytest.raises(ValueError, match=message):
            weighted_entropy([0, 1], logps)
    assert predictive_entropy([1e-9]) == 0  # rounding
    with pytest.raises(ValueError, match="estimator 'rao' is unknown; use one of normalised, mean"):
        weighted_entropy([0], [-1.0], estimator="rao")


def test_sampled_answers_are_scored_as_each_by_itself():
    from PIL import Image
    from mfpo.model.small import small_vlm_for_tests
    from mfpo.train.encoder import RowEncoder
    from mfpo.train.scoring import score_answers

    model, processor = small_vlm_for_tests()
    images = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    questions = ["what is it ?", "describe the image ."]
    answers = [["a cup", "a cup and a plate .", "a cup"], ["a dog", "", "a cat on a table ."]]
    encoder = RowEncoder(processor)
    model.train()
    sums, tokens = answer_logps(model, encoder, images, questions, answers)
    assert model.training and sums[0][0] == sums[0][2]
    for k in range(2):
        spoken = [n for n, answer in enumerate(answers[k]) if answer]
        alone = score_answers(model, processor, [images[k]] * len(spoken), [questions[k]] * len(spoken), [answers[k][n] for n in spoken])
        assert np.allclose(sums[k][spoken], alone, atol=1e-4)
        plain, _ = answer_logps(model, encoder, images[k : k + 1], questions[k : k + 1], answers[k : k + 1], route="plain")
        assert np.allclose(plain[0], sums[k], atol=1e-4)
    assert tokens[0].tolist() == [3, 7, 3] and tokens[1].tolist() == [3, 1, 7]  # the end counts
    with pytest.raises(ValueError, match="row 1 has no answers"):
        answer_logps(model, encoder, images, questions, [["a cup"], []])
    with pytest.raises(ValueError, match="2 images, 2 questions, answers for 1 rows"):
        answer_logps(model, encoder, images, questions, answers[:1])


def test_agreement_by_hand():
    # Ranks 1 2 3 4 against 1 3 2 4: rho = 1 - 6 (0 + 1 + 1 + 0) / (4 · 15) = 0.8, tau = (5 - 1) / 6.
    both = agreement([1, 2, 3, 4], [10, 30, 20, 40], ids=list("abcd"))
    assert both.spearman == pytest.approx(0.8, abs=1e-15) and both.kendall == pytest.approx(2 / 3, abs=1e-15)
    # With a tie the ranks are 1 2.5 2.5 4 against 1 2 3 4: centred products 2.25 + 0 + 0 + 2.25, squares 4.5 and 5.
    tied = agreement([0, 1, 1, 2], [1, 2, 3, 4])
    assert tied.spearman == pytest.approx(4.5 / math.sqrt(4.5 * 5), abs=1e-15)
    assert tied.kendall == pytest.approx(5 / math.sqrt(5 * 6), abs=1e-15)  # 5 concordant; 5 untied pairs in one, 6 in the other
    turned = agreement(range(9), range(9, 0, -1))
    assert turned.spearman == pytest.approx(-1, abs=1e-15) and turned.same_third == 1 / 3 == turned.same_third_apart
    assert turned.thirds.tolist() == [[0, 0, 3], [0, 3, 0], [3, 0, 0]] and "easy" in turned.text()


def test_agreement_is_scipys_and_can_be_resampled():
    from scipy.stats import spearmanr
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, 60), rng.integers(0, 4, 60)
    found = agreement(a, a + b, [f"r{k}" for k in range(60)])
    assert abs(found.spearman - spearmanr(a, a + b).statistic) < 1e-12
    assert abs(found.by_row["rho"].mean() - found.spearman) < 1e-12 and found.by_row["same"].mean() == found.same_third
    assert found.thirds.sum() == 60 and np.trace(found.thirds) / 60 == found.same_third
    assert (found.thirds.sum(0) == 20).all() and (found.thirds.sum(1) == 20).all() and found.by_row.index[7] == "r7"


def test_ties_do_not_pass_for_agreement():
    nothing = agreement([0.0] * 9, [1.0] * 9)
    assert nothing.same_third == 1 and nothing.same_third_apart == pytest.approx(1 / 3)
    assert math.isnan(nothing.spearman) and math.isnan(nothing.kendall) and math.isnan(nothing.by_row["rho"].iloc[0])
    # Four rows tie over the border of the easy third (of 2 of 6): one of the four is in it for certain of two places.
    apart = agreement([0, 1, 1, 1, 1, 2], [0, 1, 2, 3, 4, 5])
    # Row 0 and row 5 agree; of the tied rows 1/4 is easy, 2/4 medium, 1/4 hard: rows 1 to 4 agree with 1/4, 1/2, 1/2, 1/4.
    assert apart.same_third_apart == pytest.approx((1 + 0.25 + 0.5 + 0.5 + 0.25 + 1) / 6)


def test_agreement_refuses_what_cannot_be_compared():
    for a, b, ids, message in (
        ([1, 2], [1], None, "2 and 1 difficulties"), ([1], [1], None, "at least two"),
        ([1, math.nan], [1, 2], ["a", "b"], r"not a number in rows \['b'\]"), ([1, 2], [1, 2], ["a", "a"], "twice.*'a'"),
        ([1, 2], [1, 2], ["a"], "2 difficulties for 1 ids"),
    ):
        with pytest.raises(ValueError, match=message):
            agreement(a, b, ids)
    grouped = agreement([0, 1, 2, 10, 11, 12], [0, 1, 2, 30, 20, 10], groups=["q"] * 3 + ["c"] * 3)
    assert grouped.same_third == grouped.same_third_apart == 4 / 6


def test_a_file_is_joined_by_id():
    import pathlib, tempfile
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "d.parquet")
        good = pd.DataFrame({"id": list("cab"), "difficulty": [0.3, 0.1, 0.2], "stage": [2, 0, 1], "answers": [["x"]] * 3})
        good.to_parquet(path)
        values, stage = read_difficulty(path, ["a", "c"])
        assert values.tolist() == [0.1, 0.3] and stage.tolist() == [0, 2] and stage.dtype == np.int64
        for table, message in (
            (good.assign(id=list("cac")), "'c' is there twice"), (good.assign(stage=[2, 0, 3]), "row 'b' has difficulty 0.2 and stage 3"),
            (good.assign(difficulty=[math.nan, 0, 0]), "row 'c' has difficulty None"), (good.drop(columns="stage"), "no column stage"),
            (good.assign(difficulty=["x"] * 3), "row 'c' has difficulty x"),
        ):
            table.to_parquet(path)
            with pytest.raises(ValueError, match=message):
                read_difficulty(path, ["a"])
        good.to_parquet(path)
        with pytest.raises(ValueError, match=r"d.parquet lacks 2 of 3 rows \('x', 'y'\); run 'mfpo difficulty'"):
            read_difficulty(path, ["x", "a", "y"])
        path.write_bytes(b"PAR1")
        with pytest.raises(ValueError, match="not a readable parquet file"):
            read_difficulty(path, ["a"])
        with pytest.raises(ValueError, match="none.parquet: no such file; 'mfpo difficulty' makes it"):
            read_difficulty(path.with_name("none.parquet"), ["a"])
