"""Building the trie: seconds, peak memory and bytes an item, beside STATIC's builder; and live changes.

    bash benchmarks/install_peers.sh static
    PYTHONPATH=.:.peers/static python benchmarks/trie_build.py
    PYTHONPATH=. python benchmarks/trie_build.py --items 1000000 --no-static

Random ids of 8 tokens over 2,048. `memory` is the most that the process held while our builder ran,
the ids and what was there before included. `open` maps the saved file into memory. `changes` is the
time of 5,000 added and 5,000 retired items in a running trie, arrays put on the device included.
`update` is that of `Recommender.update`, with source ids, titles and prompts besides; its items are
numbers of seven digits in T5's vocabulary, where that lies beside the checkout.
STATIC's builder takes sorted ids of one length. Beauty's real ids are measured where the data lies
beside the checkout.
"""

import argparse
import gc
import pathlib
import resource
import tempfile
import threading
import time
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import common, trie_step
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.catalogue import Catalogue
from genrec_jax.decoding.live import LiveIds
from genrec_jax.decoding.stock import Stock
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from genrec_jax.prompts import templates as templates_lib

CHANGES = 5_000
VOCAB, LENGTH = 2048, 8


class PeakMemory:
    """The most resident memory of this process while the block ran, looked at every 10 ms."""

    def __enter__(self) -> "PeakMemory":
        self.gib, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        page = resource.getpagesize()
        while True:
            resident = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * page
            self.gib = max(self.gib, resident / 2**30)
            if self._stop.wait(0.01):
                return


def timed(run: Any) -> tuple[Any, float, float]:
    """What it returns, wall seconds and processor seconds."""
    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - processor


def measure(items: int, arguments: argparse.Namespace) -> dict[str, Any]:
    ids_IL = trie_step.random_ids("uniform", items, VOCAB, LENGTH)
    offsets_I = np.arange(items + 1) * LENGTH
    row: dict[str, Any] = {"items": items}

    def build(ids: np.ndarray) -> tries.Trie:
        return tries.build_trie(ids.reshape(-1), offsets_I, vocab_size=VOCAB)

    _, row["sorted_s"], row["sorted_cpu_s"] = timed(lambda: build(ids_IL))
    shuffled_IL = ids_IL[np.random.default_rng(0).permutation(items)]
    with PeakMemory() as peak:
        trie, row["unsorted_s"], row["unsorted_cpu_s"] = timed(lambda: build(shuffled_IL))
    row["memory_gib"] = peak.gib
    row["bytes_per_item"] = tries.bytes_per_item(trie)
    del shuffled_IL
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trie.npz"
        _, row["save_s"], _ = timed(lambda: tries.save(trie, path))
        _, row["load_s"], _ = timed(lambda: tries.load(path))
        _, row["open_s"], _ = timed(lambda: tries.load(path, mapped=True))
    del trie
    if items <= arguments.most_changed:
        row |= measure_changes(ids_IL)
        if pathlib.Path(common.VOCABULARY).is_file():
            row |= measure_updates(items)
    if arguments.static:
        from static_decoding import csr_utils  # pyright: ignore[reportMissingImports]

        index, row["static_s"], row["static_cpu_s"] = timed(
            lambda: csr_utils.build_static_index(ids_IL, VOCAB)
        )
        size = sum(array.nbytes for array in index if isinstance(array, np.ndarray))
        row["static_bytes_per_item"] = size / items
        row["ratio_sorted"] = row["sorted_s"] / row["static_s"]
    return row


