import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.trie import build_trie, padded_size
from genrec_jax.errors import UserError
from tests.decoding import oracles

catalogues = st.lists(
    st.lists(st.integers(2, 9), min_size=1, max_size=6).map(tuple),
    min_size=1,
    max_size=60,
    unique=True,
)


def walk(trie, node=0, tokens=()):
    """Every (id, item) of a trie, by following its arrays."""
    found = {}
    for arc in range(trie.node_arcs_J[node], trie.node_arcs_J[node + 1]):
        token, following = int(trie.tokens_Y[arc]), int(trie.arc_nexts_A[arc])
        if following >= 0:
            found |= walk(trie, following, (*tokens, token))
            continue
        item = -1 - following
        tail = trie.tokens_Y[trie.tail_starts_I[item] : trie.tail_starts_I[item + 1]]
        ending = () if token == trie.eos_id else (token, *tail.tolist())
        assert token != trie.eos_id or not len(tail)
        found[(*tokens, *ending)] = item
    return found


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    ids=catalogues,
    prefix=st.lists(st.integers(2, 9), max_size=3).map(tuple),
    vocab_size=st.sampled_from([10, 1 << 16, (1 << 16) + 1, 1 << 31]),
    with_eos=st.booleans(),
)
def test_holds_exactly_the_catalogue(ids, prefix, vocab_size, with_eos):
    ids = [(*prefix, *tokens) for tokens in ids]
    ending = (oracles.EOS,) if with_eos else ()
    runs = oracles.ragged([(*tokens, *ending) for tokens in ids])
    trie = build_trie(*runs, vocab_size=vocab_size)
    common = tuple(trie.prefix_Q.tolist())
    assert common[: len(prefix)] == prefix
    walked = {(*common, *tokens): item for tokens, item in walk(trie).items()}
    assert walked == {tokens: item for item, tokens in enumerate(ids)}
    # No longer prefix is common to all.
    longest = max(map(len, ids))
    assert len({tokens[: len(common) + 1] for tokens in ids}) > 1 or len(ids) == 1
    assert 0 <= trie.max_steps - (longest - len(common) + 1) < tries.STEPS_MULTIPLE
    assert trie.tokens_Y.dtype == (np.uint16 if vocab_size <= 1 << 16 else np.int32)
    order = sorted(range(len(ids)), key=lambda item: ids[item])
    assert np.array_equal(tries.item_ranks(trie), np.argsort(order))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ids=catalogues)
def test_spans_and_smallest_items_of_nodes(ids):
    trie = build_trie(*oracles.ragged(ids), vocab_size=10)
    ranks_I = tries.item_ranks(trie)
    num_nodes = int(np.argmax(trie.node_arcs_J))
    for node in range(num_nodes):
        under = sorted(walk(trie, node).values())
        start, count = int(trie.node_ranks_J[node]), int(trie.node_counts_J[node])
        assert sorted(ranks_I[under].tolist()) == list(range(start, start + count))
        assert trie.node_items_J[node] == under[0]
        assert node == 0 or count >= 2


def test_large_tokens_and_long_ids():
    """Keys of 64 bits hold two tokens of a vocabulary of 2**31; later tokens are read when needed."""
    big = (1 << 31) - 1
    ids = [(big - 1,) * 20 + (big - 2,), (big - 1,) * 21, (2,), (big - 1,) * 19, (2, 0)]
    trie = build_trie(*oracles.ragged(ids), vocab_size=1 << 31)
    assert walk(trie) == {tokens: item for item, tokens in enumerate(ids)}


@pytest.mark.parametrize("vocab_size", [10, 1 << 9, 1 << 15, 1 << 21, 1 << 31])
def test_an_id_that_ends_with_a_key_is_the_beginning_of_an_earlier_one(vocab_size):
    """Keys hold so many tokens; an id of just as many is no copy of a longer one that begins with it."""
    ids = [
        (*head, *tail)
        for length in range(1, 18)
        for tail in ((7, 8), (9,), ())
        if (head := tuple(2 + (place * length) % 7 for place in range(length)))
    ]
    ids = [*dict.fromkeys(ids), (9,)]  # no common prefix
    for order in (ids, ids[::-1]):
        trie = build_trie(*oracles.ragged(order), vocab_size=vocab_size)
        assert walk(trie) == {tokens: item for item, tokens in enumerate(order)}
    with pytest.raises(UserError, match=f"0 and item number {len(ids)} have the same id"):
        build_trie(*oracles.ragged([*ids, ids[0]]), vocab_size=vocab_size)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64])
def test_the_largest_token_of_every_width(dtype):
    """The vocabulary's last token next to a shorter id, in the width that the tokens come in."""
    top = min(int(np.iinfo(dtype).max), (1 << 31) - 1)
    ids = [(5, 6), (5, top), (2,), (2, top), (top,)]
    values_P, offsets_I = oracles.ragged(ids)
    trie = build_trie(values_P.astype(dtype), offsets_I, vocab_size=top + 1)
    assert walk(trie) == {tokens: item for item, tokens in enumerate(ids)}


def test_one_item_is_all_prefix_and_an_end():
    trie = build_trie(*oracles.ragged([(4, 5)]), vocab_size=10)
    assert trie.prefix_Q.tolist() == [4, 5]
    assert walk(trie) == {(): 0}


