import threading

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.decoding import constraints
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.live import LiveIds, form_of, room_left, with_room
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import build_trie
from genrec_jax.errors import UserError
from tests.decoding import oracles
from tests.decoding.test_trie import walk

VOCAB = 10
NOBODY = np.zeros(0, np.int64)
ids = st.lists(st.integers(2, 9), min_size=1, max_size=5).map(tuple)
changes = st.lists(
    st.tuples(st.lists(ids, max_size=4), st.lists(st.integers(0, 30), max_size=4)), max_size=5
)


def live_of(catalogue, room=16):
    return LiveIds.build(*oracles.ragged(catalogue), vocab_size=VOCAB, room=room)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(first=st.lists(ids, min_size=1, max_size=8, unique=True), changes=changes)
def test_every_state_is_the_catalogue_built_anew(first, changes):
    first = [(9, *tokens) for tokens in first]  # what is added begins likewise
    live, expected = live_of(first), dict(enumerate(first))
    form, begun = form_of(live.trie), (len(live.trie.prefix_Q), live.trie.max_steps)
    for added, retired in changes:
        retired = {number for number in retired if number in expected}
        left = {number: tokens for number, tokens in expected.items() if number not in retired}
        added = [
            t for t in dict.fromkeys((9, *tokens) for tokens in added) if t not in left.values()
        ]
        if not left and not added:
            continue
        earlier, before = live, walk(live.trie)
        expected = left | dict(enumerate(added, live.next_number))
        live = live.updated(*oracles.ragged(added), np.asarray(sorted(retired), np.int64))
        common = tuple(live.trie.prefix_Q.tolist())
        numbers = live.numbers_I.tolist()
        walked = {numbers[row]: (*common, *tokens) for tokens, row in walk(live.trie).items()}
        assert walked == expected and numbers == sorted(expected)
        by_tokens = sorted(numbers, key=expected.__getitem__)
        assert live.numbers_I[np.argsort(live.ranks_I)].tolist() == by_tokens
        assert walk(earlier.trie) == before
        if (len(common), live.trie.max_steps) == begun:
            assert form_of(live.trie) == form


def test_refusals_change_nothing():
    live = live_of([(2, 3), (2, 4)])
    names = ["tea", "cup", "pot"]
    nothing = oracles.ragged([])
    # Indexing anew would be no advice to a service.
    with pytest.raises(
        UserError, match=r"tea and pot have the same id; .* Give each item an id of"
    ):
        live.updated(*oracles.ragged([(2, 3)]), NOBODY, name_of=names.__getitem__)
    with pytest.raises(UserError, match="item number 7 cannot be retired: it is not in"):
        live.updated(*nothing, np.asarray([0, 7]))
    with pytest.raises(UserError, match="no item would be left"):
        live.updated(*nothing, np.asarray([0, 1]))
    with pytest.raises(UserError, match="item number 2 has the token 10"):
        live.updated(*oracles.ragged([(2, 10)]), NOBODY)
    assert walk(live.trie) == {(3,): 0, (4,): 1}
    # The id of a retired item may be given to another at once; its number is not given out again.
    live = live.updated(*oracles.ragged([(2, 4)]), np.asarray([1]))
    live = live.updated(*nothing, np.asarray([2])).updated(
        *oracles.ragged([(2, 5)]), np.asarray([0])
    )
    assert walk(live.trie) == {(5,): 0} and live.numbers_I.tolist() == [3]


def test_room_holds_the_worst_ids_without_new_shapes():
    """Pairs of long ids that differ in their last token make the most nodes an item."""
    rng = np.random.default_rng(0)
    stems = np.unique(rng.integers(2, 9, (400, 14)), axis=0)
    long = [(9, *map(int, stem), last) for stem in stems for last in (2, 3)]
    live = live_of(long[::2], room=len(stems))
    assert room_left(live.trie) >= len(stems)
    again = live.updated(*oracles.ragged(long[1::2]), NOBODY)
    assert form_of(again.trie) == form_of(live.trie)
    # Once there is none left, new shapes have as much again.
    rest = [*dict.fromkeys((9, 9, *tokens[2:]) for tokens in long)]
    full = again
    for begin in range(0, len(rest), 50):
        left = room_left(full.trie)
        before, full = full, full.updated(*oracles.ragged(rest[begin : begin + 50]), NOBODY)
        if left >= 50:
            assert form_of(full.trie) == form_of(before.trie)
        elif form_of(full.trie) != form_of(before.trie):
            assert room_left(full.trie) >= len(stems)
    assert form_of(full.trie) != form_of(live.trie)


def test_as_many_items_come_and_go_in_the_same_shapes_for_ever():
    """Numbers in the catalogue go on; the trie's arrays know of live items alone."""
    rng = np.random.default_rng(0)
    stems = rng.permutation(
        [(9, a, b, c) for a in range(2, 9) for b in range(2, 9) for c in (2, 3)]
    )
    live = live_of(stems[:50].tolist(), room=4)
    form = form_of(live.trie)
    for change in range(1000):
        stem = [stems[(50 + change) % len(stems)].tolist()]
        live = live.updated(*oracles.ragged(stem), np.asarray([change]))
    assert form_of(live.trie) == form
    assert live.numbers_I.tolist() == list(range(1000, 1050))
    assert int(live.trie.num_items) == 50 and room_left(live.trie) >= 1


def test_room_changes_no_list():
    trie = build_trie(*oracles.ragged([(2, 3), (2, 4, 5), (2,)]), vocab_size=VOCAB)
    assert walk(with_room(trie, 500)) == walk(trie)
    assert tries.item_ranks(with_room(trie, 500)).tolist() == tries.item_ranks(trie).tolist()


def test_searches_follow_changes_on_one_compiled_program_and_see_no_half_of_one():
    """Two catalogues without a common item take turns; each list must be of one of them, whole."""
    config = BeamConfig(num_beams=8, num_results=8)

    @chex.assert_max_traces(n=1)
    def find(table_BKV, trie, constraints):
        return oracles.run_tables(table_BKV, trie, config, constraints)

    searched = jax.jit(find)
    table_BKV = np.random.default_rng(0).normal(0, 1, (1, 97, VOCAB)).astype(np.float32)
    ids = [[(9, a, b) for b in range(2, 6)] for a in (2, 3)]
    live = [live_of(ids[0])]
    snapshots = {frozenset(range(4))}  # the items of each moment

    def ask():
        now = live[0]
        none = constraints.constraints_of(now.ranks_I, [[]])
        items = np.asarray(searched(table_BKV, now.trie, none).items_BR[0])
        return frozenset(now.numbers_I[items[items >= 0]].tolist())

    listed, stop = [ask()], threading.Event()

    def keep_asking():
        while not stop.is_set():
            listed.append(ask())

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    for generation in range(1, 41):
        added = oracles.ragged(ids[generation % 2])
        changed = live[0].updated(*added, live[0].numbers_I.copy())
        snapshots.add(frozenset(changed.numbers_I.tolist()))
        live[0] = changed
    stop.set()
    for thread in threads:
        thread.join()
    assert len(listed) > 3 and set(listed) <= snapshots
    assert ask() == frozenset(live[0].numbers_I.tolist())
