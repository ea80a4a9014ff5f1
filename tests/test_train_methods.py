# Exported from nbs/train/methods.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.methods import *  # noqa: F403

import inspect
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import mfpo.train.methods as methods
from mfpo.train.arms import CHOSEN, MIRROR, NEGATIVE, REJECTED, Arm, Span, arm_of
from mfpo.train.methods import PRESETS, register
from mfpo.train.objectives import Objective
from mfpo.train.presets import preset

ROWS, WIDTH, VOCAB = 3, 6, 7
IMAGES, ANSWERS = ("original", "negative", "blank"), ("chosen", "rejected")


def small_world(seed, same=False):
    """Two models' logits for each answer on each image, tokens and lengths of the answers, spans of them."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)
    draw = lambda: {(a, m): 6 * rand(ROWS, WIDTH, VOCAB) for a in ANSWERS for m in IMAGES}
    lengths = {"chosen": torch.tensor([6, 4, 5]), "rejected": torch.tensor([3, 6, 5])}
    world = SimpleNamespace(
        reference=draw(),
        extra=draw(),  # a second reference
        ids={a: torch.randint(VOCAB, (ROWS, WIDTH), generator=g) for a in ANSWERS},
        mask={a: (torch.arange(WIDTH) < n[:, None]).double() for a, n in lengths.items()},
        caption=torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64),
    )
    world.policy = {k: x.clone() for k, x in world.reference.items()} if same else draw()
    world.policy = {k: x.requires_grad_() for k, x in world.policy.items()}
    world.spans = {a: {s: (rand(ROWS, WIDTH) < 0.5) * world.mask[a] for s in ("changed", "diverged", "objects")}
                   for a in ANSWERS}
    world.spans["rejected"]["changed"][0] = 0  # an answer in which nothing was changed
    world.own = world.reference["chosen", "negative"].argmax(-1)  # proposed once, by the reference
    return world


def token_logps(logits, ids):
    return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def read(world, model, reading, own="reference"):
    """A reading of a model: nats, (rows,). What a trainer's scoring returns."""
    logits, mask, ids = model[tuple(arm_of(reading))], world.mask[reading.answer], world.ids[reading.answer]
    tokens = getattr(reading, "tokens", "all")
    if tokens == "kl":
        p, q = logits.log_softmax(-1), world.reference[tuple(arm_of(reading))].log_softmax(-1)
        return ((q.exp() * (q - p)).sum(-1) * mask).sum(1)
    if tokens == "own":
        ids = world.own if own == "reference" else model["chosen", "negative"].argmax(-1)
    if tokens == "top":
        best = logits.topk(2, dim=-1).indices
        ids = torch.where(best[..., 0] == ids, best[..., 1], best[..., 0])
    weights = mask if tokens in ("all", "own", "top") else world.spans[reading.answer][tokens]
    return (token_logps(logits, ids) * weights).sum(1)


def loss_of(objective, world):
    policy = {r: read(world, world.policy, r, objective.own) for r in (*objective.readings, *objective.divergences)}
    policy |= {r: read(world, world.policy, r, objective.own).detach() for r in objective.blanks}
    of = lambda model: {r: read(world, model, r, objective.own) for r in objective.reference_readings}
    mixed = not isinstance(objective.reference, str)
    reference = (of(world.extra), of(world.reference)) if mixed else of(world.reference)
    rows = {"caption": world.caption}
    for answer in ANSWERS:
        rows[f"tokens/{answer}"] = world.mask[answer].sum(1)
        rows |= {f"tokens/{answer}/{s}": w.sum(1) for s, w in world.spans[answer].items()}
    return objective(policy, reference, rows)[0]

# The formulas, from token log-probs. l(x) = -log sigma(x); p, q: policy and reference, sums over the answer's tokens.


def l(x):
    return torch.log1p(torch.exp(-x))


def tokens_of(w, model, answer, image="original"):
    return token_logps(model[answer, image], w.ids[answer]) * w.mask[answer]


