# Exported from nbs/train/balance.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.balance import *  # noqa: F403

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch

from mfpo.settings import settings_from
from mfpo.train.arms import CHOSEN, NEGATIVE, REJECTED
from mfpo.train.objectives import Objective
from mfpo.train.presets import preset
from mfpo.train.terms import Term


def parameter(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)

import datasets
from PIL import Image, ImageDraw

from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora
from mfpo.train.trainer import MFPOConfig, MFPOTrainer


def drawn_rows(count):
    """Pictures of a square; the negative has it painted over."""
    rows = []
    for i in range(count):
        image, color = Image.new("RGB", (64, 64), "white"), ("red", "blue", "green")[i % 3]
        negative = image.copy()
        ImageDraw.Draw(image).rectangle([16 * (i % 4), 16, 16 * (i % 4) + 15, 31], fill=color)
        rows.append({"id": f"row-{i}", "question": "which color is it ?", "image": image, "negative": negative,
                     "chosen": f"it is {color} .", "rejected": "there is no cup on the table ."})
    return datasets.Dataset.from_list(rows)


def small_trainer(folder, balance="none", dropout=0.0, callbacks=(), **changes):
    """`balance` is an option of MFPOConfig, or a BalanceConfig."""
    model, processor = small_vlm_for_tests()
    changes["balance"] = balance if isinstance(balance, str) else "none"
    peft = lora(model, r=4, projector=True)
    peft.lora_dropout = dropout
    args = MFPOConfig(**dict(
        output_dir=str(folder), bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none", disable_tqdm=True,
        logging_steps=1, per_device_train_batch_size=4, learning_rate=1e-2, num_train_epochs=2, save_strategy="no", seed=3,
    ) | changes)
    trainer = MFPOTrainer(model=model, args=args, train_dataset=drawn_rows(12), processing_class=processor,
                          peft_config=peft, callbacks=list(callbacks))
    if not isinstance(balance, str):
        trainer.balancer = Balancer(balance, trainer.objective, trainer.accelerator.gather)
    return trainer


def trained(trainer):
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_a_setting_that_cannot_be_is_refused():
    for wrong, words in (
        ({"of": "loss"}, "of='loss' is unknown"), ({"of": ["gap"]}, "is unknown"), ({"ratio": {"text": 1}}, "at least two terms"), ({"ratio": "text"}, "must map names"),
        ({"ratio": {"text": 1, "image": 0}}, "leave a term out"), ({"ratio": {"text": 1, "image": float("nan")}}, "ratio of image=nan"),
        ({"every": 0}, "every=0"), ({"every": 1.5}, "whole number"), ({"smoothing": 1.0}, "smoothing=1.0"), ({"smoothing": -0.1}, "below 1"),
        ({"smoothing": "much"}, "smoothing='much' must be a finite number"), ({"limits": (1 / 8, float("inf"))}, "limits=inf"), ({"limits": 4}, "two numbers"),
        ({"limits": (2, 4)}, "first at most 1"), ({"limits": (0, 4)}, "two positive"), ({"limits": (0.5, 0.9)}, "at least 1"), ({"limits": (1,)}, "limits="),
        ({"total": "loss"}, "total='loss'"), ({"of": "gap", "total": "gradient"}, "gaps come without norms"), ({"rate": 0}, "rate=0.0"),
        ({"damping": -1}, "damping=-1.0"), ({"floor": 0}, "floor=0.0"),
    ):
        with pytest.raises(ValueError, match=words):
            BalanceConfig(**wrong)
    section = {"of": "gap", "ratio": {"text": 1, "image": "2"}, "limits": [0.25, "4e0"]}
    assert settings_from(BalanceConfig, section, "balance") == BalanceConfig("gap", {"text": 1, "image": 2}, limits=(0.25, 4))
    assert (BalanceConfig().every, BalanceConfig().smoothing, BalanceConfig().total) == (10, 0.7, "gradient")
    assert (BalanceConfig("gap").every, BalanceConfig("gap").smoothing, BalanceConfig("gap").total) == (1, 0.9, "weights")
    assert BalanceConfig(every=3, smoothing=0).smoothing == 0 and settings_from(BalanceConfig, {}, "balance") == BalanceConfig()