@pytest.mark.parametrize("filler", [0, 70])
def test_equal_ids_are_refused_naming_both_items(filler):
    ids = [(2, 3, 4), (2, 3), (3,), (2, 3, 4, 5), (2, 3, 4)]
    ids = [(9,) * filler + tokens for tokens in ids]
    names = ["tea", "cup", "pot", "jug", "can"]
    with pytest.raises(UserError, match="tea and can have the same id"):
        build_trie(*oracles.ragged(ids), vocab_size=10, name_of=names.__getitem__)


@pytest.mark.parametrize(
    "ids, message",
    [
        ([], "catalogue is empty"),
        ([(2,), ()], "item number 1 has an id of no tokens"),
        ([(2,), (1,)], "item number 1 has an id of no tokens"),
        ([(2,), (3, 10)], "item number 1 has the token 10"),
        ([(2, -1), (3,)], "item number 0 has the token -1"),
        ([(2,), (3, 1, 4)], "item number 1 has the token 1"),
    ],
)
def test_bad_ids_are_refused(ids, message):
    with pytest.raises(UserError, match=message):
        build_trie(*oracles.ragged(ids), vocab_size=10)


def test_padded_sizes_are_few_and_tight():
    sizes = np.unique(np.geomspace(1, 2**30, 2000).astype(int)).tolist()
    padded = [padded_size(size) for size in sizes]
    assert all(p >= s for p, s in zip(padded, sizes, strict=True))
    assert all(p <= s * 17 / 16 + 1 for p, s in zip(padded, sizes, strict=True) if s > 4096)
    assert padded == sorted(padded)
    assert len({padded_size(size) for size in range(4096, 8192)}) <= 17


def test_size_of_a_large_catalogue_of_random_ids():
    """At most 25 bytes an item: tails are runs of tokens, and no table is as wide as the vocabulary."""
    rng = np.random.default_rng(0)
    count = 200_000
    values = rng.integers(2, 2048, count * 8)
    trie = build_trie(values, np.arange(count + 1) * 8, vocab_size=2048)
    assert tries.bytes_per_item(trie) <= 25


class TestFile:
    def test_round_trip(self, tmp_path):
        trie = build_trie(*oracles.ragged([(2, 3), (2, 4, 5), (2,)]), vocab_size=10)
        tries.save(trie, tmp_path / "trie.npz")
        again = tries.load(tmp_path / "trie.npz")
        assert walk(again) == walk(trie) and again.max_steps == trie.max_steps
        assert np.array_equal(again.prefix_Q, trie.prefix_Q)
        assert again.tokens_Y.dtype == trie.tokens_Y.dtype
        assert [p.name for p in tmp_path.iterdir()] == ["trie.npz"]

    @pytest.mark.parametrize("ids", [[(2, 3), (2, 4, 5), (2,)], [(4, 5)], [(2,), (3,)]])
    def test_mapped(self, tmp_path, ids):
        trie = build_trie(*oracles.ragged(ids), vocab_size=10)
        tries.save(trie, tmp_path / "trie.npz")
        mapped = tries.load(tmp_path / "trie.npz", mapped=True)
        assert isinstance(mapped.arc_nexts_A, np.memmap) and not mapped.arc_nexts_A.flags.writeable
        assert walk(mapped) == walk(trie) and mapped.max_steps == trie.max_steps
        assert mapped.prefix_Q.tolist() == trie.prefix_Q.tolist()
        assert mapped.num_items == trie.num_items

    def test_what_cannot_be_mapped(self, tmp_path):
        path = tmp_path / "trie.npz"
        tries.save(build_trie(*oracles.ragged([(2, 3), (2, 4)]), vocab_size=10), path)
        np.savez_compressed(path, **np.load(path))
        with pytest.raises(UserError, match="is compressed, and cannot be mapped"):
            tries.load(path, mapped=True)
        path.write_bytes(b"tea")
        with pytest.raises(UserError, match=r"trie\.npz"):
            tries.load(path, mapped=True)

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match="not found; wanted a trie"):
            tries.load(tmp_path / "trie.npz")

    @pytest.mark.parametrize("damage", ["cut", "flip", "text"])
    def test_damaged(self, tmp_path, damage):
        path = tmp_path / "trie.npz"
        tries.save(build_trie(*oracles.ragged([(2, 3), (2, 4, 5)]), vocab_size=10), path)
        content = bytearray(path.read_bytes())
        if damage == "flip":
            place = bytes(content).index(b"tokens_Y") + 200
            content[place] ^= 1
        path.write_bytes({"cut": content[:-100], "text": b"tea"}.get(damage, content))
        with pytest.raises(UserError, match=r"trie\.npz"):
            tries.load(path)

    def test_another_content_under_the_checksum(self, tmp_path):
        path = tmp_path / "trie.npz"
        tries.save(build_trie(*oracles.ragged([(2, 3), (2, 4, 5)]), vocab_size=10), path)
        arrays = dict(np.load(path))
        arrays["tokens_Y"] = arrays["tokens_Y"][::-1].copy()
        np.savez(path, **arrays)
        with pytest.raises(UserError, match="checksum"):
            tries.load(path)

    def test_other_version(self, tmp_path):
        path = tmp_path / "trie.npz"
        tries.save(build_trie(*oracles.ragged([(2, 3)]), vocab_size=10), path)
        arrays = dict(np.load(path))
        arrays["header"][0] = 99
        np.savez(path, **arrays)
        with pytest.raises(UserError, match="format version 99"):
            tries.load(path)
