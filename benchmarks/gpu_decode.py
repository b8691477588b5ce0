"""Latency of constrained beam search on a GPU: T5-small, a catalogue of Beauty's size, batch 1 and 64.

    PYTHONPATH=. python benchmarks/gpu_decode.py
    PYTHONPATH=. python benchmarks/gpu_decode.py --batches 1 16 64 256 --types bfloat16

Parameters and prompts are random, ids are as long as Beauty's. A call is timed as a service sees it:
prompts on the host, lists back on the host. Beside it, where this Python or `.peers/torch` has PyTorch and
transformers, Hugging Face's `generate` with `prefix_allowed_tokens_fn` runs on the same device in bfloat16
with the same parameters, ids and prompts, right after ours in bfloat16; `same_items` is the share of its
list that ours holds too (in bfloat16, ties and near-ties fall otherwise).

`float32` is just that, products at the highest precision. What JAX does with float32 by itself on NVIDIA's
GPUs is `tf32`, products of numbers with 10 bits of fraction; it is left out elsewhere.
"""

import argparse
import dataclasses
import importlib.util
import pathlib
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks import beam_search, common, hf_peer
from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import Trie, build_trie
from genrec_jax.model import stacks, t5
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.batch import PromptBatch

VOCAB, ITEMS = 32_128, 12_101
PEER_DTYPE = "bfloat16"
TYPES = {
    "bfloat16": ("bfloat16", "bfloat16", None),
    "float32": ("float32", "float32", "highest"),
    "tf32": ("float32 (TF32)", "float32", None),
}
"""By name: what rows call it, the type of the model's numbers, and the precision of float32's products."""


def catalogue(items: int, vocab: int) -> tuple[Trie, np.ndarray, np.ndarray]:
    """Ids of three common tokens and two of their own, and the same as ragged arrays."""
    ids_IL = beam_search.spread_ids(items, vocab)
    offsets = np.arange(items + 1) * ids_IL.shape[1]
    return build_trie(ids_IL.reshape(-1), offsets, vocab_size=vocab), ids_IL.reshape(-1), offsets


def prompts(rows: int, length: int, vocab: int) -> PromptBatch:
    """Random prompts, on the host."""
    tokens_BL = np.random.default_rng(1).integers(2, vocab - 200, (rows, length)).astype(np.int32)
    nobody_B = np.full(rows, -1, np.int32)
    return PromptBatch(tokens_BL, np.zeros_like(tokens_BL), nobody_B, nobody_B)


def measure(step: Any, params: Any, trie: Trie, batch: PromptBatch, calls: int) -> dict[str, Any]:
    """Seconds of single calls, one after another."""

    def call() -> np.ndarray:
        return np.asarray(step(params, batch, trie).items_BR)

    began = time.perf_counter()
    items_BR = call()
    compile_s = time.perf_counter() - began
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    p50, p99 = np.percentile(seconds, [50, 99])
    rows = len(items_BR)
    return {
        "batch": rows,
        "calls": calls,
        "p50_s": p50,
        "p99_s": p99,
        "users_per_s": rows / p50,
        "compile_s": compile_s,
        "items": items_BR,
    }


def peer_python() -> str | None:
    """A Python that has PyTorch and transformers: this one, or the one that is installed for it."""
    if all(map(importlib.util.find_spec, ("torch", "transformers"))):
        return sys.executable
    return hf_peer.PYTHON if hf_peer.there(hf_peer.PYTHON) else None