def test_norms_by_hand():
    a, b, c = parameter(1.0), parameter(2.0), parameter(6.0)
    losses = {"one": (3 * a + 4 * b).sum(), "two": (c**2).sum(), "none": torch.tensor(7.0, dtype=torch.float64)}
    fixed = torch.tensor(1.0)
    assert squared_norms(losses, [a, b, c, fixed]).tolist() == [25.0, 144.0, 0.0]
    assert a.grad is None and c.grad is None and losses["two"].grad_fn is not None
    (losses["one"] + losses["two"]).backward()  # the graph is still there
    assert (a.grad.item(), b.grad.item(), c.grad.item()) == (3, 4, 12)
    half = torch.full((10**6,), 2.0, dtype=torch.float16, requires_grad=True)  # a float16 sum of a million fours would be inf
    assert squared_norms({"half": (half.float() * 2).sum()}, [half]).tolist() == [4e6]


def test_what_has_no_norm_is_refused():
    a = parameter(1.0)
    with pytest.raises(ValueError, match="train an adapter"):
        squared_norms({"text": (2 * a).sum()}, [a.detach()])
    with pytest.raises(ValueError, match="outside of torch.no_grad"), torch.no_grad():
        squared_norms({"text": (2 * a).sum()}, [a])
    with pytest.raises(ValueError, match="no term reaches any"):
        squared_norms({"text": (2 * a).sum()}, [parameter(1.0)])
    parts = torch.nn.Parameter(torch.ones(1))
    parts.ds_id = 3
    with pytest.raises(ValueError, match="held in parts.*of='gap'"):
        squared_norms({"text": parts.sum()}, [parts])


def test_checkpointing_is_gone_through_or_refused():
    from torch.utils.checkpoint import checkpoint
    layer, x = torch.nn.Linear(3, 3).double(), torch.arange(3.0, dtype=torch.float64).requires_grad_()
    plain = squared_norms({"a": layer(x).tanh().sum(), "b": layer(x).exp().sum()}, list(layer.parameters()))
    y = checkpoint(layer, x, use_reentrant=False)
    assert torch.equal(squared_norms({"a": y.tanh().sum(), "b": y.exp().sum()}, list(layer.parameters())), plain)
    y = checkpoint(layer, x, use_reentrant=True)
    assert torch.autograd.grad(y.sum(), list(layer.parameters()), allow_unused=True) == (None, None)  # what would count as 0
    with pytest.raises(ValueError, match="'use_reentrant': False"):
        squared_norms({"none": torch.tensor(1.0), "a": (2 * y).tanh().sum()}, list(layer.parameters()))


def test_weights_by_hand():
    ones = {"text": 1.0, "image": 1.0}
    near = lambda made, **expected: made == pytest.approx(expected, rel=1e-12)
    # norms .18 and .006: at a fixed sum of weights 2 w = .18/.186 and .006/.186; at a fixed sum of norms each pulls with .093
    assert near(shared_weights({"text": 1 / 0.18, "image": 1 / 0.006}, ones, (1 / 32, 32)), text=2 * 0.006 / 0.186, image=2 * 0.18 / 0.186)
    norms = {"text": 0.18, "image": 0.006}
    assert near(shared_weights({k: 1 / n for k, n in norms.items()}, ones, (1 / 32, 32), norms), text=0.093 / 0.18, image=15.5)
    # a limit of 4 is met by the image term; the text term takes what is left of .186: (.186 - 4 * .006) / .18 = .9
    assert near(shared_weights({k: 1 / n for k, n in norms.items()}, ones, (1 / 4, 4), norms), text=0.9, image=4.0)
    # at a fixed sum both meet a limit: the lower one of the text term first, and 2 - .5 is left
    assert near(shared_weights({"text": 1.0, "image": 100.0}, ones, (0.5, 4)), text=0.5, image=1.5)
    assert near(shared_weights({"text": 1.0, "image": 3.0}, {"text": 2.0, "image": 2.0}, (1 / 8, 8)), text=1.0, image=3.0)
    assert near(shared_weights({"text": 5.0, "image": 1e-9}, ones, (1, 1)), text=1.0, image=1.0)
    assert near(shared_weights({"a": 1.0, "b": 2.0, "c": 5.0}, {"a": 1.0, "b": 1.0, "c": 2.0}, (1 / 8, 1.2)), a=1.6 / 3, b=1.2 * 0.8888888888888888, c=2.4)


