"""Constrained beam search of a T5-small over Beauty's items, beside Hugging Face's `generate`.

    bash benchmarks/install_peers.sh torch
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONPATH=. python benchmarks/decode_vs_hf.py
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONPATH=. taskset -c 0 python benchmarks/decode_vs_hf.py \
        --no-peer --batches 16 1

Both have the same random parameters, prompts and catalogue (the ids that `genrec index --method
sequential --vocabulary spiece.model` gives), and take turns: ours once, the peer's once. `floor` is
the FLOP of the products that no exact search of this model can do without, over the matrix-product
rate that JAX reaches in the same run on the shapes of the encoder's feed-forward block. The second
command's breakdown is on one core, where the parts add up to the whole.

Lists are compared under Hugging Face's finishing rule (`finish_within_beams`), place by place; a
place may hold another item only where the scores there differ by less than 1e-4. The time is that of
the default rule, whose lists are as good or better.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks import beam_search, common, hf_peer, scope_times
from genrec_jax.data import prepare_run
from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import Trie, build_trie
from genrec_jax.indexing import build, item_ids
from genrec_jax.model import stacks, t5
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.batch import PromptBatch

SCOPES = ("encoder", "cross_keys_values", "prefix", "beam_step", "head", "trie", "reorder")
VOCAB = 32_128
SAME_SCORE = 1e-4


def catalogue(data: pathlib.Path, vocabulary: pathlib.Path, work: pathlib.Path):
    """The trie of the targets `Beauty item_1001` ..., and its tokens, ragged."""
    prepare_run.prepare_from("sequences", data / "user_sequence.txt", work / "data", name="Beauty")
    build.build_index(
        [work / "data"],
        build.IndexConfig(method="sequential"),
        output=work / "index",
        vocabulary=vocabulary,
    )
    texts = item_ids.load(work / "index").texts
    encoded = item_ids.load_vocabulary(work / "index").encode_batch([f"Beauty {t}" for t in texts])
    offsets = np.cumsum([0, *map(len, encoded)])
    values = np.concatenate([np.asarray(tokens) for tokens in encoded])
    return build_trie(values, offsets, vocab_size=VOCAB), values, offsets


def unavoidable_flop(
    config: T5Config, rows: int, length: int, prefix: int, beams: int, steps: int
) -> float:
    """FLOP of the matrix products: the encoder and cross keys once, the prefix with one beam.

    Args:
        config: the model.
        rows: requests.
        length: tokens of a prompt.
        prefix: tokens that all ids begin with, and the start.
        beams: beams of a request.
        steps: times that all beams were fed a token.
    """
    joined = config.num_heads * config.head_dim
    projection = 2 * config.embed_dim * joined
    mlp = (len(config.mlp_activations) + 1) * 2 * config.embed_dim * config.mlp_dim
    head = 2 * config.embed_dim * config.vocab_size
    layers = config.num_decoder_layers
    encoder = config.num_encoder_layers * (4 * projection + mlp + 4 * length * joined)
    flop = rows * length * (encoder + layers * 2 * projection)
    a_token = layers * (6 * projection + mlp + 4 * length * joined) + head
    own_keys = prefix * (prefix + 1) // 2 + beams * sum(prefix + 1 + s for s in range(steps))
    return float(flop + rows * (prefix + beams * steps) * a_token + 4 * rows * own_keys * joined)


def matmul_rate(config: T5Config, repeats: int) -> tuple[float, float]:
    """FLOP per wall second and per processor second of the encoder's feed-forward products."""
    x = jnp.ones((2048, config.embed_dim))
    wi = jnp.ones((config.embed_dim, config.mlp_dim))
    wo = jnp.ones((config.mlp_dim, config.embed_dim))
    product = jax.jit(lambda x, wi, wo: (x @ wi) @ wo)
    wall, processor = beam_search.least_time(lambda: product(x, wi, wo), repeats)
    flop = 4.0 * x.shape[0] * config.embed_dim * config.mlp_dim
    return flop / wall, flop / processor


def compare_lists(ours, theirs: dict[str, Any], beams: int) -> dict[str, Any]:
    """How many places hold the same item, and how far the scores are apart."""
    items = np.asarray(theirs["items"]).reshape(-1, beams)
    scores = np.asarray(theirs["scores"]).reshape(-1, beams)
    same = np.asarray(ours.items_BR) == items
    apart = np.abs(np.asarray(ours.scores_BR) - scores)
    return {
        "places": int(same.size),
        "same_items": int(same.sum()),
        "largest_score_difference": float(apart.max()),
        "same_lists": bool(np.all(same | (apart < SAME_SCORE))),
    }


