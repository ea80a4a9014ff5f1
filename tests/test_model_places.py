# Exported from nbs/model/places.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.places import *  # noqa: F403

import math

import torch
import torch.nn.functional as F

from mfpo.model.places import distributions, divergences, likeliest, other_logps, token_logps


def problem(dtype=torch.float64, trained=False, count=11):
    """Hidden states, a head, labels, a reference's table and which of its rows is meant where, all random."""
    make = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 9, bias=False, dtype=dtype).requires_grad_(trained)
    with torch.no_grad():
        head.weight.copy_(torch.randn(9, 6, generator=make))
    hidden = torch.randn(count, 6, generator=make).to(dtype).requires_grad_()
    table = torch.randn(7, 9, generator=make).to(dtype).log_softmax(1)
    return hidden, head, torch.randint(0, 9, (count,), generator=make), table, torch.randint(0, 7, (count,), generator=make)


def whole(hidden, head, labels, table, rows):
    """The three numbers that have a gradient, from logits made whole."""
    logps = F.log_softmax(head(hidden), dim=1)
    others = torch.stack([torch.cat([row[:label], row[label + 1 :]]).max() for row, label in zip(logps, labels)])
    reference = table[rows]
    return {"tokens": logps.gather(1, labels[:, None])[:, 0], "others": others,
            "divergences": F.kl_div(logps, reference, reduction="none", log_target=True).sum(1)}


def by_chunks(hidden, head, labels, table, rows, chunk=None):
    return {"tokens": token_logps(hidden, head, labels, chunk), "others": other_logps(hidden, head, labels, chunk),
            "divergences": divergences(hidden, head, rows, table, chunk)}


def test_one_position_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64, requires_grad=True)
    half = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    zero, one = torch.tensor([0]), torch.tensor([1])
    assert abs(other_logps(logits, None, zero).item() - math.log(1 / 4)) < 1e-15
    assert abs(other_logps(logits, None, one).item() - math.log(3 / 4)) < 1e-15
    divergence = divergences(logits, None, zero, half)
    assert abs(divergence.item() - 0.5 * math.log(4 / 3)) < 1e-15
    (slope,) = torch.autograd.grad(divergence.sum(), logits)
    assert torch.allclose(slope, torch.tensor([[0.25, -0.25]], dtype=torch.float64), rtol=0, atol=1e-15)
    assert likeliest(logits, None).tolist() == [0]
    assert torch.allclose(distributions(logits, None).exp(), torch.tensor([[0.75, 0.25]], dtype=torch.float64))


def test_equals_whole_logits_and_their_gradients():
    for trained in (False, True):
        hidden, head, labels, table, rows = problem(trained=trained)
        wrt = [hidden, *(head.parameters() if trained else ())]
        weights = torch.linspace(-1, 2, len(labels), dtype=torch.float64)
        expected = whole(hidden, head, labels, table, rows)
        for chunk in (1, 3, 11, 50, None):
            found = by_chunks(hidden, head, labels, table, rows, chunk)
            for name, value in expected.items():
                assert (found[name] - value).abs().max() < 1e-13
                wanted = torch.autograd.grad((weights * value).sum(), wrt, retain_graph=True)
                got = torch.autograd.grad((weights * found[name]).sum(), wrt, retain_graph=True)
                assert all((g - w).abs().max() < 1e-13 for g, w in zip(got, wanted, strict=True)), name
            assert torch.equal(likeliest(hidden, head, chunk), head(hidden).argmax(1))
            assert (distributions(hidden, head, chunk) - head(hidden).log_softmax(1)).abs().max() < 1e-14


def test_logits_will_do_for_states():
    hidden, head, labels, table, rows = problem()
    logits = head(hidden)
    given, made = (by_chunks(x, h, labels, table, rows, 4) for x, h in ((logits, None), (hidden, head)))
    assert all((given[name] - made[name]).abs().max() < 1e-14 for name in made)
    assert torch.equal(likeliest(logits, None, 4), likeliest(hidden, head, 4))
    assert not distributions(hidden, head).requires_grad and not likeliest(hidden, head).requires_grad


def test_no_divergence_from_oneself():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        hidden, head, labels, _, _ = problem(dtype)
        table = distributions(hidden, head)
        divergence = divergences(hidden, head, torch.arange(len(hidden)), table, 4)
        assert divergence.dtype == table.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert divergence.abs().max() < (1e-14 if dtype == torch.float64 else 1e-6)
        (slope,) = torch.autograd.grad(divergence.sum(), hidden)
        assert slope.abs().max() < 1e-5


def test_a_token_that_the_reference_excludes_counts_nothing():
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, 0.0, 5.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    divergence = divergences(logits, None, torch.zeros(2, dtype=torch.long), reference)
    expected = [0.0, math.log(2 + math.exp(5)) - math.log(2)]
    assert torch.allclose(divergence, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)
    divergence.sum().backward()
    assert logits.grad.isfinite().all()


def test_no_table_of_the_policy_is_kept():
    for trained in (False, True):
        hidden, head, labels, table, rows = problem(trained=trained, count=40)
        for measure, chunk in ((lambda: other_logps(hidden, head, labels, 4), 4), (lambda: divergences(hidden, head, rows, table, 4), 4)):
            counts, kept = [], []
            hook = head.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
            with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
                values = measure()
            assert max(counts) == chunk and sum(counts) == 40
            owned = [x for x in kept if x.untyped_storage().data_ptr() not in (hidden.untyped_storage().data_ptr(), table.untyped_storage().data_ptr())]
            assert all(x.numel() < 40 * 6 for x in owned)
            values.sum().backward()
            assert max(counts) == chunk and sum(counts) == 80  # computed again, a chunk at a time
            hook.remove()


def test_low_precision_is_raised():
    hidden, head, labels, table, rows = problem(torch.bfloat16)
    for name, value in by_chunks(hidden, head, labels, table, rows, 4).items():
        assert value.dtype == torch.float32, name
    with torch.autocast("cpu", torch.bfloat16):
        hidden, head, labels, table, rows = problem(torch.float32)
        for name, value in by_chunks(hidden, head, labels, table, rows, 4).items():
            assert value.dtype == torch.float32
            value.sum().backward()
    assert hidden.grad.isfinite().all()
