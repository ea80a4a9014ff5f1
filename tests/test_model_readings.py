# Exported from nbs/model/readings.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.readings import *  # noqa: F403

import contextlib

import pytest
import torch

from mfpo.model import branching, head
from mfpo.model import tree as tree_rows
from mfpo.model.layout import arm_inputs, blank_pictures
from mfpo.model.logps import answer_distributions, arm_logps, choose_route, own_tokens
from mfpo.model.readings import Distributions, arms_of
from mfpo.model.tiny import FAMILIES, tiny_batch, tiny_vlm
from mfpo.model.tree import sum_over_paths
from mfpo.model.vision import ImageMemory

C, R, N = ("chosen", "original"), ("rejected", "original"), ("chosen", "negative")
READINGS = [C, R, N, (*C, "changed"), (*R, "changed"), (*C, "own"), (*N, "own"), (*R, "top"), (*C, "top"), (*C, "kl"),
            (*R, "kl"), (*N, "kl")]
ROUTES = ("plain", "tree")


def filled(batch, seed=0):
    """A batch with spans and own tokens: at padding nonsense, at every other place the answer's own token."""
    generator = torch.Generator().manual_seed(seed)
    batch["spans"], batch["own"] = {}, {}
    for name, part in batch["answers"].items():
        ids, padding = part["input_ids"], part["attention_mask"] == 0
        batch["spans"][name] = {"changed": torch.rand(ids.shape, generator=generator).masked_fill(padding, float("nan"))}
        own = torch.randint(4, 100, ids.shape, generator=generator)
        own[:, ::2] = ids[:, ::2]
        batch["own"][name] = own.masked_fill(padding, -100)
    return batch


def exact(model):
    """The norms of the decoder in the model's own precision: transformers computes them in float32 even where the
    model is in double precision, whose gradients then agree to 1e-8 only."""
    def precise(x, norm):
        eps = getattr(norm, "variance_epsilon", None) or norm.eps
        scale = norm.weight + float(type(norm).__name__.startswith("Gemma"))
        return scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = lambda x, norm=module: precise(x, norm)
    return model


def by_hand(model, batch, reading, reference):
    """A reading of each row from whole logits, token by token, in Python."""
    (answer, image), kind = reading[:2], reading[2] if len(reading) == 3 else None
    inputs, is_answer = arm_inputs(batch, [(answer, image)])
    logps, theirs = (m(**inputs).logits.double().log_softmax(-1) for m in (model, reference))
    out = []
    for row, mask in enumerate(is_answer):
        total = 0.0
        for step, place in enumerate(mask.nonzero().flatten().tolist()):
            here, label = logps[row, place - 1], int(inputs["input_ids"][row, place])
            if kind == "kl":
                there = theirs[row, place - 1]
                total = total + (there.exp() * (there - here)).sum()
            elif kind == "top":
                total = total + max(here[v] for v in range(len(here)) if v != label)
            elif kind == "own":
                total = total + here[int(batch["own"][answer][row, step])]
            else:
                total = total + here[label] * (1 if kind is None else batch["spans"][answer][kind][row, step].double())
        out.append(total)
    return torch.stack(out)


def read(model, batch, route, readings=READINGS, reference=None, **options):
    """Readings, and the gradients of a sum of them with a weight for each."""
    against = None
    if reference is not None:
        against = answer_distributions(reference, batch, [r for r in readings if r[2:] == ("kl",)], route=route)
    model.zero_grad(set_to_none=True)
    found = arm_logps(model, batch, readings, route=route, against=against, **options)
    sum((k + 1) * value.double().sum() for k, value in enumerate(found.values())).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {reading: value.detach() for reading, value in found.items()}, grads


def furthest(a, b):
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


def worst_gradient(found, expected, without="nothing"):
    """The largest difference of a gradient, as a share of the largest of all."""
    assert found.keys() == expected.keys()
    largest = max(g.norm() for g in expected.values())
    return max(((found[n] - g).norm() / largest).item() for n, g in expected.items() if without not in n)


def two_models(family, **options):
    return (exact(tiny_vlm(family, seed=seed, **options)) for seed in (0, 1))


