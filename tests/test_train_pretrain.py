# Exported from nbs/train/pretrain.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.pretrain import *  # noqa: F403

import copy
import pytest
import torch
from mfpo.data.abilities import ability_words
from mfpo.data.scenes import CAPTION_QUESTION, WorldConfig, scene_rows, world_words
from mfpo.model.small import build_small_vlm

WORLD = WorldConfig(vision=24, pretrain=24, test=8)
TINY = PretrainConfig(vision_steps=4, align_steps=4, context_steps=3, batch_size=8)


def test_cached_features_give_the_models_own_loss():
    # Two ways to one number: the loss over cached tower features, and the model's own loss over pixels and labels.
    rows = scene_rows(WORLD, "test")
    model, processor = build_small_vlm(world_words(), seed=3)
    pixels, cells, _ = pixels_and_cells(processor, rows)
    assert [int((c > 0).sum()) for c in cells] == [len(o) for o in rows["objects"]]
    texts = tokenised_texts(processor, [CAPTION_QUESTION] * 8, list(rows["caption"]), [()] * 8, 5.0)
    with torch.no_grad():
        ours = text_loss(model, texts, tower_features(model, pixels))
        totals = []
        for (ids, weights), image in zip(texts, pixels):
            labels = torch.tensor([[t if w else -100 for t, w in zip(ids, weights)]])
            out = model(input_ids=torch.tensor([ids]), pixel_values=image[None], labels=labels)
            totals.append((out.loss.item() * sum(w > 0 for w in weights), sum(w > 0 for w in weights)))
    assert ours.item() == pytest.approx(sum(t for t, _ in totals) / sum(n for _, n in totals), rel=1e-5)


def test_words_that_decide_weigh_more():
    _, processor = build_small_vlm(sorted({*world_words(), *ability_words()}))
    (caption, question, place) = tokenised_texts(
        processor, [CAPTION_QUESTION, "is there a cup ?", "where are objects ?"],
        ["a park with a dog .", "no , there is no cup .", "top left , bottom left ."], [(), ("no",), ("left", "bottom")], 5.0
    )
    assert [w for w in caption[1] if w] == [1.0] * 7  # a park with a dog . </s>
    assert [w for w in question[1] if w] == [5.0] + [1.0] * 7  # no , there is no cup . </s>
    assert [w for w in place[1] if w] == [1.0, 5.0, 1.0, 5.0, 1.0, 1.0, 1.0]  # top left , bottom left . </s>


def test_pretraining_repeats_and_freezes_the_tower():
    kept = []
    runs = [
        pretrain(
            scene_rows(WORLD, "vision"), scene_rows(WORLD, "pretrain"), TINY, 1,
            lambda m, p: kept.append(copy.deepcopy(m.state_dict())),
        )
        for _ in range(2)
    ]
    (a, _, losses), (b, _, again) = runs
    assert losses == again and all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    grounded, base = kept[0], a.state_dict()
    moved = {n for n in base if not torch.equal(base[n], grounded[n])}
    assert moved and not any("vision_tower" in n for n in moved) and any("projector" in n for n in moved)


def test_noise_keeps_the_range_and_the_clean_step():
    _, processor = build_small_vlm(world_words())
    pixels, *_ = pixels_and_cells(processor, scene_rows(WORLD, "test"))
    generator = torch.Generator().manual_seed(0)
    out = noised_pixels(processor, pixels, torch.full((8,), 999), generator)
    # (0 - .5) / .25 = -2 and (1 - .5) / .25 = 2 are the ends of the normalised range.
    assert out.min() >= -2 and out.max() <= 2 and not torch.allclose(out, pixels, atol=0.5)
    assert torch.allclose(noised_pixels(processor, pixels, torch.zeros(8, dtype=torch.long), generator), pixels, atol=0.2)


def test_wrong_settings_are_refused():
    for wrong in ({"align_steps": 0}, {"questions": 1.5}, {"context_noise_step": 1000}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PretrainConfig(**wrong)
