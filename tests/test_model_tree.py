# Exported from nbs/model/tree.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.tree import *  # noqa: F403

import random

import pytest
import torch

from mfpo.model.tree import NOTHING, OWN, Tree, additive_mask, block_mask, grouped, pack, plan_trees, sum_over_paths, visible


def random_tree(seed, answers=3, letters=3):
    """A tree of a few short answers over a small alphabet, so that prefixes are shared often."""
    draw = random.Random(seed)
    prompt = [draw.randrange(letters) for _ in range(draw.randint(1, 5))]
    texts = [[draw.randrange(letters) for _ in range(draw.randint(1, 6))] for _ in range(answers)]
    tree = Tree("original", 0, prompt)
    for owner, text in enumerate(texts):
        tree.add(text, owner)
    return tree, prompt, texts


def test_two_answers_by_hand():
    tree = Tree("original", 0, [0, 1])
    tree.add([2, 3], 0)
    tree.add([2, 4, 5], 1)
    assert tree.tokens == [0, 1, 2, 4] and tree.depth == [0, 1, 2, 3]
    assert tree.parents == [1, 2, 2, 3] and tree.targets == [2, 3, 4, 5]
    assert tree.paths == {0: [0, 1], 1: [0, 2, 3]}
    assert tree.limit == [[OWN]]  # 4 follows its parent 2 at once: no branch is left open


def test_a_branch_sees_its_own_past_only():
    tree = Tree("original", 0, [7])
    tree.add([1, 2, 3], 0)
    tree.add([4, 5, 6], 1)
    assert tree.tokens == [7, 1, 2, 4, 5] and tree.depth == [0, 1, 2, 1, 2] and tree.segment == [0, 0, 0, 1, 1]
    assert tree.limit == [[OWN, NOTHING], [0, OWN]]
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 1]]
    assert visible(pack([tree], 0))[0].int().tolist() == expected


def test_a_token_sees_exactly_its_ancestors():
    for seed in range(300):
        tree, prompt, texts = random_tree(seed)
        parent = {place: place - 1 for place in range(1, len(prompt))}
        for edge, place in enumerate(tree._places):
            if place is not None:
                parent[place] = tree.parents[edge]
        sees = visible(pack([tree], 0))[0]
        for place in range(len(tree)):
            line, at = {place}, place
            while at in parent:
                at = parent[at]
                line.add(at)
            assert {k for k in range(len(tree)) if sees[place, k]} == line
            assert tree.depth[place] == len(line) - 1
            # read from the root, the ancestors are a beginning of the owner's written-out row
            written = prompt + texts[tree.owner[place]]
            assert [tree.tokens[k] for k in sorted(line, key=tree.depth.__getitem__)] == written[: len(line)]


def test_every_path_spells_its_answer():
    for seed in range(300):
        tree, prompt, texts = random_tree(seed)
        for owner, text in enumerate(texts):
            assert [tree.targets[e] for e in tree.paths[owner]] == text
            assert tree.parents[tree.paths[owner][0]] == len(prompt) - 1  # the first token is predicted at the prompt's end
        contexts = {tuple(text[: k + 1]) for text in texts for k in range(len(text))}
        assert len(tree.targets) == len(contexts)  # each distinct prediction once
        read = {tuple(text[: k + 1]) for text in texts for k in range(len(text) - 1)}
        assert len(tree) == len(prompt) + len(read)  # each token that predicts something once


def test_an_answer_may_be_the_beginning_of_another():
    for texts in ([[1, 2], [1, 2, 3, 4]], [[1, 2, 3, 4], [1, 2]], [[1, 2], [1, 2]], [[1, 2], [3], [1, 2, 3]]):
        tree = Tree("original", 0, [9, 9])
        for owner, text in enumerate(texts):
            tree.add(text, owner)
        assert all([tree.targets[e] for e in tree.paths[owner]] == text for owner, text in enumerate(texts))
    assert tree.tokens == [9, 9, 1, 2] and tree.depth == [0, 1, 2, 3]


def test_padding_sees_itself_and_is_seen_by_nobody():
    short, long = Tree("original", 0, [1]), Tree("original", 1, [1, 2])
    short.add([3, 4], 0)
    long.add([5, 6, 7], 0)
    long.add([8, 9], 1)
    rows = pack([short, long], pad=0)
    assert rows.tokens.tolist() == [[1, 3, 0, 0, 0], [1, 2, 5, 6, 8]]
    assert rows.attention_mask.tolist() == [[1, 1, 0, 0, 0], [1] * 5]
    sees = visible(rows, window=1)
    assert sees.diagonal(dim1=1, dim2=2).all()  # no query without a key, whatever the window
    assert not visible(rows)[0, :2, 2:].any() and not visible(rows)[0, 2:, :2].any()
    assert rows.branches and not pack([short], 0).branches


