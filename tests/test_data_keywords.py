# Exported from nbs/data/keywords.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.keywords import *  # noqa: F403

import sys
import types
from unittest import mock

import numpy as np

LEXICON = KeywordConfig(nouns="lexicon", top_k=99)


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
    assert keywords("", config) == keywords("nothing here", config) == ((), (), "vocabulary")
    assert keywords("a cup", config) == (("cup",), (1.0,), "vocabulary")
    assert keywords("a cup and a lamp", KeywordConfig(vocabulary=("cup", "lamp"), lambda_=0)).words == (
        "cup",
        "lamp",
    )  # a tie: text order
    assert keywords("cup lamp " * 40, KeywordConfig(vocabulary=("cup", "lamp"), top_k=1)).words == ("cup",)
    assert keywords("a cup and a lamp", KeywordConfig(vocabulary=("cup", "lamp"), damping=0)).scores == (0.5, 0.5)


def test_nouns_of_the_lexicon():
    assert found("A man is standing in a red kitchen with two wooden tables and knives.") == [
        "man",
        "kitchen",
        "table",
        "knife",
    ]
    assert found("The woman rides a horse past a tall building.") == ["woman", "horse", "building"]
    assert found("a kitchen with a table , a cup and a lamp .") == ["kitchen", "table", "cup", "lamp"]
    assert found("children, people and sheep near the leaves") == ["child", "people", "sheep", "leaf"]
    assert found("An old astronaut smiles in front of a shuttle and two kitchen tables") == [
        "astronaut",
        "shuttle",
        "kitchen",
        "table",
    ]
    assert found("two surfers in wetsuits") == [
        "surfer",
        "wetsuit",
    ]  # compounds that the lexicon does not know count as nouns
    assert found("The image shows a cat in the background.") == ["cat"]
    assert found("The image shows a cat", KeywordConfig(nouns="lexicon", exclude=())) == ["image", "cat"]
    assert found("It is not there, and they can do it.") == [] and found("!? 42 ...") == []


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
    # A stand-in for spaCy: what is asked of it is token.text, token.lemma_ and token.pos_.
    token = lambda text, lemma, pos: types.SimpleNamespace(text=text, lemma_=lemma, pos_=pos)  # noqa: E731
    parsed = [
        token("Cups", "cup", "NOUN"),
        token(",", ",", "PUNCT"),
        token("seen", "see", "VERB"),
        token("Paris", "Paris", "PROPN"),
    ]
    fake = types.SimpleNamespace(load=lambda name: lambda text: parsed)
    absent = types.SimpleNamespace(load=mock.Mock(side_effect=OSError("no such pipeline")))
    with mock.patch.dict(sys.modules, {"spacy": fake}):
        config = KeywordConfig(pipeline="stand_in", lambda_=0)
        assert candidates("Cups, seen Paris", config) == (
            [Candidate("cup", (0,)), Candidate("paris", (2,))],
            "spacy:stand_in",
        )
    with mock.patch.dict(sys.modules, {"spacy": absent}):
        assert candidates("a cup", KeywordConfig(pipeline="not_there"))[1] == "lexicon"
        assert "spacy download not_there" in refused(
            candidates, "a cup", KeywordConfig(pipeline="not_there", nouns="spacy")
        )


def test_lemmas_are_plural_tolerant():
    assert lemmas("Plates") == {"plates", "plate"} and {"leaf", "leave"} <= lemmas("leaves")
    assert lemmas("traffic lights") == {"traffic lights", "traffic light"} and "wetsuit" in lemmas("wetsuits")
    assert "bus" in lemmas("bus") and "bus" in lemmas("buses") and "scissors" in lemmas("scissors")


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
        dict(vocabulary="cup"),
        dict(exclude="cup"),
    ):
        assert next(iter(wrong)) in refused(KeywordConfig, **wrong)
    for bad in (np.zeros((1, 2)), np.zeros(2), np.full((2, 2), np.nan)):
        assert "shape" in refused(keywords, "cup lamp", KeywordConfig(vocabulary=("cup", "lamp")), lambda words: bad)
