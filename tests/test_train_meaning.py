# Exported from nbs/train/meaning.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.meaning import *  # noqa: F403

import json, pathlib, tempfile, types
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from mfpo.model.small import word_tokenizer
from mfpo.train.difficulty import both_ways, cluster_answers, content_words

WORDS = "a the cup cat dog table red blue on what is it ? . and plate".split()
ANSWERS = ["a cup", "a red cup", "a cup on a table .", "a dog", "the blue dog and a cat on a red table", "a plate ."]


def tokenizer_with_ends(most=512):
    """[CLS] a [SEP] b [SEP], as BERT has it."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer(WORDS)
    ends = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=ends
    )
    tokenizer.model_max_length = most
    return tokenizer


def saved(folder, kind="bert", head=True, labels=("contradiction", "Entailment", "neutral"), seed=0, edit=None, **sizes):
    """A folder with a small checkpoint; `edit` changes the model before it is saved."""
    import transformers as t

    tokenizer, place = tokenizer_with_ends(), pathlib.Path(folder) / f"{kind}-{seed}-{head}"
    common = dict(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                  max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, initializer_range=0.5,
                  id2label=dict(enumerate(labels)), label2id={v: k for k, v in enumerate(labels)}) | sizes
    config, names = {
        "bert": (t.BertConfig, ("BertForSequenceClassification", "BertModel")),
        "deberta": (t.DebertaV2Config, ("DebertaV2ForSequenceClassification", "DebertaV2Model")),
        "roberta": (t.RobertaConfig, ("RobertaForSequenceClassification", "RobertaModel")),
    }[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(t, names[0 if head else 1])(config(**common)).eval()
    if edit:
        edit(model)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_clusters_of_many_rows_are_those_of_each():
    rows = [["a cup", "two cups", "a dog", "a cup"], ["a dog"], ["a cat", "a dog", "the cat", "dogs", "a plate"], ["", " ", "a", "a cup"]]
    asked = []
    class Counting(PairJudge):
        def same(self, pairs):
            asked.append(list(pairs))
            return super().same(pairs)
    got = Counting(both_ways(lambda a, b: content_words(a) == content_words(b))).clusters(rows, list("pqrs"))
    assert got == [[0, 1, 2, 0], [0], [0, 1, 0, 1, 2], [0, 0, 1, 2]]
    assert got[:3] == [cluster_answers(row) for row in rows[:3]]
    # Three rounds; of the row r first "a cat" with its three others, then "a dog" with two.
    assert [len([p for p in pairs if p[0] == "r"]) for pairs in asked] == [4, 2] and len(asked) == 2
    assert all(first and second for pairs in asked for _, first, second in pairs), "blank answers are not asked about"


def test_the_greedy_rule_where_same_is_no_equivalence():
    # Neighbours mean the same: b joins a; c differs from a and founds its own; d joins c, e founds.
    near = PairJudge(lambda x, y: abs(ord(x) - ord(y)) <= 1, "near")
    assert near.clusters([list("abcde")]) == [[0, 0, 1, 1, 2]] == [cluster_answers(list("abcde"), near.function)]
    rng = np.random.default_rng(0)
    for _ in range(30):
        row = [chr(97 + k) for k in rng.integers(0, 8, 7)]
        assert near.clusters([row, row[::-1]]) == [cluster_answers(r, near.function) for r in (row, row[::-1])]


def test_rubbish_is_refused():
    class Rubbish(Judge):
        def __init__(self, told): self.told = told
        def same(self, pairs): return self.told
    for told in (None, [True], [0.7, 0.2], [np.nan, 1.0], [[True, False]], [1, 0]):
        with pytest.raises(ValueError, match="Rubbish answers 2 pairs with .* one bool a pair"):
            Rubbish(told).clusters([["a", "b", "c"]])
    with pytest.raises(NotImplementedError):
        Judge().clusters([["a", "b"]])
    for rows, message in (
        ([["a"], []], r"row 1 of answers is \[\]"), (["abc"], "row 0 of answers is 'abc'"),
        ([["a", float("nan")]], r"row 0, answer 1 is nan \(float\)"), ([["a", None]], "answer 1 is None"),
    ):
        with pytest.raises(ValueError, match=message):
            PairJudge().clusters(rows)
    with pytest.raises(ValueError, match="1 questions for 2 rows"):
        PairJudge().clusters([["a"], ["b"]], ["what ?"])
    assert PairJudge().clusters([]) == []


def test_entailment_is_what_the_model_says_one_pair_at_a_time():
    with tempfile.TemporaryDirectory() as folder:
        for kind, seed in (("bert", 8), ("deberta", 9), ("roberta", 2)):
            place = saved(folder, kind, seed=seed)
            judge = load_entailment(place, batch_size=4)
            model, tokenizer = AutoModelForSequenceClassification.from_pretrained(place), AutoTokenizer.from_pretrained(place)
            assert judge.label == 1 and not model.training
            def one(a, b):
                inputs = tokenizer(f"what is it ? {a}", f"what is it ? {b}", return_tensors="pt")
                inputs = {k: v for k, v in inputs.items() if k != "token_type_ids" or kind != "roberta"}
                with torch.no_grad():
                    return torch.softmax(model(**inputs).logits[0].double(), 0).numpy()
            pairs = [(a, b) for a in ANSWERS for b in ANSWERS if a != b]
            wanted = np.stack([one(a, b) for a, b in pairs])
            texts = [[f"what is it ? {text}" for text in side] for side in zip(*pairs)]
            assert np.allclose(judge.probabilities(*texts), wanted, atol=1e-5)
            assert (judge.entails(*texts) == (wanted.argmax(1) == 1)).all()
            table = {pair: p.argmax() == 1 for pair, p in zip(pairs, wanted)}
            assert 0 < sum(table.values()) < len(table), "weights that say both"
            same = both_ways(lambda a, b: table[a, b])
            rows, questions = [ANSWERS, ANSWERS[::-1], ANSWERS[2:5]], ["what is it ?"] * 3
            assert judge.clusters(rows, questions) == [cluster_answers(row, same) for row in rows]
            limit = float(np.median(wanted[:, 1]))
            strict = load_entailment(place, threshold=limit)
            clear = np.abs(wanted[:, 1] - limit) > 1e-4
            assert (strict.entails(*texts) == (wanted[:, 1] >= limit))[clear].all() and strict.fingerprint != judge.fingerprint


def test_both_directions_and_the_question_matter():
    with tempfile.TemporaryDirectory() as folder:
        judge = load_entailment(saved(folder))
        asked = []
        def longer(premises, hypotheses):
            asked.append((list(premises), list(hypotheses)))
            return np.asarray([len(p) >= len(h) for p, h in zip(premises, hypotheses)])
        judge.entails = longer
        assert judge.same([("q", "aa", "b"), ("q", "c", "dd"), ("", "e", "f")]).tolist() == [False, False, True]
        # Backwards only where forwards holds; the question before both, where there is one.
        assert asked == [(["q aa", "q c", "e"], ["q b", "q dd", "f"]), (["q b", "f"], ["q aa", "e"])]
        judge.with_question = False
        judge.same([("q", "aa", "b")])
        assert asked[-2] == (["aa"], ["b"])


def test_always_and_never():
    def always(model):
        model.classifier.weight.zero_(); model.classifier.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    def never(model):
        model.classifier.weight.zero_(); model.classifier.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        yes, no = load_entailment(saved(folder, edit=always)), load_entailment(saved(folder, edit=never, seed=1))
        rows = [ANSWERS, ["a cup", "", "a dog", ""]]
        assert yes.clusters(rows) == [[0] * 6, [0, 1, 0, 1]], "all same, and blank answers by themselves"
        assert no.clusters(rows) == [list(range(6)), [0, 1, 2, 1]]
        # softmax of (0, 9, 0): 1 / (1 + 2 e^-9)
        assert yes.probabilities(["a cup"], ["a dog"])[0, 1] == pytest.approx(1 / (1 + 2 * np.exp(-9)), rel=1e-6)
        assert load_entailment(pathlib.Path(folder) / "bert-0-True", threshold=0.9999).clusters([ANSWERS]) == [list(range(6))]


def test_a_model_without_entailment_is_refused_by_its_labels():
    with tempfile.TemporaryDirectory() as folder:
        for seed, labels in enumerate((("LABEL_0", "LABEL_1", "LABEL_2"), ("negative", "positive", "not_entailment"))):
            with pytest.raises(ValueError, match=f"its classes are .'{labels[0]}', '{labels[1]}'.*called 'entailment'"):
                load_entailment(saved(folder, labels=labels, seed=seed))
        with pytest.raises(ValueError, match="two or more"):
            load_entailment(saved(folder, labels=("entailment",), seed=7))
        assert load_entailment(saved(folder, labels=(" ENTAILMENT", "not_entailment"), seed=8)).label == 0


def test_checkpoints_that_cannot_be_judges():
    with tempfile.TemporaryDirectory() as folder:
        headless = saved(folder, head=False)
        with pytest.raises(ValueError, match=r"2 weights are missing \(classifier.bias, classifier.weight\).*partly random"):
            load_entailment(headless)
        place = saved(folder, seed=5)
        torch.save(AutoModelForSequenceClassification.from_pretrained(place).state_dict(), place / "pytorch_model.bin")
        (place / "model.safetensors").unlink()
        for load in (load_entailment, load_embedding_judge):
            with pytest.raises(ValueError, match="bert-5-True: cannot be loaded.*safetensors"):
                load(place)
            for name, message in ((f"{folder}/none", "is no folder"), (folder, "holds no config.json"), ("", "no checkpoint is named")):
                with pytest.raises(ValueError, match=message):
                    load(name)
            for size in (0, 2.5, True):
                with pytest.raises(ValueError, match="batch_size="):
                    load(saved(folder, seed=6), batch_size=size)
        for limit in (0, 1.5, float("nan")):
            with pytest.raises(ValueError, match="threshold="):
                load_entailment(place, threshold=limit)
        for limit in (-1, 1.5, float("nan")):
            with pytest.raises(ValueError, match="threshold="):
                load_embedding_judge(place, threshold=limit)
        def broken(model):
            with torch.no_grad(): model.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
        with pytest.raises(ValueError, match="not finite"):
            load_entailment(saved(folder, seed=9, edit=broken))


def test_long_answers_are_cut_and_said_so():
    with tempfile.TemporaryDirectory() as folder:
        told = []
        handler = types.SimpleNamespace(level=0, handle=lambda record: told.append(record.getMessage()))
        logger.addHandler(handler)
        try:
            for kind, room in (("bert", 64), ("roberta", 63)):  # the padding token is 0, so one place is lost
                judge = load_entailment(saved(folder, kind))
                assert judge.reader.room == room
                assert len(judge.clusters([["a cup " * 200, "a dog", "a cat " * 31]])[0]) == 3
        finally:
            logger.removeHandler(handler)
        assert any("bert-0-True reads 64 tokens: 2 of 2 inputs are cut" in line for line in told), told


def test_vectors_are_means_over_tokens_whatever_the_batch():
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("bert", "deberta"):
            place = saved(folder, kind, head=False, seed=2)
            judge = load_embedding_judge(place, batch_size=4)
            model, tokenizer = AutoModel.from_pretrained(place), AutoTokenizer.from_pretrained(place)
            with torch.no_grad():
                wanted = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().mean(0).numpy() for text in ANSWERS]
            wanted = np.stack([v / np.linalg.norm(v) for v in wanted])
            found = judge.vectors(ANSWERS)
            assert np.allclose(found, wanted, atol=1e-6) and np.allclose((found**2).sum(1), 1, atol=1e-12)
            cosines = wanted @ wanted.T
            limit = float(np.median(cosines[np.triu_indices(6, 1)])) + 1e-4
            place_of = {text: k for k, text in enumerate(ANSWERS)}
            same = lambda a, b: cosines[place_of[a], place_of[b]] >= limit
            rows = [ANSWERS, ANSWERS[::-1]]
            got = load_embedding_judge(place, threshold=limit).clusters(rows, ["ignored ?"] * 2)
            assert got == [cluster_answers(row, same) for row in rows] and len(set(got[0])) > 1
        assert load_embedding_judge(place, threshold=-0.9999).clusters([ANSWERS]) == [[0] * 6]


def test_a_checkpoint_says_how_it_is_pooled():
    with tempfile.TemporaryDirectory() as folder:
        place = saved(folder, head=False, seed=2)
        (place / "1_Pooling").mkdir()
        for told, pooling in (({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"), ({"pooling_mode": "mean"}, "mean"),
                              ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 16}, "mean")):
            (place / "1_Pooling" / "config.json").write_text(json.dumps(told))
            judge = load_embedding_judge(place)
            assert judge.pooling == pooling
        (place / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
        with pytest.raises(ValueError, match=r"pooled by \['max_tokens'\]"):
            load_embedding_judge(place)


def test_fingerprints_tell_judges_apart():
    with tempfile.TemporaryDirectory() as folder:
        a, b = saved(folder, seed=1), saved(folder, seed=2)
        marks = [load_entailment(a).fingerprint, load_entailment(b).fingerprint, load_entailment(a, threshold=0.5).fingerprint,
                 load_entailment(a, with_question=False).fingerprint, load_embedding_judge(a).fingerprint,
                 load_embedding_judge(a, threshold=0.8).fingerprint, PairJudge().fingerprint]
        assert len(set(marks)) == 7 and load_entailment(a, batch_size=1).fingerprint == marks[0]
