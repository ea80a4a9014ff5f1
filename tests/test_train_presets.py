# Exported from nbs/train/presets.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.presets import *  # noqa: F403

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from mfpo.train.arms import CHOSEN, NEGATIVE, REJECTED
from mfpo.train.links import LINKS, PAIRWISE, SFT
from mfpo.train.methods import PRESETS
from mfpo.train.objectives import Objective


def random_logps(seed, batch=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {arm: -30 * torch.rand(batch, generator=generator, dtype=dtype) for arm in (CHOSEN, REJECTED, NEGATIVE)}

# TRL's own loss, on given per-token log-probs: the method of its trainer, on an object with what it reads.
PROMPT, WIDTH, PAIRS = 3, 6, 5
LENGTHS = torch.tensor([6, 4, 5, 1, 3, 2, 6, 5, 4, 1])  # of chosen answers, then of rejected ones


def trl_loss(token_logps, reference, types, weights=None, beta=0.1, smoothing=0.0, tau=0.05):
    """`DPOTrainer._compute_loss` of token log-probs (2 * PAIRS, PROMPT + WIDTH - 1), 0 off the answers, and sums."""
    from trl import DPOTrainer

    zeros, places = torch.zeros_like(token_logps), torch.arange(PROMPT + WIDTH)
    mask = ((places >= PROMPT) & (places < PROMPT + LENGTHS[:, None])).long()
    outputs = SimpleNamespace(log_probs=token_logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    same = lambda x: x
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(discopop_tau=tau, gradient_checkpointing_kwargs=None),
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        loss_types=types, loss_weights=weights or [1.0] * len(types), beta=beta, label_smoothing=smoothing,
        use_weighting=False, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )
    chosen, rejected = reference.chunk(2)
    inputs = {"input_ids": mask, "attention_mask": mask, "completion_mask": mask,
              "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    loss = DPOTrainer._compute_loss(trainer, lambda **kwargs: outputs, inputs, False)
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def our_loss(token_logps, reference, **settings):
    sums = dict(zip((CHOSEN, REJECTED), token_logps.sum(1).chunk(2)))
    counts = LENGTHS.to(token_logps.dtype).chunk(2)
    return preset("dpo", **settings)(sums, dict(zip((CHOSEN, REJECTED), reference.chunk(2))),
                                     {"tokens/chosen": counts[0], "tokens/rejected": counts[1]})


def both(seed, types, weights=None, **options):
    """(loss, gradient) of TRL and of this library, and the metrics of both."""
    g = torch.Generator().manual_seed(seed)
    width = PROMPT + WIDTH - 1
    on = (torch.arange(width) >= PROMPT - 1) & (torch.arange(width) < PROMPT - 1 + LENGTHS[:, None])
    tokens = -3 * torch.rand(2 * PAIRS, width, generator=g, dtype=torch.float64) * on
    reference = tokens.sum(1) + 4 * torch.rand(2 * PAIRS, generator=g, dtype=torch.float64) - 2
    spelt = {"smoothing": "label_smoothing", "tau": "discopop_tau", "beta": "beta"}
    out = []
    for make in (lambda x: trl_loss(x, reference, types, weights, **options),
                 lambda x: our_loss(x, reference, loss_type=types, loss_weights=weights,
                                    **{spelt[k]: v for k, v in options.items()})):
        x = tokens.clone().requires_grad_()
        loss, metrics = make(x)
        loss.backward()
        out.append((loss.detach(), x.grad * on, metrics))
    return out


TYPES = ("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
         "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm")


def test_every_loss_type_is_that_of_the_installed_trl():
    # TRL makes its smoothing a tensor of the default type; in float64 the two can be compared to the last digits
    torch.set_default_dtype(torch.float64)
    try:
        for seed, beta in enumerate((0.1, 0.5, 1.3)):
            for kind in TYPES:
                takes = {"smoothing": 0.15} if kind in ("robust", "exo_pair", "aot", "aot_unpaired") else {}
                for options in ({}, takes) if takes and kind != "exo_pair" else (takes,):
                    (loss, gradient, _), (our, ours, _) = both(seed, [kind], beta=beta, **options)
                    assert abs(float(loss) - float(our)) < 1e-9 * max(1, abs(float(loss))), (kind, options)
                    torch.testing.assert_close(ours, gradient, rtol=1e-9, atol=1e-12)
                    assert gradient.abs().max() > 0, kind
            (loss, gradient, _), (our, ours, _) = both(seed, ["discopop"], beta=beta, tau=0.5)
            torch.testing.assert_close((our, ours), (loss, gradient), rtol=1e-9, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)
    assert set(TYPES) == {*LINKS, SFT}


def test_several_loss_types_are_added_as_trl_adds_them():
    for types, weights in [(["sigmoid", "sft"], [1.0, 0.2]), (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),
                           (["ipo", "hinge"], None), (["sigmoid"], [0.3])]:
        (loss, gradient, _), (our, ours, metrics) = both(3, types, weights)
        torch.testing.assert_close((our, ours), (loss, gradient), rtol=1e-9, atol=1e-12)
        assert len(types) == 1 or {f"loss/text_{kind}" for kind in types} <= metrics.keys()


def test_rewards_are_those_that_trl_logs():
    for kind in ("sigmoid", "ipo", "hinge", "nca_pair"):
        (_, _, theirs), (_, _, ours) = both(4, [kind], beta=0.3)
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
            assert abs(theirs[name] - float(ours[name])) < 1e-6, (kind, name)


def test_simpo_is_that_of_trl():
    cpo = pytest.importorskip("trl.experimental.cpo")
    for beta, ratio, smoothing in [(2.0, 0.25, 0.0), (0.1, 0.5, 0.0), (1.0, 0.4, 0.2)]:
        trainer = SimpleNamespace(alpha=0.0, beta=beta, loss_type="simpo", simpo_gamma=ratio * beta,  # TRL's is absolute
                                  label_smoothing=smoothing, accelerator=SimpleNamespace(device="cpu"))
        sums, counts = random_logps(6), {CHOSEN: LENGTHS[:5].double(), REJECTED: LENGTHS[5:].double()}
        means = [sums[arm] / counts[arm] for arm in (CHOSEN, REJECTED)]
        losses, chosen, rejected = cpo.CPOTrainer.cpo_loss(trainer, *means)
        rows = {f"tokens/{arm.answer}": n for arm, n in counts.items()}
        loss, metrics = preset("simpo", beta=beta, gamma_beta_ratio=ratio, label_smoothing=smoothing)(sums, None, rows)
        assert abs(float(loss) - float(losses.mean())) < 1e-12
        assert abs(float(metrics["rewards/chosen"]) - float(chosen.mean())) < 1e-12
        assert abs(float(metrics["rewards/rejected"]) - float(rejected.mean())) < 1e-12


def test_loss_types_change_the_text_term_and_nothing_else():
    made = preset("mfpo", loss_type="hinge", weights={"image": 2.0})
    assert [term.link for term in made.terms] == ["hinge", "sigmoid", "sigmoid"] and made.terms[1].weight == 2
    made = preset("povid_stage2", loss_type=["sigmoid", "sft"], loss_weights=[1, 0.1])
    assert [(term.name, term.weight) for term in made.terms] == [("text_sigmoid", 0.5), ("text_sft", 0.05), ("own", 0.5)]
    assert preset("mfpo", loss_type=["sigmoid", "sft"], weights={"text_sft": 0}).terms[1].name == "image"
    smooth = preset("dpo", label_smoothing=0.1).terms[0]
    assert smooth.link == "sigmoid" and smooth.smoothing == 0.1
    made = preset("dpo", loss_type=["hinge", "robust"], label_smoothing=0.1)
    assert [term.smoothing for term in made.terms] == [0.0, 0.1]
    assert preset("simpo", loss_type="sft").counts == (("chosen", "all"),) and preset("vdpo", loss_type="sft").blanks == ()
    for kind in PAIRWISE:
        assert preset("povid_stage1", loss_type=kind).terms[0].link == kind


def test_beta_is_the_published_one_unless_given():
    betas = {name: preset(name).beta for name in PRESETS}
    assert {name for name, beta in betas.items() if beta != 0.1} == {"rlhfv", "chip", "simpo"}
    assert (betas["rlhfv"], betas["chip"], betas["simpo"]) == (0.5, 0.5, 2.0)
    assert preset("chip", released=True).beta == preset("rlhfv", released=True).beta == 0.1
    assert all(preset(name, beta=0.3).beta == 0.3 for name in PRESETS)
    # the margin of SimPO is in nats a token, so that in the reward's unit it follows beta
    assert preset("simpo").terms[0].margin == 0.5 and preset("simpo", beta=0.1).terms[0].margin == 0.025


def test_weights_scale_terms_and_zero_leaves_one_out():
    policy, reference = random_logps(1), random_logps(2)
    parts = {t.name: float(Objective((t,))(policy, reference)[0]) for t in preset("mfpo").terms}
    loss = float(preset("mfpo", weights={"image": 0.5, "margin": 2})(policy, reference)[0])
    assert abs(loss - (parts["text"] + 0.5 * parts["image"] + 2 * parts["margin"])) < 1e-12
    assert preset("mfpo", weights={"image": 0}).terms == preset("dpo_margin").terms
    assert preset("chip", weights={"text": 1.0}).terms == preset("chip").terms


def test_wrong_words_are_refused_with_the_remedy():
    for make, words in [
        (lambda: preset("ppo"), "objective 'ppo' is unknown; use one of .'dpo'"),
        (lambda: preset(["dpo"]), "is unknown"),
        (lambda: preset(None), "is unknown"), (lambda: preset("mfpo", beta=0), "beta=0.0 must be a positive"),
        (lambda: preset("mfpo", beta=-1), "beta=-1"), (lambda: preset("simpo", beta=0), "beta=0"),
        (lambda: preset("simpo", beta=math.inf), "beta=inf"),
        (lambda: preset("dpo", beta="x"), "objective 'dpo': beta='x'"),
        (lambda: preset("dpo", gamma=1), "no setting gamma; its own are none, beside beta"),
        (lambda: preset("dpo", eta=0.1), "no margin term; use one of .'margin'"),
        (lambda: preset("dpo", eta="x"), "eta='x'"),
        (lambda: preset("dpo", weights={"image": 1}), "objective 'dpo': there is no term image to weigh; the terms are"),
        (lambda: preset("dpo", weights={"text": 0}), "leave no term; give one of"),
        (lambda: preset("dpo", weights={"text": -1}), "weight=-1.0 must be a positive"),
        (lambda: preset("dpo", weights={"text": None}), "weights.text=None"),
        (lambda: preset("dpo", weights=3), "weights=3"),
        (lambda: preset("dpo", weights=["text"]), "must give a number to some of"),
        (lambda: preset("dpo", weights={3: 1}), "term 3"),
        (lambda: preset("dpo", loss_type="cosine"), "use any of .'sigmoid'"),
        (lambda: preset("dpo", loss_type=[]), "use any of"),
        (lambda: preset("dpo", loss_type=3), "loss_type=3"), (lambda: preset("dpo", loss_type=[["ipo"]]), "use any of"),
        (lambda: preset("dpo", loss_type=["ipo", "ipo"]), "add their loss_weights"),
        (lambda: preset("dpo", loss_type=["ipo"], loss_weights=[1, 2]), "as long as"),
        (lambda: preset("dpo", loss_type=["ipo"], loss_weights=1), "must be a list"),
        (lambda: preset("dpo", loss_type=["ipo"], loss_weights=["x"]), r"loss_weights\[0\]='x'"),
        (lambda: preset("dpo", loss_type=["ipo", "hinge"], loss_weights=[1, 0]), "leave the term out"),
        (lambda: preset("adavip", loss_type="ipo"), "of the text term, and there is none; the terms are .'adaptive'"),
        (lambda: preset("chip", released=True, loss_type="hinge"), "the terms are .'fused'"),
        (lambda: preset("dpo", loss_type="exo_pair"), "smoothing above 0"),
        (lambda: preset("dpo", loss_type="hinge", label_smoothing=0.1), "no effect on loss_type=.'hinge'"),
        (lambda: preset("dpo", label_smoothing=0.6), "below 0.5"),
        (lambda: preset("dpo", label_smoothing="x"), "label_smoothing"),
        (lambda: preset("dpo", loss_type="discopop", discopop_tau=0), "tau=0.0 must be positive"),
        (lambda: preset("simpo", loss_type="nca_pair"), "neither margin"), (lambda: describe("ppo"), "is unknown"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
    assert preset("dpo", eta=0.0) == preset("dpo")  # a trainer's default, where there is no margin term


def test_the_table_has_a_row_for_each():
    table = preset_table().splitlines()
    assert len(table) == len(PRESETS) + 2 and all(line.count("|") == 7 for line in table)
    assert r"pi(y \| blank)" in preset_table(["vdpo"], ["name", "summary"])
    row = describe("mfpo", weights={"image": 0.5})
    assert row["terms"] == "sigmoid(chosen - rejected) + 0.5 sigmoid(chosen - negative) + sigmoid(chosen)"
    assert describe("mrpo")["terms"] == "sigmoid(chosen - rejected), against two references"
    assert describe("simpo")["terms"].endswith("- 0.5), no reference")
    assert row["arms"] == "chosen, rejected, negative" and row["negatives"] == "mfpo" and row["beta"] == "0.1"
    assert describe("vdpo")["arms"] == "chosen, rejected, chosen_blank, rejected_blank"
    assert describe("mrpo")["reference"] == "two, mixed" and describe("simpo")["reference"] == "none"
    assert describe("simpo")["settings"] == "gamma_beta_ratio=0.25"