def test_weights_hold_the_ratio():
    a, b, c = parameter(1.0), parameter(1.0), parameter(1.0)
    losses = {"text": (8 * a).sum(), "image": (2 * b).sum(), "margin": (3 * c).sum()}
    for total, expected in (
        ("gradient", {"text": 5 / 8, "image": 5 / 2, "margin": 1.0}),  # 8 + 2 = 10, of which each has 5
        ("weights", {"text": 0.4, "image": 1.6, "margin": 1.0}),  # 2 in all, 1 to 4
    ):
        balancer = Balancer(BalanceConfig(total=total), preset("mfpo"))
        assert balancer.weights == {"text": 1.0, "image": 1.0, "margin": 1.0}
        balancer.observe(losses, [a, b, c])
        assert balancer.weights == pytest.approx(expected, rel=1e-12)
        assert balancer.metrics() == pytest.approx({
            "balance/weight_text": expected["text"], "balance/weight_image": expected["image"], "balance/norm_text": 8.0, "balance/norm_image": 2.0,
        })
    # shares 1 : 3 : 6 of 13, own weights 2, 1, 1: the weighted norms 16 + 2 + 3 = 21 become 2.1, 6.3 and 12.6
    balancer = Balancer(BalanceConfig(ratio={"text": 1, "image": 3, "margin": 6}), preset("mfpo", weights={"text": 2.0}))
    balancer.observe(losses, [a, b, c])
    assert balancer.weights == pytest.approx({"text": 2.1 / 8, "image": 6.3 / 2, "margin": 12.6 / 3}, rel=1e-12)
    assert a.grad is None


def test_norms_are_smoothed_by_factors():
    a, b = parameter(1.0), parameter(1.0)
    balancer = Balancer(BalanceConfig(smoothing=0.5, total="weights"), preset("mfpo"))
    for factor in (4, 64):
        balancer.observe({"text": (factor * a).sum(), "image": (1 * b).sum()}, [a, b])
    # logs of 4 and 64 weigh .25 and .5, of .75: the third root of 4 * 64^2 = 2^14 is 2^(14/3); image stays 1
    text = 2 ** (14 / 3)
    assert balancer.weights["image"] / balancer.weights["text"] == pytest.approx(text, rel=1e-12)
    assert balancer.weights["image"] + balancer.weights["text"] == pytest.approx(2) and balancer.metrics()["balance/norm_text"] == 64


def test_a_weight_stays_within_its_limits():
    a, b = parameter(1.0), parameter(1.0)
    losses = {"text": (1e4 * a).sum(), "image": (1 * b).sum()}
    balancer = Balancer(BalanceConfig(), preset("mfpo"))
    balancer.observe(losses, [a, b])
    assert balancer.weights["image"] == 32 and balancer.weights["text"] == pytest.approx((10001 - 32) / 1e4)
    balancer = Balancer(BalanceConfig(limits=(0.5, 4), total="weights"), preset("mfpo", weights={"image": 3}))
    balancer.observe(losses, [a, b])
    assert balancer.weights == pytest.approx({"text": 0.5, "image": 3.5, "margin": 1.0})


def test_a_term_without_a_gradient_is_passed_over():
    a, b, c = parameter(1.0), parameter(1.0), parameter(1.0)
    same = lambda x: (x - x.detach() * 1).sum() * 0  # a gradient of exactly 0, as where the negative is the original
    balancer = Balancer(BalanceConfig(), preset("mfpo"))
    balancer.observe({"text": (8 * a).sum(), "image": same(b)}, [a, b])
    assert balancer.weights == balancer.own and balancer.metrics()["balance/norm_image"] == 0
    balancer.observe({"text": (8 * a).sum(), "image": (2 * b).sum()}, [a, b])
    held = dict(balancer.weights)
    assert held == pytest.approx({"text": 5 / 8, "image": 5 / 2, "margin": 1.0})
    for nothing in (same(b), (1e-7 * b).sum(), torch.zeros((), dtype=torch.float64)):  # zero, rounding, no gradient at all
        balancer.observe({"text": (8 * a).sum(), "image": nothing}, [a, b])
        assert balancer.weights == pytest.approx(held, rel=1e-12)
    # of three terms two are measured: 8 and 3 share 11, the third keeps its own
    balancer = Balancer(BalanceConfig(ratio={"text": 1, "image": 1, "margin": 1}), preset("mfpo"))
    balancer.observe({"text": (8 * a).sum(), "image": same(b), "margin": (3 * c).sum()}, [a, b, c])
    assert balancer.weights == pytest.approx({"text": 5.5 / 8, "image": 1.0, "margin": 5.5 / 3})
    balancer = Balancer(BalanceConfig(), preset("mfpo"))
    balancer.observe({"text": same(a), "image": same(b)}, [a, b])  # all zero
    assert balancer.weights == balancer.own