def measure(arguments, rows: int, config, graphdef, params, trie: Trie, tokens_BL, peer):
    """Times of one batch size, ours and the peer's in turn, and the breakdown of ours."""
    nobody_B = np.full(rows, -1, np.int32)
    own_BL = tokens_BL[:rows]
    batch = jax.device_put(PromptBatch(own_BL, np.zeros_like(own_BL), nobody_B, nobody_B))
    beams = BeamConfig(num_beams=arguments.beams, num_results=arguments.beams)
    step = make_recommend_step(graphdef, beams)
    started = time.perf_counter()
    compiled = step.lower(params, batch, trie).compile()
    row: dict[str, Any] = {"batch": rows, "compile_s": time.perf_counter() - started}
    run = lambda: jax.block_until_ready(step(params, batch, trie))  # noqa: E731
    run()
    if peer is not None:
        theirs = peer.ask({"batch": rows, "beams": arguments.beams})
        rule = dataclasses.replace(beams, finish_within_beams=True)
        ours = make_recommend_step(graphdef, rule)(params, batch, trie)
        row["lists"] = compare_lists(ours, theirs, arguments.beams)
    our_times, peer_times, rates = [], [], []
    for _ in range(arguments.repeats):
        rates.append(matmul_rate(config, 3))
        wall, processor = time.perf_counter(), time.process_time()
        run()
        our_times.append((time.perf_counter() - wall, time.process_time() - processor))
        if peer is not None:
            answer = peer.ask({"batch": rows, "beams": arguments.beams})
            peer_times.append((answer["wall_s"], answer["cpu_s"]))
    row["ours_wall_s"], row["ours_cpu_s"] = map(min, zip(*our_times, strict=True))
    if peer is not None:
        row["hf_wall_s"], row["hf_cpu_s"] = map(min, zip(*peer_times, strict=True))
        row["times_faster"] = row["hf_wall_s"] / row["ours_wall_s"]
    parts = scope_times.scope_times(compiled, run, SCOPES)
    # Whatever the depth, the busiest operation of the head runs once for the beams of each step.
    steps = parts.times_run["head"]
    prefix = 1 + trie.prefix_Q.shape[0]
    flop = unavoidable_flop(config, rows, arguments.length, prefix, arguments.beams, steps)
    rate, cpu_rate = map(max, zip(*rates, strict=True))
    row |= {"steps": steps, "flop": flop, "matmul_flop_per_s": rate, "floor_s": flop / rate}
    row |= {"of_floor": row["ours_wall_s"] / row["floor_s"], "parts_s": parts.seconds}
    row["of_floor_cpu"] = row["ours_cpu_s"] * cpu_rate / flop
    return row


def show(rows: list[dict[str, Any]], model: str) -> None:
    table = Table(title=f"{model}, Beauty's 12,101 ids")
    for column in (
        "batch",
        "HF s",
        "ours s",
        "faster",
        "floor s",
        "of floor",
        "steps",
        "compile s",
    ):
        table.add_column(column, justify="right")
    table.add_column("lists")
    for row in rows:
        lists = row.get("lists")
        table.add_row(
            str(row["batch"]),
            f"{row['hf_wall_s']:.3f}" if lists else "",
            f"{row['ours_wall_s']:.3f}",
            f"{row['times_faster']:.1f}x" if lists else "",
            f"{row['floor_s']:.3f}",
            f"{row['of_floor']:.2f}x",
            str(row["steps"]),
            f"{row['compile_s']:.1f}",
            f"{lists['same_items']}/{lists['places']} places" if lists else "",
        )
    breakdown = Table("batch", *SCOPES, "other", title="milliseconds of each part")
    for row in rows:
        parts = [f"{row['parts_s'][scope] * 1e3:.1f}" for scope in (*SCOPES, "other")]
        breakdown.add_row(str(row["batch"]), *parts)
    console = Console(width=120)
    console.print(table)
    console.print(breakdown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=beam_search.MODELS, default="t5_small")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 1])
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--length", type=int, default=128, help="tokens of a prompt (128)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=pathlib.Path, default=common.BEAUTY)
    parser.add_argument("--vocabulary", type=pathlib.Path, default=common.VOCABULARY)
    parser.add_argument("--peer-python", default=hf_peer.PYTHON)
    parser.add_argument("--no-peer", action="store_true", help="ours and the floor alone")
    parser.add_argument("--stacked", action="store_true", help="scan layers as on accelerators")
    parser.add_argument("--result", default="decode_vs_hf", help="name of the JSON file written")
    arguments = parser.parse_args()
    config = dataclasses.replace(
        beam_search.config_of(arguments.model, VOCAB), whole_word_embedding=False
    )
    graphdef, params = t5.graph_and_params(t5.T5(config, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(1)
    tokens_BL = random.integers(2, 32_000, (max(arguments.batches), arguments.length))
    tokens_BL = tokens_BL.astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        trie, values, offsets = catalogue(arguments.data, arguments.vocabulary, work)
        peer = None
        if not arguments.no_peer and hf_peer.there(arguments.peer_python):
            hf_peer.write_inputs(work, config, params, values, offsets, tokens_BL)
            peer = hf_peer.Peer(arguments.peer_python, "hf_generate.py", work)
        trie = jax.device_put(trie)
        if not arguments.stacked:
            params = stacks.split_layers(params)
        rows = [
            measure(arguments, batch, config, graphdef, params, trie, tokens_BL, peer)
            for batch in arguments.batches
        ]
        if peer is not None:
            peer.close()
    show(rows, arguments.model)
    names = ("model", "beams", "length", "repeats", "stacked")
    settings = {name: getattr(arguments, name) for name in names}
    settings["huge_pages"] = common.huge_pages()
    versions = peer.versions if peer else common.how_to_install("torch")
    payload = {"settings": settings, "peer": versions, "rows": rows}
    print(f"wrote {common.write_result(arguments.result, payload)}")


if __name__ == "__main__":
    main()