def D(w, answer, image="original", weights=None):
    """log pi - log ref, summed over (weighed) tokens."""
    weights = 1.0 if weights is None else weights
    return ((tokens_of(w, w.policy, answer, image) - tokens_of(w, w.reference, answer, image)) * weights).sum(1)


def kl(w, answer):
    p, q = (m[answer, "original"].log_softmax(-1) for m in (w.policy, w.reference))
    return ((q.exp() * (q - p)).sum(-1) * w.mask[answer]).sum(1)


def f_text(w, b):
    return l(b * (D(w, "chosen") - D(w, "rejected")))


def f_image(w, b):
    return l(b * (D(w, "chosen") - D(w, "chosen", "negative")))


def f_margin(w, b, eta=0.0):
    return l(b * D(w, "chosen") - eta)


def f_mfpo(w, b, eta=0.0):
    return f_text(w, b) + f_image(w, b) + f_margin(w, b, eta)


def f_ddpo(w, b, gamma, mean=True):
    """RLHF-V sec. 3.1: unchanged tokens once, changed ones gamma times, over their weighted number."""
    score = {}
    for a in ANSWERS:
        changed = w.spans[a]["changed"]
        unchanged = w.mask[a] - changed
        n = unchanged.sum(1) + gamma * changed.sum(1) if mean else 1.0
        score[a] = (D(w, a, weights=unchanged) + gamma * D(w, a, weights=changed)) / n
    return l(b * (score["chosen"] - score["rejected"]))


def f_povid2(w, b, each=False):
    own = [m["chosen", "negative"].argmax(-1) for m in (w.policy, w.reference)] if each else [w.own, w.own]
    p, q = (token_logps(m["chosen", "original"], o) * w.mask["chosen"] for m, o in zip((w.policy, w.reference), own))
    return 0.5 * l(b * (D(w, "chosen") - (p - q).sum(1))) + 0.5 * f_text(w, b)


def f_rdpo_released(w, b):
    """The labels of yl, and of yw on the negative image, give way to the top-1 token, top-2 where that is the label."""
    def quirk(answer, image):
        score = []
        for m in (w.policy, w.reference):
            logp, labels = m[answer, image].log_softmax(-1), w.ids[answer]
            order = logp.detach().argsort(-1, descending=True)
            ids = torch.where(order[..., 0] == labels, order[..., 1], order[..., 0])
            score.append((logp.gather(-1, ids[..., None])[..., 0] * w.mask[answer]).sum(1))
        return score[0] - score[1]

    text, image = quirk("rejected", "original"), quirk("chosen", "negative")
    return l(b * (D(w, "chosen") - text)) + l(b * (D(w, "chosen") - image))


def f_chip(w, b, lam=3.0, gamma=0.1, seg=1.0):
    """CHiP Eq. 12; Eq. 7: (1 / C) [sum over y + seg * sum over changed], C = |y| + seg |changed|."""
    score = {}
    for a in ANSWERS:
        changed = w.spans[a]["changed"]
        score[a] = (D(w, a) + seg * D(w, a, weights=changed)) / (w.mask[a].sum(1) + seg * changed.sum(1))
    segment = l(b * (score["chosen"] - score["rejected"]))
    return f_image(w, b) + f_text(w, b) + lam * segment + gamma * b * (kl(w, "rejected") - kl(w, "chosen").detach())


def f_chip_released(w, b, weight=4.0, tok_beta=0.1):
    by = {a: 1 + (weight - 1) * w.spans[a]["changed"] for a in ANSWERS}
    dw, dl = D(w, "chosen", weights=by["chosen"]), D(w, "rejected", weights=by["rejected"])
    dimg = D(w, "chosen", "negative", weights=by["chosen"])
    return l(b * ((dw - dl) + (dw - dimg) - tok_beta * (kl(w, "rejected") - kl(w, "chosen").detach())))


