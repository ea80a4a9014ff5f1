# Exported from nbs/evaluate/writer.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.evaluate.writer import *  # noqa: F403

import pathlib, tempfile
import pytest
import torch
from mfpo.data.writers import Reply
from mfpo.model.small import CHAT_TEMPLATE, word_tokenizer


def save_writer(folder, template=CHAT_TEMPLATE, seed=0):
    """A random two-layer Llama with a chat template, as a checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer("change the answer a red blue cup dog cat table".split())
    tokenizer.chat_template = template
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return str(folder)


def chats(count):
    texts = ["the red cup", "a dog and a cat on the table , change it", "blue", "the answer a red blue cup dog cat table"]
    return [(f"row {k}", [{"role": "user", "content": texts[k % 4] + " a" * k}]) for k in range(count)]


def test_replies_do_not_depend_on_their_neighbours():
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_chat_model(save_writer(folder))
        options = {"max_new_tokens": 12, "temperature": 0.9, "seed": 3}
        texts = [
            {i: r.text for i, r in LocalWriter(model, tokenizer, "w", batch_size=size, **options).write(chats(7))}
            for size in (1, 3, 7)
        ]
        assert texts[0] == texts[1] == texts[2] and len(set(texts[0].values())) > 4
        later = {i: r.text for i, r in LocalWriter(model, tokenizer, "w", batch_size=2, **options).write(chats(7)[3:])}
        assert later == {i: t for i, t in texts[0].items() if i in later}
        other = {i: r.text for i, r in LocalWriter(model, tokenizer, "w", **options | {"seed": 4}).write(chats(7))}
        assert other != texts[0]
        assert model.training is False


def test_greedy_replies_are_those_of_generate_one_by_one():
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_chat_model(save_writer(folder, seed=1))
        replies = dict(LocalWriter(model, tokenizer, "w", batch_size=4, max_new_tokens=9, temperature=0).write(chats(4)))
        for identity, messages in chats(4):
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False)[0, ids.shape[1]:]
            reply = replies[identity]
            assert reply.text == tokenizer.decode(made, skip_special_tokens=True).strip()
            assert reply.prompt_tokens == ids.shape[1] and reply.completion_tokens == len(made) and reply.attempts == 1
            assert reply.cut == (tokenizer.eos_token_id not in made.tolist())


def test_a_reply_ends_where_the_model_ends_it():
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_chat_model(save_writer(folder))
        options = {"max_new_tokens": 12, "temperature": 0.9}
        free = dict(LocalWriter(model, tokenizer, "w", **options).write(chats(1)))["row 0"]
        assert free.cut and free.completion_tokens == 12
        # A word that it writes becomes an end token: what was before it is left, and the end is paid too.
        said = free.text.split()
        word = next(w for w in said[2:] if w in tokenizer.get_vocab() and w not in said[:2])
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(word)]
        ended = dict(LocalWriter(model, tokenizer, "w", **options).write(chats(1)))["row 0"]
        assert not ended.cut and ended.text == " ".join(said[: said.index(word)]) and 2 < ended.completion_tokens < 12


def test_what_does_not_fit_fails_alone():
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_chat_model(save_writer(folder))
        requests = chats(3)
        requests[1] = ("row 1", [{"role": "user", "content": "a " * 300}])
        outcomes = dict(LocalWriter(model, tokenizer, "w", max_new_tokens=4).write(requests))
        assert list(outcomes) == ["row 0", "row 1", "row 2"] and isinstance(outcomes["row 2"], Reply)
        assert outcomes["row 1"].kind == "too long" and "takes 256 in all" in outcomes["row 1"].reason


def test_a_model_is_known_by_its_files():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_writer(folder / "a" / "writer")
        save_writer(folder / "b" / "writer")
        save_writer(folder / "c" / "writer", seed=1)
        one, two, three = (model_mark(folder / part / "writer") for part in "abc")
        assert one == two != three and one["name"] == three["name"] == "writer" and set(one) == {"name", "files"}
    assert model_mark("Qwen/Qwen3-8B", "main") == {"name": "Qwen/Qwen3-8B", "revision": "main"}


def test_bad_models_and_settings_are_refused():
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(ValueError, match="holds no config.json"):
            load_chat_model(folder)
        with pytest.raises(ValueError, match="is no folder"):
            load_chat_model(f"{folder}/missing")
        save_writer(folder, template=None)
        with pytest.raises(ValueError, match="no chat template"):
            load_chat_model(folder)
        with pytest.raises(ValueError, match="dtype is 'int9'"):
            load_chat_model(folder, dtype="int9")
    for wrong in ({"batch_size": 0}, {"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LocalWriter(None, None, "w", **wrong)
