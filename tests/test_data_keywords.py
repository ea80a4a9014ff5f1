# Exported from nbs/data/keywords.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.keywords import *  # noqa: F403

import sys
import types
from unittest import mock

import numpy as np

from mfpo.data.keywords import Candidate, KeywordConfig, Keywords, best_of_parts, candidates, edge_factors, edge_weights
from mfpo.data.keywords import keywords, part_of, rank, words_of

LEXICON = KeywordConfig(nouns="lexicon", top_k=99)
SINGLE = KeywordConfig(nouns="lexicon", candidates="nouns", top_k=99)


def found(text, config=LEXICON):
    return [c.word for c in candidates(text, config)[0]]


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


def test_pagerank_by_hand():
    # cup at 1 and 7, table at 5, lamp at 9. With phi = 1:
    # theta(cup, table) = 1/(1+4) + 1/(1+2) = 8/15, theta(cup, lamp) = 1/(1+8) + 1/(1+2) = 4/9,
    # theta(table, lamp) = 1/(1+4) = 1/5.
    # The edge j -> i weighs theta_ij e^(-lambda l_i), where l = 1, 5, 9 are the first positions.
    text = "a cup stands by the table, big cup and lamp"
    config = KeywordConfig(vocabulary=("cup", "table", "lamp"), lambda_=0.1, damping=0.85, top_k=3)
    places = {c.word: c.positions for c in candidates(text, config)[0]}
    assert places == {"cup": (1, 7), "table": (5,), "lamp": (9,)}
    theta = np.array([[0, 8 / 15, 4 / 9], [8 / 15, 0, 1 / 5], [4 / 9, 1 / 5, 0]])
    weights = theta * np.exp(-0.1 * np.array([1, 5, 9]))[None, :]
    assert np.allclose(edge_weights(candidates(text, config)[0], config), weights, atol=1e-15)
    # PageRank solves p = (1 - d)/n + d P^T p, P the weights with rows that sum to 1: a linear system.
    P = weights / weights.sum(1, keepdims=True)
    exact = np.linalg.solve(np.eye(3) - 0.85 * P.T, np.full(3, 0.15 / 3))
    assert np.isclose(exact.sum(), 1)
    result = keywords(text, config)
    order = np.argsort(-exact)
    assert result.words == tuple(("cup", "table", "lamp")[k] for k in order) and result.source == "vocabulary"
    assert np.allclose(result.scores, exact[order], atol=1e-8)


def test_multipartite_pagerank_by_hand():
    # racket at 1; cup at 4; tennis racket at 6 and, for its last word stands alone there, at 1; lamp at 8. phi = 1:
    # theta(racket, cup) = 1/(1+3) = 1/4, theta(racket, lamp) = 1/(1+7) = 1/8,
    # theta(tennis racket, cup) = 1/(1+2) + 1/(1+3) = 7/12, theta(tennis racket, lamp) = 1/(1+2) + 1/(1+7) = 11/24,
    # theta(cup, lamp) = 1/(1+4) = 1/5. First positions 1, 4, 1, 8. No edge between the two rackets.
    text = "a racket and a cup, tennis racket and lamp"
    config = KeywordConfig(nouns="lexicon", lambda_=0.1, top_k=9)
    nodes = candidates(text, config)[0]
    assert nodes == [
        Candidate("racket", (1,)), Candidate("cup", (4,)), Candidate("tennis racket", (1, 6)), Candidate("lamp", (8,)),
    ]
    assert [part_of(c.word) for c in nodes] == ["racket", "cup", "racket", "lamp"]
    theta = np.array([
        [0, 1 / 4, 0, 1 / 8], [1 / 4, 0, 7 / 12, 1 / 5], [0, 7 / 12, 0, 11 / 24], [1 / 8, 1 / 5, 11 / 24, 0],
    ])
    weights = theta * np.exp(-0.1 * np.array([1, 4, 1, 8]))[None, :]
    assert np.allclose(edge_weights(nodes, config), weights, atol=1e-15)
    P = weights / weights.sum(1, keepdims=True)
    exact = np.linalg.solve(np.eye(4) - 0.85 * P.T, np.full(4, 0.15 / 4))
    assert np.isclose(exact.sum(), 1) and np.allclose(rank(nodes, config), exact, atol=1e-8)
    # Cup gets from three, tennis racket and lamp from two: of the rackets the phrase stays.
    result = keywords(text, config)
    assert exact[2] > exact[0] and result.words == ("cup", "tennis racket", "lamp")
    assert np.allclose(result.scores, exact[[1, 2, 3]], atol=1e-8) and sum(result.scores) < 1
    assert result.positions == ((4,), (1, 6), (8,)) and (result.unread, result.unranked) == (0, 0)
    # Single nouns are parts of their own: tennis, racket, cup and lamp.
    assert set(keywords(text, SINGLE).words) == {"tennis", "racket", "cup", "lamp"}


