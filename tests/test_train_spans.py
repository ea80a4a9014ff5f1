# Exported from nbs/train/spans.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.spans import *  # noqa: F403

import difflib
import random
from types import SimpleNamespace

import pytest
import torch

from mfpo.model.small import small_vlm_for_tests, word_tokenizer

END = SimpleNamespace(all_special_ids=[0, 9])


def told(name, chosen, rejected, tokenizer=END):
    """The weights along both answers; answers as strings of single digits."""
    tokens = {"chosen": [int(c) for c in chosen], "rejected": [int(c) for c in rejected]}
    made = [span_weights(name, {}, answer, tokens, tokenizer) for answer in tokens]
    assert all(weights.dtype == torch.float32 for weights in made)
    return tuple("".join(str(int(w)) for w in weights.tolist()) for weights in made)

def object_words(text, worse, others=(), tokenizer=None, answer="chosen"):
    """The answer's tokens that the span `objects` marks, with an end that is none of the text's."""
    tokenizer = tokenizer or small_vlm_for_tests()[1].tokenizer
    regions = [{"keyword": w, "found": True, "box": [0, 0, 1, 1]} for w in worse]
    regions += [{"keyword": w, "found": False, "box": None} for w in others]
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    weights = span_weights("objects", {answer: text, "regions": regions}, answer, {answer: ids}, tokenizer)
    return [token for token, w in zip(tokenizer.convert_ids_to_tokens(ids), weights.tolist()) if w]


def test_changed_tokens_by_hand():
    # 4 became 8 7, between matches of three: half-open, neighbours stay 0
    assert told("changed", "12387567", "1234567") == ("00011000", "0001000")
    # a pure insertion: the paper's changed tokens, and nothing in the released code
    assert told("changed", "123774560", "1234560") == ("000110000", "0000000")
    assert told("changed_released", "123774560", "1234560") == ("000000000", "0000000")
    # two common tokens between changes are no match, three are
    assert told("changed", "1119911", "1118811") == ("0001111", "0001111")
    assert told("changed", "11199111", "11188111") == ("00011000", "00011000")
    # one common token at the beginning: it follows the common prompt, so it is common
    assert told("changed", "1777456", "1888456") == ("0111000", "0111000")
    # equal answers have no change
    assert told("changed", "1230", "1230") == ("0000", "0000") == told("diverged", "1230", "1230")


def test_the_end_is_not_changed_unless_it_changed():
    # a last word changed before the end: the match 0 is too short to count, and still no change of the end
    assert told("changed", "12340", "12350") == ("00010", "00010")
    assert told("changed_released", "12340", "12350") == ("00011", "00011")
    # a stop and the end are two: the stop goes with the change, as published, the end does not
    assert told("changed", "123460", "123560") == ("000110", "000110")
    # an end on one side only (the other was never closed) did change
    assert told("changed", "12340", "12345") == ("00001", "00001")
    # a template that closes the turn before the sequence (9 0)
    assert told("changed", "123490", "123590") == ("000100", "000100")
    assert told("changed", "12349", "123590") == ("00011", "000111")  # which the other does not close
    # nothing but an insertion before the end
    assert told("changed", "123450", "1230") == ("000110", "0000")


def test_changed_as_released_is_what_the_released_code_tells_of_whole_sequences():
    def released(a, b):
        """RLHF-V's utils/diff_lib.get_diff_ids, written out from its description: all sequence, minimal match 3."""
        blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        blocks = [m for m in blocks[:-1] if m.size >= 3] + [blocks[-1]]
        marks, i, j = [set(), set()], 0, 0
        for m in blocks:
            if m.a > i and m.b > j:
                marks[0] |= set(range(i, m.a))
                marks[1] |= set(range(j, m.b))
            i, j = m.a + m.size, m.b + m.size
        return marks


    generator, prompt = random.Random(0), list(range(100, 160))
    for _ in range(300):
        chosen = [generator.randrange(1, 9) for _ in range(generator.randrange(1, 40))]
        rejected = [t if generator.random() < 0.8 else generator.randrange(1, 9) for t in chosen]
        place = generator.randrange(len(rejected) + 1)
        rejected[place:place] = [generator.randrange(1, 9) for _ in range(generator.randrange(4))]
        chosen, rejected = [*chosen, 0], [*rejected, 0]
        tokens = {"chosen": chosen, "rejected": rejected}
        marks = released(prompt + rejected, prompt + chosen)
        for answer, marked in zip(("rejected", "chosen"), marks):
            ours = span_weights("changed_released", {}, answer, tokens, END)
            assert (len(prompt) + ours.nonzero()[:, 0]).tolist() == sorted(marked)
            # the default marks these and more, but for the common end
            more = span_weights("changed", {}, answer, tokens, END)
            assert (more[:-1] >= ours[:-1]).all() and more[-1] == 0


