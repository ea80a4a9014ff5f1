# Exported from nbs/model/branching.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.branching import *  # noqa: F403

import contextlib
import logging

import pytest
import torch

from mfpo.model import branching
from mfpo.model import tree as tree_rows
from mfpo.model.branching import tree_logps
from mfpo.model.logps import ROUTES, arm_logps, choose_route, plain_logps
from mfpo.model.tiny import FAMILIES, tiny_batch, tiny_vlm
from mfpo.train.arms import Arm
from mfpo.train.presets import preset

ARMS = preset("mfpo").arms


def loss_and_gradients(model, batch, route, reference=None, **options):
    """MFPO's loss from arms of one route, in double precision from the sums on, and every gradient."""
    score = plain_logps if route == "plain" else tree_logps
    model.zero_grad(set_to_none=True)
    logps = dict(zip(ARMS, score(model, batch, ARMS, **options)))
    loss, _ = preset("mfpo")(logps, reference or {arm: torch.full_like(v, -20.0).detach() for arm, v in logps.items()})
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@contextlib.contextmanager
def logged():
    """What the choice of the route writes to the log meanwhile."""
    records, handler, log = [], logging.Handler(logging.INFO), logging.getLogger("mfpo.model.logps")
    handler.emit, level = records.append, log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield records
    log.removeHandler(handler)
    log.setLevel(level)


def worst_gradient(found, expected):
    """The largest relative difference of a gradient. Those that are zero in exact arithmetic (a key's bias moves all
    scores of a query alike) are compared with the largest of all."""
    assert found.keys() == expected.keys()
    largest = max(g.norm() for g in expected.values())
    return max(
        ((found[name] - g).norm() / max(g.norm(), 1e-3 * largest)).item() for name, g in expected.items()
    )


def test_every_family_has_the_loss_of_rows_written_out():
    for family in FAMILIES:
        model = tiny_vlm(family, dtype=torch.float64)
        batch = tiny_batch(model)
        plain, tree = plain_logps(model, batch, ARMS), tree_logps(model, batch, ARMS)
        objective, reference = preset("mfpo"), {arm: torch.full((plain.shape[1],), -20.0, dtype=torch.float64) for arm in ARMS}
        losses = [objective(dict(zip(ARMS, logps)), reference)[0].item() for logps in (plain, tree)]
        assert abs(losses[0] - losses[1]) <= 1e-12 * max(1, abs(losses[0])), (family, losses)


def test_every_family_has_the_gradients_of_rows_written_out():
    for family in FAMILIES:
        model = tiny_vlm(family)
        batch = tiny_batch(model)
        (plain, expected), (tree, found) = (loss_and_gradients(model, batch, route) for route in ("plain", "tree"))
        assert abs(tree - plain) <= 1e-5 * abs(plain), (family, tree, plain)
        assert worst_gradient(found, expected) <= 1e-5, (family, worst_gradient(found, expected))
        assert any("vis" in name for name in found) and len(found) > 20, family


def test_what_makes_the_tree_equal_cannot_be_left_out():
    import dataclasses

    def broken(family, monkey):
        model = tiny_vlm(family, dtype=torch.float64)
        batch = tiny_batch(model)
        with pytest.MonkeyPatch.context() as patch:
            monkey(patch)
            return (plain_logps(model, batch, ARMS) - tree_logps(model, batch, ARMS)).abs().max().item()

    pack, masks = branching.pack, branching._masks
    def no_reset(patch):
        def packed(*args):
            rows = pack(*args)
            return dataclasses.replace(rows, depth=torch.arange(rows.tokens.shape[1]).expand_as(rows.depth).clone())
        patch.setattr(branching, "pack", packed)

    def no_mask(patch):
        patch.setattr(branching, "_masks", lambda parts, rows, types: rows.attention_mask)

    def no_window(patch):
        patch.setattr(branching, "_masks", lambda parts, rows, types: masks(
            dataclasses.replace(parts, windows={"full_attention": None}), rows, types))

    def true_and_false(patch):
        patch.setattr(branching, "additive_mask", lambda sees, dtype: sees[:, None].to(dtype))

    def no_blocks(patch):
        patch.setattr(branching, "image_blocks", lambda types: torch.full_like(types, -1))

    assert broken("llava", lambda patch: None) < 1e-10
    for family, monkey in (("llava", no_reset), ("llava", no_mask), ("llava_mistral", no_window), ("llava", true_and_false),
                           ("gemma3", no_blocks)):
        assert broken(family, monkey) > 1e-6, (family, monkey)


def test_eager_and_sdpa_agree():
    for family in ("llava", "gemma3", "qwen2_vl"):
        numbers = []
        for attention in ("eager", "sdpa"):
            model = tiny_vlm(family, dtype=torch.float64, attn_implementation=attention)
            numbers.append(tree_logps(model, tiny_batch(model), ARMS))
        assert (numbers[0] - numbers[1]).abs().max() < 1e-5  # eager attention takes its softmax in single precision