def f_adavip(w, b):
    r = [b * D(w, *arm) for arm in (("chosen", "original"), ("rejected", "original"), ("chosen", "negative"))]
    return -torch.log(torch.sigmoid(-torch.log(torch.exp(r[1] - r[0]) + torch.exp(r[2] - r[0]))))


def f_vdpo(w, b, gamma, by="policy", contrast=False, diverged=False):
    margin = {}
    for a in ANSWERS:
        weights = w.spans[a]["diverged"] if diverged else 1.0
        score = lambda m, image="original": (tokens_of(w, m, a, image) * weights).sum(1)
        blank = score(w.policy if by == "policy" else w.reference, "blank").detach()
        margin[a] = gamma * score(w.policy) - (gamma - 1) * blank - score(w.reference)
    loss = l(b * (margin["chosen"] - margin["rejected"]))
    if contrast:
        still = tokens_of(w, w.policy, "chosen", "blank").sum(1).detach()
        loss = loss + l(b * (D(w, "chosen") - (still - tokens_of(w, w.reference, "chosen", "blank").sum(1))))
    return loss


def f_sena(w, b):
    mean = tokens_of(w, w.policy, "chosen").sum(1) / w.mask["chosen"].sum(1)
    return f_text(w, b) - w.caption * mean


def f_mrpo(w, b, alpha=None, eta=0.1, split=True, crossed=False):
    """Row by row, in plain floats for the reference."""
    p = {a: tokens_of(w, w.policy, a).sum(1) for a in ANSWERS}
    one, two = ({a: tokens_of(w, m, a).sum(1).tolist() for a in ANSWERS} for m in (w.extra, w.reference))
    mixed = {a: [] for a in ANSWERS}
    for i in range(ROWS):
        d = [abs(m["chosen"][i] - m["rejected"][i]) for m in (one, two)]
        a_row = d[0] / (d[0] + d[1] + (1e-6 if crossed else 0)) if alpha is None else alpha
        size = {a: abs(one[a][i] + two[a][i]) / 2 for a in ANSWERS}
        for a in ANSWERS:
            room = eta * size[a] / sum(size.values()) if split else eta
            l1, l2 = one[a][i], two[a][i]
            l1 = min(max(l1, l2 * (1 + room)), l2 * (1 - room))
            first, second = (a_row, 1 - a_row) if not crossed else (1 - a_row, a_row)
            mixed[a].append(-math.log(first / math.exp(l1) + second / math.exp(l2)))
    gap = {a: p[a] - torch.tensor(mixed[a], dtype=torch.float64) for a in ANSWERS}
    return l(b * (gap["chosen"] - gap["rejected"]))


def f_simpo(w, b, gamma):
    mean = {a: tokens_of(w, w.policy, a).sum(1) / w.mask[a].sum(1) for a in ANSWERS}
    return l(b * mean["chosen"] - b * mean["rejected"] - gamma)


def f_objects(w, b):
    some = w.spans["chosen"]["objects"]
    image = l(b * (D(w, "chosen", weights=some) - D(w, "chosen", "negative", weights=some)))
    return f_text(w, b) + image + f_margin(w, b)


