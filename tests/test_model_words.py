# Exported from nbs/model/words.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.words import *  # noqa: F403

import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from mfpo.data.keywords import KeywordConfig, keywords
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import save_vlm
from mfpo.model.words import WordVectors, embedding_table, load_embedding, sentence_vectors, table_vectors


def refused(kind, function, *args, **kwargs):
    """The message of the error of class `kind` that the call raises."""
    try:
        function(*args, **kwargs)
    except kind as error:
        return str(error)
    raise AssertionError("not refused")


def by_model(model, tokenizer, words, centre):
    """The same vectors from the loaded model's own input embeddings."""
    table = model.get_input_embeddings().weight.detach().double()
    rows = [table[tokenizer(f" {word}", add_special_tokens=False)["input_ids"]].mean(0) for word in words]
    return (torch.stack(rows) - (table.mean(0) if centre else 0)).numpy()


WORDS = ["cup", "tennis racket", "dog", "cup", "zebra"]  # one token, letter pieces, a repeat


def test_rows_of_the_table_are_those_of_the_model():
    with tempfile.TemporaryDirectory() as folder:
        model, processor = small_vlm_for_tests(seed=3)
        small = save_vlm(model, processor, Path(folder) / "small")
        for centre in (False, True):
            embed = load_embedding(small, centre=centre)
            vectors = embed(WORDS)
            assert vectors.shape == (5, 96) and vectors.dtype == np.float32
            assert np.allclose(vectors, by_model(model, processor.tokenizer, WORDS, centre), atol=1e-6)
            assert np.array_equal(embed(["zebra", "cup"]), vectors[[4, 0]])  # remembered
        assert embed([]).shape[0] == 0
        key, path = embedding_table(small, len(processor.tokenizer))
        assert key.endswith("embed_tokens.weight") and path.name == "model.safetensors"
        # Two checkpoints have two fingerprints, one has one.
        other = save_vlm(*small_vlm_for_tests(seed=4), Path(folder) / "other" / "small")
        assert load_embedding(small).fingerprint == load_embedding(str(small)).fingerprint
        assert len({load_embedding(small, centre=True).fingerprint, load_embedding(small, centre=False).fingerprint,
                    load_embedding(other).fingerprint}) == 3
        # They do something in the graph.
        config, text = KeywordConfig(nouns="lexicon", gamma=5.0), "a cup and a dog near a bench, a car and a tree"
        assert keywords(text, config, load_embedding(small)).scores != keywords(text, config).scores


def test_sharded_and_half_precision():
    with tempfile.TemporaryDirectory() as folder:
        model, processor = small_vlm_for_tests(seed=3)
        for dtype in (torch.float32, torch.bfloat16):
            shards = Path(folder) / str(dtype)
            model.to(dtype).save_pretrained(shards, max_shard_size="300KB")
            processor.save_pretrained(shards)
            assert len(list(shards.glob("model-*.safetensors"))) > 2
            expected = by_model(model, processor.tokenizer, WORDS, True)
            assert np.allclose(load_embedding(shards)(WORDS), expected, atol=1e-6)
        index = json.loads((shards / "model.safetensors.index.json").read_text())
        key, path = embedding_table(shards, len(processor.tokenizer))
        assert path.name == index["weight_map"][key]
        path.unlink()
        assert path.name in refused(FileNotFoundError, load_embedding, shards)


def test_other_families():
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    with tempfile.TemporaryDirectory() as folder:
        _, processor = small_vlm_for_tests()
        n = len(processor.tokenizer)
        gpt = GPT2LMHeadModel(GPT2Config(vocab_size=n + 3, n_positions=n + 5, n_embd=8, n_layer=1, n_head=1))
        for name, model in {
            "gpt2": gpt,  # its table is tied to the head, and its position table is long enough to be one
            "t5": T5ForConditionalGeneration(T5Config(
                vocab_size=n, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
            )),
        }.items():
            path = Path(folder) / name
            model.save_pretrained(path)
            processor.tokenizer.save_pretrained(path)
            options = {"tensor": "shared.weight"} if name == "t5" else {}
            if options:
                assert "tensor=" in refused(ValueError, load_embedding, path)
            expected = by_model(model, processor.tokenizer, WORDS, True)
            assert np.allclose(load_embedding(path, **options)(WORDS), expected, atol=1e-6)
        gpt_path = Path(folder) / "gpt2"
        assert "has no tensor 'x'" in refused(ValueError, load_embedding, gpt_path, tensor="x")
        assert "rows is needed" in refused(ValueError, load_embedding, gpt_path, tensor="transformer.ln_f.weight")


def test_a_blank_stands_before_a_word():
    # A byte-level BPE has one token for " cup" and another for "cup"; inside a sentence a word has the former.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    pieces = ["<unk>", "c", "u", "p", "Ġ", "cu", "cup", "Ġcup"]
    bpe = Tokenizer(models.BPE({piece: k for k, piece in enumerate(pieces)}, [("c", "u"), ("cu", "p"), ("Ġ", "cup")]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    with tempfile.TemporaryDirectory() as folder:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=8, n_layer=1, n_head=1))
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>").save_pretrained(folder)
        expected = model.get_input_embeddings().weight[pieces.index("Ġcup")].detach().numpy()
        assert np.allclose(load_embedding(folder, centre=False)(["cup"])[0], expected)