def test_one_of_each_part():
    nodes = [Candidate("car", (0,)), Candidate("red car", (0, 3)), Candidate("dog", (5,)), Candidate("blue car", (9,))]
    order = lambda *scores, config=LEXICON: [nodes[k].word for k in best_of_parts(nodes, scores, config)]  # noqa: E731
    assert order(0.1, 0.2, 0.4, 0.3) == ["dog", "blue car"] and order(0.5, 0.2, 0.4, 0.3) == ["car", "dog"]
    assert order(0.25, 0.25, 0.25, 0.25) == ["red car", "dog"]  # equal: the longer name, and the text's order
    assert order(0.1, 0.2, 0.4, 0.3, config=KeywordConfig(vocabulary=("car",))) == ["dog", "blue car", "red car", "car"]
    assert keywords("A racket. A tennis racket.", LEXICON).words == ("tennis racket",)  # one part: no edges at all
    assert keywords("A racket. A tennis racket.", LEXICON).positions == ((1, 4),)
    # A hot dog is no dog: a part of its own, which takes no positions from one.
    nodes = [Candidate("dog", (1,)), Candidate("hot dog", (5,))]
    assert candidates("a dog and a hot dog", LEXICON)[0] == nodes
    assert (edge_weights(nodes, LEXICON) > 0).tolist() == [[False, True], [True, False]]
    assert part_of("big hot dog") == "hot dog" and part_of("big dog") == "dog"
    assert part_of("big dog", KeywordConfig(vocabulary=("dog",))) == "big dog"


