"""Reading by bounds, at once or in chunks finds what scoring every child in NumPy finds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.decoding import children, constraints, reading
from genrec_jax.decoding.trie import build_trie, item_ranks
from tests.decoding import oracles

VOCAB = 299  # no multiple of a group
KEEP = 12
BEAMS = 24


@pytest.fixture(scope="module", autouse=True)
def broad_chunks_in_a_loop():
    """Broad chunks too small for this vocabulary's full nodes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading, "BROAD", 192)
        yield


@pytest.fixture(scope="module")
def trie():
    """A full root, full, half empty and narrow nodes, tails, and ids inside ids."""
    rng = np.random.default_rng(0)
    everything = np.arange(2, VOCAB)
    ids = {(int(first), 5, 5) for first in everything}
    for first, count in (
        (2, VOCAB - 2),
        (3, VOCAB - 5),
        (4, 120),
        (7, 30),
        (8, 3),
        (9, 170),
        (298, 70),
    ):
        for second in rng.choice(everything, count, replace=False):
            ids.add((first, int(second)))
            if rng.random() < 0.3:
                ids.add((first, int(second), int(rng.integers(2, VOCAB)), 9))
    ids = sorted(ids)
    return build_trie(
        *oracles.ragged([ids[i] for i in rng.permutation(len(ids))]), vocab_size=VOCAB
    )


