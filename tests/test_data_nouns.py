# Exported from nbs/data/nouns.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.nouns import *  # noqa: F403

from unittest import mock

import numpy as np

from mfpo.data import nouns
from mfpo.data.nouns import Word, compound_of, lexicon_words, lemmas, noun_phrases, spacy_words, suffixes, words_of


def told(text):
    return [word.text for word in lexicon_words(text) if word.tag == "noun"]


def phrases(text, **options):
    return [phrase for phrase, _ in noun_phrases(lexicon_words(text), **options)]


def spacy_doc(words, pos, heads, deps, lemmas, spaces=None):
    """A parsed `Doc` made by hand: its `noun_chunks` are spaCy's own."""
    import spacy
    from spacy.tokens import Doc

    vocab = spacy.blank("en").vocab
    return Doc(vocab, words=words, spaces=spaces, pos=pos, heads=heads, deps=deps, lemmas=lemmas)


def test_chunks():
    assert phrases("two red tennis rackets") == ["tennis racket"]
    assert phrases("two red tennis rackets", adjectives=True) == ["red tennis racket"]
    assert phrases("two red tennis rackets", chunks=False) == ["tennis", "racket"]
    assert list(noun_phrases(lexicon_words("Her two red tennis rackets"))) == [("tennis racket", 4)]  # its head's place
    assert phrases("plates, cups and forks") == ["plate", "cup", "fork"] == phrases("plates; cups (forks)")
    assert phrases("a cup\nlamps") == ["cup", "lamp"]  # lines are apart
    assert phrases("the man's hat and the woman’s dog") == ["man", "hat", "woman", "dog"]
    assert phrases("a hot dog bun, a hot dog, a hot bun and a dog") == ["hot dog bun", "hot dog", "bun", "dog"]
    assert phrases("a hot dog", compounds=()) == ["dog"] and phrases("potted plants") == ["plant"]
    assert phrases("french fries") == ["french fry"] and "french fries" in lemmas("french fries")
    assert phrases("a cup lamp desk frame") == ["cup lamp desk frame"]
    assert phrases("a cup lamp desk frame bottle") == ["cup", "lamp", "desk", "frame", "bottle"]  # five: no compound
    assert phrases("a black-and-white cat, a double-decker bus") == ["cat", "double-decker bus"]


def test_compounds_are_known_by_their_end():
    assert compound_of("big hot dog") == compound_of("hot dog") == "hot dog" and compound_of("dog") is None
    assert compound_of("french fry") == "french fry" and compound_of("hot dog", ()) is None is compound_of("hot dog bun")


def test_rules_by_their_examples():
    for text, expected in {
        "the park": "park", "they park cars": "cars", "children who park cars": "children cars",
        "next to walls": "walls",
        "a man rides a horse": "man horse", "the image features cats": "image cats", "a man smiles": "man",
        "people walk": "people", "a tennis court": "tennis court", "the building and clothing": "building clothing",
        "people dining": "people", "a dining table": "dining table", "a young man": "man", "oranges": "oranges",
        "the car is orange": "car", "an animal print": "animal print", "a well-lit room": "room", "quickly": "",
        "people cooking food": "people food", "a man that walks and the dog that is hit": "man dog",
        "to the left of the left side": "left side", "a restaurant setting": "restaurant setting", "isn't 42 two's": "",
        "small, adorable dogs": "dogs", "a modern and elegant room": "room",
        "cars visible in the background": "cars background",
    }.items():
        assert told(text) == expected.split(), (text, told(text))


def test_positions_are_those_of_words_of():
    text = "The man's well-lit room, isn't it? Cafés – naïve!"
    assert [word.text for word in lexicon_words(text)] == [word.removesuffix("'s") for word in words_of(text)]
    assert told(text) == ["man", "room", "cafés", "naïve"]  # words that the lexicon does not know count as nouns


def test_possible_nouns_are_more():
    from mfpo.data.nouns import possible_nouns

    assert possible_nouns("people walk past the tall buildings and look") == [0, 1, 5, 7]  # walk, look