def test_every_reading_equals_whole_logits():
    for family in ("llava", "qwen2_vl", "gemma3"):
        model, reference = two_models(family, dtype=torch.float64)
        batch = filled(tiny_batch(model))
        with torch.no_grad():
            expected = {reading: by_hand(model, batch, reading, reference) for reading in READINGS}
            for route in ROUTES:
                against = answer_distributions(reference, batch, [C, R, N], route=route)
                found = arm_logps(model, batch, READINGS, route=route, against=against)
                assert list(found) == READINGS and all(v.dtype == torch.float64 and v.shape == (3,) for v in found.values())
                assert furthest(found, expected) < 1e-10, (family, route)


def test_both_routes_agree_on_every_family_and_every_gradient():
    for family in FAMILIES:
        model, reference = two_models(family, dtype=torch.float64)
        batch = filled(tiny_batch(model))
        (plain, expected), (tree, found) = (read(model, batch, route, reference=reference) for route in ROUTES)
        assert furthest(plain, tree) < 1e-10, family
        assert worst_gradient(found, expected, without="vis") < 1e-10, family
        assert worst_gradient(found, expected) < 1e-6, family  # Qwen's tower works in float32 inside
        assert any("vis" in name for name in found), family


def test_adapters_heads_checkpoints_and_chunks_change_nothing():
    from peft import LoraConfig, get_peft_model

    def prepared(family, kind):
        model = exact(tiny_vlm(family, dtype=torch.float64))
        if kind.startswith("lora"):
            torch.manual_seed(0)
            targets = ["q_proj", "v_proj", *(["lm_head"] if kind == "lora on the head" else [])]
            model = get_peft_model(model, LoraConfig(target_modules=targets, r=2, init_lora_weights=False))
        if kind == "frozen head":
            model.get_output_embeddings().requires_grad_(False)
        if kind == "checkpoints":
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            model.train()
        return model


    for family in ("llava", "qwen2_vl", "gemma3"):
        reference = exact(tiny_vlm(family, seed=1, dtype=torch.float64))
        for kind in ("trained", "frozen head", "lora", "lora on the head", "checkpoints"):
            results = []
            for route in ROUTES:
                for chunk in (head.CHUNK, 4 * 157):
                    model = prepared(family, kind)
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr(head, "CHUNK", chunk)
                        results.append(read(model, filled(tiny_batch(reference)), route, reference=reference))
            for values, grads in results[1:]:
                assert furthest(values, results[0][0]) < 1e-10, (family, kind)
                assert worst_gradient(grads, results[0][1], without="vis") < 1e-10, (family, kind)
                assert worst_gradient(grads, results[0][1]) < 1e-6, (family, kind)
            assert len(results[0][1]) > 2


def test_low_precision_is_finite_and_near():
    for family in ("llava", "qwen2_vl", "gemma3"):
        single = tiny_vlm(family)
        expected, _ = read(single, filled(tiny_batch(single)), "plain", reference=tiny_vlm(family, seed=1))
        for dtype in (torch.bfloat16, torch.float32):
            for route in ROUTES:
                model, reference = (tiny_vlm(family, seed=seed, dtype=dtype) for seed in (0, 1))
                enter = contextlib.nullcontext() if dtype == torch.bfloat16 else torch.autocast("cpu", torch.bfloat16)
                with enter:
                    found, grads = read(model, filled(tiny_batch(model)), route, reference=reference)
                assert all(v.dtype == torch.float32 and v.isfinite().all() for v in found.values())
                assert furthest(found, expected) < 2 and all(g.isfinite().all() for g in grads.values()), (family, route)


