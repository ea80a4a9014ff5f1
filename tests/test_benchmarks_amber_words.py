# Exported from nbs/benchmarks/amber_words.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.amber_words import *  # noqa: F403


def test_words_stand_for_the_first_object_that_they_lead_to():
    import pytest

    from mfpo.benchmarks.amber_words import Associations

    words = Associations({"woman": ["person", "girl"], "person": ["man", "woman"], "ship": ["boat"], "sky": []})
    assert words.vocabulary == {"woman", "person", "girl", "man", "ship", "boat", "sky"}
    # woman's words: person, girl → 0; person's: man, woman → 1; then woman itself (already 1), person (already 0),
    # sky → 2.
    found = words.standing_for(["woman", "person", "sky"])
    assert list(found.items()) == [("person", 0), ("girl", 0), ("man", 1), ("woman", 1), ("sky", 2)]
    assert words.standing_for(["ship", "ship"]) == {"boat": 0, "ship": 0}  # the second ship is out of reach
    assert words.standing_for([]) == {} and Associations({}).vocabulary == frozenset()
    with pytest.raises(ValueError, match="'cloud' has no entry in the association table"):
        words.standing_for(["sky", "cloud"])
    with pytest.raises(ValueError, match="associations of 'sky' are 'blue'"):
        Associations({"sky": "blue"})
    with pytest.raises(ValueError, match="associations of 'sky'"):
        Associations({"sky": [1]})


def test_associations_are_read_as_they_stand():
    import json
    import tempfile
    from pathlib import Path

    import pytest

    from mfpo.benchmarks.amber_words import Associations, read_associations

    kept = tempfile.TemporaryDirectory()
    relation, safe = Path(kept.name) / "relation.json", Path(kept.name) / "safe_words.txt"
    relation.write_text(json.dumps({"television": ["TV"], "sky": []}))
    safe.write_bytes(b"line\r\nlight \n\nindividual")  # no new line at the end, as in the published file
    words = read_associations(relation, safe)
    assert words == Associations({"television": ("TV",), "sky": ()}, frozenset({"line", "light ", "individual"}))
    relation.write_text('{"sky": 3}')
    with pytest.raises(ValueError, match="relation.json: associations of 'sky' are 3"):
        read_associations(relation, safe)
    relation.write_text("[1]")
    with pytest.raises(ValueError, match="^[^:]*relation.json: holds no JSON object"):
        read_associations(relation, safe)
    relation.write_text("{}")
    safe.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="safe_words.txt: is not UTF-8 at byte 0"):
        read_associations(relation, safe)


def test_each_step_by_hand():
    from mfpo.benchmarks.amber_words import Associations, Named, match_nouns

    table = {"car": ["window", "tire"], "house": ["window"], "dog": ["puppy"]}
    words = Associations(table | dict.fromkeys(("cat", "boat", "ship", "lamp"), []), frozenset({"lamp"}))
    never = lambda a, b: 0.0
    look = lambda nouns, truth, hallu, similar=never: match_nouns(nouns, truth, hallu, words, similar)

    # Truth car, house: "window" is a word of both, and goes to the first; the house is covered by its own name only.
    assert look(["window", "window"], ["car", "house"], []) == Named(2, (), frozenset({0}), frozenset())
    assert look(["window", "house"], ["car", "house"], []).covered == {0, 1}
    # A window is a word of the likely car and of the house that is there: fine, and the car is not marked.
    assert look(["window"], ["house"], ["car"]) == Named(1, (), frozenset({0}), frozenset())
    # A puppy marks the likely dog and is hallucinated; each time, but the dog is marked once. "Dog" is another word.
    assert look(["puppy", "cat", "puppy", "Dog"], ["cat"], ["dog"]) == Named(
        3, ("puppy", "puppy"), frozenset({0}), frozenset({0}))
    # A safe word is counted among the nouns, and that is all, even where it is annotated.
    assert look(["lamp"], [], ["lamp"]) == look(["lamp"], ["lamp"], []) == Named(1, (), frozenset(), frozenset())
    # Words that the table does not have are not looked at.
    nothing = Named(0, (), frozenset(), frozenset())
    assert look(["sunset", "mood"], ["cat"], ["dog"]) == look([], ["cat"], ["dog"]) == nothing

    # Similar above 0.8, and not at it. The boat marks the ship by similarity and covers the car by it: fine after all.
    near = {("boat", "ship"): 0.81, ("cat", "dog"): 0.8, ("boat", "tire"): 0.9}
    by = lambda a, b: near.get((a, b), 1.0 * (a == b))
    assert look(["boat", "cat"], ["car"], ["dog", "ship"], by) == Named(2, ("cat",), frozenset({0}), frozenset({1}))
    # An exact match marks its own object, and the first similar word marks another one besides.
    near = {("ship", "puppy"): 0.9}
    assert look(["ship"], [], ["dog", "ship"], by) == Named(1, ("ship",), frozenset(), frozenset({0, 1}))