def test_what_is_left_of_two_answers_without_their_changes_is_the_same():
    generator = random.Random(1)
    for _ in range(200):
        tokens = {name: [*(generator.randrange(1, 5) for _ in range(generator.randrange(0, 30))), 0]
                  for name in ("chosen", "rejected")}
        weights = {name: span_weights("changed", {}, name, tokens, END) for name in tokens}
        left = [[t for t, w in zip(ids, weights[name]) if w == 0] for name, ids in tokens.items()]
        assert left[0] == left[1]


def test_diverged_begins_at_the_first_difference():
    assert told("diverged", "12340", "12540") == ("00111", "00111")
    assert told("diverged", "120", "12340") == ("001", "00111")  # the end against a word: the end differs
    assert told("diverged", "12", "1234") == ("00", "0011")  # answers that are not closed
    assert told("diverged", "9", "8") == ("1", "1")


def test_a_third_answer_is_compared_with_the_chosen_one():
    tokens = {"chosen": [1, 2, 3, 0], "second": [1, 2, 4, 0]}
    assert SPANS["changed"].answers("second") == ("second", "chosen")
    assert SPANS["changed"].answers("chosen") == ("chosen", "rejected")
    assert span_weights("changed", {}, "second", tokens, END).tolist() == [0, 0, 1, 0]
    assert SPANS["objects"].reads("second") == ("second", "regions")


def test_objects_are_named_in_all_their_forms():
    words = word_tokenizer("two cups tennis racket rackets a table and hot dog dogs the man 's knives Knife in on".split())
    assert object_words("two cups on a table .", ["cup"], ["table"], words) == ["cups"]
    rackets = object_words("a tennis racket and two rackets .", ["tennis racket"], [], words)
    assert rackets == ["tennis", "racket", "rackets"]
    assert object_words("Knives and a knife , the man's .", ["knife", "man"], [], words) == ["knives", "knife", "man"]
    # a fixed compound is another thing than its last word; other keywords with that word are not
    assert object_words("a hot dog and two dogs .", ["hot dog"], [], words) == ["hot", "dog"]
    assert object_words("a hot dog and two dogs .", ["dog"], [], words) == ["dog", "dogs"]
    # a word of several tokens is marked whole
    assert object_words("a zebra on a table .", ["zebra"], [], words) == ["z", "##e", "##b", "##r", "##a"]


def test_where_no_region_was_made_worse_the_whole_answer_counts():
    assert len(object_words("a red cup .", [], ["cup"])) == 5  # fallback: keywords, none found; with the end
    assert len(object_words("a red cup .", [])) == 5  # global or random: no keywords
    assert object_words("a dog .", ["cup"], answer="rejected") == []  # regions, and this answer does not name them
    columns = {"keyword": ["cup", "table"], "found": [True, False], "box": [[0, 0, 1, 1], None]}
    tokenizer = small_vlm_for_tests()[1].tokenizer
    ids = {"chosen": tokenizer("a cup")["input_ids"]}
    assert span_weights("objects", {"chosen": "a cup", "regions": columns}, "chosen", ids, tokenizer).tolist() == [0, 1]