def test_gradient_checkpointing_changes_nothing():
    for reentrant in (False, True):
        model = tiny_vlm("llava")
        batch, results = tiny_batch(model), []
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
                model.enable_input_require_grads()
            model.train()
            results.append(loss_and_gradients(model, batch, "tree"))
        assert abs(results[0][0] - results[1][0]) < 1e-6
        language = [{k: g for k, g in grads.items() if "language" in k} for _, grads in results]
        assert worst_gradient(*language) < 1e-5


def test_any_set_of_arms():
    model = tiny_vlm("llava", dtype=torch.float64)
    batch = tiny_batch(model)
    C, R, N = Arm("chosen", "original"), Arm("rejected", "original"), Arm("chosen", "negative")
    for arms in ([C], [C, R], [C, N], [N], [R, N, C], [C, R, N, Arm("rejected", "negative")]):
        assert (tree_logps(model, batch, arms) - plain_logps(model, batch, arms)).abs().max() < 1e-10


def test_two_calls_are_one_call():
    model = tiny_vlm("llava", dtype=torch.float64)
    batch, calls = tiny_batch(model, rows=4), []
    hook = model.register_forward_pre_hook(lambda *a: calls.append(1))
    together = tree_logps(model, batch, ARMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_rows, "MIN_SAVED", 1)
        apart = tree_logps(model, batch, ARMS)
    hook.remove()
    assert len(calls) == 3 and (together - apart).abs().max() < 1e-11


def test_a_synchronised_model_is_called_once():
    wrapped = torch.nn.DataParallel(tiny_vlm("llava", dtype=torch.float64))
    batch, calls = tiny_batch(wrapped.module, rows=4), []
    wrapped.module.register_forward_pre_hook(lambda *a: calls.append(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_rows, "MIN_SAVED", 1)
        logps = tree_logps(wrapped, batch, ARMS)
    assert len(calls) == 1 and (logps - plain_logps(wrapped.module, batch, ARMS)).abs().max() < 1e-10


def test_low_precision_stays_within_its_noise():
    for enter in (lambda: torch.autocast("cpu", torch.bfloat16), contextlib.nullcontext):
        model = tiny_vlm("llava", dtype=torch.float32 if enter is not contextlib.nullcontext else torch.bfloat16)
        batch = tiny_batch(model)
        with enter():
            plain, tree_ = plain_logps(model, batch, ARMS), tree_logps(model, batch, ARMS)
            tree_.sum().backward()
        assert (plain - tree_).abs().max() < 0.02 * plain.abs().max()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_padding_makes_no_nan():
    for attention in ("eager", "sdpa"):
        model = tiny_vlm("llava", attn_implementation=attention)
        batch = tiny_batch(model, rows=4)
        tree_logps(model, batch, ARMS).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_auto_takes_trees_and_says_so():
    model = tiny_vlm("llava")
    batch = tiny_batch(model)
    with logged() as records:
        assert choose_route(model, batch, ARMS)[0] == "tree" == choose_route(model, batch, ARMS)[0]
    assert len(records) == 1 and "route: tree" in records[0].getMessage()  # once a model
    assert ROUTES == ("plain", "tree", "auto")  # a prefix in a key-value cache is not offered: wrong under checkpointing


def test_what_takes_no_mask_falls_back_loudly_or_is_refused():
    model = tiny_vlm("llava")
    batch = tiny_batch(model)
    expected = arm_logps(model, batch, ARMS, route="plain")
    model.config.text_config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="flash_attention_2.*attn_implementation='sdpa'"):
        arm_logps(model, batch, ARMS, route="tree")
    with logged() as records:
        route, why = choose_route(model, batch, ARMS)
    assert route == "plain" and "flash_attention_2" in why and why in records[0].getMessage()
    assert records[0].levelname == "WARNING" and "route: plain" in records[0].getMessage()


def test_auto_notices_a_model_that_ignores_positions():
    model = tiny_vlm("llava")
    decoder = model.model.language_model
    forward = type(decoder).forward
    decoder.forward = lambda *args, **kwargs: forward(decoder, *args, **{**kwargs, "position_ids": None})
    batch = tiny_batch(model)
    route, why = choose_route(model, batch, ARMS)
    assert route == "plain" and "nats" in why and "report" in why
    assert model.training is False
    assert torch.equal(arm_logps(model, batch, ARMS)[ARMS[0]], arm_logps(model, batch, ARMS, route="plain")[ARMS[0]])


def test_flex_attention_scores_alike():
    model = tiny_vlm("llava", attn_implementation="flex_attention")
    batch = tiny_batch(model)
    with torch.no_grad():
        flex = tree_logps(model, batch, ARMS)
    with pytest.raises(ValueError, match="flex_attention has no gradient on a CPU.*sdpa"):
        tree_logps(model, batch, ARMS)
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        assert (flex - plain_logps(model, batch, ARMS)).abs().max() < 1e-3