def beside_peer(peer: hf_peer.Peer, row: dict[str, Any], beams: int, repeats: int) -> None:
    """Adds the peer's time to a row of its type, and how much of its lists ours hold."""
    answers = [
        peer.ask({"batch": row["batch"], "beams": beams}) for _ in range(repeats + 1)
    ]  # the first warms up
    row["hf_s"] = min(answer["wall_s"] for answer in answers[1:])
    row["times_faster"] = row["hf_s"] / row["p50_s"]
    theirs = np.asarray(answers[0]["items"]).reshape(row["batch"], -1)
    pairs = zip(row["items"].tolist(), theirs.tolist(), strict=True)
    row["same_items"] = float(np.mean([len({*a} & {*b}) / len({*b}) for a, b in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--length", type=int, default=128, help="tokens of a prompt (128)")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--calls", type=int, default=100, help="timed for each row (100)")
    parser.add_argument("--peer-repeats", type=int, default=2)
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    vocab, model = VOCAB, "t5_small"
    if arguments.smoke:
        vocab, model = 512, "tiny"
        arguments.batches, arguments.types = [1, 2], ["bfloat16", "float32"]
        arguments.items, arguments.calls, arguments.beams, arguments.length = 200, 3, 4, 16
    trie, values, offsets = catalogue(arguments.items, vocab)
    trie = jax.device_put(trie)
    python = None if arguments.no_peer else peer_python()
    names = ("batches", "beams", "length", "items", "calls", "smoke")
    payload: dict[str, Any] = {
        "settings": {name: getattr(arguments, name) for name in names} | {"model": model},
        "peer": common.how_to_install("torch") if python is None else None,
        "rows": [],
    }
    rows: list[dict[str, Any]] = []

    def write() -> pathlib.Path:
        payload["rows"] = [{k: v for k, v in row.items() if k != "items"} for row in rows]
        return common.write_result("gpu_decode", payload)

    def peers_turn(config: T5Config) -> None:
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        with tempfile.TemporaryDirectory() as folder:
            work = pathlib.Path(folder)
            # Prompts of fewer rows are the first of these.
            tokens_BL = prompts(
                max(arguments.batches), arguments.length, vocab
            ).encoder_input_tokens_BL
            own = t5.graph_and_params(t5.T5(config, rngs=nnx.Rngs(0)))[1]
            hf_peer.write_inputs(work, config, own, values, offsets, tokens_BL)
            peer = hf_peer.Peer(str(python), "hf_generate.py", work, device, PEER_DTYPE)
        payload["peer"] = peer.versions
        for row in rows:
            if row["dtype"] == PEER_DTYPE:
                beside_peer(peer, row, arguments.beams, arguments.peer_repeats)
                write()
        peer.close()

    path = write()
    for name in arguments.types:
        if name == "tf32" and jax.default_backend() != "gpu":
            continue
        label, dtype, precision = TYPES[name]
        config = dataclasses.replace(
            beam_search.config_of(model, vocab), whole_word_embedding=False, dtype=dtype
        )
        graphdef, params = t5.graph_and_params(t5.T5(config, rngs=nnx.Rngs(0)))
        if jax.default_backend() == "cpu":  # as the recommender does
            params = stacks.split_layers(params)
        step = make_recommend_step(graphdef, BeamConfig(arguments.beams, arguments.beams))
        for size in arguments.batches:
            batch = prompts(size, arguments.length, vocab)
            with jax.default_matmul_precision(precision):
                row = measure(step, params, trie, batch, arguments.calls)
            rows.append({"dtype": label} | row)
            path = write()
        if label == PEER_DTYPE and python is not None:
            try:
                peers_turn(config)
            except (Exception, SystemExit) as error:  # its own: ours is measured all the same
                payload["peer_failed"] = f"not measured: {error}".splitlines()[0][:300]
                print(f"Hugging Face: {payload['peer_failed']}", flush=True)
                path = write()
    show(payload)
    print(f"wrote {path}")


def show(payload: dict[str, Any]) -> None:
    """A table for the terminal."""
    table = Table(title="constrained beam search, milliseconds")
    for column in ("type", "batch", "p50", "p99", "users/s", "compile s", "HF", "faster", "same"):
        table.add_column(column, justify="right")
    for row in payload["rows"]:
        beside = "hf_s" in row
        table.add_row(
            row["dtype"],
            str(row["batch"]),
            f"{row['p50_s'] * 1e3:.2f}",
            f"{row['p99_s'] * 1e3:.2f}",
            f"{row['users_per_s']:,.0f}",
            f"{row['compile_s']:.1f}",
            f"{row['hf_s'] * 1e3:.0f}" if beside else "",
            f"{row['times_faster']:.1f}x" if beside else "",
            f"{row['same_items']:.2f}" if beside else "",
        )
    console = Console(width=120)
    console.print(table)
    if isinstance(payload["peer"], str):
        console.print(f"Hugging Face: {payload['peer']}")


if __name__ == "__main__":
    main()
