"""What exclusions and allowed subsets cost: the same search with and without them, in turns.

    PYTHONPATH=. python benchmarks/constraints.py
    PYTHONPATH=. python benchmarks/constraints.py --items 12000 --batches 1 --repeats 3

The network is out of the way: random log-probabilities of every beam are given, so the
ratio is of the trie's share alone and an upper bound on what a request notices. Each example has a list of
its own. Rows are the search alone, on the device: what the host does with lists before it (checking and
sorting them, once for each list object) is not in them. Times are the least of --repeats, the programs
taking turns; `compilations` counts the compiled programs behind all lists of one width.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import common
from genrec_jax.decoding import constraints as constraints_lib
from genrec_jax.decoding import search
from genrec_jax.decoding.search import BeamConfig, BeamResult
from genrec_jax.decoding.trie import Trie, build_trie, item_ranks

VOCAB, LENGTH = 2048, 8


def random_ids(items: int) -> np.ndarray:
    """Distinct random ids, in no order."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, VOCAB, (items + items // 50 + 8, LENGTH), dtype=np.uint16)
    distinct = np.unique(tokens.view([("", tokens.dtype)] * LENGTH)).view(np.uint16)
    return rng.permutation(distinct.reshape(-1, LENGTH))[:items]


def make_search(config: BeamConfig):
    """(log-probabilities, trie, constraints) -> lists; one compilation for each shape."""

    @jax.jit
    def run(
        log_probs_BMV: jax.Array, trie: Trie, constraints: constraints_lib.Constraints | None
    ) -> BeamResult:
        batch = log_probs_BMV.shape[0]

        def advance(tokens_BMQ, slot, cache):
            given_BMV = log_probs_BMV[:, : tokens_BMQ.shape[1]]
            view = jnp.broadcast_to(given_BMV[:, :, None], (*tokens_BMQ.shape, VOCAB))
            return view, jnp.zeros(tokens_BMQ.shape, jnp.float32), ()

        def asked_logits(view_BMV, tokens_BMC):
            return jnp.take_along_axis(view_BMV, tokens_BMC, axis=2)

        network = search.Network(advance, asked_logits, lambda cache, parents_BM: ())
        wanted_B = jnp.ones(batch, bool)
        return search.beam_search(network, None, trie, config, wanted_B, constraints)

    return run


def lists_of(
    kind: str, size: int, batch: int, ranks_I: np.ndarray, seed: int
) -> constraints_lib.Constraints:
    """A random list of `size` items for each example."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(len(ranks_I), size, replace=False) for _ in range(batch)]
    if kind == "exclude":
        return constraints_lib.constraints_of(ranks_I, rows)
    return constraints_lib.constraints_of(ranks_I, [[]] * batch, rows)


def measure(items: int, batch: int, beams: int, repeats: int) -> list[dict]:
    """Seconds of a search without constraints and with each kind and length of list."""
    ids_IL = random_ids(items)
    offsets = np.arange(items + 1, dtype=np.int64) * LENGTH
    host = build_trie(ids_IL.reshape(-1), offsets, vocab_size=VOCAB)
    ranks_I, trie = item_ranks(host), jax.device_put(host)
    logits = jax.random.normal(jax.random.key(0), (batch, beams, VOCAB))
    log_probs_BMV = jax.nn.log_softmax(logits)
    run = make_search(BeamConfig(beams, beams))
    cases: dict[str, list] = {"none": [None]}
    for kind in ("exclude", "allow"):
        for size in (20, 100, 1_000, items // 10):
            given = [lists_of(kind, size, batch, ranks_I, seed) for seed in range(2)]
            cases[f"{kind} {size:,}"] = [jax.device_put(one) for one in given]
    best = dict.fromkeys(cases, float("inf"))
    compiled = {}
    for name, given in cases.items():
        before = run._cache_size()
        for one in given:
            jax.block_until_ready(run(log_probs_BMV, trie, one))
        compiled[name] = run._cache_size() - before
    for repeat in range(repeats):
        for name, given in cases.items():
            started = time.perf_counter()
            jax.block_until_ready(run(log_probs_BMV, trie, given[repeat % len(given)]))
            best[name] = min(best[name], time.perf_counter() - started)
    return [
        {
            "items": items,
            "batch": batch,
            "beams": beams,
            "constraint": name,
            "seconds": seconds,
            "ratio": seconds / best["none"],
            "new_compilations": compiled[name],
        }
        for name, seconds in best.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 1_000_000])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    rows = []
    for items in arguments.items:
        for batch in arguments.batches:
            rows += measure(items, batch, arguments.beams, arguments.repeats)
    table = Table("items", "batch", "constraint", "ms", "ratio", "compiled anew")
    for row in rows:
        cells = (row["items"], row["batch"], row["constraint"], 1e3 * row["seconds"], row["ratio"])
        texts = [f"{c:,.3f}" if isinstance(c, float) else str(c) for c in cells]
        table.add_row(*texts, str(row["new_compilations"]))
    Console().print(table)
    if not arguments.no_write:
        print(common.write_result("constraints", {"rows": rows}))


if __name__ == "__main__":
    main()
