# Exported from nbs/train/objectives.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.objectives import *  # noqa: F403

import math

import pytest
import torch

from mfpo.train.objectives import CHOSEN, NEGATIVE, REJECTED


def random_logps(seed, batch=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {arm: -30 * torch.rand(batch, generator=generator, dtype=dtype) for arm in (CHOSEN, REJECTED, NEGATIVE)}


def test_at_initialisation_each_term_is_log_2():
    same = random_logps(0)
    for name, terms in {"dpo": 1, "dpo_margin": 2, "margin": 1, "mdpo": 3, "mfpo": 3}.items():
        loss, metrics = preset(name)(same, same)
        assert abs(float(loss) - terms * math.log(2)) < 1e-12, name
        assert all(float(v) == 0 for k, v in metrics.items() if k.startswith(("gap", "rewards", "accuracy", "fairness")))


def test_anchor_with_an_offset_starts_at_its_own_value():
    # -log sigmoid(-0.5) = log(1 + e^0.5)
    loss, _ = preset("margin", eta=0.5)(random_logps(0), random_logps(0))
    assert abs(float(loss) - math.log(1 + math.exp(0.5))) < 1e-12


def test_equals_the_formulas_of_the_paper():
    # MFPO Eq. 5-7 written out for one row at a time
    policy, reference, beta, eta = random_logps(1), random_logps(2), 0.3, 0.2
    weights = {"text": 1.0, "image": 0.5, "margin": 2.0}
    total = 0.0
    for i in range(5):
        r = {arm: beta * (float(policy[arm][i]) - float(reference[arm][i])) for arm in policy}
        neg_log_sigmoid = lambda x: math.log1p(math.exp(-x))
        total += weights["text"] * neg_log_sigmoid(r[CHOSEN] - r[REJECTED]) / 5
        total += weights["image"] * neg_log_sigmoid(r[CHOSEN] - r[NEGATIVE]) / 5
        total += weights["margin"] * neg_log_sigmoid(r[CHOSEN] - eta) / 5
    for name in ("mfpo", "mdpo"):
        loss, _ = preset(name, beta=beta, eta=eta, weights=weights)(policy, reference)
        assert abs(float(loss) - total) < 1e-12


def test_the_gradient_is_the_derived_one():
    # d/dx of -log sigmoid(b x) is -b sigmoid(-b x); the mean over 5 rows divides by 5
    policy, reference, beta = random_logps(3), random_logps(4), 0.1
    policy = {arm: x.requires_grad_() for arm, x in policy.items()}
    preset("dpo", beta=beta)(policy, reference)[0].backward()
    x = beta * (policy[CHOSEN] - reference[CHOSEN] - policy[REJECTED] + reference[REJECTED]).detach()
    expected = -beta * torch.sigmoid(-x) / 5
    torch.testing.assert_close(policy[CHOSEN].grad, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(policy[REJECTED].grad, -expected, rtol=1e-12, atol=0)
    assert policy[NEGATIVE].grad is None


def test_image_term_has_no_gradient_when_the_negative_is_the_original():
    logps = random_logps(5)[CHOSEN].requires_grad_()
    fixed = random_logps(6)[CHOSEN]
    objective = preset("mfpo", weights={"text": 0, "margin": 0})
    loss, _ = objective({CHOSEN: logps, NEGATIVE: logps}, {CHOSEN: fixed, NEGATIVE: fixed})
    loss.backward()
    assert logps.grad.abs().max() == 0 and abs(float(loss.detach()) - math.log(2)) < 1e-12


def test_each_arm_is_scored_once_and_only_if_needed():
    assert preset("dpo").arms == (CHOSEN, REJECTED)
    assert preset("mfpo").arms == (CHOSEN, REJECTED, NEGATIVE)
    assert preset("mfpo", weights={"text": 0}).arms == (CHOSEN, NEGATIVE)
    assert preset("margin").arms == (CHOSEN,)
    assert preset("sft").arms == (CHOSEN,) and preset("sft").reference_arms == ()


def test_sft_is_the_negative_log_likelihood_without_a_reference():
    policy = random_logps(7)
    loss, metrics = preset("sft")(policy)
    assert float(loss) == -float(policy[CHOSEN].mean()) and set(metrics) == {"loss/sft"}


def test_metrics_are_means_over_rows():
    zero = {arm: torch.zeros(2) for arm in (CHOSEN, REJECTED, NEGATIVE)}
    policy = {CHOSEN: torch.tensor([3.0, 1.0]), REJECTED: torch.tensor([-1.0, 2.0]), NEGATIVE: torch.tensor([1.0, 1.0])}
    _, m = preset("mfpo", beta=0.5)(policy, zero)
    # by hand, at beta .5: text gaps (2, -.5), image gaps (1, 0), rewards of chosen (1.5, .5)
    expected = {
        "gap/text": 0.75, "gap/image": 0.5, "gap/margin": 1.0,
        "accuracy/text": 0.5, "accuracy/image": 0.5, "accuracy/margin": 1.0,
        "rewards/chosen_original": 1.0, "rewards/rejected_original": 0.25, "rewards/chosen_negative": 0.5,
        "fairness": 0.5 / 0.75,
    }
    assert {k: round(float(m[k]), 5) for k in expected} == {k: round(v, 5) for k, v in expected.items()}
    assert modality_fairness(0.75, 0.5) == 0.5 / 0.75 and modality_fairness(1.0, -0.1) == 0 and modality_fairness(0, 0) == 0


def test_gaps_are_logged_where_the_arms_are_there():
    _, m = preset("margin")(random_logps(1), random_logps(2))
    assert {"gap/text", "gap/image", "fairness"} <= set(m)


def test_half_precision_is_raised_and_double_is_kept():
    half = {arm: x.to(torch.bfloat16) for arm, x in random_logps(0).items()}
    assert preset("mfpo")(half, half)[0].dtype == torch.float32
    assert preset("mfpo")(random_logps(0), random_logps(0))[0].dtype == torch.float64


def test_bad_input_is_refused_by_name():
    logps = random_logps(0)
    for make, words in [
        (lambda: preset("mfpo", beta=0), "beta=0"),
        (lambda: preset("ppo"), "'ppo' is unknown"),
        (lambda: preset("dpo", weights={"image": 1}), "no term image"),
        (lambda: preset("dpo", eta=0.1), "no margin term"),
        (lambda: preset("dpo", weights={"text": 0}), "leave no term"),
        (lambda: preset("dpo", weights={"text": -1}), "weight=-1"),
        (lambda: Term(CHOSEN, CHOSEN), "with itself"),
        (lambda: Term(CHOSEN, REJECTED, link="cosine"), "cosine"),
        (lambda: Objective(()), "at least one"),
        (lambda: preset("mfpo")({CHOSEN: logps[CHOSEN]}, logps), "rejected_original, chosen_negative"),
        (lambda: preset("mfpo")(logps), "reference log-probs lack"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


def test_a_log_prob_that_is_not_a_number_names_arm_and_rows():
    bad = random_logps(0)
    bad[REJECTED][3] = float("nan")
    with pytest.raises(ValueError, match=r"policy .*rejected_original.*\[3\]"):
        preset("mfpo")(bad, random_logps(1))


def test_settings_files_give_presets_and_own_lists():
    assert Objective.from_settings({"name": "mfpo", "beta": 0.2, "eta": 0.1}) == preset("mfpo", beta=0.2, eta=0.1)
    own = Objective.from_settings({
        "beta": 0.1, "name": "image_only",
        "terms": [{"better": ["chosen", "original"], "worse": ["chosen", "negative"], "name": "image"}],
    })
    assert own.arms == (CHOSEN, NEGATIVE)
    with pytest.raises(ValueError, match="params.yaml: train.*gamma"):
        Objective.from_settings({"name": "mfpo", "gamma": 1}, "params.yaml: train")
