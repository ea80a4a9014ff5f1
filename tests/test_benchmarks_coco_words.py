# Exported from nbs/benchmarks/coco_words.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.coco_words import *  # noqa: F403

import os
from pathlib import Path

import pytest

from mfpo.benchmarks.coco_words import CocoWords, chair_pairs, halbench_pairs, read_classes

SMALL = {
    "person": "girl boy man woman child people passenger baby adult player", "car": "van", "bus": "", "train": "", "sheep": "lamb",
    "dog": "puppy", "elephant": "", "tie": "bow", "knife": "knive", "cup": "", "apple": "", "chair": "seat stool", "couch": "sofa", "toilet": "",
    "bicycle": "bike", "airplane": "plane jet", "vase": "", "skis": "ski", "oven": "stove", "bowl": "container", "tv": "", "scissors": "",
}
TABLE = {word: name for name, more in SMALL.items() for word in [name, *more.split()]} | {
    "traffic light": "traffic light", "hot dog": "hot dog", "potted plant": "potted plant", "dining table": "dining table",
    "table": "dining table", "wine glass": "wine glass", "bow tie": "tie", "stove top oven": "oven", "sports ball": "sports ball",
    "ball": "sports ball", "remote": "remote", "remote control": "remote", "motor bike": "motorcycle", "motorcycle": "motorcycle",
    "tennis racket": "tennis racket", "racket": "tennis racket", "smartphone": "cell phone",
}


def readers(pairs=None):
    """Offline, and published where NLTK is installed."""
    pairs = halbench_pairs(TABLE) if pairs is None else pairs
    found = [CocoWords(TABLE, pairs, "offline")]
    try:
        found.append(CocoWords(TABLE, pairs, "published"))
    except ImportError:
        pass
    return found


def real_file(name):
    path = Path(os.environ.get("MFPO_BENCHMARKS", "../shared/benchmarks")) / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: set MFPO_BENCHMARKS")
    return path


def test_the_table_is_read_as_the_scripts_read_it():
    import tempfile
    from pathlib import Path

    import pytest

    from mfpo.benchmarks.coco_words import read_classes

    kept = tempfile.TemporaryDirectory()
    path = Path(kept.name) / "synonyms.txt"
    path.write_text("cake,  cheesecake, cupcake \r\n\ncow, cattle, ox, cattle\nbow tie, bow,tie\ncell phone, iPhone\ncup, ox\n")
    found = read_classes(path)
    assert found == {
        "cake": "cake", "cheesecake": "cake", "cupcake": "cake", "cow": "cow", "cattle": "cow", "ox": "cup",  # the last wins
        "bow tie": "bow tie", "bow,tie": "bow tie", "cell phone": "cell phone", "iPhone": "cell phone", "cup": "cup",
    }
    assert set(found) - set(read_classes(path, strip=False)) == {"cheesecake"} and " cheesecake" in read_classes(path, strip=False)
    for content, reason in ((b"", "holds no words"), (b"\n \n", "holds no words"), (b"cup\n\xff", "not UTF-8 at byte 4")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"synonyms.txt: .*{reason}"):
            read_classes(path)


def test_words_and_lemmas_by_hand():
    from mfpo.benchmarks.coco_words import caption_tokens, noun_lemma

    for caption, words in (
        ("A man's dog, two cats; (three) birds.", "a man 's dog , two cats ; ( three ) birds ."),
        ("It is a dog.The cat isn't.", "it is a dog.the cat is n't ."),  # no blank: one word
        ("Dogs. Cats... 3.5 cups, 3,000 forks: e.g. knives", "dogs . cats ... 3.5 cups , 3,000 forks : e.g . knives"),
        ("**Dog** 'cat' \"bed\" cows' “owls” stop-sign couch/sofa", "* * dog * * ' cat ' \" bed \" cows ' “ owls ” stop-sign couch/sofa"),
        ("a dog—a cat – a bird--a\u00a0bed\n\nvase.) cup?!", "a dog — a cat – a bird -- a bed vase . ) cup ? !"),
        ("", ""), (" \n", ""), (".", "."), ("...", "..."),
    ):
        assert caption_tokens(caption) == words.split(), caption
    for word, lemma in {
        "knives": "knife", "buses": "bus", "bus": "bus", "people": "people", "sheep": "sheep", "glasses": "glass", "skis": "ski",
        "children": "child", "women": "woman", "mice": "mouse", "geese": "goose", "teeth": "teeth", "dishes": "dish", "boxes": "box",
        "ponies": "pony", "policemen": "policeman", "scissors": "scissors", "couches": "couch", "leaves": "leaf", "zebra": "zebra",
        "men": "men", "vases": "vas", "bikers": "bikers", "smartphones": "smartphones", "xqzws": "xqzws", "": "", "s": "s",
    }.items():
        if word != "teeth":  # WordNet has teeth as a noun; no table has it
            assert noun_lemma(word) == lemma, word
    assert [noun_lemma(word, gaps=False) for word in ("men", "vases", "bikers")] == ["man", "vase", "biker"]
    assert noun_lemma("lorikeets") == "lorikeets" and noun_lemma("lorikeets", frozenset({"lorikeet"})) == "lorikeet"