FORMULAS = [  # preset, its settings, the formula, and the loss at the start derived by hand in units of log 2 (or None)
    ("dpo", {}, lambda w: f_text(w, 0.1), 1),
    ("margin", {"eta": 0.2}, lambda w: f_margin(w, 0.1, 0.2), math.log(1 + math.exp(0.2)) / math.log(2)),
    ("dpo_margin", {}, lambda w: f_text(w, 0.1) + f_margin(w, 0.1), 2),
    ("sft", {}, lambda w: -tokens_of(w, w.policy, "chosen").sum(1), None),
    ("mdpo", {}, lambda w: f_mfpo(w, 0.1), 3),
    ("mfpo", {}, lambda w: f_mfpo(w, 0.1), 3),
    ("mfpo", {"eta": 0.3, "beta": 0.7}, lambda w: f_mfpo(w, 0.7, 0.3), 2 + math.log(1 + math.exp(0.3)) / math.log(2)),
    ("rlhfv", {}, lambda w: f_ddpo(w, 0.5, 5.0), 1),
    ("rlhfv", {"gamma": 1.0, "beta": 0.2}, lambda w: f_ddpo(w, 0.2, 1.0), 1),
    ("rlhfv", {"released": True}, lambda w: f_ddpo(w, 0.1, 1.1, mean=False), 1),
    ("povid_stage1", {}, lambda w: f_text(w, 0.1), 1),
    ("povid_stage2", {}, lambda w: f_povid2(w, 0.1), 1),
    ("povid_stage2", {"released": True}, lambda w: f_povid2(w, 0.1, each=True), 1),
    ("rdpo", {}, lambda w: f_text(w, 0.1) + f_image(w, 0.1), 2),
    ("rdpo", {"released": True}, lambda w: f_rdpo_released(w, 0.1), 2),
    ("chip", {}, lambda w: f_chip(w, 0.5), 5),
    ("chip", {"lam": 1, "gamma": 0.3, "changed": 2, "beta": 0.1}, lambda w: f_chip(w, 0.1, 1, 0.3, 2), 3),
    ("chip", {"lam": 0, "gamma": 0}, lambda w: f_text(w, 0.5) + f_image(w, 0.5), 2),
    ("chip", {"released": True}, lambda w: f_chip_released(w, 0.1), 1),
    ("chip", {"released": True, "changed": 1}, lambda w: f_chip_released(w, 0.1, 2.0), 1),
    ("chip", {"released": True, "gamma": 0.7}, lambda w: f_chip_released(w, 0.1, tok_beta=0.7), 1),
    ("adavip", {}, lambda w: f_adavip(w, 0.1), math.log(3) / math.log(2)),
    ("vdpo", {}, lambda w: f_vdpo(w, 0.1, 1.5), None),
    ("vdpo", {"gamma": 3, "by": "reference"}, lambda w: f_vdpo(w, 0.1, 3, "reference"), None),
    ("vdpo", {"contrast": True}, lambda w: f_vdpo(w, 0.1, 1.5, contrast=True), None),
    ("vdpo", {"gamma": 1, "diverged": True}, lambda w: f_vdpo(w, 0.1, 1, diverged=True), 1),
    ("vdpo", {"gamma": 2, "diverged": True}, lambda w: f_vdpo(w, 0.1, 2, diverged=True), None),
    ("sena", {}, lambda w: f_sena(w, 0.1), None),
    ("mrpo", {}, lambda w: f_mrpo(w, 0.1), None),
    ("mrpo", {"crossed": True}, lambda w: f_mrpo(w, 0.1, crossed=True), None),
    ("mrpo", {"alpha": 0.3, "clip": 0.5, "split": False}, lambda w: f_mrpo(w, 0.1, 0.3, 0.5, False), None),
    ("simpo", {}, lambda w: f_simpo(w, 2.0, 0.5), None),
    ("simpo", {"beta": 0.1, "gamma_beta_ratio": 0.5}, lambda w: f_simpo(w, 0.1, 0.05), None),
    ("mfpo_objects", {}, lambda w: f_objects(w, 0.1), 3),
    ("mfpo_mirror", {}, lambda w: f_mfpo(w, 0.1) + l(0.1 * (D(w, "rejected", "negative") - D(w, "rejected"))), 4),
]


def test_every_preset_equals_its_published_formula():
    assert {name for name, *_ in FORMULAS} == set(PRESETS)
    for seed in range(3):
        for name, settings, formula, _ in FORMULAS:
            world = small_world(seed)
            logits = list(world.policy.values())
            ours = loss_of(preset(name, **settings), world)
            theirs = formula(world).mean()
            gradients = [torch.autograd.grad(x, logits, allow_unused=True) for x in (ours, theirs)]
            assert abs(float(ours.detach()) - float(theirs.detach())) < 1e-9, (name, settings)
            for arm, *both in zip(world.policy, *gradients):
                a, b = (torch.zeros(ROWS, WIDTH, VOCAB) if g is None else g for g in both)
                assert float((a - b).abs().max()) < 1e-9, (name, settings, arm)
            assert any(g is not None and g.abs().max() > 1e-4 for g in gradients[0]), (name, settings)