def test_a_vocabulary_gives_what_it_always_gave():
    # The computation before there were parts, written out again, must agree to the bit; the numbers were noted then.
    import networkx as nx


    def before_parts(text, config, embed=None):
        found = candidates(text, config)[0]
        n = len(found)
        owner = np.repeat(np.arange(n), [len(c.positions) for c in found])
        places = np.concatenate([np.asarray(c.positions, float) for c in found])
        influence = 1 / (1 + np.abs(places[:, None] - places[None, :]) ** config.phi)
        member = (owner[:, None] == np.arange(n)).astype(float)
        theta, similarity = member.T @ influence @ member, np.zeros((n, n))
        if embed is not None:
            vectors = np.asarray(embed([c.word for c in found]), float)
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            similarity = np.clip(unit @ unit.T, 0, None)
        kappa = np.exp(-config.lambda_ * np.array([c.positions[0] for c in found], float))
        weights = (theta + config.gamma * similarity) * kappa[None, :]
        np.fill_diagonal(weights, 0)
        graph = nx.from_numpy_array(weights, create_using=nx.DiGraph)
        ranks = nx.pagerank(graph, alpha=config.damping, tol=config.tolerance, max_iter=10_000, weight="weight")
        order = sorted(ranks, key=lambda k: (-round(ranks[k], 9), k))[: config.top_k]
        return tuple(found[k].word for k in order), tuple(float(ranks[k]) for k in order)


    entries = "cup table lamp traffic_light light dog horse dining_table knife wine_glass person".split()
    entries = tuple(entry.replace("_", " ") for entry in entries)
    first = KeywordConfig(vocabulary=entries)
    other = KeywordConfig(vocabulary=entries, phi=2, lambda_=0.0, damping=0.5, top_k=3)
    texts = (
        "a kitchen with a table , a cup and a lamp .",
        "A man rides a horse past a traffic light; the dog looks at the light, and the horse at two dogs.",
        "On the dining table there are knives, wine glasses, a cup and another cup. A person with a knife cuts the "
        "table, under a lamp with a warm light. The dog sleeps.",
        "cup lamp " * 20 + "table",
    )
    noted = {
        (0, first): ("cup table lamp", [0.3869306680926518, 0.3518226687922446, 0.2612466631151033]),
        (0, other): ("cup table lamp", [0.4021739130227191, 0.3369565217543645, 0.2608695652229163]),
        (1, first): (
            "horse dog traffic_light light",
            [0.333073261576852, 0.2855097899986508, 0.21234589156140574, 0.16907105686309168],
        ),
        (1, other): ("horse dog traffic_light", [0.291229692198127, 0.27602079666517254, 0.22064537059076533]),
        (2, first): (
            "knife cup wine_glass dining_table person",
            [0.2434248824796151, 0.18688499962897456, 0.15405883118799435, 0.11327537946044222, 0.09899044527928222],
        ),
        (2, other): ("knife wine_glass cup", [0.1722973993930969, 0.1280620521757563, 0.12280229961688409]),
        (3, first): ("lamp cup table", [0.4741462844322423, 0.4724443349449745, 0.05340938062278299]),
        (3, other): ("lamp cup table", [0.42366047831232534, 0.40155228238271934, 0.17478723930495527]),
    }
    for (number, config), (names, numbers) in noted.items():
        result = keywords(texts[number], config)
        assert (result.words, result.scores) == before_parts(texts[number], config)  # to the bit
        assert result.words == tuple(name.replace("_", " ") for name in names.split())
        assert np.allclose(result.scores, numbers, rtol=1e-12, atol=0)
    embed = lambda words: np.array([[len(w), w.count("e"), ord(w[0]) - 100] for w in words], float)  # noqa: E731
    config = KeywordConfig(vocabulary=entries, gamma=1.5)
    result = keywords(texts[2], config, embed)
    assert (result.words, result.scores) == before_parts(texts[2], config, embed)
    assert result.words == ("knife", "wine glass", "dining table", "person", "cup")
    numbers = [0.18634156237530777, 0.15769448036275732, 0.15185119747903025, 0.11403829086614903, 0.10386659475783205]
    assert np.allclose(result.scores, numbers, rtol=1e-12, atol=0)


def test_very_long_and_strange_texts():
    text = " ".join(f"thing{chr(97 + k % 26)}{chr(97 + k // 26 % 26)} and a cup." for k in range(2500))  # 10,000 words
    result = keywords(text, LEXICON)
    assert result.unread == 8000 and result.unranked == len(candidates(text, LEXICON)[0]) - 256 > 0
    assert "cup" in result.words and len(result.words) == 99
    short = keywords(text, KeywordConfig(nouns="lexicon", max_words=8, max_candidates=2))
    assert short.unread == 9992 and short.unranked == 1 and set(short.words) == {"thingaa", "cup"}
    assert keywords("a cup, lamp", KeywordConfig(nouns="lexicon", max_words=2)).words == ("cup",)
    result = keywords("cup lamp " * 50_000, KeywordConfig(vocabulary=("cup", "lamp")))
    assert result.unread == 98_000 and set(result.words) == {"cup", "lamp"}
    for text in ("!? ...", "😀😀 ❤️", "", "\x00", "\ud800", "42 1,000"):
        assert keywords(text, LEXICON) == Keywords((), (), "lexicon")
    assert keywords("日本語のテキスト 猫", LEXICON) == Keywords((), (), "lexicon:not-latin")
    assert keywords("猫 and a cat \udfff", LEXICON)[:3] == (("cat",), (1.0,), "lexicon")
    rng = np.random.default_rng(0)
    pieces = ["cup", "tennis rackets", "the", " ", ",", "é", "猫", "😀", "\ud800", "'s", "-", "\n", "İ", "1", "’", "is", "cats"]
    for _ in range(200):
        text = "".join(piece + " " * rng.integers(2) for piece in rng.choice(pieces, rng.integers(0, 40)))
        result = keywords(text, KeywordConfig(nouns="lexicon", adjectives=bool(rng.integers(2))))
        assert len(result.words) == len(result.scores) == len(result.positions) <= 5
        assert len({word.split()[-1] for word in result.words}) == len(result.words)
        assert all(0 < score <= 1 for score in result.scores)
        assert all(k < len(words_of(text)) for places in result.positions for k in places)


