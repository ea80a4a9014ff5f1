# Exported from nbs/train/objectives.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.objectives import *  # noqa: F403

import math
import random

import pytest
import torch
import yaml

from mfpo.train.arms import CHOSEN, MIRROR, NEGATIVE, REJECTED, Arm, Span, span_of
from mfpo.train.mixture import Mixture
from mfpo.train.objectives import Objective
from mfpo.train.presets import PRESETS, preset
from mfpo.train.terms import Guide, Term


def random_logps(seed, batch=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {arm: -30 * torch.rand(batch, generator=generator, dtype=dtype) for arm in (CHOSEN, REJECTED, NEGATIVE)}


def test_the_gradient_is_the_derived_one():
    # d/dx of -log sigmoid(b x) is -b sigmoid(-b x); the mean over 5 rows divides by 5
    policy, reference, beta = random_logps(3), random_logps(4), 0.1
    policy = {arm: x.requires_grad_() for arm, x in policy.items()}
    Objective([Term(CHOSEN, REJECTED)], beta)(policy, reference)[0].backward()
    x = beta * (policy[CHOSEN] - reference[CHOSEN] - policy[REJECTED] + reference[REJECTED]).detach()
    expected = -beta * torch.sigmoid(-x) / 5
    torch.testing.assert_close(policy[CHOSEN].grad, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(policy[REJECTED].grad, -expected, rtol=1e-12, atol=0)
    assert policy[NEGATIVE].grad is None


def test_image_term_has_no_gradient_when_the_negative_is_the_original():
    logps = random_logps(5)[CHOSEN].requires_grad_()
    fixed = random_logps(6)[CHOSEN]
    objective = Objective([Term(CHOSEN, NEGATIVE)])
    loss, _ = objective({CHOSEN: logps, NEGATIVE: logps}, {CHOSEN: fixed, NEGATIVE: fixed})
    loss.backward()
    assert logps.grad.abs().max() == 0 and abs(float(loss.detach()) - math.log(2)) < 1e-12


def test_each_reading_is_named_once_and_only_if_needed():
    assert preset("dpo").arms == (CHOSEN, REJECTED) == preset("dpo").readings == preset("dpo").encoded
    assert preset("mfpo").arms == (CHOSEN, REJECTED, NEGATIVE) == preset("mfpo").reference_arms
    assert preset("mfpo", weights={"text": 0}).arms == (CHOSEN, NEGATIVE)
    assert preset("margin").arms == (CHOSEN,)
    assert preset("sft").arms == (CHOSEN,) and preset("sft").reference_arms == ()
    blank = [Arm("chosen", "blank"), Arm("rejected", "blank")]
    by_policy = Objective([Term(CHOSEN, REJECTED, guide=Guide(2, by="policy"))])
    assert by_policy.readings == by_policy.reference_readings == (CHOSEN, REJECTED) and by_policy.blanks == tuple(blank)
    assert by_policy.encoded == (CHOSEN, REJECTED, *blank)
    by_reference = Objective([Term(CHOSEN, REJECTED, guide=Guide(2))])
    assert by_reference.reference_readings == (CHOSEN, REJECTED, *blank) and by_reference.blanks == ()
    # an arm that one term only looks at and another learns is read once, with a gradient
    both = Objective([Term(CHOSEN, REJECTED, stop=True), Term(CHOSEN, REJECTED, name="b")])
    assert both.readings == (CHOSEN, REJECTED) and both.blanks == ()
    token = Objective([Term(CHOSEN, REJECTED, link="kl", name="token")])
    assert token.readings == token.reference_readings == () and token.arms == token.reference_arms == (CHOSEN, REJECTED)
    assert token.encoded == (CHOSEN, REJECTED)
    own = Objective([Term(CHOSEN, Span("chosen", "original", "own"))])
    assert own.own_answers == ("chosen",) and own.arms == (CHOSEN,) and len(own.readings) == 2
    counted = Objective([Term(CHOSEN, REJECTED, tokens={"all": 1, "changed": 4}, per_token=True, rows="sure")])
    assert counted.columns == ("sure",)
    assert counted.counts == (("chosen", "all"), ("chosen", "changed"), ("rejected", "all"), ("rejected", "changed"))


def test_metrics_are_means_over_rows():
    zero = {arm: torch.zeros(2) for arm in (CHOSEN, REJECTED, NEGATIVE)}
    policy = {CHOSEN: torch.tensor([3.0, 1.0]), REJECTED: torch.tensor([-1.0, 2.0]), NEGATIVE: torch.tensor([1.0, 1.0])}
    _, m = preset("mfpo", beta=0.5)(policy, zero)
    # by hand, at beta .5: text gaps (2, -.5), image gaps (1, 0), rewards of chosen (1.5, .5)
    expected = {
        "gap/text": 0.75, "gap/image": 0.5, "gap/margin": 1.0,
        "accuracy/text": 0.5, "accuracy/image": 0.5, "accuracy/margin": 1.0,
        "rewards/chosen": 1.0, "rewards/rejected": 0.25, "rewards/negative": 0.5,
        "rewards/margins": 0.75, "rewards/accuracies": 0.5, "fairness": 0.5 / 0.75,
    }
    assert {k: round(float(m[k]), 5) for k in expected} == {k: round(v, 5) for k, v in expected.items()}
    assert m.keys() == expected.keys() | {"loss/text", "loss/image", "loss/margin"}
    assert modality_fairness(0.75, 0.5) == 0.5 / 0.75 and modality_fairness(1.0, -0.1) == 0 and modality_fairness(0, 0) == 0


def test_rewards_mean_the_same_whatever_the_terms_make_of_them():
    # weighed and divided in the term, beta * (log pi - log ref) of the whole answer in the log
    changed = {span_of(arm, "changed"): torch.tensor([-1.0]) for arm in (CHOSEN, REJECTED)}
    policy = {CHOSEN: torch.tensor([-6.0]), REJECTED: torch.tensor([-10.0]), **changed}
    reference = {reading: torch.zeros(1) for reading in policy}
    rows = {"tokens/chosen": torch.tensor([3.0]), "tokens/rejected": torch.tensor([5.0]),
            "tokens/chosen/changed": torch.tensor([1.0]), "tokens/rejected/changed": torch.tensor([1.0])}
    _, m = Objective([Term(CHOSEN, REJECTED, tokens={"all": 1, "changed": 4}, per_token=True)])(policy, reference, rows)
    assert abs(float(m["rewards/chosen"]) + 0.6) < 1e-6 and abs(float(m["rewards/margins"]) - 0.4) < 1e-6
    assert abs(float(m["gap/text"]) - 0.1 * (-10 / 7 + 14 / 9)) < 1e-6  # (-6 - 4) / 7 against (-10 - 4) / 9
    assert abs(float(m["rewards/chosen_original_changed"]) + 0.1) < 1e-6


def test_what_is_read_of_some_tokens_is_no_reward_of_the_answer():
    objects = [span_of(arm, "objects") for arm in (CHOSEN, NEGATIVE)]
    mine = Objective([Term(CHOSEN, REJECTED), Term(CHOSEN, NEGATIVE, name="image", tokens="objects")])
    policy = {reading: -torch.rand(3) for reading in (CHOSEN, REJECTED, *objects)}
    _, m = mine(policy, {reading: torch.zeros(3) for reading in policy})
    assert "rewards/negative" not in m and "fairness" not in m and "gap/image" in m


def test_accuracy_is_counted_from_the_margin():
    policy = {CHOSEN: torch.tensor([3.0, 1.0]), REJECTED: torch.zeros(2)}
    _, m = Objective([Term(CHOSEN, REJECTED, margin=0.2)])(policy, {arm: torch.zeros(2) for arm in policy})
    assert float(m["accuracy/text"]) == 0.5 and float(m["rewards/accuracies"]) == 1  # gaps of .3 and .1


def test_a_term_that_only_looks_takes_no_gradient_from_another():
    for order in (1, -1):
        gradients = []
        both = [Term(CHOSEN, REJECTED, stop=True, name="still"), Term(CHOSEN, REJECTED)][::order]
        for terms in (both, [Term(CHOSEN, REJECTED)]):
            policy = {arm: x.requires_grad_() for arm, x in random_logps(3).items()}
            Objective(terms)(policy, random_logps(4))[0].backward()
            gradients.append((policy[CHOSEN].grad, policy[REJECTED].grad))
        torch.testing.assert_close(gradients[0][0], 2 * gradients[1][0], rtol=1e-12, atol=0)
        assert bool((gradients[0][1] == gradients[1][1]).all())


def test_gaps_are_logged_where_the_arms_are_there():
    _, m = preset("margin")(random_logps(1), random_logps(2))
    assert {"gap/text", "gap/image", "fairness"} <= set(m)


def test_half_precision_is_raised_and_double_is_kept():
    half = {arm: x.to(torch.bfloat16) for arm, x in random_logps(0).items()}
    assert preset("mfpo")(half, half)[0].dtype == torch.float32
    assert preset("mfpo")(random_logps(0), random_logps(0))[0].dtype == torch.float64


def test_weights_of_a_call_stand_in_for_the_terms_own():
    policy, reference = random_logps(1), random_logps(2)
    given = preset("mfpo", weights={"image": 3.0})(policy, reference)[0]
    assert float(preset("mfpo")(policy, reference, weights={"image": 3.0})[0]) == float(given)
    assert float(preset("mfpo")(policy, reference, weights={"image": torch.tensor(3.0)})[0]) == float(given)
    with pytest.raises(ValueError, match="no term imagine to weigh; its terms are"):
        preset("mfpo")(policy, reference, weights={"imagine": 1.0})


def test_two_references_are_mixed_in_their_order():
    first, second = random_logps(1), random_logps(2)
    mixed = Objective([Term(CHOSEN, REJECTED)], reference=Mixture())
    single = Objective([Term(CHOSEN, REJECTED)])
    loss = mixed(random_logps(3), (first, second))[0]
    assert float(loss) == float(single(random_logps(3), Mixture()(first, second))[0])
    assert float(loss) != float(mixed(random_logps(3), (second, first))[0])
    for reference in (first, None, [first]):
        with pytest.raises(ValueError, match="give both"):
            mixed(random_logps(3), reference)


def test_bad_input_is_refused_with_the_remedy():
    logps, text = random_logps(0), Term(CHOSEN, REJECTED)
    for make, words in [
        (lambda: Objective([text], beta=0), "beta=0.0 must be a positive number"),
        (lambda: Objective([text], beta=-0.1), "beta=-0.1"),
        (lambda: Objective([text], beta=math.nan), "beta=nan must be a finite"),
        (lambda: Objective([text], beta="strong"), "beta='strong'"),
        (lambda: Objective([]), "at least one"),
        (lambda: Objective([text, text]), "each its own name"),
        (lambda: Objective(text), "list of terms"), (lambda: Objective("dpo"), "list of terms"),
        (lambda: Objective([{"better": CHOSEN}]), "list of terms"),
        (lambda: Objective([text], name=""), "name must be a text"),
        (lambda: Objective([text], reference="old"), "use one of .'model', 'none'"),
        (lambda: Objective([text], reference=[]), "reference="),
        (lambda: Objective([text], reference={"alfa": 1}), "unknown setting alfa"),
        (lambda: Objective([text], own="yours"), "use one of .'reference', 'policy', 'each'"),
        (lambda: Objective([Term(CHOSEN, REJECTED, kl=0.1)], reference="none"), "leave the term out, or set 'model'"),
        (lambda: Objective([Term(CHOSEN, REJECTED, link="kl")], reference="none"), "needs a reference"),
        (lambda: Objective([Term(CHOSEN, REJECTED, link="aot")], reference="none"), "needs a reference"),
        (lambda: Objective([Term(CHOSEN, REJECTED, guide=Guide(2))], reference="none"), "needs a reference"),
        (lambda: Objective([Term(CHOSEN, NEGATIVE)], reference=Mixture()), "split=False"),
        (lambda: Objective([text, Term(CHOSEN, REJECTED, tokens="x", name="b")], reference=Mixture()), "whole answers"),
        (lambda: Objective([Term(CHOSEN, REJECTED, kl=1)], reference=Mixture()), "without kl"),
        (lambda: preset("mfpo")({CHOSEN: logps[CHOSEN]}, logps), "policy .*rejected_original, chosen_negative"),
        (lambda: preset("mfpo")(logps), "reference log-probs lack the arm chosen_original"),
        (lambda: preset("mfpo")(logps, {CHOSEN: logps[CHOSEN]}), "score every arm"),
        (lambda: preset("mfpo")({"chosen": logps[CHOSEN]}, logps), "is no arm"),
        (lambda: preset("dpo", loss_type="ipo")(logps, logps), "lack tokens/chosen, tokens/rejected; collate"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


def test_a_number_that_is_none_names_reading_and_rows():
    for value in (math.nan, math.inf, -math.inf):
        bad = random_logps(0)
        bad[REJECTED][3] = value
        with pytest.raises(ValueError, match=r"policy .*rejected_original.*\[3\].*learning rate"):
            preset("mfpo")(bad, random_logps(1))
        with pytest.raises(ValueError, match=r"reference .*rejected_original.*\[3\]"):
            preset("mfpo")(random_logps(1), bad)
    rows = {"tokens/chosen": torch.ones(5), "caption": torch.tensor([0, 1, math.nan, 0, 0])}
    with pytest.raises(ValueError, match=r"caption.*\[2\].*give each row a number"):
        preset("sena")(random_logps(0), random_logps(1), rows)


def test_settings_files_give_presets_and_own_lists():
    assert Objective.from_settings({"name": "mfpo", "beta": 0.2, "eta": 0.1}) == preset("mfpo", beta=0.2, eta=0.1)
    assert Objective.from_settings({}) == preset("mfpo")
    section = yaml.safe_load("""
    name: everything
    beta: 1e-1
    own: policy
    terms:
      - {better: [chosen, original], worse: [rejected, original], tokens: {all: 1, changed: 4}, per_token: true}
      - {better: [chosen, original], worse: [[rejected, original], [chosen, negative]], join: logsumexp, name: adaptive,
         weight: .5}
      - {better: [chosen, original], worse: [chosen, original, own], name: own}
      - {better: [chosen, original], worse: [rejected, original], guide: {gamma: 1.5, by: policy}, name: guided}
      - {better: [chosen, original], link: nll, per_token: true, rows: caption, name: caption}
      - {better: [chosen, original], worse: [rejected, original], link: kl, weight: .1, name: token}
    """)
    own = Objective.from_settings(section)
    assert own == Objective((
        Term(CHOSEN, REJECTED, tokens={"all": 1, "changed": 4}, per_token=True),
        Term(CHOSEN, (REJECTED, NEGATIVE), join="logsumexp", name="adaptive", weight=0.5),
        Term(CHOSEN, Span("chosen", "original", "own"), name="own"),
        Term(CHOSEN, REJECTED, guide=Guide(1.5, by="policy"), name="guided"),
        Term(CHOSEN, link="nll", per_token=True, rows="caption", name="caption"),
        Term(CHOSEN, REJECTED, link="kl", weight=0.1, name="token"),
    ), beta=0.1, own="policy", name="everything")
    mixed = Objective.from_settings({"terms": [{"better": list(CHOSEN), "worse": list(REJECTED)}],
                                     "reference": {"alpha": 0.3, "clip": None, "crossed": True}})
    assert mixed.reference == Mixture(0.3, clip=None, crossed=True)
    for section, words in [
        ({"name": "mfpo", "gamma": 1}, "params.yaml: train: .*no setting gamma"), ("mfpo", "no section"),
        (None, "no section"),
        ([], "no section"), ({1: 2}, "no section"), ({"terms": 3}, "list of terms"),
        ({"terms": [3]}, r"terms\[0\]: 3 is no"),
        ({"terms": [{"worse": ["a", "b"]}]}, "better is missing"),
        ({"terms": [{"better": ["a", "b"], "wait": 1}]}, "setting wait"),
        ({"terms": [], "name": "x"}, "at least one"), ({"terms": [], "etta": 1}, "unknown setting etta"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            Objective.from_settings(section, "params.yaml: train")
        assert str(caught.value).startswith("params.yaml: train: ")


def test_what_is_written_is_read_back_as_the_same():
    for name in PRESETS:
        made = preset(name)
        section = yaml.safe_load(yaml.safe_dump(made.to_settings()))
        assert Objective.from_settings(section) == made and section["name"] == name, name
    whole = Objective([Term(CHOSEN, REJECTED, margin=0.3), Term(CHOSEN, name="b", weight=2)], beta=0.7, name="n",
                      own="each", reference=Mixture(0.2, clip=None, split=False))
    assert Objective.from_settings(yaml.safe_load(yaml.safe_dump(whole.to_settings()))) == whole
    assert Objective([Term(CHOSEN, REJECTED)]).to_settings() == {
        "name": "custom", "beta": 0.1, "terms": [{"better": ["chosen", "original"], "worse": ["rejected", "original"]}]}


def test_whatever_a_file_holds_only_value_errors_come_out():
    JUNK = (None, True, 0, -1, 1.5, math.nan, math.inf, 10**400, "", "x", "chosen", "kl", "own", b"x", [], [1], [[]], {},
            {"a": 1}, {1: 2}, [["chosen", "original"], 3], ["chosen", "negative"], {"gamma": "x"}, (), "adaptive",
            1e-300, 1e300)


    KEYS = ("guide", "tokens", "kl", "rows", "stop", "link", "worse", "eta", 3, "beta", "reference", "name")


    def mutated(value, rng):
        """The value with one thing in it replaced, dropped, doubled or added."""
        if isinstance(value, (dict, list)) and value and rng.random() < 0.75:
            value = dict(value) if isinstance(value, dict) else list(value)
            key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
            action = rng.random()
            if action < 0.6:
                value[key] = mutated(value[key], rng)
            elif action < 0.75:
                del value[key]
            elif isinstance(value, list):
                value.append(rng.choice(JUNK))
            else:
                value[rng.choice(KEYS)] = rng.choice(JUNK)
            return value
        return rng.choice(JUNK)


    rng, refused, made = random.Random(0), 0, 0
    starts = [preset(name).to_settings() for name in PRESETS]
    starts += [{"name": name, "beta": 0.1, "weights": {}} for name in PRESETS]
    starts += [{"name": "dpo", "loss_type": ["sigmoid", "ipo"], "loss_weights": [1, 2], "label_smoothing": 0.1},
               {"name": "mrpo", "alpha": 0.5, "clip": None, "crossed": True},
               {"name": "chip", "released": True, "gamma": 0.2}]
    for _ in range(4000):
        section = rng.choice(starts)
        for _ in range(rng.randint(1, 3)):
            section = mutated(section, rng)
        try:
            objective = Objective.from_settings(section)
            assert Objective.from_settings(objective.to_settings()) == objective
            made += 1
        except ValueError as error:
            assert str(error).startswith("objective: ")
            refused += 1
    assert refused > 1000 and made > 100