def test_suffixes_of_a_phrase():
    assert suffixes("red traffic light") == ("red traffic light", "traffic light", "light")
    assert suffixes("cup") == ("cup",) and suffixes("") == ()


def test_any_text_is_read():
    rng = np.random.default_rng(0)
    others = (0xE9, 0x2019, 0x4E2D, 0x6587, 0x1F600, 0xD800, 0xDFFF, 0x200D, 0x301, 0x130, 10, 0)
    letters = [chr(c) for c in (*range(32, 127), *others)]
    for _ in range(300):
        text = "".join(rng.choice(letters, rng.integers(0, 60)))
        words = lexicon_words(text)
        assert len(words) == len(words_of(text)) and all(word.lemma for word in words if word.tag == "noun")
        assert all(0 <= k < len(words) for _, k in noun_phrases(words, adjectives=True))
    assert told("猫 と 日本語のテキスト собака 猫's") == []  # the lexicon is English
    assert told("!? ... 😀😀") == [] == told("") and told("x" * 61) == [] and told("x" * 60) == ["x" * 60]


def test_spacy_chunks():
    # "The man's two red tennis rackets hit well-known balls in Paris." parsed by hand.
    words = "The man 's two red tennis rackets hit well - known balls in Paris .".split()
    pos = "DET NOUN PART NUM ADJ NOUN NOUN VERB ADV PUNCT ADJ NOUN ADP PROPN PUNCT".split()
    heads = [1, 6, 1, 6, 6, 6, 7, 7, 10, 10, 11, 7, 7, 12, 7]
    deps = "det poss case nummod amod compound nsubj ROOT advmod punct amod dobj prep pobj punct".split()
    lemma = "the man 's two red tennis racket hit well - know ball in Paris .".split()
    spaces = [word not in ("man", "well", "-", "Paris", ".") for word in words]
    doc = spacy_doc(words, pos, heads, deps, lemma, spaces)
    assert doc.text == "The man's two red tennis rackets hit well-known balls in Paris."
    assert [part.text for part in doc.noun_chunks] == ["The man's two red tennis rackets", "well-known balls", "Paris"]
    found = spacy_words(lambda text: doc, doc.text)
    assert len(found) == len(words_of(doc.text))
    assert list(noun_phrases(found)) == [("man", 1), ("tennis racket", 5), ("ball", 8), ("paris", 10)]
    long = [phrase for phrase, _ in noun_phrases(found, adjectives=True)]
    assert long == ["man", "red tennis racket", "well-known ball", "paris"]
    assert [p for p, _ in noun_phrases(found, chunks=False)] == ["man", "tennis", "racket", "ball", "paris"]
    # Two nouns side by side in two chunks are no compound: "she gave the man cups".
    doc = spacy_doc(["She", "gave", "the", "man", "cups"], "PRON VERB DET NOUN NOUN".split(), [1, 1, 3, 1, 1],
                    "nsubj ROOT det dative dobj".split(), "she give the man cup".split())
    assert [p for p, _ in noun_phrases(spacy_words(lambda text: doc, doc.text))] == ["man", "cup"]
    # Without a parser the tags alone decide.
    bare = spacy_doc(["tennis", "rackets"], ["NOUN", "NOUN"], None, None, ["tennis", "racket"])
    assert [p for p, _ in noun_phrases(spacy_words(lambda text: bare, bare.text))] == ["tennis racket"]


def test_spacy_reads_any_text():
    import spacy

    blank = spacy.blank("en")
    for text in ("", "\ud800 cup \udfff", "日本語のテキスト 😀", "a-b-c d'e ’’ --", "\n\x00 lamp", "man's isn't"):
        words = spacy_words(blank, text)  # a blank pipeline tags nothing
        assert len(words) == len(words_of(text)) and {word.tag for word in words} <= {"other"}


def test_lemmas_are_plural_tolerant():
    assert lemmas("Plates") == {"plates", "plate"} and {"leaf", "leave"} <= lemmas("leaves")
    assert lemmas("traffic lights") == {"traffic lights", "traffic light"} and "wetsuit" in lemmas("wetsuits")
    assert "bus" in lemmas("bus") and "bus" in lemmas("buses") and "scissors" in lemmas("scissors")