def test_sentence_models():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts
    from transformers import BertConfig, BertModel, BertTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        bert_path, path = Path(folder) / "bert", Path(folder) / "sentence"
        letters = list("abcdefghijklmnopqrstuvwxyz")
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cup", "dog", *letters, *(f"##{c}" for c in letters)]
        bert_path.mkdir()
        (bert_path / "vocab.txt").write_text("\n".join(vocab))
        tokenizer = BertTokenizerFast(vocab=str(bert_path / "vocab.txt"))
        torch.manual_seed(0)
        bert = BertModel(BertConfig(
            vocab_size=len(vocab), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        )).eval()
        bert.save_pretrained(bert_path)
        tokenizer.save_pretrained(bert_path)
        transformer = parts.Transformer(str(bert_path))
        SentenceTransformer(modules=[transformer, parts.Pooling(16, pooling_mode="mean")], device="cpu").save(str(path))
        embed = load_embedding(path, device="cpu")
        assert embed.fingerprint.startswith("sentence(sentence, ")
        words = ["cup", "tennis racket", "dog"]
        with torch.no_grad():
            expected = []
            for word in words:  # one at a time: no padding
                given = tokenizer(word, return_tensors="pt")
                expected.append(bert(**given).last_hidden_state[0].mean(0).numpy())
        assert np.allclose(embed(words), np.stack(expected), atol=1e-5)
        assert not np.allclose(np.linalg.norm(embed(words), axis=1), 1)  # not normalised
        # The same folder read as a table, and a checkpoint that is no sentence model.
        assert "kind='table'" in refused(FileNotFoundError, sentence_vectors, bert_path)
        expected = by_model(bert, tokenizer, words, True)
        assert np.allclose(load_embedding(bert_path)(words), expected, atol=1e-6)
        with mock.patch.dict("sys.modules", {"sentence_transformers": None}):
            assert "mfpo[embeddings]" in refused(ImportError, load_embedding, path)


def test_what_is_refused():
    assert "kind='word2vec'" in refused(ValueError, load_embedding, "x", "word2vec")
    assert "is not a folder" in refused(FileNotFoundError, load_embedding, "/nowhere/at/all")
    with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
        for name in ("nobody/nothing-of-this-name", "sentence-transformers/nothing-of-this-name"):
            assert "fetch it beforehand" in refused(FileNotFoundError, load_embedding, name)
    with tempfile.TemporaryDirectory() as folder:
        assert "not a model checkpoint" in refused(FileNotFoundError, load_embedding, folder)
        model, processor = small_vlm_for_tests()
        model.config.save_pretrained(folder)
        assert "tokenizer cannot be loaded" in refused(ValueError, load_embedding, folder)
        processor.tokenizer.save_pretrained(folder)
        assert "no safetensors weights" in refused(FileNotFoundError, load_embedding, folder)
        Path(folder, "pytorch_model.bin").write_bytes(b"never opened")
        assert "pickles" in refused(FileNotFoundError, load_embedding, folder)
        from safetensors.numpy import save_file

        table = np.zeros((len(processor.tokenizer), 4), np.float32)
        both = {"a.embed_tokens.weight": table, "b.embed_tokens.weight": table + 1}
        save_file(both, Path(folder, "model.safetensors"))
        message = refused(ValueError, load_embedding, folder)
        assert "a.embed_tokens.weight, b.embed_tokens.weight" in message and "tensor=" in message
        assert load_embedding(folder, tensor="b.embed_tokens.weight", centre=False)(["cup"]).tolist() == [[1, 1, 1, 1]]
        save_file({"lm_head.weight": table}, Path(folder, "model.safetensors"))
        assert "cannot be told" in refused(ValueError, load_embedding, folder)
        save_file({"embed_tokens.weight": table * np.nan}, Path(folder, "model.safetensors"))
        assert "['cup'] are not finite" in refused(ValueError, load_embedding(folder), ["cup"])
        assert "no option of kind 'table'" in refused(ValueError, load_embedding, folder, device="cpu")
        assert "gives no token for" in refused(ValueError, load_embedding(folder), [" "])


def test_words_are_remembered():
    asked = []


    def compute(words):
        asked.append(list(words))
        return np.array([[len(word), 1] for word in words])


    embed = WordVectors(compute, "lengths", cache=2)
    assert embed(["a", "bb", "a"]).tolist() == [[1, 1], [2, 1], [1, 1]]
    assert embed(["a"]).tolist() == [[1, 1]] and asked == [["a", "bb"]]
    embed(["ccc"])  # the oldest, "bb", is forgotten
    embed(["a"])
    embed(["bb"])
    assert asked == [["a", "bb"], ["ccc"], ["bb"]]
    assert embed(["a", "bb", "ccc", "dddd"]).tolist() == [[1, 1], [2, 1], [3, 1], [4, 1]]  # more than it remembers
    assert "at least 1" in refused(ValueError, WordVectors, compute, "x", 0)