def test_characters_by_offsets_and_by_decoding_are_the_same_words():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = "Two naïve zebras — “striped” — beside the man's tennis rackets, 3 crêpes and 🦓."


    class Slow:
        """The same tokenizer without offsets."""

        def __init__(self, fast):
            self.fast, self.all_special_ids, self.eos_token_id = fast, fast.all_special_ids, fast.eos_token_id

        def __call__(self, text, return_offsets_mapping=False, **options):
            if return_offsets_mapping:
                raise NotImplementedError("no offsets")
            return self.fast(text, **options)

        def decode(self, *arguments, **options):
            return self.fast.decode(*arguments, **options)

        def convert_ids_to_tokens(self, ids):
            return self.fast.convert_ids_to_tokens(ids)


    def byte_level():
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator([text], trainers.BpeTrainer(
            special_tokens=["</s>"], initial_alphabet=alphabet, vocab_size=300))
        return made


    def metaspace():
        made = Tokenizer(models.BPE(byte_fallback=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # as Llama's
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        made.train_from_iterator([text.replace(" ", "▁")], trainers.BpeTrainer(
            special_tokens=["</s>", *(f"<0x{k:02X}>" for k in range(256))], vocab_size=320))
        return made


    for make in (byte_level, metaspace):
        fast = PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="</s>", clean_up_tokenization_spaces=False)
        for keywords in (["zebra"], ["tennis racket", "man"], ["crêpe"], ["racket"]):
            ids = [*fast(text)["input_ids"], fast.eos_token_id]
            row = {"chosen": text, "regions": [{"keyword": word, "found": True} for word in keywords]}
            one, two = (span_weights("objects", row, "chosen", {"chosen": ids}, t) for t in (fast, Slow(fast)))
            assert torch.equal(one, two) and one.sum() > 0 and one[-1] == 0
            marked = fast.decode([k for k, w in zip(ids, one) if w])
            assert all(word[:5] in marked for phrase in keywords for word in phrase.split()) and "Two" not in marked
        # ids that the answer alone does not give: told by decoding
        whole, places = token_characters(fast, fast("x Two")["input_ids"], "Two")
        assert "Two" in whole and len(places) == len(fast("x Two")["input_ids"])


def test_a_blank_in_front_of_the_answer_shifts_nothing():
    tokenizer = small_vlm_for_tests()[1].tokenizer
    for text in ("a cup", "  a cup \n", " a cup"):
        told_text, places = token_characters(tokenizer, [*tokenizer(text)["input_ids"], tokenizer.eos_token_id], text)
        assert [told_text[start:end] for start, end in places] == ["a", "cup", ""]


def test_spans_of_ones_own_and_what_is_wrong_with_them():
    @span("first_token", columns="note")
    def first_token(row, answer, tokens, tokenizer):
        return [1.0] + [0.0] * (len(tokens[answer]) - 1)


    try:
        assert span_weights("first_token", {}, "chosen", {"chosen": [5, 6]}, END).tolist() == [1, 0]
        assert SPANS["first_token"].reads("chosen") == ("chosen", "note")
        span("first_token")(first_token)  # a cell that is run again
        for taken in ("changed", "all", "own", "kl"):
            with pytest.raises(ValueError, match=f"span '{taken}' is taken"):
                span(taken)(first_token)
        for bad in ([1.0], [1.0, float("nan")], [1.0, -1.0], ["a", "b"], None):
            SPANS["first_token"] = SpanMaker(lambda *_: bad)
            with pytest.raises(ValueError, match="span 'first_token' of chosen"):
                span_weights("first_token", {}, "chosen", {"chosen": [5, 6]}, END)
    finally:
        del SPANS["first_token"]
    with pytest.raises(ValueError, match="'changes' is unknown; use one of .*diverged"):
        span_weights("changes", {}, "chosen", {"chosen": [5, 6]}, END)
    with pytest.raises(ValueError, match="span 'objects' of chosen: KeyError: 'found'; mend the row"):
        span_weights("objects", {"chosen": "a", "regions": [{"keyword": "a"}]}, "chosen", {"chosen": [5]}, END)