def places_of(trie, rng, kind):
    """Where beams stand: nodes of one kind, others beside them, tails and ends, some twice."""
    num_nodes = int((np.diff(trie.node_arcs_J) > 0).sum())
    widths = np.diff(trie.node_arcs_J)[:num_nodes]
    is_kind = {"full": widths > VOCAB - 10, "dense": widths > VOCAB // 2, "wide": widths > 64}
    is_kind |= {"some": (widths > 8) & (widths <= 32), "narrow": widths <= 8}
    nodes = rng.choice(np.flatnonzero(is_kind[kind]), BEAMS)
    beside = np.arange(num_nodes) if kind == "wide" else np.flatnonzero(widths <= 8)
    others = rng.choice(beside, BEAMS // 2)
    lone = trie.arc_nexts_A[trie.arc_nexts_A < 0]
    places = np.concatenate([nodes, others, rng.choice(lone, BEAMS // 2)])
    places = rng.permutation(places)[:BEAMS].astype(np.int32)
    items, nodes = np.maximum(-1 - places, 0), np.maximum(places, 0)
    starts, ends = trie.tail_starts_I[items], trie.tail_starts_I[items + 1]
    firsts = np.where(places < 0, rng.integers(starts, ends + 1), trie.node_arcs_J[nodes])
    lasts = np.where(places < 0, ends, trie.node_arcs_J[nodes + 1])
    return places, np.stack([firsts, lasts], axis=-1).astype(np.int32)


def children_of(trie, place, span):
    """Tokens and places of a beam's children, in the order of offsets."""
    first, last = span
    if place < 0:
        return [(trie.eos_id if first == last else int(trie.tokens_Y[first]), place)]
    return [(int(trie.tokens_Y[a]), int(trie.arc_nexts_A[a])) for a in range(first, last)]


def items_under(trie):
    """The items under each place of the trie."""
    under = {-1 - item: {item} for item in range(int(trie.num_items))}
    for node in reversed(range(int((np.diff(trie.node_arcs_J) > 0).sum()))):
        arcs = range(trie.node_arcs_J[node], trie.node_arcs_J[node + 1])
        under[node] = set().union(*(under[int(trie.arc_nexts_A[arc])] for arc in arcs))
    return under


def all_scores(trie, places_BM, spans_BM2, scores_BM, logits_BMV, normaliser_BM, allowed):
    """(score, beam, offset, smallest item) of every running child of each example."""
    found = []
    for row in range(len(places_BM)):
        own = []
        for beam in range(BEAMS):
            if scores_BM[row, beam] == -np.inf:
                continue
            listed = children_of(trie, places_BM[row, beam], spans_BM2[row, beam])
            for offset, (token, place) in enumerate(listed):
                if token == trie.eos_id or (allowed is not None and not allowed(row, place)):
                    continue
                log_prob = logits_BMV[row, beam, token] - normaliser_BM[row, beam]
                item = -1 - place if place < 0 else int(trie.node_items_J[place])
                own.append((scores_BM[row, beam] + log_prob, beam, offset, item))
        found.append(own)
    return found


@functools.partial(jax.jit, static_argnames=("bounded", "by_item"))
def read(
    trie,
    places_BM,
    spans_BM2,
    scores_BM,
    logits_BMV,
    normaliser_BM,
    limits,
    bounded,
    by_item,
):
    kept = reading.KeptLogits(logits_BMV, reading.highest_of_groups(logits_BMV))
    ahead_BMC = children.read_ahead(places_BM, spans_BM2, trie)
    front = reading.frontier_of(
        children.Beams(places_BM, spans_BM2, ahead_BMC, scores_BM),
        trie,
        lambda tokens_BMC: jnp.take_along_axis(logits_BMV, tokens_BMC, axis=2),
        kept if bounded else None,
        normaliser_BM,
        limits,
    )
    if by_item:
        return reading.in_order(reading.highest_by_item(front, KEEP, 96), front)
    return reading.highest(front, KEEP, 96)


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("values", ["many", "few", "elsewhere"])
@pytest.mark.parametrize("kind", ["full", "dense", "wide", "some", "narrow"])
def test_every_way_of_reading_finds_the_highest_children(trie, kind, values, limited):
    """`few`: equal scores everywhere; `elsewhere`: tokens that are no children score far higher."""
    rng = np.random.default_rng([len(kind), len(values), limited])
    batch = 3
    where = [places_of(trie, rng, kind) for _ in range(batch)]
    places_BM, spans_BM2 = (np.stack(columns) for columns in zip(*where, strict=True))
    scores_BM = rng.normal(0, 1, (batch, BEAMS)).astype(np.float32)
    logits_BMV = rng.normal(0, 2, (batch, BEAMS, VOCAB)).astype(np.float32)
    if values == "few":
        scores_BM, logits_BMV = np.round(scores_BM), np.round(logits_BMV / 2)
    if values == "elsewhere":
        for row in range(batch):
            for beam in range(BEAMS):
                own = [
                    token
                    for token, _ in children_of(trie, places_BM[row, beam], spans_BM2[row, beam])
                ]
                others = np.setdiff1d(np.arange(VOCAB), own)
                logits_BMV[row, beam, others] += 50
    normaliser_BM = rng.normal(0, 1, (batch, BEAMS)).astype(np.float32)
    if values == "few":
        normaliser_BM = np.round(normaliser_BM)
    scores_BM[rng.random((batch, BEAMS)) < 0.2] = -np.inf
    scores_BM[2, 1:] = -np.inf  # fewer children than are wanted, where the one beam is narrow
    limits, allowed = None, None
    if limited:
        excluded = [rng.choice(int(trie.num_items), 200, replace=False) for _ in range(batch)]
        ranks_I = item_ranks(trie)
        limits = constraints.constraints_of(ranks_I, excluded)
        under = items_under(trie)
        allowed = lambda row, place: not under[place] <= set(excluded[row].tolist())  # noqa: E731
    arrays = (trie, places_BM, spans_BM2, scores_BM, logits_BMV, normaliser_BM)
    wanted = all_scores(*arrays, allowed)
    ways = [read(*arrays, limits, bounded, False) for bounded in (True, False)]
    for found in jax.device_get(ways):
        for row, every in enumerate(wanted):
            order = sorted((-score for score, *_ in every))
            best = np.asarray([-score for score in order[:KEEP]], np.float32)
            count = len(best)
            np.testing.assert_array_equal(found.scores_BR[row][:count], best)
            assert np.all(found.scores_BR[row][count:] == -np.inf)
            real = {(beam, offset): score for score, beam, offset, _ in every}
            pairs = list(
                zip(found.parents_BR[row].tolist(), found.offsets_BR[row].tolist(), strict=True)
            )[:count]
            assert len(set(pairs)) == count
            assert [real[pair] for pair in pairs] == best.tolist()
            # What is equal to the last and left out is told of.
            if count == KEEP and len(order) > KEEP and -order[KEEP] == best[-1]:
                assert found.lost_B[row] >= best[-1]
    found = jax.device_get(read(*arrays, limits, False, True))
    for row, every in enumerate(wanted):
        best = sorted((-score, item, beam, offset) for score, beam, offset, item in every)[:KEEP]
        assert found.parents_BR[row][: len(best)].tolist() == [one[2] for one in best]
        assert found.offsets_BR[row][: len(best)].tolist() == [one[3] for one in best]


def test_a_group_is_bounded_by_its_highest_logit():
    logits = np.random.default_rng(0).normal(size=(2, 3, VOCAB)).astype(np.float32)
    highest = np.asarray(reading.highest_of_groups(jnp.asarray(logits)))
    assert highest.shape == (2, 3, -(-VOCAB // reading.GROUP))
    for group in range(highest.shape[2]):
        own = logits[:, :, group * reading.GROUP : (group + 1) * reading.GROUP]
        assert np.array_equal(highest[:, :, group], own.max(axis=2))
