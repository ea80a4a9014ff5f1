# Exported from nbs/train/terms.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.terms import *  # noqa: F403

import math

import pytest
import torch

from mfpo.train.arms import CHOSEN, MIRROR, NEGATIVE, REJECTED, Arm, Span, arm_of, span_of
from mfpo.train.links import LINKS


def numbers_of(term, seed=0, batch=4, beta=0.1, **rows):
    """Random log-probs for all that a term reads."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda: -20 * torch.rand(batch, generator=g, dtype=torch.float64)
    policy = {r: draw().requires_grad_() for r in (*term.readings, *term.still)}
    policy |= {r: (-draw()).requires_grad_() for r in term.divergences}
    reference = {r: draw() for r in (*term.compared, *term.blanks)}
    return Numbers(policy, reference, {k: torch.tensor(v, dtype=torch.float64) for k, v in rows.items()}, beta)


def test_weights_of_spans_are_weights_of_tokens():
    # 4 for changed tokens and 1 for others is the sum over all, and 3 times the sum over the changed
    term = Term(CHOSEN, REJECTED, tokens={"all": 1, "changed": 3})
    changed = torch.tensor([0.0, 1, 1, 0], dtype=torch.float64)
    tokens = {arm: -torch.rand(2, 4, dtype=torch.float64) for arm in (CHOSEN, REJECTED)}
    sums = {arm: x.sum(1) for arm, x in tokens.items()}
    sums |= {span_of(arm, "changed"): (x * changed).sum(1) for arm, x in tokens.items()}
    zero = {reading: torch.zeros(2, dtype=torch.float64) for reading in sums}
    weights = torch.tensor([1.0, 4, 4, 1], dtype=torch.float64)
    expected = 0.1 * ((tokens[CHOSEN] - tokens[REJECTED]) * weights).sum(1)
    torch.testing.assert_close(valued(term, Numbers(sums, zero, {}, 0.1)).gap, expected, rtol=1e-12, atol=1e-12)
    assert term.readings == (CHOSEN, span_of(CHOSEN, "changed"), REJECTED, span_of(REJECTED, "changed"))


def test_means_divide_each_side_by_its_own_length():
    # better: (-6 + 3) / 3 = -1, worse: (-10 - 0) / 5 = -2; gap = .1 * (-1 + 2) = .1
    term = Term(CHOSEN, REJECTED, per_token=True)
    numbers = Numbers({CHOSEN: torch.tensor([-6.0]), REJECTED: torch.tensor([-10.0])},
                      {CHOSEN: torch.tensor([-3.0]), REJECTED: torch.tensor([0.0])},
                      {"tokens/chosen": torch.tensor([3.0]), "tokens/rejected": torch.tensor([5.0])}, 0.1)
    assert abs(float(valued(term, numbers).gap) - 0.1) < 1e-7
    assert term.counts == (("chosen", "all"), ("rejected", "all"))
    # an answer with no token of the span is no division by zero: its sum is 0, and so is its mean
    none = Term(CHOSEN, None, tokens="objects", per_token=True)
    empty = {span_of(CHOSEN, "objects"): torch.zeros(1)}
    assert float(valued(none, Numbers(empty, empty, {"tokens/chosen/objects": torch.zeros(1)}, 0.1)).gap) == 0


def test_other_tokens_stand_at_the_places_of_the_answers_own():
    term = Term(CHOSEN, Span("chosen", "original", "own"), per_token=True)
    assert term.counts == (("chosen", "all"),) == Term(CHOSEN, Span("chosen", "original", "top"), per_token=True).counts


def test_rows_are_weighed_one_by_one():
    term = Term(CHOSEN, REJECTED, rows="sure")
    numbers = numbers_of(term, sure=[0.0, 1.0, 0.5, 2.0])
    torch.testing.assert_close(valued(term, numbers).loss, valued(Term(CHOSEN, REJECTED), numbers).loss * numbers.rows["sure"])


def test_the_hardest_of_several_counts_most():
    # d loss / d R_j is softmax over (0, R_j - R) of j: written out for two worse arms
    term = Term(CHOSEN, (REJECTED, NEGATIVE), join="logsumexp", name="adaptive")
    numbers = numbers_of(term)
    valued(term, numbers).loss.sum().backward()
    with torch.no_grad():
        r = [0.1 * (numbers.policy[a] - numbers.reference[a]) for a in (CHOSEN, REJECTED, NEGATIVE)]
        share = torch.softmax(torch.stack(r), 0)
    for k, arm in enumerate((CHOSEN, REJECTED, NEGATIVE)):
        expected = 0.1 * (share[k] - (1.0 if k == 0 else 0.0))
        torch.testing.assert_close(numbers.policy[arm].grad, expected, rtol=1e-10, atol=1e-14)


def test_one_worse_arm_is_the_same_however_it_is_joined():
    for join in ("sum", "logsumexp"):
        term = Term(CHOSEN, REJECTED, join=join)
        torch.testing.assert_close(valued(term, numbers_of(term)).gap, valued(Term(CHOSEN, REJECTED), numbers_of(term)).gap)


def test_a_guide_has_no_gradient_through_the_blank_image():
    for by in ("policy", "reference"):
        term = Term(CHOSEN, REJECTED, guide=Guide(1.5, by=by))
        numbers = numbers_of(term)
        value = valued(term, numbers)
        value.loss.sum().backward()
        blank = [r for r in term.blanks]
        assert blank == [Arm("chosen", "blank"), Arm("rejected", "blank")]
        assert term.still == (tuple(blank) if by == "policy" else ())
        assert all(numbers.policy[r].grad is None for r in term.still)
        source = numbers.policy if by == "policy" else numbers.reference
        p, q = numbers.policy, numbers.reference
        guided = [1.5 * p[a] - 0.5 * source[b] - q[a] for a, b in zip((CHOSEN, REJECTED), blank)]
        torch.testing.assert_close(value.gap, 0.1 * (guided[0] - guided[1]), rtol=1e-12, atol=1e-12)


def test_arms_that_are_only_looked_at_have_no_gradient():
    term = Term(CHOSEN, Arm("chosen", "blank"), stop=True, name="blank")
    assert term.readings == (CHOSEN,) and term.still == (Arm("chosen", "blank"),)
    assert term.compared == (CHOSEN, Arm("chosen", "blank"))
    numbers = numbers_of(term)
    valued(term, numbers).loss.sum().backward()
    assert numbers.policy[CHOSEN].grad.abs().min() > 0 and numbers.policy[Arm("chosen", "blank")].grad is None


def test_the_divergence_pulls_the_worse_arm_only():
    term = Term(CHOSEN, REJECTED, link="kl", name="token", weight=0.1)
    assert term.readings == term.compared == () and [r.tokens for r in term.divergences] == ["kl", "kl"]
    numbers = numbers_of(term, beta=0.5)
    value = valued(term, numbers)
    better, worse = (numbers.policy[r] for r in term.divergences)
    torch.testing.assert_close(value.loss, 0.5 * (worse - better))
    value.loss.sum().backward()
    assert better.grad is None and (worse.grad == 0.5).all()  # going down the loss makes the worse arm's KL smaller
    alone = Term(CHOSEN, link="kl")
    numbers = numbers_of(alone, beta=0.5)
    torch.testing.assert_close(valued(alone, numbers).loss, 0.5 * numbers.policy[alone.divergences[0]])


def test_the_divergence_within_a_reward():
    # CHiP's released code: logit = gap - beta * kl * (KL(worse) - stop(KL(better)))
    term, without = Term(CHOSEN, (REJECTED, NEGATIVE), kl=0.3), Term(CHOSEN, (REJECTED, NEGATIVE))
    numbers = numbers_of(term)
    better, worse = (numbers.policy[r] for r in term.divergences)
    assert [arm_of(r) for r in term.divergences] == [CHOSEN, REJECTED]
    torch.testing.assert_close(valued(term, numbers).gap, valued(without, numbers).gap - 0.1 * 0.3 * (worse - better))
    valued(term, numbers).loss.sum().backward()
    assert better.grad is None and (worse.grad > 0).all()


def test_likelihoods_by_row_by_token_and_by_batch():
    logps, n = torch.tensor([-6.0, -10.0]), torch.tensor([3.0, 5.0])
    value = lambda term, **rows: valued(term, Numbers({CHOSEN: logps}, {}, {"tokens/chosen": n, **rows}, 0.1)).loss.mean()
    assert float(value(Term(CHOSEN, link="nll"))) == 8  # (6 + 10) / 2
    assert float(value(Term(CHOSEN, link="nll", per_token=True))) == 2  # (2 + 2) / 2
    assert float(value(Term(CHOSEN, link="sft"))) == 2  # 16 / 8
    half = torch.tensor([1.0, 0.0])
    assert float(value(Term(CHOSEN, link="nll", per_token=True, rows="caption"), caption=half)) == 1  # 2 / 2 rows
    assert float(value(Term(CHOSEN, link="sft", rows="caption"), caption=half)) == 2  # 6 / 3 tokens of the rows that count
    assert float(value(Term(CHOSEN, link="sft", rows="caption"), caption=0 * half)) == 0


def test_a_link_of_ones_own():
    def cauchy(c):
        return torch.log1p((c.gap - 1) ** 2)


    term = Term(CHOSEN, REJECTED, link=cauchy)
    numbers = numbers_of(term)
    torch.testing.assert_close(valued(term, numbers).loss, torch.log1p((valued(term, numbers).gap - 1) ** 2))
    assert str(term) == "cauchy(chosen - rejected)"
    with pytest.raises(ValueError, match="LINKS under a name"):
        term.to_settings()
    with pytest.raises(ValueError, match="loss for each of the 4 rows"):
        valued(Term(CHOSEN, REJECTED, link=lambda c: c.gap.mean()), numbers)
    LINKS["cauchy"] = cauchy
    try:
        named = Term(CHOSEN, REJECTED, link="cauchy")
        assert named.to_settings()["link"] == "cauchy" and Term(**named.to_settings()) == named
        assert bool((valued(named, numbers).loss == valued(term, numbers).loss).all())
    finally:
        del LINKS["cauchy"]


def test_terms_that_cannot_be_are_refused_with_the_remedy():
    cases = [
        ({"worse": CHOSEN}, "with itself"), ({"worse": (REJECTED, REJECTED)}, "name another arm"),
        ({"link": "cosine"}, "'cosine' is unknown; use one of"), ({"link": 3}, "link=3 is unknown"),
        ({"link": ["sigmoid"]}, "is unknown"), ({"join": "max"}, "use one of .'sum', 'logsumexp'"),
        ({"join": []}, "join="),
        ({"weight": 0}, "weight=0.0 must be a positive"), ({"weight": -1}, "leave the term out"),
        ({"weight": math.nan}, "weight=nan must be a finite"), ({"weight": "much"}, "weight='much'"),
        ({"weight": True}, "weight=True must be a finite number"), ({"weight": 10**400}, "must be a finite number"),
        ({"margin": math.inf}, "margin=inf"), ({"smoothing": 0.5}, "below 0.5"), ({"smoothing": -0.1}, "at least 0"),
        ({"link": "hinge", "smoothing": 0.1}, "takes no smoothing; set it to 0"),
        ({"link": "exo_pair"}, "smoothing above 0, such as"), ({"tau": 0}, "tau=0.0 must be positive"),
        ({"kl": -1}, "kl=-1.0 must not"), ({"kl": 1, "worse": None}, "name one"),
        ({"stop": True, "worse": None}, "name one"),
        ({"kl": 1, "per_token": True}, "leave per_token"),
        ({"kl": 1, "worse": Span("chosen", "original", "own")}, "itself"),
        ({"link": "nll"}, "takes no worse arm"), ({"link": "sft", "worse": None, "margin": 1}, "margin"),
        ({"link": "nll", "worse": None, "guide": Guide(2)}, "guide"),
        ({"link": "kl", "per_token": True}, "whole answers"), ({"link": "kl", "tokens": "changed"}, "whole answers"),
        ({"link": "kl", "worse": (REJECTED, NEGATIVE)}, "one worse arm or none"),
        ({"link": "kl", "margin": 1}, "whole answers"),
        ({"link": "nca_pair", "worse": None}, "exactly one worse"), ({"link": "aot", "margin": 1}, "neither margin"),
        ({"link": "apo_zero", "worse": (REJECTED, NEGATIVE)}, "exactly one worse"),
        ({"tokens": {}}, "weigh no token"), ({"tokens": {"all": 0}}, "weigh no token"),
        ({"tokens": 3}, "weigh no token"),
        ({"tokens": {"all": "x"}}, "tokens.all='x'"), ({"tokens": {3: 1}}, "weigh no token"),
        ({"tokens": ""}, "weigh no token"),
        ({"tokens": "kl"}, "link='kl'"), ({"worse": Span("rejected", "original", "kl")}, "link='kl'"),
        ({"tokens": "changed", "worse": Span("chosen", "original", "own")}, "name arms"),
        ({"worse": "rejected"}, "is no arm"), ({"worse": {"rejected": "original"}}, "is no arm"),
        ({"worse": 3}, "is no arm"),
        ({"worse": [["rejected", "original"], "negative"]}, "is no arm"), ({"better": None}, "is no arm"),
        ({"guide": 2}, "guide: 2 is no section; give some of gamma"),
        ({"guide": {"gamma": 0}}, "gamma=0.0 must be above 0"),
        ({"guide": {}}, "gamma is missing"), ({"guide": {"gamma": 2, "by": "me"}}, "'reference' or 'policy'"),
        ({"guide": {"gamma": 2, "image": ""}}, "must name an image"), ({"guide": {"gama": 2}}, "unknown setting gama"),
        ({"rows": 3}, "must name a column"), ({"rows": ""}, "must name a column"),
        ({"name": ""}, "name must be a text"),
        ({"name": 3}, "name must be"), ({"per_token": "no"}, "per_token='no' must be true or false"),
        ({"stop": 1}, "stop=1"),
    ]
    for changes, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            Term(**{"better": CHOSEN, "worse": REJECTED, "name": "mine", **changes})
        assert str(caught.value).startswith(f"term {changes.get('name', 'mine')!r}: ")


def test_a_term_is_written_as_it_is_read():
    assert Term(**Term(CHOSEN, REJECTED).to_settings()) == Term(CHOSEN, REJECTED)
    assert Term(CHOSEN).to_settings() == {"better": ["chosen", "original"]}
    whole = Term(CHOSEN, (REJECTED, Span("chosen", "original", "own")), weight=0.5, margin=1, name="a", join="logsumexp",
                 smoothing=0.1, kl=0.2, guide={"gamma": 2, "by": "policy"}, rows="caption", stop=True)
    section = whole.to_settings()
    assert section["worse"] == [["rejected", "original"], ["chosen", "original", "own"]]
    assert section["guide"] == {"gamma": 2.0, "image": "blank", "by": "policy"} and Term(**section) == whole
    assert hash(Term(**section)) == hash(whole)
    weighed = Term(CHOSEN, REJECTED, tokens={"all": 1, "changed": 4, "none": 0}, per_token=True)
    assert weighed.to_settings()["tokens"] == {"all": 1.0, "changed": 4.0} and Term(**weighed.to_settings()) == weighed
    assert Term(CHOSEN, REJECTED, tokens="changed").to_settings()["tokens"] == "changed"
    assert Term(CHOSEN, REJECTED, tokens={"changed": 2}).to_settings()["tokens"] == {"changed": 2.0}


def test_a_term_tells_itself_in_a_line():
    assert str(Term(CHOSEN, (REJECTED, NEGATIVE), weight=0.5, kl=0.1)) == (
        "0.5 sigmoid(chosen - rejected + chosen - negative - 0.1 (KL(rejected) - KL(chosen)))")
    assert str(Term(CHOSEN, (REJECTED, NEGATIVE), join="logsumexp")) == "sigmoid(chosen - logsumexp(rejected, negative))"
    assert str(Term(CHOSEN, REJECTED, tokens="changed", kl=0.1)).endswith("- 0.1 (KL(rejected) - KL(chosen)))")
    assert str(Term(MIRROR, REJECTED, margin=0.5, stop=True)) == "sigmoid(rejected_negative - stop(rejected) - 0.5)"
    assert str(Term(CHOSEN, REJECTED, link="kl", weight=0.1)) == "0.1 kl(KL(rejected) - KL(chosen))"