def test_four_words_with_an_embedding():
    # S: cup and mug are alike (cos 1), the lamp is opposite to both (cos -1, counted as 0), the table at right angles.
    vectors = {"cup": [2, 0], "mug": [5, 0], "lamp": [-1, 0], "table": [0, 3]}
    config = KeywordConfig(vocabulary=tuple(vectors), gamma=2.0, lambda_=0.0, damping=0.5, top_k=4)
    text = "lamp cup mug table"
    embed = lambda words: np.array([vectors[word] for word in words])  # noqa: E731
    place = np.arange(4)
    theta = 1 / (1 + np.abs(place[:, None] - place[None, :])) - np.eye(4)
    S = np.zeros((4, 4))
    S[1, 2] = S[2, 1] = 1
    weights = theta + 2 * S
    assert np.allclose(edge_weights(candidates(text, config)[0], config, embed), weights)
    exact = np.linalg.solve(np.eye(4) - 0.5 * (weights / weights.sum(1, keepdims=True)).T, np.full(4, 0.5 / 4))
    result = keywords(text, config, embed)
    assert dict(zip(result.words, np.round(result.scores, 7))) == dict(zip(text.split(), np.round(exact, 7)))
    assert set(result.words[:2]) == {"cup", "mug"} and keywords(text, config).scores != result.scores


def test_phi_and_lambda():
    pair = [Candidate("a", (0,)), Candidate("b", (3,))]
    assert np.allclose(edge_weights(pair, KeywordConfig(phi=2, lambda_=0)), [[0, 1 / 10], [1 / 10, 0]])
    assert np.allclose(edge_weights(pair, KeywordConfig(phi=1, lambda_=0.5)), [[0, np.exp(-1.5) / 4], [1 / 4, 0]])


def test_edge_cases():
    config = KeywordConfig(vocabulary=("cup", "lamp"))
    assert keywords("", config) == keywords("nothing here", config) == Keywords((), (), "vocabulary")
    assert keywords("a cup", config) == Keywords(("cup",), (1.0,), "vocabulary", ((1,),))
    assert keywords("a cup and a lamp", KeywordConfig(vocabulary=("cup", "lamp"), lambda_=0)).words == (
        "cup",
        "lamp",
    )  # a tie: text order
    assert keywords("cup lamp " * 40, KeywordConfig(vocabulary=("cup", "lamp"), top_k=1)).words == ("cup",)
    assert keywords("a cup and a lamp", KeywordConfig(vocabulary=("cup", "lamp"), damping=0)).scores == (0.5, 0.5)


