"""Mask and advance: the trie's share of beam search, beside STATIC's own code in the same process.

    bash benchmarks/install_peers.sh static
    PYTHONPATH=.:.peers/static python benchmarks/trie_step.py
    PYTHONPATH=.:.peers/static python benchmarks/trie_step.py --items 12000 --batches 1 --beams 20

The network is out of the way: log-probabilities of every beam are given, so that neither side computes
a softmax (STATIC's function asks its model for logits and normalises them; here its model hands out the
array and its `log_softmax` is the identity while the function is traced). What is timed is a whole
search of 8 tokens: reading children, the best of them, states and histories, and on our side the step
after the last token that ends an id, and the pool of finished ids. STATIC runs twice: `exact` keeps as
many tokens a beam as there are beams, without which its lists are not exact; `30` is what its own
benchmark keeps. Times are the least of --repeats (short runs: of a second's), the programs taking turns.

Catalogues of ids of 8 tokens over 2,048: `uniform`; `zipf`, tokens drawn with weights 1 / rank; and
`one_parent`, in which every id but one begins with the same two tokens. STATIC's lists and ours are
compared: `same` is the share of equal ids at equal ranks (STATIC breaks ties otherwise).
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import common
from genrec_jax.decoding import reading, search
from genrec_jax.decoding.search import BeamConfig, BeamResult
from genrec_jax.decoding.trie import Trie, build_trie
from genrec_jax.parallel import compilation_cache

FIRST = 2
KINDS = ("uniform", "zipf", "one_parent")
LEAST_SECONDS = 1.0
"""How long short runs are repeated."""


def random_ids(kind: str, items: int, vocab: int, length: int, seed: int = 0) -> np.ndarray:
    """Distinct ids, sorted by tokens: (items, length), uint16 where the vocabulary allows."""
    rng = np.random.default_rng(seed)
    dtype = np.uint16 if vocab <= 1 << 16 else np.int32
    weights_V = 1 / np.arange(1, vocab - FIRST + 1)
    cumulative_V = np.cumsum(weights_V / weights_V.sum())
    found = np.zeros((0, length), dtype)
    while len(found) < items:
        shape = (items - len(found) + items // 50 + 8, length)
        if kind == "zipf":
            more = FIRST + np.searchsorted(cumulative_V, rng.random(shape, np.float32))
            more = np.minimum(more, vocab - 1).astype(dtype)
        else:
            more = rng.integers(FIRST, vocab, shape, dtype)
        if kind == "one_parent":
            more[:, :2] = FIRST + 1
        found = distinct(np.concatenate([found, more]))
    found = found[np.sort(rng.permutation(len(found))[:items])]
    if kind == "one_parent":
        found[0, :2] = (
            FIRST,
            FIRST + 2,
        )  # sorts first still, and keeps the rest from being all prefix
    return found


def distinct(ids_IL: np.ndarray) -> np.ndarray:
    """Sorted by tokens, each id once: 63 bits at a time, the last tokens first."""
    bits = int(ids_IL.max()).bit_length()
    width = 63 // bits
    order_I = np.arange(len(ids_IL))
    for end in range(ids_IL.shape[1], 0, -width):
        key_I = np.zeros(len(ids_IL), np.int64)
        for column in range(max(end - width, 0), end):
            key_I = (key_I << bits) | ids_IL[order_I, column]
        order_I = order_I[np.argsort(key_I, kind="stable")]
    ids_IL = ids_IL[order_I]
    fresh_I = np.ones(len(ids_IL), bool)
    fresh_I[1:] = (ids_IL[1:] != ids_IL[:-1]).any(axis=1)
    return ids_IL[fresh_I]


def our_search(
    log_probs_BV: jax.Array, log_probs_BMV: jax.Array, trie: Trie, config: BeamConfig
) -> BeamResult:
    """Beam search over given log-probabilities: of the first step, and of every later one."""
    batch = log_probs_BV.shape[0]

    def advance(tokens_BMQ, slot, cache):
        given = log_probs_BV[:, None] if cache is None else log_probs_BMV
        view_BMQV = jnp.broadcast_to(given[:, :, None], (*tokens_BMQ.shape, log_probs_BV.shape[1]))
        return view_BMQV, jnp.zeros(tokens_BMQ.shape, jnp.float32), ()

    def asked_logits(view_BMV, tokens_BMC):
        # End-of-sequence is certain after a whole id: STATIC has no such step.
        given_BMC = jnp.take_along_axis(view_BMV, tokens_BMC, axis=2)
        return jnp.where(tokens_BMC == trie.eos_id, 0.0, given_BMC)

    def kept(view_BMV):
        # The bounds are made here, inside the time: a network makes them with its normaliser.
        return reading.KeptLogits(view_BMV, reading.highest_of_groups(view_BMV))

    network = search.Network(advance, asked_logits, lambda cache, parents_BM: (), kept)
    return search.beam_search(network, None, trie, config, jnp.ones(batch, bool))


class GivenLogits:
    """A `model` for STATIC that hands out given log-probabilities; they travel in place of its key."""

    def __call__(self, tokens: jax.Array, given: tuple[jax.Array, jax.Array]):
        log_probs_BV, log_probs_BMV = given
        if tokens.shape[0] == log_probs_BV.shape[0]:
            return log_probs_BV[:, None], given
        return log_probs_BMV.reshape(tokens.shape[0], 1, -1), given


GIVEN_LOGITS = GivenLogits()


def static_search(
    ids_IL: np.ndarray, vocab: int, given: tuple[jax.Array, jax.Array], tokens_per_beam: int
) -> tuple[Callable[[], jax.Array], int]:
    """STATIC's search as a function without arguments, and the bytes of its index."""
    from static_decoding import csr_utils, decoding_jax  # pyright: ignore[reportMissingImports]

    index = csr_utils.build_static_index(ids_IL, vocab)
    packed, starts, widest, start_mask, dense_mask, dense_states = index
    size = sum(array.nbytes for array in index if isinstance(array, np.ndarray))
    arrays = jax.device_put((packed, starts, start_mask, dense_mask, dense_states))
    batch, beams = given[1].shape[:2]

    def run() -> jax.Array:
        log_softmax = jax.nn.log_softmax
        jax.nn.log_softmax = lambda logits: logits  # for tracing, which the first call does
        try:
            return decoding_jax.sparse_transition_jax(
                GIVEN_LOGITS,
                given,
                batch,
                beams,
                tokens_per_beam,
                0,
                ids_IL.shape[1],
                vocab,
                tuple(map(int, widest)),
                *arrays,
            )
        finally:
            jax.nn.log_softmax = log_softmax

    return run, size