def test_readings_cost_the_model_nothing():
    def put_in(model, batch, readings, route, against=None):
        shapes = []
        hook = model.model.language_model.register_forward_pre_hook(
            lambda module, args, inputs: shapes.append(tuple(inputs["inputs_embeds"].shape[:2])), with_kwargs=True
        )
        arm_logps(model, batch, readings, route=route, against=against)
        hook.remove()
        return shapes


    model, reference = tiny_vlm("llava"), tiny_vlm("llava", seed=1)
    batch = filled(tiny_batch(model, rows=4))
    against = answer_distributions(reference, batch, [C, R])
    more = [C, R, (*C, "changed"), (*C, "own"), (*R, "top"), (*C, "kl"), (*R, "kl")]
    for route in ROUTES:
        for saved in (256, 1):  # one call, two calls
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tree_rows, "MIN_SAVED", saved)
                put_in(model, batch, [C, R], route)  # the first call of a model may be made twice
                alone, together = put_in(model, batch, [C, R], route), put_in(model, batch, more, route, against)
            assert alone == together and len(alone) == (2 if (route, saved) == ("tree", 1) else 1)


def test_arms_keep_their_bits():
    for family in ("llava", "qwen2_vl", "gemma3"):
        for frozen in (False, True):
            for dtype in (torch.float32, torch.bfloat16):
                model, reference = (tiny_vlm(family, seed=seed, dtype=dtype) for seed in (0, 1))
                model.get_output_embeddings().requires_grad_(not frozen)
                batch, made = filled(tiny_batch(model, rows=4)), []
                alone = {route: arm_logps(model, batch, [C, R, N], route=route) for route in ROUTES}
                with pytest.MonkeyPatch.context() as patch:  # the numbers that go into the sums, taken down
                    patch.setattr(branching, "sum_over_paths", lambda *args: made.append(args) or sum_over_paths(*args))
                    together = {route: read(model, batch, route, reference=reference)[0] for route in ROUTES}
                (values, trees, arms, rows), = made
                paths, start = {}, 0
                for tree in trees:
                    paths |= {(owner, tree.row): [start + edge for edge in path] for owner, path in tree.paths.items()}
                    start += len(tree.targets)
                width = max(map(len, paths.values()))
                values = torch.cat([values.detach().double(), torch.zeros(1, dtype=torch.float64)])
                index = [paths[arm, row] for arm in range(3) for row in range(4)]
                table = torch.tensor([path + [start] * (width - len(path)) for path in index])
                sums = values[table].sum(1).view(3, 4).float()
                assert all(torch.equal(alone["tree"][arm], sums[k]) for k, arm in enumerate([C, R, N]))
                assert all(torch.equal(alone[route][arm], together[route][arm]) for arm in (C, R, N) for route in ROUTES)


def test_what_two_readings_share_cancels_exactly():
    model = tiny_vlm("llava")
    batch = filled(tiny_batch(model))
    batch["own"]["chosen"] = batch["answers"]["chosen"]["input_ids"]
    batch["spans"]["chosen"]["each"] = torch.ones_like(batch["spans"]["chosen"]["changed"])
    batch["spans"]["chosen"]["none"] = torch.zeros_like(batch["spans"]["chosen"]["changed"])
    for route in ROUTES:
        model.zero_grad()
        own, each, none = (arm_logps(model, batch, [C, (*C, name)], route=route) for name in ("own", "each", "none"))
        gap = own[C] - own[*C, "own"]
        gap.sum().backward()
        assert torch.equal(gap, torch.zeros(3)) and not any(p.grad.any() for p in model.parameters() if p.grad is not None)
        torch.testing.assert_close(each[*C, "each"], each[C], rtol=1e-6, atol=0)
        assert torch.equal(none[*C, "none"], torch.zeros(3))


def test_own_tokens_are_the_likeliest():
    for family in FAMILIES:
        model = tiny_vlm(family, dtype=torch.float64)
        batch = tiny_batch(model)
        inputs, is_answer = arm_inputs(batch, [N])
        best = model(**inputs).logits.argmax(-1)
        for route in ROUTES:
            proposed = own_tokens(model, batch, N, route=route)
            answer = batch["answers"]["chosen"]
            assert proposed.dtype == torch.long and proposed.shape == answer["input_ids"].shape
            assert (proposed[answer["attention_mask"] == 0] == batch["pad_token_id"]).all()
            for row, mask in enumerate(is_answer):
                places = mask.nonzero().flatten() - 1
                assert torch.equal(proposed[row, : len(places)], best[row, places]), (family, route)
            same = ((proposed == answer["input_ids"]) & (answer["attention_mask"] == 1)).any(1)
            numbers = arm_logps(model, batch | {"own": {"chosen": proposed}}, [(*N, "own"), (*N, "top")], route=route)
            assert (numbers[*N, "own"] - numbers[*N, "top"])[~same].abs().max() < 1e-12 and not same.all()