def test_nouns_of_the_lexicon():
    text = "A man is standing in a red kitchen with two wooden tables and knives."
    assert found(text) == ["man", "kitchen", "table", "knife"]
    assert found("The woman rides a horse past a tall building.") == ["woman", "horse", "building"]
    assert found("a kitchen with a table , a cup and a lamp .") == ["kitchen", "table", "cup", "lamp"]
    assert found("children, people and sheep near the leaves") == ["child", "people", "sheep", "leaf"]
    text = "An old astronaut smiles in front of a shuttle and two kitchen tables"
    assert found(text, SINGLE) == ["astronaut", "shuttle", "kitchen", "table"]
    assert found(text) == ["astronaut", "shuttle", "kitchen table"]
    assert found("two surfers in wetsuits") == ["surfer", "wetsuit"]  # the lexicon has no wetsuit
    assert found("It is not there, and they can do it.") == [] and found("!? 42 ...") == []


def test_excluded_words():
    assert found("The image shows a cat in the background.") == ["cat"]
    assert found("The image shows a cat", KeywordConfig(nouns="lexicon", exclude=())) == ["image", "cat"]
    assert found("A group of zebras, in a beach scene, with background trees") == ["zebra", "tree"]
    assert found("a beach scene", KeywordConfig(nouns="lexicon", exclude=("scene",), candidates="nouns")) == ["beach"]
    config = KeywordConfig(nouns="lexicon", exclude=("tennis racket",))
    assert found("a tennis racket and a racket", config) == ["racket"]
    assert found("an image of a cup", KeywordConfig(vocabulary=("image", "cup"))) == ["image", "cup"]


def test_nouns_of_the_vocabulary():
    config = KeywordConfig(vocabulary=("traffic light", "light", "dining table", "knife"))
    assert found("traffic lights and a light over the dining table with knives", config) == [
        "traffic light",
        "light",
        "dining table",
        "knife",
    ]
    assert found("a table in traffic", config) == []


def test_spacy_where_a_pipeline_is_installed():
    # No pipeline is at hand: a document parsed by hand stands for one; its noun chunks are spaCy's own.
    import spacy
    from spacy.tokens import Doc

    doc = Doc(
        spacy.blank("en").vocab, words="Two tennis rackets , seen in Paris".split(),
        pos="NUM NOUN NOUN PUNCT VERB ADP PROPN".split(), heads=[2, 2, 2, 2, 2, 4, 5],
        deps="nummod compound ROOT punct acl prep pobj".split(), lemmas="two tennis racket , see in Paris".split(),
    )
    fake = types.SimpleNamespace(load=lambda name: lambda text: doc)
    absent = types.SimpleNamespace(load=mock.Mock(side_effect=OSError("no such pipeline")))
    with mock.patch.dict(sys.modules, {"spacy": fake}):
        config = KeywordConfig(pipeline="stand_in", lambda_=0)
        assert candidates(doc.text, config) == (
            [Candidate("tennis racket", (2,)), Candidate("paris", (5,))], "spacy:stand_in",
        )
        assert keywords(doc.text, config).words == ("tennis racket", "paris")
    with mock.patch.dict(sys.modules, {"spacy": absent}):
        assert candidates("a cup", KeywordConfig(pipeline="not_there"))[1] == "lexicon"
        assert "spacy download not_there" in refused(
            candidates, "a cup", KeywordConfig(pipeline="not_there", nouns="spacy")
        )


def test_settings_are_checked():
    for wrong in (
        dict(phi=0),
        dict(gamma=-1),
        dict(lambda_=-0.1),
        dict(damping=1),
        dict(top_k=0),
        dict(top_k=2.5),
        dict(tolerance=0),
        dict(nouns="nltk"),
        dict(candidates="words"),
        dict(adjectives="no"),
        dict(compounds="hot dog"),
        dict(max_words=0),
        dict(max_candidates=1.5),
        dict(vocabulary="cup"),
        dict(exclude="cup"),
    ):
        assert next(iter(wrong)) in refused(KeywordConfig, **wrong)
    for bad in (np.zeros((1, 2)), np.zeros(2), np.full((2, 2), np.nan)):
        assert "shape" in refused(keywords, "cup lamp", KeywordConfig(vocabulary=("cup", "lamp")), lambda words: bad)