def measure_changes(ids_IL: np.ndarray) -> dict[str, Any]:
    """Least wall and processor seconds of three rounds of changes."""
    count = min(CHANGES, len(ids_IL) // 4)
    rng = np.random.default_rng(1)
    order_I = rng.permutation(len(ids_IL))
    first_IL, more_IL = ids_IL[order_I[: -3 * count]], ids_IL[order_I[-3 * count :]]
    live = LiveIds.build(
        first_IL.reshape(-1),
        np.arange(len(first_IL) + 1) * LENGTH,
        vocab_size=VOCAB,
        room=3 * count,
    )
    offsets_A = np.arange(count + 1) * LENGTH
    times, shapes = [], [leaf.shape for leaf in jax.tree.leaves(live.trie)]
    for round_ in range(3):
        added_P = more_IL[round_ * count : (round_ + 1) * count].reshape(-1)
        retired_R = rng.permutation(live.numbers_I)[:count]

        def change(live=live, added_P=added_P, retired_R=retired_R) -> LiveIds:
            changed = live.updated(added_P, offsets_A, retired_R)
            jax.block_until_ready(jax.device_put(changed.trie))
            return changed

        live, *seconds = timed(change)
        times.append(seconds)
    wall, processor = min(times)
    same = shapes == [leaf.shape for leaf in jax.tree.leaves(live.trie)]
    return {
        "changes": 2 * count,
        "changes_s": wall,
        "changes_cpu_s": processor,
        "same_shapes": same,
    }


def measure_updates(items: int) -> dict[str, Any]:
    """Least wall and processor seconds of three calls of what `Recommender.update` does."""
    count, rounds = min(CHANGES, items // 4), 3
    vocabulary = Vocabulary(common.VOCABULARY)
    numbers = 1_000_000 + np.random.default_rng(2).permutation(9_000_000)[: items + rounds * count]
    names = [f"s{number}" for number in numbers]
    titles = [f"Title of item {number}" for number in numbers]
    texts = [f"item_{number}" for number in numbers]
    assembler = PromptAssembler(
        vocabulary,
        texts[:items],
        templates_lib.load_templates(),
        "Shop",
        titles=titles[:items],
    )
    runs = assembler.target_runs()
    trie = tries.build_trie(runs.values_P, runs.offsets_E1, vocab_size=vocabulary.size)
    catalogue = Catalogue(names[:items], titles[:items])
    stock = Stock.of(catalogue, assembler, trie, "Shop", room=rounds * count)
    times = []
    for round_ in range(rounds):
        new = slice(items + round_ * count, items + (round_ + 1) * count)
        add = dict(zip(names[new], texts[new], strict=True))
        titled = dict(zip(names[new], titles[new], strict=True))
        retire = names[round_ * count : (round_ + 1) * count]

        def update(stock=stock, add=add, retire=retire, titled=titled) -> Stock:
            changed = stock.updated(add, retire, titled)
            jax.block_until_ready(changed.trie)
            return changed

        stock, *seconds = timed(update)
        times.append(seconds)
    wall, processor = min(times)
    return {"updates": 2 * count, "update_s": wall, "update_cpu_s": processor}


def beauty_bytes() -> dict[str, Any] | None:
    """Beauty's 12,101 items under OpenP5's sequential ids, by T5's vocabulary."""
    golden = common.SHARED / "openp5_beauty_golden" / "item_sequential_indexing_original.txt"
    if not golden.is_file():
        return None
    vocabulary = Vocabulary(common.VOCABULARY)
    texts = [f"Beauty item_{line.split()[1]}" for line in golden.read_text().splitlines()]
    runs = vocabulary.encode_batch(texts)
    offsets = np.concatenate([[0], np.cumsum([len(run) for run in runs])])
    values = np.concatenate([np.asarray(run, np.int32) for run in runs])
    trie = tries.build_trie(values, offsets, vocab_size=vocabulary.size)
    return {"items": len(texts), "bytes_per_item": tries.bytes_per_item(trie)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[12_101, 1_000_000, 20_000_000])
    parser.add_argument(
        "--most-changed", type=int, default=1_000_000, help="largest catalogue to change (1000000)"
    )
    parser.add_argument("--no-static", action="store_true", help="leave the peer out")
    parser.add_argument("--name", default="trie_build", help="of the file of results")
    arguments = parser.parse_args()
    arguments.static = not arguments.no_static and common.static_there()
    peer = "static" if arguments.static else common.how_to_install("static")
    rows: list[dict[str, Any]] = []
    payload = {"peer": peer, "rows": rows, "beauty": beauty_bytes()}
    for items in arguments.items:
        rows.append(measure(items, arguments))
        path = common.write_result(arguments.name, payload)
        print(rows[-1], flush=True)
    columns = ("items", "sorted", "unsorted", "GiB", "bytes", "open", "changes", "update")
    table = Table(*columns, "STATIC", "bytes", title="building, seconds")
    names = ("sorted_s", "unsorted_s", "memory_gib", "bytes_per_item", "open_s")
    names += ("changes_s", "update_s")
    for row in rows:
        own = [f"{row[name]:.3g}" if name in row else "-" for name in names]
        peer = [
            f"{row[name]:.3g}" if name in row else "-"
            for name in ("static_s", "static_bytes_per_item")
        ]
        table.add_row(f"{row['items']:,}", *own, *peer)
    Console(width=120).print(table)
    print(f"Beauty: {payload['beauty']}")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
