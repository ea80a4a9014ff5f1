# Exported from nbs/analysis/probe.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.probe import *  # noqa: F403

import numpy as np
import pytest


def test_a_linear_code_is_read_and_noise_is_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    code = np.eye(4)[labels] @ rng.normal(size=(4, 12)) + 0.01 * rng.normal(size=(400, 12))
    assert linear_probe(code[:300], labels[:300], code[300:], labels[300:]).all()
    noise = rng.normal(size=(400, 12))
    # Chance is 1/4; with 100 rows five standard errors are .22.
    assert linear_probe(noise[:300], labels[:300], noise[300:], labels[300:]).mean() < 0.47


def test_exclusive_or_is_not_linear():
    bits = np.random.default_rng(1).integers(0, 2, (400, 2))
    labels = bits[:, 0] ^ bits[:, 1]
    assert linear_probe(bits[:300], labels[:300], bits[300:], labels[300:]).mean() < 0.72
    with pytest.raises(ValueError, match="do not fit"):
        linear_probe(bits, labels[:3], bits, labels)


def test_tokens_are_what_the_language_model_gets():
    import torch
    from PIL import Image
    from mfpo.data.scenes import WorldConfig, scene_rows, world_words
    from mfpo.model.small import build_small_vlm
    model, processor = build_small_vlm(world_words(), seed=0)
    rows = scene_rows(WorldConfig(test=5), "test")
    tokens = visual_tokens(model, processor, list(rows["image"]), batch_size=2)
    assert tokens.shape == (5, 16, 96)
    pixels = processor.image_processor(list(rows["image"]), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        assert np.allclose(tokens, model.model.multi_modal_projector(states).numpy(), atol=1e-5)
    assert cell_probe(model, processor, rows, rows).shape == (sum(len(o) for o in rows["objects"]),)