def test_at_the_start_the_loss_is_the_one_derived_by_hand():
    # Policy and reference are one: each log-sigmoid term is log 2 (with an offset: log(1 + e^eta)), AdaViP's log 3, the
    # divergence 0. CHiP as published: 1 + 1 + lambda terms; POVID's halves make one; SENA adds its likelihood.
    for name, settings, formula, expected in FORMULAS:
        if expected is not None:
            loss = loss_of(preset(name, **settings), small_world(5, same=True))
            assert abs(float(loss.detach()) - expected * math.log(2)) < 1e-12, (name, settings)
    world = small_world(5, same=True)
    mean = (tokens_of(world, world.policy, "chosen").sum(1) / world.mask["chosen"].sum(1)).detach()
    expected = math.log(2) - float((mean[0] + mean[2]) / 3)  # rows 0 and 2 of 3 are captions
    assert abs(float(loss_of(preset("sena"), world).detach()) - expected) < 1e-12


def test_starts_that_are_not_log_2():
    one = lambda value: torch.tensor([value], dtype=torch.float64)
    # V-DPO, gamma 1.5: x = beta (gamma - 1) [(pw - bw) - (pl - bl)] = .1 * .5 * [(-10 + 14) - (-12 + 13)] = .15
    blank = {Arm("chosen", "blank"): one(-14.0), Arm("rejected", "blank"): one(-13.0)}
    logps = {CHOSEN: one(-10.0), REJECTED: one(-12.0), **blank}
    for by in ("policy", "reference"):
        assert abs(float(preset("vdpo", by=by)(logps, logps)[0]) - math.log(1 + math.exp(-0.15))) < 1e-12
    # SimPO, beta 2, ratio .25: means of -2 on both sides leave -gamma = -.5
    logps = {CHOSEN: one(-6.0), REJECTED: one(-10.0)}
    rows = {"tokens/chosen": one(3.0), "tokens/rejected": one(5.0)}
    assert abs(float(preset("simpo")(logps, None, rows)[0]) - math.log(1 + math.exp(0.5))) < 1e-12
    # MRPO: two references that agree are one, however they are weighed; two that do not are none
    for settings in ({}, {"alpha": 0.3}, {"crossed": True}):
        assert abs(float(preset("mrpo", **settings)(logps, (logps, logps))[0]) - math.log(2)) < 1e-12
    other = {CHOSEN: one(-5.0), REJECTED: one(-30.0)}
    assert abs(float(preset("mrpo")(logps, (other, logps))[0]) - math.log(2)) > 1e-3


def test_mfpo_without_an_offset_is_mdpo():
    for settings in ({}, {"beta": 0.3, "weights": {"image": 0.5}}, {"eta": 0.2}):
        results = []
        for name in ("mfpo", "mdpo"):
            world = small_world(7)
            loss = loss_of(preset(name, **settings), world)
            loss.backward()
            results.append((loss.detach(), *(x.grad for x in world.policy.values() if x.grad is not None)))
        assert len(results[0]) == 4 and all(bool((a == b).all()) for a, b in zip(*results))
    assert preset("mfpo").terms == preset("mdpo").terms and preset("mfpo").readings == preset("mdpo").readings


def test_gamma_1_is_no_guidance_and_reads_no_blank_image():
    assert preset("vdpo", gamma=1).terms == preset("dpo").terms
    assert {r.tokens for r in preset("vdpo", gamma=1, diverged=True).readings} == {"diverged"}
    assert preset("vdpo", contrast=True).blanks == (Arm("chosen", "blank"), Arm("rejected", "blank"))
    assert preset("vdpo", gamma=1, contrast=True).blanks == (Arm("chosen", "blank"),)
    assert preset("vdpo", by="reference").blanks == () and len(preset("vdpo", by="reference").reference_readings) == 4