def least_times(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Milliseconds of the quickest run of each, the programs taking turns; first calls compile.

    Runs of less than a millisecond are repeated until a second is full.
    """
    least = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        jax.block_until_ready(run())
    began, rounds = time.perf_counter(), 0
    while rounds < repeats or (
        time.perf_counter() < began + LEAST_SECONDS and min(least.values()) < 1
    ):
        for name, run in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            least[name] = min(least[name], (time.perf_counter() - started) * 1e3)
        rounds += 1
    return least


def same_lists(result: BeamResult, tokens_BML: jax.Array, ids_IL: np.ndarray) -> float:
    """The share of places at which both lists hold the same id."""
    ours_BML = ids_IL[np.maximum(np.asarray(result.items_BR), 0)]
    return float((ours_BML == np.asarray(tokens_BML)).all(axis=2).mean())


def measure(
    ids_IL: np.ndarray,
    trie: Trie,
    vocab: int,
    batch: int,
    beams: int,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """One row of the table: our time, STATIC's two, and the ratios."""
    rng = np.random.default_rng(1)

    def log_probs(shape: tuple[int, ...]) -> jax.Array:
        logits = jnp.asarray(rng.standard_normal(shape, np.float32) * arguments.spread)
        return jax.nn.log_softmax(logits)

    given = log_probs((batch, vocab)), log_probs((batch, beams, vocab))
    config = BeamConfig(num_beams=beams, num_results=beams)
    searched = jax.jit(our_search, static_argnames="config")
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: searched(*given, trie, config)}
    if arguments.static:
        for name, kept in (("exact", beams), ("30", min(30, beams))):
            runs[f"static_{name}"], _ = static_search(ids_IL, vocab, given, kept)
    row = {f"{name}_ms": ms for name, ms in least_times(runs, arguments.repeats).items()}
    if arguments.static:
        row["ratio_exact"] = row["ours_ms"] / row["static_exact_ms"]
        row["ratio_30"] = row["ours_ms"] / row["static_30_ms"]
        row["same"] = same_lists(runs["ours"](), runs["static_exact"](), ids_IL)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 1_000_000, 20_000_000])
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--beams", type=int, nargs="+", default=[20, 70])
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--length", type=int, default=8, help="tokens of an id (8)")
    parser.add_argument("--spread", type=float, default=2.0, help="deviation of the logits (2)")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-static", action="store_true", help="leave the peer out")
    parser.add_argument("--name", default="trie_step", help="of the file of results")
    arguments = parser.parse_args()
    arguments.static = not arguments.no_static and common.static_there()
    names = ("vocab", "length", "spread", "repeats")
    payload: dict[str, Any] = {
        "settings": {name: getattr(arguments, name) for name in names},
        "peer": "static" if arguments.static else common.how_to_install("static"),
        "rows": [],
    }
    compilation_cache.use()
    columns = ("items", "kind", "batch", "beams", "ours", "STATIC", "STATIC 30", "ratios", "same")
    table = Table(*columns, title="whole searches without a network, ms")
    for kind in arguments.kinds:
        for items in arguments.items:
            ids_IL = random_ids(kind, items, arguments.vocab, arguments.length)
            offsets_I = np.arange(items + 1) * arguments.length
            trie = build_trie(ids_IL.reshape(-1), offsets_I, vocab_size=arguments.vocab)
            trie = jax.device_put(trie)
            for batch in arguments.batches:
                for beams in arguments.beams:
                    row = {"items": items, "kind": kind, "batch": batch, "beams": beams}
                    row |= measure(ids_IL, trie, arguments.vocab, batch, beams, arguments)
                    payload["rows"].append(row)
                    path = common.write_result(arguments.name, payload)
                    print(row, flush=True)
                    cells = [
                        f"{row[name]:.2f}" if name in row else "-"
                        for name in ("ours_ms", "static_exact_ms", "static_30_ms")
                    ]
                    ratios = [f"{row[n]:.2f}" for n in ("ratio_exact", "ratio_30") if n in row]
                    same = f"{row['same']:.4f}" if "same" in row else "-"
                    table.add_row(
                        f"{items:,}", kind, str(batch), str(beams), *cells, " ".join(ratios), same
                    )
    Console(width=120).print(table)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
