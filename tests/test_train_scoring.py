# Exported from nbs/train/scoring.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.scoring import *  # noqa: F403

import numpy as np
import pytest
import torch
from PIL import Image
from mfpo.model.small import small_vlm_for_tests
from mfpo.train.collator import PreferenceCollator, RowEncoder
from mfpo.train.arms import Arm


def rows_of(n):
    colours = [(40 * i % 256, 90, 200 - 10 * i) for i in range(n)]
    return [
        {
            "id": str(i), "image": Image.new("RGB", (64, 64), c), "negative": Image.new("RGB", (64, 64)),
            "question": "describe the image .", "chosen": "a red cup ." * (1 + i % 3), "rejected": "a dog .",
        }
        for i, c in enumerate(colours)
    ]


def test_scores_are_the_models_own_and_batches_do_not_matter():
    model, processor = small_vlm_for_tests(1)
    rows = rows_of(5)
    arms = (Arm("chosen", "original"), Arm("rejected", "original"), Arm("chosen", "negative"))
    scores = [score_arms(model, rows, PreferenceCollator(RowEncoder(processor, 0), arms), batch_size=b) for b in (1, 2, 5)]
    for arm in arms:
        assert scores[0][arm].shape == (5,) and scores[0][arm].dtype == np.float64
        assert (
            np.allclose(scores[0][arm], scores[1][arm], rtol=1e-5)
            and np.allclose(scores[0][arm], scores[2][arm], rtol=1e-5)
        )
    alone = score_answers(
        model, processor, [r["image"] for r in rows], [r["question"] for r in rows], [r["chosen"] for r in rows]
    )
    assert np.allclose(alone, scores[0][arms[0]], rtol=1e-5) and (alone < 0).all()
    # The model's own mean loss over the answer's tokens, times their number.
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": rows[1]["question"]}]}],
        add_generation_prompt=True,
    )
    prompt = processor(text=[text], images=[rows[1]["image"]], return_tensors="pt", add_special_tokens=False)
    said = (
        processor.tokenizer(rows[1]["chosen"], add_special_tokens=False)["input_ids"]
        + [processor.tokenizer.eos_token_id]
    )
    ids = torch.cat([prompt["input_ids"], torch.tensor([said])], 1)
    labels = torch.cat([torch.full_like(prompt["input_ids"], -100), torch.tensor([said])], 1)
    with torch.no_grad():
        loss = model(input_ids=ids, pixel_values=prompt["pixel_values"], labels=labels).loss.item()
    assert alone[1] == pytest.approx(-loss * len(said), rel=1e-5)


def test_the_mode_is_kept():
    model, processor = small_vlm_for_tests()
    model.train()
    score_arms(model, rows_of(2), PreferenceCollator(RowEncoder(processor, 0), (Arm("chosen", "original"),)))
    assert model.training
    assert score_arms(
        model, [], PreferenceCollator(RowEncoder(processor, 0), (Arm("chosen", "original"),))
    )[Arm("chosen", "original")].shape == (0,)