def test_what_cannot_be_balanced_is_refused():
    a = parameter(1.0)
    with pytest.raises(ValueError, match=r"'dpo' has no term image; its terms are \['text'\]"):
        Balancer(BalanceConfig(), preset("dpo"))
    likely = Objective((Term(CHOSEN, REJECTED), Term(CHOSEN, None, link="nll", name="caption")))
    with pytest.raises(ValueError, match="caption .* has no gap; balance with of='gradient'"):
        Balancer(BalanceConfig("gap", {"text": 1, "caption": 1}), likely)
    assert Balancer(BalanceConfig("gradient", {"text": 1, "caption": 1}), likely).weights == {"text": 1, "caption": 1}
    balancer = Balancer(BalanceConfig(), preset("mfpo"))
    with pytest.raises(ValueError, match="nothing was given for term image"):
        balancer.observe({"text": a.sum()}, [a])
    with pytest.raises(ValueError, match="term image is not finite"):
        balancer.observe({"text": a.sum(), "image": (a * float("inf")).sum()}, [a])
    with pytest.raises(ValueError, match="of='gradient'; call observe$"):
        balancer.observe_gaps({"text": 1.0, "image": 1.0})
    by_gap = Balancer(BalanceConfig("gap"), preset("mfpo"))
    with pytest.raises(ValueError, match="of='gap'; call observe_gaps"):
        by_gap.observe({"text": a.sum(), "image": a.sum()}, [a])
    with pytest.raises(ValueError, match="gaps {'image': nan} are not finite"):
        by_gap.observe_gaps({"text": 1.0, "image": float("nan")})
    with pytest.raises(ValueError, match="nothing was given for term image"):
        by_gap.observe_gaps({"text": 1.0})


def test_several_processes_mean_their_squares():
    a, b = parameter(1.0), parameter(1.0)
    of_the_other = torch.tensor([16.0, 8.0], dtype=torch.float64)
    balancer = Balancer(BalanceConfig(total="weights"), preset("mfpo"), gather=lambda squares: torch.cat([squares, of_the_other]))
    balancer.observe({"image": (8**0.5 * b).sum(), "text": (16**0.5 * a).sum()}, [a, b])
    assert balancer.metrics()["balance/norm_text"] == pytest.approx(4) and balancer.metrics()["balance/norm_image"] == pytest.approx(8**0.5)
    balancer = Balancer(BalanceConfig(total="weights"), preset("mfpo"), gather=lambda squares: torch.cat([squares, 0 * of_the_other]))
    balancer.observe({"text": (6 * a).sum(), "image": (2 * b).sum()}, [a, b])
    assert balancer.metrics()["balance/norm_text"] == pytest.approx(18**0.5)  # of 36 and 0
    assert balancer.weights["image"] == pytest.approx(1.5)  # 3 to 1, of 2


def test_a_measurement_is_due_once_in_its_step():
    balancer = Balancer(BalanceConfig(every=3), preset("mfpo"))
    asked = [(step, balancer.due(step)) for step in range(8) for _ in range(2)]  # two micro-batches a step
    assert [step for step, yes in asked if yes] == [0, 3, 6]
    assert [yes for step, yes in asked if step == 3] == [True, False]


def test_a_step_of_gaps_by_hand():
    settings = dict(smoothing=0.0, rate=0.1, floor=1e-12)
    balancer = Balancer(BalanceConfig("gap", damping=0.0, **settings), preset("mfpo"))
    balancer.observe_gaps({"text": 1.0, "image": 0.25})
    scale = 2 / (2**-0.1 + 2**0.1)
    assert balancer.weights == pytest.approx({"text": scale * 2**-0.1, "image": scale * 2**0.1, "margin": 1.0})
    assert balancer.metrics()["balance/gap_image"] == 0.25
    # shares of 4 to 1 ask for just these gaps
    balancer = Balancer(BalanceConfig("gap", {"text": 4, "image": 1}, **settings), preset("mfpo"))
    balancer.observe_gaps({"text": 1.0, "image": 0.25})
    assert balancer.weights == pytest.approx({"text": 1.0, "image": 1.0, "margin": 1.0})
    # damping answers the change: e is log 2, then log 2 again
    balancer = Balancer(BalanceConfig("gap", damping=1.0, **settings), preset("mfpo"))
    for ratio in (2**1.1, 2**1.2):
        balancer.observe_gaps({"text": 1.0, "image": 0.25})
        assert balancer.weights["image"] / balancer.weights["text"] == pytest.approx(ratio**2)


