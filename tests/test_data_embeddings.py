# Exported from nbs/data/embeddings.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.embeddings import *  # noqa: F403

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def picture(seed, size=(8, 6)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def tiny_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", "a", "cup", "lamp", "red"]
    raw = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def tiny_checkpoint(folder, kind):
    """A random CLIP, SigLIP or DINOv2 of the real class, saved as safetensors."""
    from transformers import (
        BitImageProcessor, CLIPConfig, CLIPImageProcessor, CLIPModel, Dinov2Config, Dinov2Model, SiglipConfig,
        SiglipImageProcessor, SiglipModel,
    )

    torch.manual_seed(0)
    small = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    vision = dict(**small, image_size=32, patch_size=8)
    text = dict(**small, vocab_size=8, max_position_embeddings=12, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=10))
        processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    elif kind == "siglip":
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    else:
        model = Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8))
        processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # a fresh model's vectors are all but the same
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tiny_tokenizer(folder)
    return str(folder)


def test_embeddings_of_real_classes():
    images = [picture(k, size) for k, size in enumerate([(40, 30), (31, 57), (32, 32), (9, 80), (64, 64)])]
    with tempfile.TemporaryDirectory() as folder:
        for kind, width in (("clip", 10), ("siglip", 16), ("dinov2", 16)):
            name = tiny_checkpoint(Path(folder) / kind, kind)
            embed = load_image_embedding(name, batch_size=2)
            vectors = embed(images)
            assert vectors.shape == (5, width) and vectors.dtype == np.float32 and np.isfinite(vectors).all(), kind
            one = np.concatenate([load_image_embedding(name, batch_size=1)([image]) for image in images])
            assert np.allclose(one, vectors, atol=1e-5) and np.abs(vectors - vectors[0]).max(1)[1:].min() > 1e-3
            assert embed.fingerprint == load_image_embedding(name).fingerprint
            assert embed.fingerprint != load_image_embedding(name, dtype="bfloat16").fingerprint
            assert np.array_equal(embed([images[0].convert("RGBA")]), embed([images[0]]))
            # by hand: the model's own call on the processor's own pixels
            inputs = embed.processor(images=images[:1], return_tensors="pt")
            with torch.no_grad():
                if kind == "clip":
                    pooled = embed.model.visual_projection(embed.model.vision_model(**inputs).pooler_output)
                else:
                    pooled = (embed.model.vision_model if kind == "siglip" else embed.model)(**inputs).pooler_output
            assert np.allclose(pooled.numpy(), vectors[:1], atol=1e-5), kind


def test_image_text_similarity():
    images = [picture(k, (32, 32)) for k in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("clip", "siglip"):
            similarity = load_similarity(tiny_checkpoint(Path(folder) / kind, kind))
            values = similarity(images, "a red cup")
            assert values.shape == (4,) and values.dtype == np.float32 and np.abs(values).max() <= 1 and values.std() > 1e-4
            assert not np.allclose(values, similarity(images, "a lamp")) and similarity([], "a").shape == (0,)
            model, ids = similarity.tower.model, [[1, 4, 7, 5, 2]]
            if kind == "siglip":
                ids = [ids[0] + [0] * 7]  # padded to its 12 positions
            pixels = similarity.tower.processor(images=images, return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                out = model(input_ids=torch.tensor(ids), pixel_values=pixels)
            assert np.allclose(values, (out.image_embeds @ out.text_embeds.T).numpy()[:, 0], atol=1e-5), kind
            similarity(images, "cup " * 100)  # longer than it reads: cut
            assert least_similar(images, "a red cup", similarity) == values.argmin()
        dino = tiny_checkpoint(Path(folder) / "dino", "dinov2")
        assert "no text" in refused(load_similarity, dino)


def test_least_similar_by_order():
    table = lambda values: lambda candidates, text: np.array(values)
    images = [picture(k) for k in range(3)]
    assert least_similar(images, "x", table([0.3, 0.1, 0.2])) == 1 and least_similar(images, "x", table([0.3, 0.1, 0.1])) == 1
    assert "no candidates" in refused(least_similar, [], "x", table([]))
    assert "finite" in refused(least_similar, images, "x", table([0.3, float("nan"), 0.1]))
    assert "each" in refused(least_similar, images, "x", table([0.3, 0.1]))


def test_what_cannot_be_loaded():
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        empty.mkdir()
        for name in (str(empty), str(empty / "absent"), "nobody/nothing"):
            assert refused(load_image_embedding, name).startswith(name) and "safetensors" in refused(load_similarity, name)
        name = tiny_checkpoint(Path(folder) / "clip", "clip")
        assert "batch_size" in refused(load_image_embedding, name, batch_size=0)
        assert "dtype" in refused(load_image_embedding, name, dtype="int8")
        for file in Path(name).glob("tokenizer*"):
            file.unlink()
        load_image_embedding(name)
        assert "tokenizer" in refused(load_similarity, name)
        (Path(name) / "model.safetensors").write_bytes(b"cut")
        assert refused(load_image_embedding, name).startswith(name)
