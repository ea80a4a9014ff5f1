# Exported from nbs/runs/flops.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.flops import *  # noqa: F403

import pytest

import torch
from torch.utils.flop_counter import FlopCounterMode


def tiny_llava(tower="clip", kv_heads=2, head_dim=8, strategy="default"):
    """A random LLaVA with eager attention: 4 patches, 3 decoder layers, grouped keys."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    common = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    vision = CLIPVisionConfig(**common) if tower == "clip" else SiglipVisionConfig(**common, vision_use_head=False)
    text = LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=kv_heads,
        head_dim=head_dim, tie_word_embeddings=False, pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=49, vision_feature_layer=-2, vision_feature_select_strategy=strategy, image_seq_length=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    return model.train()


def tiny_batch():
    """Two samples with prompts of 7 and 6 tokens, answers of 3 to 5, in the collator's layout."""
    def padded(rows):
        width = max(map(len, rows))
        return {"input_ids": torch.tensor([r + [0] * (width - len(r)) for r in rows]),
                "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])}

    image = [49] * 4
    pixels = torch.linspace(-1, 1, 2 * 3 * 28 * 28).view(2, 3, 28, 28)
    prompt = padded([[1, *image, 5, 6], [1, *image, 5]])
    return {
        "prompts": {"original": {**prompt, "pixel_values": pixels}, "negative": {**prompt, "pixel_values": -pixels}},
        "answers": {"chosen": padded([[7, 8, 9], [7, 9, 9, 2, 3]]), "rejected": padded([[7, 8, 2, 3], [8, 8, 4, 4]])},
        "pad_token_id": 0,
    }


def counted(run):
    """FLOPs that torch's counter sees, less those of rotary angles, which some versions of transformers multiply out."""
    with FlopCounterMode(display=False) as counter:
        run()
    angles = [sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.endswith("rotary_emb")]
    return counter.get_total_flops() - sum(angles)


def counted_step(model, batch, arms):
    """(forward, backward) of a plain step with logits at all positions."""
    from mfpo.model.layout import arm_inputs

    inputs, _ = arm_inputs(batch, arms)
    kept = {}
    forward = counted(lambda: kept.update(loss=model(**inputs, use_cache=False).logits.logsumexp(-1).sum()))
    return forward, counted(lambda: kept["loss"].backward())


def test_the_tokens_of_three_arms_at_llava_size():
    row = Row(576 + 50, {"chosen": 120, "rejected": 120})
    plain, tree = plain_work([row], MFPO_ARMS), tree_work([row], MFPO_ARMS)
    assert (plain.tokens, tree.tokens) == (3 * 746, 2 * 626 + 3 * 120) == (2238, 1612)
    assert round(plain.tokens / tree.tokens, 2) == 1.39
    # the last prompt token predicts the first token of both answers: 1 + 119 + 119 positions, and 120 for the negative
    assert (plain.heads, tree.heads) == (2238, 239 + 120)
    assert (plain.images, tree.images) == (3, 2)
    assert tree.pairs == 2 * (626 * 627 // 2) + 3 * (120 * 626 + 120 * 121 // 2)
    assert tree_work([row, row], MFPO_ARMS) == tree + tree
    assert tree_work([row], MFPO_ARMS, images=False) == Work(tree.tokens, tree.pairs, tree.heads, 0)


def test_floors_at_llava_size():
    # Worked out by hand beside the module: 2 FLOPs a weight and token, 32 layers of 4 · 4096² + 3 · 4096 · 11008 weights,
    # a head of 4096 · 32064, attention 4 · 4096 · 32 a pair, LoRA 16 · 32 · (8 · 4096 + 3 · (4096 + 11008)) weights,
    # a tower and projector of 0.383 TFLOP a picture.
    row = Row(576 + 50, {"chosen": 120, "rejected": 120})
    per_token = 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    work = plain_work([row], MFPO_ARMS)
    parts = forward_flops(LLAVA_7B, work, 16)
    assert parts["decoder"] == 2238 * per_token
    assert parts["lora"] == 2238 * 2 * 16 * 32 * (8 * 4096 + 3 * (4096 + 11008))
    assert parts["head"] == 2238 * 2 * 4096 * 32064 and parts["attention"] == 3 * (746 * 747 // 2) * 4 * 4096 * 32
    assert round((parts["tower"] + parts["projector"]) / 3e12, 3) == 0.406


    def ratio(arms, training, **choices):
        return round(plain_step(LLAVA_7B, [row], arms, training).total / tree_step(LLAVA_7B, [row], arms, training, **choices).total, 2)


    best = {"reference": "cached", "features": "remembered"}
    assert ratio(MFPO_ARMS, Training(16), **best) == 2.16
    assert ratio(DPO_ARMS, Training(16), **best) == 2.67
    assert ratio(MFPO_ARMS, Training(16)) == 1.43 and ratio(DPO_ARMS, Training(16)) == 1.77
    # full fine-tuning: 1.92 were the tower's cost left out as well, 1.89 with it
    assert ratio(MFPO_ARMS, Training(None), reference="cached") == 1.89


def test_answers_that_begin_alike_share_the_beginning():
    # prompt 3; chosen 7 8 9, rejected 7 8 5 6: nodes 7, 78, 789, 785, 7856 at depths 4, 5, 6, 6, 7
    row = Row(3, {"chosen": [7, 8, 9], "rejected": [7, 8, 5, 6]})
    assert tree_work([row], DPO_ARMS) == Work(tokens=3 + 5, pairs=6 + 4 + 5 + 6 + 6 + 7, heads=4, images=1)
    assert plain_work([row], DPO_ARMS) == Work(tokens=6 + 7, pairs=21 + 28, heads=13, images=2)
    assert plain_work([row], DPO_ARMS, heads="answers").heads == 7
    assert plain_work([row], DPO_ARMS, padded=True) == Work(14, 2 * 49, 14, 2)
    # one answer is the beginning of the other: its end predicts nothing of its own
    row = Row(1, {"chosen": [7], "rejected": [7, 7]})
    assert tree_work([row], DPO_ARMS) == Work(tokens=3, pairs=1 + 2 + 3, heads=2, images=1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="answers are \\['chosen'\\], not 'rejected'"):
        tree_work([Row(3, {"chosen": 2})], DPO_ARMS)
    with pytest.raises(ValueError, match="answer 'chosen' is empty"):
        plain_work([Row(3, {"chosen": [], "rejected": 1})], DPO_ARMS)
    with pytest.raises(ValueError, match="heads='some' is unknown"):
        plain_work([], DPO_ARMS, heads="some")
    with pytest.raises(ValueError, match="lora_r=0 must be 1 or more"):
        Training(0)
    with pytest.raises(ValueError, match="trained tower under LoRA"):
        Training(16, tower=True)
    with pytest.raises(ValueError, match="the projector trains"):
        tree_step(LLAVA_7B, [], DPO_ARMS, Training(None), features="remembered")
    with pytest.raises(ValueError, match="reference='never'"):
        tree_step(LLAVA_7B, [], DPO_ARMS, reference="never")


def test_the_counter_agrees_on_full_training():
    for tower, strategy in (("clip", "default"), ("siglip", "full")):
        for kv_heads, head_dim in ((2, 8), (4, 6)):
            model, batch = tiny_llava(tower, kv_heads, head_dim, strategy), tiny_batch()
            size, work = VLMSize.from_config(model.config), plain_work(rows_of(batch), MFPO_ARMS, padded=True)
            assert work.tokens == 3 * 2 * 11 and size.image_tokens == 4
            for frozen in (True, False):
                model.model.vision_tower.requires_grad_(not frozen)
                forward, backward = counted_step(model, batch, MFPO_ARMS)
                assert forward == sum(forward_flops(size, work).values())
                expected = backward_flops(size, work, Training(None, tower=not frozen))
                # the tower's last layer is not read, so its gradient is not taken
                unread = 0
                if not frozen:
                    seen = size.tower.patches + size.tower.extra
                    unread = 2 * work.images * (seen * 2 * (4 * 16**2 + 2 * 16 * 40) + 4 * 16 * seen**2)
                assert backward == sum(expected.values()) - unread, (tower, kv_heads, frozen)


def test_the_counter_agrees_on_lora():
    from peft import get_peft_model
    from mfpo.model.vlm import lora

    base, batch = tiny_llava(), tiny_batch()
    size, rows = VLMSize.from_config(base.config), rows_of(batch)
    model = get_peft_model(base, lora(base, r=3)).train()
    for arms in (MFPO_ARMS, DPO_ARMS):
        work = plain_work(rows, arms, padded=True)
        forward, backward = counted_step(model, batch, arms)
        assert forward == sum(forward_flops(size, work, 3).values())
        assert backward == sum(backward_flops(size, work, Training(3)).values())
    with torch.no_grad(), model.disable_adapter():
        from mfpo.model.layout import arm_inputs
        inputs, _ = arm_inputs(batch, MFPO_ARMS)
        seen = counted(lambda: model(**inputs, use_cache=False))
    assert seen == sum(forward_flops(size, plain_work(rows, MFPO_ARMS, padded=True)).values())
    # under gradient checkpointing peft asks for the gradient of the embeddings: the first layer's is taken too, and that
    # of the projector and of the one tower layer that is read
    base.enable_input_require_grads()
    work = plain_work(rows, MFPO_ARMS, padded=True)
    first = [size.decoder.linears[name] for name in ("q", "k", "v")]
    more = 2 * work.tokens * (sum(a * b for a, b in first) + 3 * sum(a for a, _ in first))
    more += work.images * (5 * 2 * (4 * 16**2 + 2 * 16 * 40) + 2 * 4 * 16 * 5**2 + 4 * 2 * 24 * (16 + 24))
    assert counted_step(model, batch, MFPO_ARMS)[1] == sum(backward_flops(size, work, Training(3)).values()) + more


def test_rows_come_from_a_batch():
    rows = rows_of(tiny_batch())
    assert [(row.prompt, row.ids("chosen"), row.ids("rejected")) for row in rows] == [(7, (7, 8, 9), (7, 8, 2, 3)), (6, (7, 9, 9, 2, 3), (8, 8, 4, 4))]
    # the first sample's answers share 7 8: 7 + 5 tokens for the original, 7 + 3 for the negative; the second's share none
    assert tree_work(rows, MFPO_ARMS).tokens == (12 + 10) + (6 + 9 + 6 + 5)
    batch = tiny_batch()
    batch["prompts"]["negative"]["attention_mask"] = torch.tensor([[1] * 6 + [0]] * 2)
    with pytest.raises(ValueError, match="prompts differ in length between the images"):
        rows_of(batch)


def test_a_model_of_another_build_is_refused():
    from transformers import Qwen2Config
    config = tiny_llava().config
    config.text_config = Qwen2Config()
    with pytest.raises(ValueError, match="a qwen2 decoder is not counted here"):
        VLMSize.from_config(config)
    with pytest.raises(ValueError, match="a qwen2 with a None is not counted"):
        VLMSize.from_config(Qwen2Config())