def test_gaps_of_zero_or_below_do_no_harm():
    start = Balancer(BalanceConfig("gap", {"text": 1, "image": 3}), preset("mfpo"))
    for _ in range(5):  # an adapter's start: all gaps are zero
        start.observe_gaps({"text": 0.0, "image": 0.0})
    assert start.weights == pytest.approx(start.own)
    below = Balancer(BalanceConfig("gap", damping=0.0, limits=(1 / 8, 8)), preset("mfpo"))
    seen = []
    for _ in range(200):
        below.observe_gaps({"text": 2.0, "image": -3.0})
        seen.append(below.weights["image"])
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1.875) and below.weights["text"] == 0.125  # 2 in all
    assert seen[0] / (2 - seen[0]) == pytest.approx(math.exp(0.1))  # e is cut at 1: exp(.05) up, exp(-.05) down
    deep, shallow = (Balancer(BalanceConfig("gap"), preset("mfpo")) for _ in range(2))
    deep.observe_gaps({"text": 0.5, "image": -3.0})
    shallow.observe_gaps({"text": 0.5, "image": 0.0})
    assert deep.weights == shallow.weights


def test_a_balance_goes_on_from_its_state():
    def shown(balancer, k):
        a, b = parameter(1.0), parameter(1.0)
        if balancer.config.of == "gap":
            balancer.observe_gaps({"text": 0.1 * k, "image": 0.01 * k * k})
        else:
            balancer.observe({"text": (7 / k * a).sum(), "image": (k / 3 * b).sum() * (k != 2)}, [a, b])

    for of in KINDS:
        make = lambda: Balancer(BalanceConfig(of), preset("mfpo", weights={"image": 2}))
        whole, first, second = make(), make(), make()
        for k in range(1, 7):
            shown(whole, k)
        for k in range(1, 4):
            shown(first, k)
        state = json.loads(json.dumps(first.state_dict()))
        shown(first, 9)  # the state is a copy
        second.load_state_dict(state)
        for k in range(4, 7):
            shown(second, k)
        assert second.state_dict() == whole.state_dict() and second.weights == whole.weights and second.metrics() == whole.metrics()
        for other, words in (
            (Balancer(BalanceConfig(of, every=7), preset("mfpo", weights={"image": 2})), "config.every: .* there, 7 here"),
            (Balancer(BalanceConfig(of), preset("mfpo")), "weights.image: 2.0 there, 1.0 here"),
        ):
            with pytest.raises(ValueError, match=words):
                other.load_state_dict(state)


def test_the_ratio_is_held_while_the_gradient_grows():
    def descended(config, steps=200, rate=0.05):
        objective = preset("mfpo", weights={"margin": 0})
        balancer, point, ratios, gaps = Balancer(config, objective), (parameter(0.0), parameter(0.0)), [], []
        for step in range(steps):
            a, b = point
            policy = {CHOSEN: 0 * a, REJECTED: -10 * a, NEGATIVE: -10 * (0.05 * b + 0.5 * b**2)}
            reference = {arm: torch.zeros(1, dtype=torch.float64) for arm in policy}
            values, _ = objective.values(policy, reference)
            if config.of == "gradient" and balancer.due(step):
                balancer.observe({name: value.loss.mean() for name, value in values.items()}, point)
            loss, metrics = objective(policy, reference, weights=balancer.weights)
            down = torch.autograd.grad(loss, point)
            if config.of == "gap" and balancer.due(step):
                balancer.observe_gaps({name: metrics[f"gap/{name}"] for name in config.ratio})
            point = tuple((p - rate * d).detach().requires_grad_() for p, d in zip(point, down))
            ratios.append((down[1] / down[0]).item())
            gaps.append((metrics["gap/text"].item(), metrics["gap/image"].item()))
        return ratios, gaps

    share = 2.0
    for ratio in (1.0, share):
        exact, _ = descended(BalanceConfig(ratio={"text": 1, "image": ratio}, every=1, smoothing=0))
        assert exact == pytest.approx([ratio] * 200, rel=1e-9)  # nothing smoothed: the very ratio, in every step
    ratios, _ = descended(BalanceConfig(every=2))
    assert max(ratios) < 1.8 and min(ratios) > 1 / 1.8
    assert 0.04 < descended(BalanceConfig(limits=(1, 1)))[0][0] < 0.06  # 20 times smaller, left as it is
    _, gaps = descended(BalanceConfig("gap"), steps=600)
    assert 0.8 < gaps[-1][1] / gaps[-1][0] < 1.25