def test_what_each_preset_asks_for():
    assert preset("povid_stage2").own == "reference" and preset("povid_stage2", released=True).own == "each"
    assert preset("povid_stage2").own_answers == ("chosen",) and preset("povid_stage2").arms == (CHOSEN, REJECTED)
    assert {r.tokens for r in preset("rdpo", released=True).readings if isinstance(r, Span)} == {"top"}
    assert preset("rdpo", released=True).arms == (CHOSEN, REJECTED, NEGATIVE)
    assert preset("simpo").reference_arms == () and preset("simpo").counts == (("chosen", "all"), ("rejected", "all"))
    assert preset("sena").columns == ("caption",)
    assert [arm_of(r) for r in preset("chip").divergences] == [CHOSEN, REJECTED] == [
        arm_of(r) for r in preset("chip", released=True).divergences]
    assert preset("chip", gamma=0).divergences == () and preset("mfpo_mirror").arms[-1] == MIRROR


def test_negative_images_are_those_of_the_method():
    from mfpo.data.negatives import PRESETS as NEGATIVES

    for name, method in PRESETS.items():
        assert method.negatives is None or method.negatives in NEGATIVES, name
        reads = {arm.image for arm in (*preset(name).arms, *preset(name).reference_arms)}
        needs = "negative" in reads or "own" in {getattr(r, "tokens", "") for r in preset(name).readings}
        assert needs == (method.negatives is not None), name


def test_presets_know_their_source_and_are_in_the_module():
    for name, method in PRESETS.items():
        assert getattr(methods, name) is method.make and method.paper and method.summary.endswith("."), name
        assert method() == preset(name) and method().name == name
        assert list(inspect.signature(method).parameters) == list(method.settings)


def test_settings_that_cannot_be_are_refused_with_the_remedy():
    for name, settings, words in [
        ("rlhfv", {"gamma": 0.5}, "at least 1"), ("rlhfv", {"gamma": "x"}, "gamma='x'"),
        ("rlhfv", {"released": 1}, "released=1"),
        ("chip", {"released": True, "lam": 3}, "set changed"), ("chip", {"gamma": -1}, "0 leaves the divergence out"),
        ("chip", {"lam": -1}, "weight=-1"), ("chip", {"changed": math.nan}, "changed=nan"),
        ("vdpo", {"gamma": 0}, "above 0"), ("vdpo", {"by": "me"}, "'reference' or 'policy'"),
        ("vdpo", {"contrast": "no"}, "contrast"),
        ("mrpo", {"alpha": 2}, "between 0 and 1"), ("mrpo", {"clip": -1}, "None clips nothing"),
        ("simpo", {"gamma_beta_ratio": None}, "gamma_beta_ratio=None"), ("mfpo", {"eta": math.inf}, "margin=inf"),
        ("povid_stage2", {"released": "yes"}, "must be true or false"), ("rdpo", {"released": None}, "released=None"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            preset(name, **settings)
        assert str(caught.value).startswith(f"objective {name!r}: ")


def test_a_preset_of_ones_own():
    @register("of this test", "mfpo")
    def image_first(strength: float = 2.0):
        """The image term, stronger. More text."""
        return Objective((TEXT, replace(IMAGE, weight=strength)))


    try:
        assert preset("image_first", strength=3).terms[1].weight == 3 and preset("image_first").name == "image_first"
        assert PRESETS["image_first"].summary == "The image term, stronger."
        assert PRESETS["image_first"].settings == {"strength": 2.0}
        with pytest.raises(ValueError, match="has no setting power"):
            preset("image_first", power=1)
    finally:
        del PRESETS["image_first"]
    for bad, words in [(lambda eta: None, "eta a default")]:
        with pytest.raises(ValueError, match=words):
            register("x")(bad)


    def dpo():
        return Objective((IMAGE,))


    with pytest.raises(ValueError, match="'dpo' is taken"):
        register("x")(dpo)
