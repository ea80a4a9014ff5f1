# Exported from nbs/model/head.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.head import *  # noqa: F403

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mfpo.model.head import CHUNK, measured, predicted_logps, target_logps


def problem(dtype=torch.float64, bias=False, trained=False, count=11):
    """Hidden states, a head and targets, all random."""
    make = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 9, bias=bias, dtype=dtype).requires_grad_(trained)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=make))
    hidden = torch.randn(count, 6, generator=make).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, 9, (count,), generator=make)


def test_one_position_by_hand():
    head = torch.nn.Linear(1, 2, bias=False, dtype=torch.float64).requires_grad_(False)
    head.weight[:] = torch.tensor([[1.0], [-1.0]])
    hidden = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    logp = target_logps(hidden, head, torch.tensor([0]))
    assert abs(logp.item() + 0.6931471805599453) < 1e-15
    (3 * logp).sum().backward()
    assert hidden.grad.item() == 3.0


def test_equals_whole_logits_and_their_gradients():
    for trained in (False, True):
        for bias in (False, True):
            hidden, head, targets = problem(bias=bias, trained=trained)
            weights = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
            whole = -F.cross_entropy(head(hidden), targets, reduction="none")
            wanted = torch.autograd.grad((weights * whole).sum(), [hidden, *(head.parameters() if trained else ())])
            for chunk in (1, 3, 4, 11, 50, None):
                logps = target_logps(hidden, head, targets, chunk)
                got = torch.autograd.grad((weights * logps).sum(), [hidden, *(head.parameters() if trained else ())])
                assert (logps - whole).abs().max() < 1e-13
                assert all((g - w).abs().max() < 1e-13 for g, w in zip(got, wanted, strict=True))


def test_an_adapter_on_the_head_gets_its_gradient():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 9)), LoraConfig(target_modules=["0"], r=2, init_lora_weights=False))
    head, (hidden, _, targets) = model.base_model.model[0], problem(torch.float32)
    trained = [p for p in head.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(F.cross_entropy(head(hidden), targets, reduction="sum"), trained)
    got = torch.autograd.grad(-target_logps(hidden, head, targets, 4).sum(), trained)
    assert len(trained) == 2 and all(torch.allclose(g, w, rtol=1e-5, atol=1e-6) for g, w in zip(got, wanted))


def test_low_precision_is_summed_in_float32():
    hidden, head, targets = problem(torch.bfloat16)
    logps = target_logps(hidden, head, targets)
    assert logps.dtype == torch.float32
    assert torch.allclose(logps, -F.cross_entropy(head(hidden).float(), targets, reduction="none"), atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        hidden, head, targets = problem(torch.float32)
        (gradient,) = torch.autograd.grad(target_logps(hidden, head, targets).sum(), hidden)
        (wanted,) = torch.autograd.grad(-F.cross_entropy(head(hidden).float(), targets, reduction="sum"), hidden)
    assert (gradient - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_logits_exist_for_a_chunk_of_positions_only():
    for trained in (False, True):
        head, counts = torch.nn.Linear(6, 9).requires_grad_(trained), []
        head.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
        hidden = torch.randn(20, 6, requires_grad=True)
        target_logps(hidden, head, torch.zeros(20, dtype=torch.long), 3).sum().backward()
        assert max(counts) == 3 and sum(counts) == (40 if trained else 20)  # a trained head is computed twice
    assert CHUNK // 32000 > 250  # enough positions at a time for matrix products to be worth their name


def test_the_model_calls_the_stand_in_and_gets_its_head_back():
    hidden, head, targets = problem()
    states = hidden.detach().view(1, 11, 6)
    rows, places = torch.zeros(3, dtype=torch.long), torch.tensor([1, 1, 7])
    for after in (lambda z: z, lambda z: 2 * torch.tanh(z / 2), lambda z: z.float()):
        head = problem()[1]
        logps = [predicted_logps(lambda: SimpleNamespace(logits=after(head(states))), head, rows, places, targets[:3]) for _ in range(2)]
        wanted = -F.cross_entropy(after(head(states[0, places])), targets[:3], reduction="none")
        assert all((l - wanted).abs().max() < 1e-6 and l.shape == (3,) for l in logps)
        assert "forward" not in head.__dict__


def test_ids_do_not_decide_whether_logits_are_changed():
    hidden, head, targets = problem()
    states, given = hidden.detach().view(1, 11, 6), []
    rows, places = torch.zeros(3, dtype=torch.long), torch.tensor([1, 1, 7])
    call = lambda: SimpleNamespace(logits=head(states))
    measure = lambda states, head: given.append(head) or (states if head is None else head(states)).argmax(1)
    expected = head(states[0, places]).argmax(1)
    assert torch.equal(measured(call, head, rows, places, measure, decides=False), expected) and given == [None]
    predicted_logps(call, head, rows, places, targets[:3])
    assert torch.equal(measured(call, head, rows, places, measure, decides=False), expected) and given == [None, head]


def test_a_failing_call_leaves_the_head_as_it_was():
    def fails():
        head(states)
        raise RuntimeError("no memory")


    hidden, head, targets = problem()
    states = hidden.detach().view(1, 11, 6)
    rows, places = torch.zeros(3, dtype=torch.long), torch.tensor([1, 1, 7])
    with pytest.raises(RuntimeError, match="no memory"):
        predicted_logps(fails, head, rows, places, targets[:3])
    assert "forward" not in head.__dict__ and head(states).shape == (1, 11, 9)