def test_norms_are_those_of_each_term_trained_alone():
    with tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(folder, BalanceConfig(every=1))
        trainer.train()
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        trainer.model.train()
        trainer.state.global_step += 1  # a step that was not measured yet
        trainer.compute_loss(trainer.model, batch)
        assert all(p.grad is None for p in trainer.model.parameters())
        for name in ("text", "image"):
            others = {other: 0 for other in ("text", "image", "margin") if other != name}
            plain = small_trainer(folder, objective_weights=others)
            plain.model.load_state_dict(trainer.model.state_dict())
            plain.compute_loss(plain.model.train(), batch).backward()
            alone = sum(p.grad.double().square().sum() for p in plain.model.parameters() if p.grad is not None).sqrt().item()
            assert alone > 0 and trainer.balancer.metrics()[f"balance/norm_{name}"] == pytest.approx(alone, rel=1e-5)


def test_measuring_leaves_no_trace_in_a_run():
    for changes in (
        {"gradient_checkpointing": True, "dropout": 0.2}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    ):
        ends = []
        for balance in ("none", BalanceConfig(every=1, limits=(1, 1))):  # measured, and not allowed to move
            with tempfile.TemporaryDirectory() as folder:
                trainer = small_trainer(folder, balance, **changes)
                trainer.train()
                ends.append(trained(trainer))
        assert len(logged(trainer, "balance/norm_image")) == 6 and set(logged(trainer, "balance/weight_image")) == {1.0}
        assert all(torch.equal(weights, ends[1][name]) for name, weights in ends[0].items()), changes


def test_a_run_under_reentrant_checkpointing_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        kind = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}, "max_steps": 2}
        with pytest.raises(ValueError, match="'use_reentrant': False"):
            small_trainer(folder, balance="gradient", **kind).train()
        small_trainer(folder, balance="gap", **kind).train()


def test_a_balanced_run_that_is_resumed_ends_in_the_same_bits():
    from transformers import TrainerCallback

    class StopAt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    three = {"text": 1, "image": 1, "margin": 2}
    for balance in (BalanceConfig(every=2), BalanceConfig("gap", three, rate=0.2)):
        with tempfile.TemporaryDirectory() as folder:
            steps = dict(save_strategy="steps", save_steps=3)
            straight = small_trainer(Path(folder) / "a", balance, **steps)
            straight.train()
            steps |= {"logging_steps": 2}
            small_trainer(Path(folder) / "b", balance, callbacks=[StopAt()], **steps).train()
            resumed = small_trainer(Path(folder) / "b", balance, **steps)
            resumed.train(resume_from_checkpoint=True)
            used = logged(straight, "balance/weight_image")
            assert len(used) == 6 and len(set(used)) > 2 and len(set(used[3:])) > 1  # moved before and after the cut
            assert straight.balancer.state_dict() == resumed.balancer.state_dict()
            weights = trained(straight)
            assert all(torch.equal(weights[n], p) for n, p in trained(resumed).items())
            with pytest.raises(ValueError, match="the saved balance is another one"):
                small_trainer(Path(folder) / "b", BalanceConfig(every=3), **steps).train(resume_from_checkpoint=True)


def test_evaluation_moves_nothing():
    with tempfile.TemporaryDirectory() as folder:
        trainer = small_trainer(folder, balance="gap")
        trainer.train()
        held = trainer.balancer.state_dict()
        scores = trainer.evaluate(drawn_rows(4))
        assert trainer.balancer.state_dict() == held and scores["eval_gap/image"] != 0