def test_vectors_are_compared_as_spacy_compares_them():
    import warnings

    import numpy as np
    import pytest

    from mfpo.benchmarks.amber_words import published_similarity

    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: pip install 'mfpo[nouns]'")
    nlp = spacy.blank("en")
    with pytest.raises(ValueError, match="has no word vectors; take en_core_web_lg"):
        published_similarity(nlp)
    vectors = {"cat": [3, 4], "dog": [4, 3], "air": [1, 0], "conditioning": [0, 1], "-": [0, 0]}
    for word, vector in vectors.items():
        nlp.vocab.set_vector(word, np.array(vector, dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        similar = published_similarity(nlp)
        assert similar("cat", "dog") == pytest.approx(24 / 25) and similar("cat", "cat") == 1
        assert similar("waterfont", "cat") == 0 and similar("waterfont", "waterfont") == 1  # no vector, but one word
        # Three tokens, whose mean is (1/3, 1/3): at 45 degrees, so 7 / (5 √2) from the cat.
        assert similar("air-conditioning", "cat") == pytest.approx(7 / (5 * np.sqrt(2)))
    with pytest.raises(ImportError, match="no_such_pipeline: .*spacy download no_such_pipeline.*similar='offline'"):
        published_similarity("no_such_pipeline")


def test_nltk_is_asked_for_tags_and_lemmas():
    import sys
    from types import ModuleType
    from unittest import mock

    import pytest

    from mfpo.benchmarks.amber_words import published_nouns

    with mock.patch.dict(sys.modules, {"nltk": None}):
        with pytest.raises(ImportError, match="need NLTK: `pip install nltk`.*nouns='offline'"):
            published_nouns()

    # Stand-ins with NLTK's interface: a tag for each token, and the shortest lemma.
    nltk, stem = ModuleType("nltk"), ModuleType("nltk.stem")
    tags = {"Two": "CD", "red": "JJ", "Trees": "NNS", "cats": "NNS", "London": "NNP", "sit": "VBP", ".": "."}
    nltk.word_tokenize = lambda text: text.replace(".", " .").split()
    nltk.pos_tag = lambda tokens: [(token, tags[token]) for token in tokens]
    stem.WordNetLemmatizer = type("Lemmas", (), {"lemmatize": lambda self, word: {"cats": "cat"}.get(word, word)})
    with mock.patch.dict(sys.modules, {"nltk": nltk, "nltk.stem": stem}):
        nouns = published_nouns()
        assert nouns("Two cats sit. Trees sit. red cats London.") == ["cat", "Trees", "cat", "London"]
        assert nouns("") == []

        def no_tagger(tokens):
            raise LookupError("Resource averaged_perceptron_tagger_eng not found")

        nltk.pos_tag = no_tagger
        with pytest.raises(ImportError, match="files that NLTK does not find.*averaged_perceptron_tagger_eng wordnet"):
            published_nouns()


def test_nltk_itself_where_it_is_installed():
    import pytest

    from mfpo.benchmarks.amber_words import published_nouns

    pytest.importorskip("nltk", reason="NLTK is not installed: pip install nltk")
    try:
        nouns = published_nouns()
    except ImportError as error:
        pytest.skip(str(error))
    assert nouns("Two cats sit on a red chair near the glasses.") == ["cat", "chair", "glass"]


def test_the_lexicon_reads_nouns_in_the_tables_spelling():
    from mfpo.benchmarks.amber_words import lexicon_nouns, same_lemma

    nouns = lexicon_nouns({"TV", "glass", "man", "tree", "sky", "bike"})
    text = "Trees stand behind two men and the man's bikes. A TV, a tv; glasses!"
    assert nouns(text) == ["tree", "man", "man", "bike", "TV", "TV", "glass"]
    assert nouns("") == nouns("?! …") == nouns("He is very happy.") == []
    assert nouns("Ein Bäume-Bild \ud800 with the SKY")[-1] == "sky"
    assert same_lemma("leaf", "leaves") == same_lemma("TV", "tv") == 1 and same_lemma("man", "woman") == 0


def test_every_word_of_the_table_is_looked_at_under_its_own_name():
    import os
    from pathlib import Path

    import pytest

    from mfpo.benchmarks.amber_words import lexicon_nouns, read_associations, same_lemma
    from mfpo.benchmarks.files import read_values

    folder = Path(os.environ.get("MFPO_BENCHMARKS", "../shared/benchmarks")) / "amber"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set MFPO_BENCHMARKS")
    words = read_associations(folder / "relation.json", folder / "safe_words.txt")
    assert len(words.table) == 340 and len(words.vocabulary) == 418 and len(words.safe) == 9
    nouns = lexicon_nouns(words.vocabulary)
    lost = [word for word in sorted(words.vocabulary) if nouns(f"A photo of the {word}.")[1:] != [word]]
    # Never nouns for the lexicon, an adjective, and plurals that have a shorter lemma, as for WordNet.
    verbs, plurals = {"bar", "can", "earing", "lounge", "pan"}, {"chopsticks", "earrings", "slippers", "sunglasses"}
    assert set(lost) - verbs - plurals <= {"air-conditioning", "hot", "orange"}, lost

    # No two words of the table share a lemma, so offline nothing is added to it.
    assert not [(a, b) for a in words.vocabulary for b in words.vocabulary if a < b and same_lemma(a, b)]

    # What a similarity by association, in either direction, would excuse among objects that are not in the picture.
    likely = excused = listed = 0
    for record in read_values(folder / "annotations.json"):
        if record["type"] == "generative":
            there = words.standing_for(record["truth"])
            for word in record["hallu"]:
                likely += 1
                if word in words.safe or word in there:
                    listed += 1
                elif any(word in words.table.get(t, ()) or t in words.table[word] for t in there):
                    excused += 1
    assert (likely, excused, listed) == (4924, 198, 399)


def test_providers_are_chosen_by_name_and_named_in_the_score():
    from unittest import mock

    import pytest

    from mfpo.benchmarks import amber_words
    from mfpo.benchmarks.amber_words import Associations, choose_words, same_lemma

    words = Associations({"television": ["TV"]})
    nouns, similar, how = choose_words("offline", "offline", words)
    assert nouns("a tv") == ["TV"] and similar("TV", "tv") == 1 and how == {"nouns": "offline", "similar": "offline"}

    asked = []
    mine = lambda text: asked.append(text) or text.split()
    nouns, similar, how = choose_words(mine, lambda a, b: asked.append((a, b)) or 0.5, words)
    assert nouns("a b") == ["a", "b"] and similar("a", "b") == similar("a", "b") == 0.5 and asked == ["a b", ("a", "b")]
    assert "<lambda>" in how["nouns"] and "<lambda>" in how["similar"]
    for wrong in ("spacy", None, 3):
        with pytest.raises(ValueError, match="similar=.*give auto, published, offline, or a function"):
            choose_words("offline", wrong, words)

    # `auto` takes both published parts, or neither.
    with mock.patch.object(amber_words, "published_nouns", lambda: mine):
        with mock.patch.object(amber_words, "published_similarity", lambda: same_lemma):
            assert choose_words("auto", "auto", words)[0] is mine
            assert choose_words("auto", "auto", words)[2]["nouns"].startswith("published (nltk")
        with mock.patch.object(amber_words, "published_similarity", mock.Mock(side_effect=ImportError("no vectors"))):
            assert choose_words("auto", "auto", words)[2] == {"nouns": "offline", "similar": "offline"}
            with pytest.raises(ImportError, match="no vectors"):
                choose_words("offline", "published", words)