def test_a_model_has_not_diverged_from_itself():
    for route in ROUTES:
        model = tiny_vlm("llava")
        batch, kinds = tiny_batch(model), [(*C, "kl"), (*R, "kl")]
        values, grads = read(model, batch, route, kinds, model)
        assert all(value.abs().max() < 1e-5 for value in values.values())
        assert max(g.abs().max() for g in grads.values()) < 1e-4
        values, _ = read(model, batch, route, kinds, tiny_vlm("llava", seed=1))
        assert all((value > 0.1).all() for value in values.values())


def test_a_table_fits_every_grouping_of_calls():
    model, reference = two_models("llava", dtype=torch.float64)
    wrapped = torch.nn.DataParallel(model)
    batch = tiny_batch(model, rows=4)
    kinds = [(*R, "kl"), (*N, "kl"), (*C, "kl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_rows, "MIN_SAVED", 1)
        twice = answer_distributions(reference, batch, kinds, route="tree")
        once = answer_distributions(torch.nn.DataParallel(reference), batch, kinds, route="tree")
        plain = answer_distributions(reference, batch, kinds, route="plain")
        places = sum(int(batch["answers"][arm[0]]["attention_mask"].sum()) for arm in (R, N, C))
        for against in (twice, once, plain):
            assert against.table.shape == (places, model.config.text_config.vocab_size)
            assert (against.table - plain.table).abs().max() < 1e-12 and not against.table.requires_grad
            for policy in (model, wrapped):
                for route in ROUTES:
                    found = arm_logps(policy, batch, [C, *kinds], route=route, against=against)
                    expected = arm_logps(model, batch, [C, *kinds], route="plain", against=plain)
                    assert furthest(found, expected) < 1e-10
    assert twice.starts(N)[0] == int(batch["answers"]["rejected"]["attention_mask"].sum()) and len(twice.starts(C)) == 4


def test_a_capped_head_is_read_after_its_cap():
    def capped(seed):
        model = tiny_vlm("llava", seed=seed, dtype=torch.float64)
        forward = model.forward

        def call(*args, **kwargs):
            out = forward(*args, **kwargs)
            out.logits = 2 * torch.tanh(out.logits / 2)
            return out

        model.forward = call
        return model


    model, reference = capped(0), capped(1)
    batch = filled(tiny_batch(model))
    assert torch.equal(own_tokens(model, batch, C, route="tree"), own_tokens(model, batch, C, route="plain"))
    (plain, _), (tree, _) = (read(model, batch, route, reference=reference) for route in ROUTES)
    assert furthest(plain, tree) < 1e-10
    assert furthest(plain, read(tiny_vlm("llava", dtype=torch.float64), batch, "plain", reference=reference)[0]) > 0.1


def test_blank_pictures_go_all_the_way():
    B, S = ("chosen", "blank"), ("rejected", "blank")
    for family in FAMILIES:
        model = exact(tiny_vlm(family, dtype=torch.float64))
        batch = filled(tiny_batch(model))
        batch["prompts"]["blank"] = blank_pictures(batch["prompts"]["original"])
        batch["sizes"]["blank"] = batch["sizes"]["original"]
        batch["images"]["blank"] = [-1 - name for name in batch["images"]["original"]]
        readings = [C, R, B, S, (*B, "changed"), (*B, "own"), (*S, "top")]
        plain, _ = read(model, batch, "plain", readings)
        assert all((plain[C] - plain[B]).abs() > 1e-3) and all(v.isfinite().all() for v in plain.values()), family
        alone = arm_logps(model, batch, [B], route="plain")
        assert (alone[B] - plain[B]).abs().max() < 1e-10, family  # a call with blank pictures only
        for part in ("vision_tower", "vision_model", "visual", "multi_modal_projector", "connector"):
            getattr(model.model, part, torch.nn.Identity()).requires_grad_(False)
        for memory in (None, ImageMemory(), ImageMemory(limit_mb=16)):
            for _ in range(2):  # the second time, features may come from the memory
                tree, _ = read(model, batch, "tree", readings, memory=memory)
                assert furthest(plain, tree) < 1e-10, family
            if memory is not None and family == "llava":
                assert len(memory.features) == 6  # three pictures and three blanks


def test_padding_makes_no_nan():
    for attention in ("eager", "sdpa"):
        for route in ROUTES:
            model = tiny_vlm("llava", attn_implementation=attention)
            found, grads = read(model, filled(tiny_batch(model, rows=5)), route, reference=tiny_vlm("llava", seed=1))
            assert all(x.isfinite().all() for x in [*found.values(), *grads.values()])


def test_auto_judges_by_the_arms():
    model = tiny_vlm("llava")
    batch = filled(tiny_batch(model))
    assert choose_route(model, batch, [(*C, "own"), R, (*C, "changed")]) == choose_route(model, batch, [C, R])
    assert arms_of([(*C, "own"), R, (*C, "changed")]) == (C, R)
    found = arm_logps(model, batch, [(*C, "own"), (*R, "top")])
    assert list(found) == [(*C, "own"), (*R, "top")]
    assert arm_logps(model, batch, []) == {}


def test_what_is_missing_is_named_with_the_remedy():
    model = tiny_vlm("llava")
    batch = tiny_batch(model)
    width = batch["answers"]["chosen"]["input_ids"].shape[1]
    against = answer_distributions(model, batch, [R])
    short = torch.ones(3, width - 1)
    refused = [
        ((*C, "changed"), {}, "tokens 'changed' of chosen.*spans of chosen are \\[\\]; collate with this reading"),
        ((*C, "changed"), {"spans": {"chosen": {"other": short}}}, "are \\['other'\\]"),
        ((*C, "changed"), {"spans": {"chosen": {"changed": short}}}, "spans of chosen, changed have shape.*padding included"),
        ((*C, "own"), {}, "own tokens of chosen.*has them of \\[\\]; give the rows a column own_tokens"),
        ((*C, "own"), {"own": {"chosen": short.long()}}, "own tokens of chosen have shape"),
        ((*C, "own"), {"own": {"chosen": torch.full((3, width), 10**6)}}, "row 0 .*1000000 of chosen is no id"),
        ((*C, "own"), {"own": {"chosen": torch.full((3, width), -1)}}, "row 0 .*-1 of chosen is no id"),
        ((*C, "kl"), {}, "holds distributions of .*rejected.*not of .*chosen"),
        (("third", "original", "own"), {}, "answers hold .*not .*third"),
        (("chosen", "blank", "top"), {}, "prompts hold .*not .*blank"),
        (("chosen",), {}, "is no reading"),
        ("chosen", {}, "is no reading"),
    ]
    for route in ROUTES:
        for reading, more, message in refused:
            with pytest.raises(ValueError, match=message):
                arm_logps(model, batch | more, [R, reading], route=route, against=against)
    with pytest.raises(ValueError, match="against=answer_distributions\\(reference, batch, arms\\)"):
        arm_logps(model, batch, [(*C, "kl")])
    with pytest.raises(ValueError, match="places a row.*of this very batch"):
        arm_logps(model, tiny_batch(model, seed=1, rows=2), [(*R, "kl")], against=against)
    narrow = Distributions(against.table[:, :-1], against.lengths)
    with pytest.raises(ValueError, match="the same vocabulary"):
        arm_logps(model, batch, [(*R, "kl")], against=narrow)
    for route in ROUTES:
        with pytest.raises(ValueError, match="answers hold .*not .*third"):
            own_tokens(model, batch, ("third", "original"), route=route)
        with pytest.raises(ValueError, match="answers hold .*not .*third"):
            answer_distributions(model, batch, [("third", "original")], route=route)
