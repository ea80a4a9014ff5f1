# Exported from nbs/analysis/fairness.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.fairness import *  # noqa: F403

import statistics
import numpy as np
import pandas as pd
import pytest


def test_gaps_of_a_pair_derived_by_hand():
    # beta .1; log-ratios: chosen -9+10 = 1, rejected -19+10 = -9, negative -10.5+11 = .5.
    # R = .1, -.9, .05, so the text gap is 1.0, the image gap .05, fairness .05.
    arms = [("chosen", "original"), ("rejected", "original"), ("chosen", "negative")]
    policy = dict(zip(arms, ([-9.0], [-19.0], [-10.5])))
    reference = dict(zip(arms, ([-10.0], [-10.0], [-11.0])))
    row = reward_gaps(policy, reference, beta=0.1, ids=["a"]).loc["a"]
    assert np.allclose(row[["text_gap", "image_gap", "chosen_reward"]], [1.0, 0.05, 0.1], atol=1e-12)
    assert fairness(row["text_gap"], row["image_gap"]) == pytest.approx(0.05)
    summary = gap_summary(reward_gaps(policy, reference))
    assert summary["fairness"].estimate == pytest.approx(0.05) and summary["text_accuracy"].estimate == 1
    with pytest.raises(ValueError, match=r"policy has no log-probs of arm \('rejected', 'original'\)"):
        reward_gaps({arms[0]: [0.0]}, reference)
    with pytest.raises(ValueError, match="shapes"):
        reward_gaps(policy | {arms[1]: [0.0, 1.0]}, reference)
    with pytest.raises(ValueError, match="row a is not finite"):
        reward_gaps(policy | {arms[1]: [np.nan]}, reference, ids=["a"])


def test_fairness_is_zero_unless_both_gaps_are_positive():
    text, image = [2.0, 1.0, -1.0, 1.0, -1.0, 0.0], [1.0, 4.0, 1.0, -2.0, -1.0, 0.0]
    assert fairness(text, image).tolist() == [0.5, 0.25, 0.0, 0.0, 0.0, 0.0]


def test_the_interval_of_a_mean_is_the_normal_one_on_a_large_sample():
    # Closed form: mean +- 1.96 sd / sqrt(rows). With 4000 resamples a 2.5 % quantile has a standard error of about .04 sd
    # / sqrt(rows).
    values = np.random.default_rng(3).exponential(2.0, 4000)
    half = statistics.NormalDist().inv_cdf(0.975) * values.std() / len(values) ** 0.5
    found = bootstrap(values, n=4000, seed=1)["value"]
    assert found.estimate == pytest.approx(values.mean(), rel=1e-12)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)
    assert (found.high + found.low) / 2 == pytest.approx(values.mean(), abs=0.12 * half)


def test_the_interval_of_a_ratio_is_the_delta_method_one():
    # r = sum(y)/sum(x); closed form: var(r) = mean((y - r x)^2) / (rows mean(x)^2).
    rng = np.random.default_rng(5)
    x = rng.integers(1, 6, 3000)
    y = rng.binomial(x, 0.3)
    r = y.sum() / x.sum()
    half = 1.96 * (np.mean((y - r * x) ** 2) / len(x)) ** 0.5 / x.mean()
    found = bootstrap(pd.DataFrame({"x": x, "y": y}), lambda t: {"ratio": t["y"] / t["x"]}, n=4000)["ratio"]
    assert found.estimate == pytest.approx(r) and found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_constant_data_have_an_interval_of_no_width():
    found = bootstrap(np.full(30, 7.25), cluster=np.repeat([0, 1, 2], 10), unit=np.tile(np.arange(10), 3))["value"]
    assert (found.estimate, found.low, found.high) == (7.25, 7.25, 7.25)
    assert found.text(2) == "7.25 [7.25, 7.25]" and Interval(0.5, 0.25, 0.75).text(0, 100) == "50 [25, 75]"
    assert found.as_columns("CHAIRs") == {"CHAIRs": 7.25, "CHAIRs_low": 7.25, "CHAIRs_high": 7.25}


def test_one_cluster_is_the_plain_bootstrap_and_seeds_repeat():
    values = np.random.default_rng(0).normal(size=57)
    plain = bootstrap(values, n=300, seed=4)
    assert bootstrap(values, n=300, seed=4, cluster=["only"] * 57) == plain == bootstrap(values, n=300, seed=4)
    assert bootstrap(values, n=300, seed=4, cluster=pd.DataFrame({"base": ["b"] * 57, "run": [1] * 57})) == plain
    assert bootstrap(values, n=300, seed=5) != plain


def test_clusters_widen_the_interval_as_the_design_says():
    # Runs differ, rows inside a run do not: all variance is between the c = 40 runs, sd of the mean = sd(run means) /
    # sqrt(c).
    means_of_runs = np.random.default_rng(1).normal(size=40)
    runs = np.repeat(np.arange(40), 25)
    half = 1.96 * means_of_runs.std() / 40**0.5
    found = bootstrap(means_of_runs[runs], n=4000, cluster=runs)["value"]
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert bootstrap(means_of_runs[runs], n=1000)["value"].high - means_of_runs.mean() < half / 3
    # Rows differ, runs do not, and all runs share their rows: the rows count once, however many runs there are.
    rows = np.random.default_rng(2).normal(size=400)
    item = np.tile(np.arange(400), 5)
    shared = bootstrap(rows[item], n=3000, cluster=np.repeat(np.arange(5), 400), unit=item)["value"]
    assert shared.high - shared.low == pytest.approx(2 * 1.96 * rows.std() / 400**0.5, rel=0.1)
    # Two bases, three seeds each, told apart only by the base: the outer level decides.
    base = np.repeat([0.0, 1.0], 300)
    nested = bootstrap(base, n=2000, cluster=pd.DataFrame({"base": base, "seed": np.tile(np.repeat([0, 1, 2], 100), 2)}))[
        "value"
    ]
    assert (nested.estimate, nested.low, nested.high) == (0.5, 0.0, 1.0)


def test_undefined_resamples_and_bad_tables():
    def ratio(totals):
        return {"ratio": totals["y"] / totals["x"]}


    never = bootstrap(pd.DataFrame({"x": [0.0, 0.0], "y": [0.0, 0.0]}), ratio)["ratio"]
    assert np.isnan([never.estimate, never.low, never.high]).all()
    sometimes = bootstrap(pd.DataFrame({"x": [1.0, 0.0], "y": [1.0, 0.0]}), ratio)["ratio"]
    assert (sometimes.estimate, sometimes.low, sometimes.high) == (1, 1, 1)
    for values, options, message in (
        ([], {}, "no rows"),
        ([1.0, np.nan], {}, "row 1 has a value that is not finite"),
        ([1.0], {"n": 0}, "n=0"),
        ([1.0, 2.0], {"cluster": ["a", None]}, "cluster has 1 labels for 2 rows"),
        ([1.0, 2.0], {"unit": ["a"]}, "unit has 1 labels for 2 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            bootstrap(values, **options)