def test_captions_worked_out_by_hand():
    CAPTIONS = {
        "A hot dog.": "hot dog",
        "Two traffic lights and three potted plants.": "traffic light, potted plant",
        "Dining tables with wine glasses.": "dining table, wine glass",
        "Knives, buses, people and sheep.": "knife, bus, person, sheep",
        "A couch and a sofa; the SOFA!": "couch, couch, couch",
        "A toilet seat is no chair.": "toilet, chair",  # the pair is a toilet
        "The seat of the toilet, a chair.": "toilet, chair",  # the seat is dropped, the chair is not
        "A baby elephant and an adult's dog.": "elephant, person, dog",  # "adult 's dog" are no neighbours
        "A baby and a dog. Baby dogs!": "person, dog, dog",
        "A man in a bow tie, a bow, two ties.": "person, tie, tie, tie",
        "Passenger trains beside a passenger.": "train, person",
        "A train on the train tracks at home plate.": "train",
        "two men, two women, two vases": "person",  # WordNet's men and vas
        "Smartphones, a smartphone.": "cell phone",
        "A sports ball.": "sports ball",  # sports → sport, so no pair; the ball alone
        "A stove top oven.": "oven, oven",
        "hot, dog": "dog", "hot\ndog": "hot dog", "Hot-dog": "", "hot dog dog": "hot dog, dog", "hot hot dog": "hot dog",
        "motor bikes": "motorcycle", "remote controls on skis": "remote, skis", "": "", "?": "", "Ein Hündchen 狗 🐶 \ud800": "",
        "A TV, “tvs” and the dog's ball": "tv, tv, dog, sports ball",
    }
    for words in readers():
        for caption, names in CAPTIONS.items():
            assert ", ".join(m.name for m in words.mentions(caption)) == names, (caption, words.how)
        assert words.mentions("a lamb, a puppy")[1] == ("puppy", "dog")
    # CHAIR knows fewer pairs: the table alone is a dining table, "remote" alone a remote.
    for words in readers(chair_pairs()):
        for caption in ("A hot dog.", "A toilet seat is no chair.", "A stove top oven.", "Passenger trains beside a passenger."):
            assert ", ".join(m.name for m in words.mentions(caption)) == CAPTIONS[caption], caption
        assert [m.word for m in words.mentions("Dining tables, remote controls")] == ["table", "remote"]
        assert [m.word for m in readers()[0].mentions("Dining tables, remote controls")] == ["dining table", "remote control"]


def test_published_lemmas_are_nltks():
    import pickle
    import sys
    from types import ModuleType
    from unittest import mock

    from mfpo.benchmarks import coco_words

    with pytest.raises(ValueError, match="lemmas='wordnet'; give auto, published, offline"):
        CocoWords(TABLE, {}, "wordnet")
    with mock.patch.dict(sys.modules, {"nltk": None}):
        with pytest.raises(ImportError, match="`pip install nltk`.*punkt_tab wordnet.*lemmas='offline'"):
            CocoWords(TABLE, {}, "published")
        assert CocoWords(TABLE, {}).lemmas == "offline" and CocoWords(TABLE, {}).how == "offline (lexicon)"

    nltk, stem = ModuleType("nltk"), ModuleType("nltk.stem")  # stand-ins with NLTK's interface
    nltk.__version__, nltk.word_tokenize = "9.9", lambda text: text.split()
    stem.WordNetLemmatizer = type("Lemmas", (), {"lemmatize": lambda self, word: {"dawgs": "dog"}.get(word, word)})
    with mock.patch.dict(sys.modules, {"nltk": nltk, "nltk.stem": stem}):
        words = CocoWords(TABLE, halbench_pairs(TABLE))
        assert (words.lemmas, words.how) == ("published", "published (NLTK 9.9, WordNet)")
        assert [m.name for m in words.mentions("Hot DAWGS dawgs dogs")] == ["hot dog", "dog"]

        def no_data(text):
            raise LookupError("punkt_tab not found")

        nltk.word_tokenize = no_data
        assert CocoWords(TABLE, {}).lemmas == "offline"
    offline = CocoWords(TABLE, halbench_pairs(TABLE), "offline")
    again = pickle.loads(pickle.dumps(offline))
    assert again == offline and again.mentions("Knives") == offline.mentions("Knives") != []


