import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.decoding import token_trees
from genrec_jax.decoding.trie import build_trie, item_ranks
from genrec_jax.errors import UserError
from tests.decoding import oracles

EOS = 1


def blocks_of(ids, block_size, eos_id=EOS):
    values, offsets = oracles.ragged(ids)
    order = np.argsort(item_ranks(build_trie(values, offsets, vocab_size=100)))
    return token_trees.catalogue_blocks(
        values, offsets, order, eos_id=eos_id, block_size=block_size
    )


def path_of(tree, tokens_Q, node):
    """The tokens from the root down to a node, itself included."""
    path = []
    while node:
        path.append(int(tokens_Q[node]))
        node = int(tree.parents_Q[node])
    return tuple(path[::-1])


def test_a_catalogue_by_hand():
    # In the trie's order: 5 (item 1), 5 6 (item 2), 5 7 8 (item 0), 9 (item 3).
    (block,) = blocks_of([(5, 7, 8, EOS), (5, EOS), (5, 6, EOS), (9, EOS)], block_size=8)
    assert block.tokens_Q.tolist() == [0, 5, 6, 7, 8, 9, 0, 0]
    assert block.tree.depths_Q.tolist() == [0, 1, 2, 2, 3, 1, 0, 0]
    assert block.tree.parents_Q.tolist() == [0, 0, 1, 1, 3, 0, 0, 0]
    assert block.tree.ends_Q.tolist() == [6, 5, 3, 5, 5, 6, 7, 8]
    assert block.items_C.tolist() == [1, 2, 0, 3] and block.lasts_C.tolist() == [1, 2, 4, 5]
    # Blocks of four: the path to the first item comes again.
    first, second, third = blocks_of([(5, 7, 8), (5,), (5, 6), (9,)], block_size=4)
    assert first.tokens_Q.tolist() == [0, 5, 6, 0] and first.items_C.tolist() == [1, 2]
    assert second.tokens_Q.tolist() == [0, 5, 7, 8] and second.items_C[0] == 0
    assert third.tokens_Q.tolist() == [0, 9, 0, 0] and third.items_C.tolist() == [3, 4]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    ids=st.lists(
        st.lists(st.integers(2, 6), min_size=1, max_size=5).map(tuple),
        min_size=1,
        max_size=60,
        unique=True,
    ),
    block_size=st.integers(6, 64),
)
def test_every_item_stands_once_at_the_end_of_its_own_path(ids, block_size):
    found = {}
    for block in blocks_of(ids, block_size):
        assert block.tokens_Q.shape == block.tree.depths_Q.shape == (block_size,)
        nodes = np.arange(block_size)
        visible = (nodes <= nodes[:, None]) & (nodes[:, None] < block.tree.ends_Q)
        for last, item in zip(block.lasts_C, block.items_C, strict=True):
            if item < len(ids):
                assert item not in found
                found[int(item)] = path_of(block.tree, block.tokens_Q, last)
                seen = np.flatnonzero(visible[last])
                assert tuple(block.tokens_Q[seen]) == (0, *found[int(item)])
                assert block.tree.depths_Q[seen].tolist() == list(range(len(seen)))
    assert [found[item] for item in range(len(ids))] == ids


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    ids=st.lists(
        st.lists(st.integers(2, 6), min_size=1, max_size=5).map(tuple),
        min_size=1,
        max_size=60,
        unique=True,
    ),
    prefix=st.sampled_from([(), (8, 9)]),
)
def test_candidates_stand_at_the_end_of_chains(ids, prefix):
    ids = [(*prefix, *tokens) for tokens in ids]
    values, offsets = oracles.ragged(ids)
    trees = token_trees.CandidateTrees.of(values, offsets, eos_id=EOS, num_candidates=3)
    items_BC = np.random.default_rng(0).integers(0, len(ids), (4, 3))
    tokens_BQ, lasts_BC = trees.fill(items_BC)
    for row in range(4):
        for candidate in range(3):
            path = path_of(trees.form, tokens_BQ[row], lasts_BC[row, candidate])
            assert path == ids[items_BC[row, candidate]]


def test_a_block_below_the_longest_id_is_refused():
    with pytest.raises(UserError, match="wanted at least 5"):
        blocks_of([(5, 6, 7, 8)], block_size=4)