def test_a_window_counts_positions_along_the_branch():
    tree = Tree("original", 0, [7, 7, 7])
    tree.add([1, 2, 3, 3, 3, 3], 0)
    tree.add([4, 5, 6], 1)
    sees = visible(pack([tree], 0), window=2)[0].int()
    first = tree.tokens.index(4)
    assert sees[first].nonzero().flatten().tolist() == [2, first]
    assert sees[first + 1].nonzero().flatten().tolist() == [first, first + 1]


def test_blocks_see_all_of_themselves_within_the_window():
    tree = Tree("original", 0, [7, 8, 8, 8, 7])
    tree.add([1, 2], 0)
    blocks = torch.tensor([[-1, 0, 0, 0, -1, -1]])
    assert visible(pack([tree], 0), None, blocks)[0].int().tolist()[1] == [1, 1, 1, 1, 0, 0]
    windowed = visible(pack([tree], 0), 2, blocks)[0].int().tolist()
    assert windowed[1] == [1, 1, 1, 1, 0, 0] and windowed[3] == [0, 0, 1, 1, 0, 0]  # a window looks back, not ahead


def test_masks_are_numbers_that_are_added():
    rows = pack([random_tree(3)[0]], 0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        mask = additive_mask(visible(rows), dtype)
        assert mask.dtype == dtype and mask.shape == (1, 1, rows.tokens.shape[1], rows.tokens.shape[1])
        assert torch.equal(mask[:, 0] == 0, visible(rows)) and mask.isfinite().all()


def test_flex_attentions_mask_is_the_same():
    trees = [random_tree(seed)[0] for seed in (1, 2, 5)]
    rows = pack(trees, 0)
    width = rows.tokens.shape[1]
    blocks = torch.full((3, width), -1)
    blocks[:, :2] = 0
    for window, chosen in ((None, None), (2, None), (3, blocks)):
        mask = block_mask(rows, window, chosen)
        index = torch.arange(width)
        sees = torch.stack([mask.mask_mod(torch.tensor(b), torch.tensor(0), index[:, None], index[None, :]) for b in range(3)])
        assert torch.equal(sees, visible(rows, window, chosen))


def test_sums_follow_the_paths_and_gradients_come_from_all_of_them():
    a, b = Tree("original", 0, [0]), Tree("original", 1, [0])
    a.add([1, 2], 0)
    a.add([1, 3], 1)
    b.add([4], 0)
    b.add([5], 1)
    values = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0], requires_grad=True)
    sums = sum_over_paths(values, [a, b], 2, 2)
    assert sums.dtype == torch.float64 and sums.tolist() == [[3, 10], [4, 20]]
    sums[0].sum().backward()
    assert values.grad.tolist() == [1, 1, 0, 1, 0]


def test_a_batch_becomes_one_tree_an_image_and_row():
    ids = lambda rows: {"input_ids": torch.tensor(rows), "attention_mask": (torch.tensor(rows) != 0).long()}
    batch = {
        "prompts": {"original": ids([[1, 2, 0], [1, 2, 3]]), "negative": ids([[4, 2, 0], [4, 2, 3]])},
        "answers": {"chosen": ids([[5, 6], [5, 0]]), "rejected": ids([[5, 7], [8, 9]])},
    }
    trees = plan_trees(batch, [("chosen", "original"), ("rejected", "original"), ("chosen", "negative")])
    assert [(t.image, t.row) for t in trees] == [("original", 0), ("original", 1), ("negative", 0), ("negative", 1)]
    assert [t.tokens for t in trees] == [[1, 2, 5], [1, 2, 3, 8], [4, 2, 5], [4, 2, 3]]
    assert [list(t.paths) for t in trees] == [[0, 1], [0, 1], [2], [2]]


def test_nothing_can_be_predicted_from_nothing():
    with pytest.raises(ValueError, match="row 4, negative: the prompt has no tokens"):
        Tree("negative", 4, [])
    with pytest.raises(ValueError, match="row 4, negative: an answer has no tokens"):
        Tree("negative", 4, [1]).add([], 0)


def test_long_and_short_rows_part_where_it_saves_a_call():
    make = lambda n: Tree("original", 0, [1] * n)
    assert [[len(t) for t in call] for call in grouped([make(600), make(1000), make(600), make(1000)])] == [[1000] * 2, [600] * 2]
    assert [[len(t) for t in call] for call in grouped([make(60), make(100)])] == [[100, 60]]
    assert [[len(t) for t in call] for call in grouped([make(5)])] == [[5]]