def test_objects_worked_out_by_hand():
    from mfpo.benchmarks.coco_words import choose_tagger, lexicon_tags, object_words, spacy_tags

    words = readers()[0]
    tagger, how = choose_tagger("offline", words.known)
    named = lambda *objects: ", ".join(f"{m.word}: {m.name}" for m in words.named(object_words(objects, words, tagger)))
    assert how == "offline (lexicon)"
    # A word counts once; two words for a class are two mentions; the pair wins over the nouns around it.
    assert named("man", "men", "woman", "man") == "man: person, woman: person"
    assert named("wine glasses", "two traffic lights", "hot dog stand", "dining tables") == (
        "wine glass: wine glass, traffic light: traffic light, hot dog: hot dog, dining table: dining table")
    assert named("kitchen table") == ""  # a run of nouns is one word
    assert named("black dog", "knives", "scissors", "buses", "sheep", "people") == (
        "dog: dog, knife: knife, scissors: scissors, bus: bus, sheep: sheep, people: person")
    assert named("baby elephants", "bow tie", "train tracks", "vases") == "elephant: elephant, tie: tie, vase: vase"
    assert named("toilet", "seat") == named("toilet seat") == "toilet: toilet" and named("seat") == "seat: chair"
    assert named("cups and bowls", "couch/sofa", "stop-sign") == "cup: cup, bowl: bowl, couch: couch, sofa: couch"
    assert named("", "?", 3, None, ["dog"], "sky") == "dog: dog"  # whatever stands in the list is read as a text
    assert named("hot - dog") == "dog: dog"  # no neighbours

    class Token:
        def __init__(self, lemma_, tag_):
            self.lemma_, self.tag_ = lemma_, tag_

    # As spaCy gives them, "a big iPhone case" and "a wine glass on table": iPhone keeps its capital.
    doc = [Token("a", "DT"), Token("big", "JJ"), Token("iPhone", "NNP"), Token("case", "NN")]
    assert object_words(["x"], words, lambda text: spacy_tags(doc)) == ["iPhone case"]
    doc = [Token(*pair.split("/")) for pair in "a/DT wine/NN glass/NN on/IN table/NN".split()]
    assert object_words(["x"], words, lambda text: spacy_tags(doc)) == ["wine glass"]
    doc = doc[:1] + doc[2:]
    assert object_words(["x"], words, lambda text: spacy_tags(doc)) == ["glass", "table"]
    assert lexicon_tags("") == [] and lexicon_tags("a dog")[-1] == ("dog", True)

    with pytest.raises(ValueError, match="tagger='no_such': spaCy's no_such is not installed.*tagger='offline'"):
        choose_tagger("no_such")
    if "en_core_web_trf" not in choose_tagger("auto")[1]:
        with pytest.raises(ValueError, match="tagger='published': spaCy's en_core_web_trf is not installed"):
            choose_tagger("published")


def test_the_real_table_has_every_class_and_no_word_twice():
    path = real_file("objhal/synonyms_refine.txt")
    table = read_classes(path)
    assert len(table) == 407 and len(set(table.values())) == 80 and all(table[name] == name for name in table.values())
    by_line = [line.split(", ") for line in path.read_text().splitlines()]
    twice = [word for k, line in enumerate(by_line) for word in line if any(word in other for other in by_line[:k])]
    assert not twice  # so that "the last wins" decides nothing
    pairs = halbench_pairs(table)
    assert len([word for word in table if " " in word]) == 28 and len(pairs) == 28 + 2 + 2 * 12 + 2 + 2  # toilet seat, wine glas
    assert set(pairs.values()) - set(table) == {"home plate", "train track", "animal", "cub"}
    assert set(chair_pairs()) < set(pairs) and set(pairs) - set(chair_pairs()) == {
        "dining table", "coffee table", "remote control", "stove top oven"}


def test_real_captions_against_a_second_implementation():
    import re
    from collections import Counter

    from mfpo.benchmarks.files import read_values

    path, captions = real_file("objhal/synonyms_refine.txt"), read_values(real_file("pope/captions_llava_13b.json"))
    lines = [line.strip().split(", ") for line in open(path, encoding="utf-8")]
    assert len(captions) == 2000


    def second(lemmas):
        """Pairs by one search through the joined text, classes by looking through the file's lines."""
        stands = {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass", "passenger jet": "jet", "passenger train": "train"}
        for animal in ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub"):
            stands |= {f"baby {animal}": animal, f"adult {animal}": animal}
        twos = {word: word for line in lines for word in line if word.count(" ") == 1} | {"home plate": "home plate", "train track": "train track"} | stands
        either = "|".join(re.escape(pair.replace(" ", "\0")) for pair in twos)
        text = re.sub(rf"(?<![^\0])(?:{either})(?![^\0])", lambda m: twos[m[0].replace("\0", " ")], "\0".join(lemmas))
        words = text.split("\0")
        if {"toilet", "seat"} <= set(words):
            words = [word for word in words if word != "seat"]
        found = [(word, [line[0] for line in lines if word in line]) for word in words]
        return [(word, names[-1]) for word, names in found if names]


    table = read_classes(path)
    sets = [CocoWords(table, halbench_pairs(table), "offline")]
    try:
        sets.append(CocoWords(table, halbench_pairs(table), "published"))
    except ImportError:
        pass
    memory, named = {}, []
    for words in sets:
        for record in captions:
            lemmas = words._read(record["text"])
            if (key := tuple(lemmas)) not in memory:
                memory[key] = second(lemmas)
            assert words.mentions(record["text"]) == memory[key], record["question_id"]
        named.append([words.mentions(record["text"]) for record in captions])
    assert all(other == named[0] for other in named)  # published and offline agree in every mention
    count = Counter(mention.name for mentions in named[0] for mention in mentions)
    assert count.most_common(1)[0][0] == "person" and sum(count.values()) == 15000 and len(count) == 80
