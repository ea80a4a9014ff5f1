# Exported from nbs/analysis/attention.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.attention import *  # noqa: F403

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from mfpo.analysis.attention import _share_by_head
from mfpo.analysis.heads import attention_by_head
from mfpo.model.small import small_vlm_for_tests


def drawn(box=(32, 16, 48, 32), size=(64, 64)):
    """A white picture with one red box."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle([box[0], box[1], box[2] - 1, box[3] - 1], fill=(200, 20, 20))
    return image


def test_shares_derived_by_hand():
    # Mask: lower right patch and half of the lower left: share .4 + .5 * .2 = .5 of 1.0; area 1.5 / 4; ratio 4 / 3.
    found = attention_on(np.array([[0, 0], [0.5, 1]]), np.array([[0.3, 0.1], [0.2, 0.4]]))
    assert (found.share, found.area) == pytest.approx((0.5, 0.375)) and found.ratio == pytest.approx(4 / 3)
    # Two tokens, the second with a tenth of the weight and all of it on the mask: (1/4 + 1) / 2.
    two = np.array([[[0.25, 0.25], [0.25, 0.25]], [[0, 0], [0, 0.1]]])
    assert attention_on(np.array([[0, 0], [0, 1]]), two).share == pytest.approx(0.625)
    # Even attention has ratio 1 on any mask.
    assert attention_on(np.array([[1, 0], [0.3, 0]]), np.full((2, 2), 0.07)).ratio == pytest.approx(1)
    assert np.isnan(attention_on(np.zeros((2, 2)), np.ones((2, 2))).ratio)
    for mask, attention, message in (
        (np.ones((2, 3)), np.ones((3, 2)), "one patch grid"),
        (2 * np.ones((2, 2)), np.ones((2, 2)), "between 0 and 1"),
        (np.ones((2, 2)), np.zeros((1, 2, 2)), "no attention on the image"),
    ):
        with pytest.raises(ValueError, match=message):
            attention_on(mask, attention)


def test_masks_are_averaged_over_patches():
    mask = np.zeros((4, 4), dtype=bool)
    mask[2:, 1:] = True
    assert mask_on_grid(mask, (2, 2)).tolist() == [[0, 0], [0.5, 1]]
    # Three pixels on two patches: the middle pixel belongs half to each, 1/3 of a patch of 1.5 pixels.
    assert np.allclose(mask_on_grid(np.array([[0, 1, 0]]), (1, 2)), [[1 / 3, 1 / 3]])
    assert mask_on_grid(np.random.default_rng(0).random((37, 23)) > 0.5, (5, 4)).max() <= 1
    big = np.random.default_rng(0).random((30, 42))
    assert mask_on_grid(big, (4, 9)).mean() == pytest.approx(big.mean())


def test_masks_are_cropped_as_the_image_is():
    from types import SimpleNamespace
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    # Shortest edge to 8 and the centre 8 x 8 cut out, as LLaVA-1.5 does: of 8 x 24 pixels the columns 8 to 16 stay.
    crop = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, do_center_crop=True)
    mask = np.zeros((8, 24), dtype=bool)
    mask[:, :12] = True
    seen = seen_mask(SimpleNamespace(image_processor=crop), mask)
    assert seen.shape == (8, 8) and seen[:, :4].min() == 1 and seen[:, 4:].max() == 0
    _, processor = small_vlm_for_tests()
    assert np.array_equal(seen_mask(processor, np.eye(64)), np.eye(64))


def test_attention_is_what_the_model_computes():
    model, processor = small_vlm_for_tests()
    question, answer = "is there a cup ?", "a red cup ."
    found = image_attention(model, processor, drawn(), question, answer)
    assert found.shape == (4, 4, 4) and found.min() > 0 and (found.sum((1, 2)) < 1).all()
    # The same from the first principles of the last of three layers: softmax(q k / sqrt(d)) with rotary positions.
    from mfpo.evaluate.answers import encode_prompts

    inputs = encode_prompts(processor, [drawn()], [question])
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer_tokens(processor, answer)[0]])], 1)
    layer, hidden = model.model.language_model.layers[2].self_attn, []
    hook = model.model.language_model.layers[2].input_layernorm.register_forward_hook(
        lambda module, args, out: hidden.append(out)
    )
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"])
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        turn = model.model.language_model.rotary_emb(hidden[0], torch.arange(ids.shape[1])[None])
        q, k = (f(hidden[0]).view(1, ids.shape[1], 4, 24).transpose(1, 2) for f in (layer.q_proj, layer.k_proj))
        q, k = apply_rotary_pos_emb(q, k, *turn)
        scores = (q @ k.transpose(2, 3) / 24**0.5).masked_fill(
            torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool(), -torch.inf
        )
        weights = scores.softmax(-1)[0].mean(0)
    hook.remove()
    patches = (ids[0] == model.config.image_token_id).nonzero().flatten()
    length = inputs["input_ids"].shape[1]
    assert np.allclose(found, weights[length - 1 : length + 3][:, patches].reshape(4, 4, 4), atol=1e-6)
    own = image_attention(model, processor, drawn(), question, answer, predicting=False)
    assert np.allclose(own, weights[length : length + 4][:, patches].reshape(4, 4, 4), atol=1e-6)


def test_layers_grids_and_the_implementation_are_looked_after():
    model, processor = small_vlm_for_tests()
    before = (
        model.config._attn_implementation,
        model.config.text_config._attn_implementation,
        model.config.vision_config._attn_implementation,
    )
    ask = (model, processor, drawn(), "describe the image .", "a cup .")
    single = [image_attention(*ask, layers=[layer]) for layer in range(3)]
    assert np.allclose(image_attention(*ask, layers=[0, 1, 2]), np.mean(single, 0)) and np.array_equal(
        image_attention(*ask), single[2]
    )
    assert np.array_equal(image_attention(*ask, grid=(2, 8)).reshape(3, 16), single[2].reshape(3, 16))
    assert before == (
        model.config._attn_implementation,
        model.config.text_config._attn_implementation,
        model.config.vision_config._attn_implementation,
    )
    for options, message in (({"layers": [3]}, "layers 0 to 2"), ({"grid": (5, 5)}, "16 image tokens make no 5 x 5 grid")):
        with pytest.raises(ValueError, match=message):
            image_attention(*ask, **options)
    with pytest.raises(ValueError, match="the answer is empty"):
        image_attention(*ask[:4], "")


def test_adapters_keep_their_attention():
    from peft import get_peft_model
    from mfpo.model.vlm import lora
    model, processor = small_vlm_for_tests()
    ask = (processor, drawn(), "describe the image .", "a cup .")
    plain = image_attention(model, *ask)
    adapted = get_peft_model(model, lora(model, r=2))
    # A fresh adapter changes nothing.
    assert np.allclose(image_attention(adapted, *ask), plain, atol=1e-7)


def test_records_follow_the_objects_that_are_named():
    model, processor = small_vlm_for_tests()
    image = drawn()
    labels = np.zeros((64, 64), dtype=np.uint8)
    labels[16:32, 32:48], labels[0:16, 0:16] = 1, 2
    things = [{"name": "cup", "box": [32, 16, 48, 32]}, {"name": "dog", "box": [0, 0, 16, 16]}]
    row = {
        "id": "a",
        "image": image,
        "question": "describe the image .",
        "answer": "a cup and a zebra .",
        "objects": things,
    }
    by_box = object_attention(model, processor, [row, row | {"id": "b", "answer": "nothing ."}])
    by_map = object_attention(model, processor, [row | {"instances": Image.fromarray(labels)}])
    assert by_box.equals(by_map) and by_box["id"].tolist() == ["a"] and by_box["object"].tolist() == ["cup"]
    attention = image_attention(model, processor, image, row["question"], row["answer"])
    look = attention[1] / attention[1].sum()  # "cup" is the second token
    assert by_box.loc[0, ["share", "area", "background"]].tolist() == pytest.approx(
        [look[1, 2], 1 / 16, 1 - look[1, 2] - look[0, 0]]
    )
    assert tokens_naming(processor, "A cup, cups and a teacup: CUP", "cup").sum() == 2


def test_one_implementation_for_means_and_heads():
    # The mean over heads and layers of what transformers itself hands out, in double precision.
    model, processor = small_vlm_for_tests()
    ask = (model.double(), processor, drawn(), "is there a cup ?", "a red cup .")
    whole = attention_by_head(*ask, route="eager")
    assert np.allclose(image_attention(*ask), whole[2:].mean((0, 1)), atol=1e-7)
    some = image_attention(*ask, layers=[0, 2], tokens=[2])
    assert np.allclose(some, whole[[0, 2]][:, :, [2]].mean((0, 1)), atol=1e-7)


def test_shares_by_head_agree_with_attention_on():
    model, processor = small_vlm_for_tests()
    things = [{"name": "cup", "box": [32, 16, 48, 32]}, {"name": "dog", "box": [0, 0, 24, 16]}]
    row = {"id": "a", "image": drawn(), "question": "is there a dog ?", "answer": "a cup and a cup ."}
    row["objects"] = things
    frame = object_attention_by_head(model, processor, [row])
    assert list(frame) == ["id", "object", "layer", "head", "share", "area", "ratio"] and len(frame) == 3 * 4
    assert set(frame["object"]) == {"cup"} and np.allclose(frame["ratio"], frame["share"] * 16)
    attention = attention_by_head(model, processor, row["image"], row["question"], row["answer"])
    mask = mask_on_grid(seen_mask(processor, object_masks(row)["cup"]), (4, 4))
    for record in frame.itertuples():
        expected = attention_on(mask, attention[record.layer, record.head, [1, 4]])
        assert (record.share, record.area) == pytest.approx((expected.share, expected.area))
    # From the whole answer and from the prompt, the question's dog counts, too; 1.5 patches of 16.
    for tokens, looking in (("all", slice(None)), ("prompt", slice(0, 1))):
        frame = object_attention_by_head(model, processor, [row], tokens=tokens, layers=[2])
        assert frame.groupby("object")["area"].first().to_dict() == {"cup": 1 / 16, "dog": 1.5 / 16}
        dog = mask_on_grid(seen_mask(processor, object_masks(row)["dog"]), (4, 4))
        share = frame.query("object == 'dog' and head == 3 and layer == 2")["share"].item()
        assert share == pytest.approx(attention_on(dog, attention[2, 3, looking]).share)
    assert object_attention_by_head(model, processor, [row | {"answer": "nothing ."}]).empty


def test_head_tables_derived_by_hand():
    frame = pd.DataFrame({
        "id": ["a", "a", "b", "b"], "object": "cup", "layer": 1, "head": [1, 0, 1, 0], "ratio": [1.0, 2.0, 2.0, np.nan],
    })
    assert head_table(frame).to_dict("records") == [
        {"layer": 1, "head": 0, "ratio": 2.0, "objects": 1, "unseen": 1},
        {"layer": 1, "head": 1, "ratio": 1.5, "objects": 2, "unseen": 0},
    ]
    # A head with nothing on the image, and a mask that is cropped away, have no ratio: of two tokens one sees nothing.
    attention = np.zeros((1, 2, 2, 1, 2))
    attention[0, 0] = [[[0.1, 0.3]], [[0.2, 0.2]]]
    attention[0, 1, 0] = [[0.5, 0.1]]
    share, area = _share_by_head(np.array([[0, 1]]), attention)
    assert share[0, 0] == pytest.approx((0.75 + 0.5) / 2) and np.isnan(share[0, 1]) and area == 0.5
    for table, message in ((frame.drop(columns="head"), "column head is missing"), (frame[:0], "has no rows")):
        with pytest.raises(ValueError, match=message):
            head_table(table)


def test_rows_that_cannot_be_read_are_named():
    model, processor = small_vlm_for_tests()
    row = {"id": "a", "image": drawn(), "question": "is there a cup ?", "answer": "a cup .", "objects": [
        {"name": "cup", "box": [32, 16, 48, 32]}]}
    for rows, options, message in (
        ([row, {k: v for k, v in row.items() if k != "image"}], {}, r"row 1 \(a\) has no image"),
        ([row], {"grid": (5, 5)}, "row a: .*16 image tokens make no 5 x 5 grid"),
        ([row], {"tokens": "last"}, "give 'naming', 'all' or 'prompt'"),
        ([row], {"layers": [3]}, "row a: .*layers 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            object_attention_by_head(model, processor, rows, **options)


def test_grids_of_whole_pictures_and_of_parts():
    from mfpo.model.tiny import tiny_processor, tiny_vlm
    # Qwen fits a grid to the picture: 24 x 16 pixels are 2 x 3 merged patches, and a mask needs no resizing.
    processor = tiny_processor("qwen2_vl")
    image = drawn((8, 0, 24, 8), (24, 16))
    row = {"id": "a", "image": image, "question": "what is there ?", "answer": "a cup .", "objects": [
        {"name": "cup", "box": [8, 0, 24, 8]}]}
    frame = object_attention_by_head(tiny_vlm("qwen2_vl"), processor, [row])
    assert frame["area"].unique().tolist() == [2 / 6] and frame["ratio"].notna().all()
    assert seen_image(processor, image).size == (24, 16)
    # InternVL cuts this picture into tiles: the first of them is not the picture.
    with pytest.raises(ValueError, match="cuts an image into parts"):
        seen_mask(tiny_processor("internvl"), np.zeros((16, 24)))
    _, processor = small_vlm_for_tests()
    assert np.array_equal(np.asarray(seen_image(processor, drawn())), np.asarray(drawn()))
