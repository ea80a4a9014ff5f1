# Exported from nbs/runs/workload.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.workload import *  # noqa: F403

import pytest
import torch

TINY = dict(width=32, layers=2, heads=2, intermediate=48, vocabulary=64, vision_width=16, vision_layers=2, vision_heads=2, image_side=3,
            prompt=6, answer=8, batch=3, lora_r=2)


def test_the_default_shape_is_llava_in_small():
    from mfpo.runs.flops import LLAVA_7B, VLMSize
    small, large = VLMSize.from_config(llava_config(Shape())), VLMSize.from_config(llava_config(Shape(**LLAVA_7B_SHAPE)))
    assert large == LLAVA_7B and large.image_tokens == small.image_tokens == 576


    def head_share(size):
        d = size.decoder
        return d.width * d.vocabulary / (d.layers * sum(a * b for a, b in d.linears.values()))


    assert [round(head_share(size), 3) for size in (small, large)] == [0.021, 0.02]
    for a, b in ((small, large),):  # widths in the proportion 1 : 8, depths too
        assert b.decoder.width / a.decoder.width == b.tower.width / a.tower.width == b.decoder.layers / a.decoder.layers == b.tower.layers / a.tower.layers == 8
        assert b.decoder.intermediate / a.decoder.intermediate == 8 and b.decoder.head_dim == a.decoder.head_dim == 128


def test_rows_vary_and_come_from_the_seed():
    rows, again, other = (random_rows(Shape(answer=100, batch=40, image_side=1, seed=seed)) for seed in (0, 0, 1))
    lengths = [len(row["chosen"]) for row in rows]
    assert 85 <= min(lengths) < 92 and 108 < max(lengths) <= 115
    assert [row["chosen"] for row in rows] == [row["chosen"] for row in again] != [row["chosen"] for row in other]
    assert rows[0]["image"].tobytes() == again[0]["image"].tobytes() != rows[0]["negative"].tobytes()
    assert all(row["prompt"].count(511) == 1 for row in rows) and all(511 not in row["chosen"] for row in rows)


def test_the_batch_is_in_the_collators_layout():
    shape = Shape(**TINY)
    rows = random_rows(shape)
    batch = preference_batch(shape, rows)
    for i, row in enumerate(rows):
        ids, mask = (batch["prompts"]["original"][k][i] for k in ("input_ids", "attention_mask"))
        assert ids[mask.bool()].tolist() == [1, *[63] * 9, *row["prompt"][2:]]
        ids, mask = (batch["answers"]["rejected"][k][i] for k in ("input_ids", "attention_mask"))
        assert ids[mask.bool()].tolist() == row["rejected"]
    assert batch["images"] == {"original": [0, 1, 2], "negative": [3, 4, 5]}
    from mfpo.model.logps import arm_logps
    from mfpo.train.presets import preset
    model = random_llava(shape)
    assert not any(p.requires_grad for p in model.parameters())
    logps = arm_logps(model, batch, preset("mfpo").arms)
    assert all(values.shape == (3,) and values.isfinite().all() for values in logps.values())
    assert not torch.equal(logps["chosen", "original"], logps["chosen", "negative"])


def test_trl_finds_the_same_tokens_and_the_same_loss():
    import tempfile
    from mfpo.model.layout import arm_inputs
    from mfpo.model.logps import arm_logps
    from mfpo.train.presets import preset
    shape = Shape(**TINY)
    rows = random_rows(shape)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(shape, random_llava(shape), rows, folder)
        randomise_adapters(trainer.model)
        with torch.no_grad():  # further away from the reference, so that the loss is not that of two equal models
            [p.mul_(100) for name, p in trainer.model.named_parameters() if "lora_B" in name]
        theirs = trl_batch(trainer, shape, rows)
        ours = preference_batch(shape, rows)
        inputs, is_answer = arm_inputs(ours, preset("dpo").arms)
        assert torch.equal(theirs["input_ids"], inputs["input_ids"]) and torch.equal(theirs["pixel_values"], inputs["pixel_values"])
        assert torch.equal(theirs["completion_mask"].bool(), is_answer)
        loss = trainer.compute_loss(trainer.model, theirs)
        policy = arm_logps(trainer.model, ours, preset("dpo").arms)
        with torch.no_grad(), trainer.model.disable_adapter():
            reference = arm_logps(trainer.model, ours, preset("dpo").arms)
        mine, _ = preset("dpo")(policy, reference)
    assert abs(loss.item() - mine.item()) < 1e-5 and abs(loss.item() - 0.6931) > 1e-3


def test_shapes_that_cannot_be_are_refused():
    for wrong, message in (({"layers": 0}, "layers=0 must be 1 or more"), ({"variation": 1.0}, "variation=1.0 must be in"),
                           ({"heads": 3}, "512 is not split by 3 heads"), ({"vocabulary": 8}, "vocabulary=8 must be 16")):
        with pytest.raises(ValueError, match=message):
            Shape(**wrong)
