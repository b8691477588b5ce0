"""Time of constrained beam search per user, by batch, beams and catalogue, and where it goes.

    PYTHONPATH=. python benchmarks/beam_search.py
    PYTHONPATH=. python benchmarks/beam_search.py --model t5_small --vocab 32128 --batches 1 16

The network has random parameters; catalogues are random ids of three common tokens and two of their
own, as `Beauty item_1234` has them. The parts are timed as programs of their own, so their sum is not
exactly the whole: the encoder with the decoder's cross keys; the decoder's steps without a trie (the
same number of tokens fed, caches reordered, normaliser over the whole vocabulary); the trie's steps
without a network. `wall` is the least of --repeats runs, `cpu` the processor time of that run, which
other processes of a busy machine disturb less.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks import common
from genrec_jax.decoding import network as networks
from genrec_jax.decoding import search
from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import Trie, build_trie
from genrec_jax.model import incremental, t5
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.batch import PromptBatch

MODELS = {
    "tiny": {"embed_dim": 128, "num_heads": 4, "head_dim": 32, "mlp_dim": 512, "layers": 3},
    "t5_small": {"embed_dim": 512, "num_heads": 8, "head_dim": 64, "mlp_dim": 2048, "layers": 6},
}
COMMON = (5, 6, 7)
FIRST_TOKEN = 10


def config_of(model: str, vocab: int) -> T5Config:
    sizes = dict(MODELS[model])
    layers = sizes.pop("layers")
    return T5Config(
        vocab_size=vocab,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        mlp_activations=("relu",),
        tied_head=True,
        scale_head_input=True,
        dropout_rate=0.0,
        **sizes,
    )


def spread_ids(items: int, vocab: int) -> np.ndarray:
    """Ids of the common tokens and two of their own, spread evenly: (items, 5)."""
    rng = np.random.default_rng(0)
    width = min(int(np.ceil(items**0.5)) + 1, vocab - FIRST_TOKEN)
    pairs = rng.permutation(width * width)[:items]
    own = np.stack([FIRST_TOKEN + pairs // width, FIRST_TOKEN + pairs % width], axis=1)
    return np.concatenate([np.broadcast_to(COMMON, (items, len(COMMON))), own], axis=1)


def catalogue(items: int, vocab: int) -> Trie:
    """The trie of `spread_ids`."""
    ids = spread_ids(items, vocab)
    return build_trie(ids.reshape(-1), np.arange(items + 1) * ids.shape[1], vocab_size=vocab)


def least_time(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Wall and processor seconds of the quickest run; the first, which compiles, is not counted."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    return min(wall for wall, _ in times), min(processor for _, processor in times)


def steps_of(trie: Trie, ids_length: int = 2) -> int:
    """Steps after the prefix of the ids above: their own tokens and end-of-sequence."""
    return ids_length + 1


def parts(
    graphdef: Any, params: Any, batch: PromptBatch, trie: Trie, beams: int
) -> dict[str, Callable[[], Any]]:
    """The whole and its parts, each a compiled program without arguments."""
    beam_config = BeamConfig(num_beams=beams, num_results=beams)
    whole = make_recommend_step(graphdef, beam_config)
    rows = batch.users_B.shape[0]
    valid_BL = batch.encoder_input_tokens_BL > 0

    @jax.jit
    def encode(params):
        model = nnx.merge(graphdef, params)
        encoded_BLD = model.encode(
            batch.encoder_input_tokens_BL, whole_word_ids_BL=batch.encoder_whole_word_ids_BL
        )
        return incremental.cross_keys_values(model, encoded_BLD)

    cross = encode(params)
    parents_BM = jnp.asarray(np.random.default_rng(0).integers(0, beams, (rows, beams)), jnp.int32)

    @jax.jit
    def decode(params, cross):
        model = nnx.merge(graphdef, params)
        steps = search.beam_steps(trie)
        network = networks.t5_network(model, cross, valid_BL, beams, steps)
        prefix_BMQ = jnp.zeros((rows, 1, 1 + trie.prefix_Q.shape[0]), jnp.int32)
        _, total, cache = network.advance(prefix_BMQ, 0, None)
        cache = network.reorder(cache, jnp.zeros_like(parents_BM))

        def step(i, carry):
            cache, total_BM = carry
            _, normaliser_BMQ, cache = network.advance(
                parents_BM[:, :, None], prefix_BMQ.shape[2] + i, cache
            )
            return network.reorder(cache, parents_BM), total_BM + normaliser_BMQ[:, :, 0]

        start = (cache, jnp.sum(total) + jnp.zeros(parents_BM.shape, jnp.float32))
        return jax.lax.fori_loop(0, steps_of(trie) - 1, step, start)[1]

    vocab = params["token_embedding"].get_value().shape[0]
    logits_BV = jax.random.normal(jax.random.key(0), (rows, vocab))

    @jax.jit
    def walk(logits_BV, trie):
        def advance(tokens_BMQ, slot, cache):
            return tokens_BMQ, jnp.full(tokens_BMQ.shape, 10.0), cache

        def asked_logits(tokens_BM, tokens_BMC):
            return jax.vmap(lambda logits_V, tokens: logits_V[tokens])(logits_BV, tokens_BMC)

        network = search.Network(advance, asked_logits, lambda cache, parents_BM: cache)
        return search.beam_search(network, None, trie, beam_config, jnp.ones(rows, bool))

    return {
        "whole": lambda: whole(params, batch, trie),
        "encoder": lambda: encode(params),
        "decoder": lambda: decode(params, cross),
        "trie": lambda: walk(logits_BV, trie),
    }


def measure(arguments: argparse.Namespace, rows: int, beams: int, items: int) -> dict[str, Any]:
    config = config_of(arguments.model, arguments.vocab)
    graphdef, params = t5.graph_and_params(t5.T5(config, rngs=nnx.Rngs(0)))
    trie = jax.device_put(catalogue(items, arguments.vocab))
    rng = np.random.default_rng(1)
    tokens_BL = rng.integers(2, arguments.vocab, (rows, arguments.length)).astype(np.int32)
    words_BL = np.minimum(np.arange(1, arguments.length + 1, dtype=np.int32), 511)
    nobody_B = np.full(rows, -1, np.int32)
    batch = PromptBatch(tokens_BL, np.tile(words_BL, (rows, 1)), nobody_B, nobody_B)
    batch = jax.device_put(batch)
    measured: dict[str, Any] = {"batch": rows, "beams": beams, "items": items}
    for name, run in parts(graphdef, params, batch, trie, beams).items():
        started = time.process_time()
        jax.block_until_ready(run())
        measured[f"{name}_compile_cpu_s"] = time.process_time() - started
        wall, processor = least_time(run, arguments.repeats)
        measured[f"{name}_wall_s"], measured[f"{name}_cpu_s"] = wall, processor
    measured["wall_s_per_user"] = measured["whole_wall_s"] / rows
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--vocab", type=int, default=2048, help="tokens (2048)")
    parser.add_argument("--length", type=int, default=96, help="tokens of a prompt (96)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--catalogues", type=int, nargs="+", default=[1_349, 12_101])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    title = f"{arguments.model}, {arguments.vocab} tokens, prompts of {arguments.length}"
    columns = (
        "batch",
        "beams",
        "items",
        "ms/user",
        "whole",
        "encoder",
        "decoder",
        "trie",
        "compile",
    )
    table = Table(*columns, title=f"{title}: wall ms (cpu ms)")
    rows = []
    for items in arguments.catalogues:
        for beams in arguments.beams:
            for batch in arguments.batches:
                one = measure(arguments, batch, beams, items)
                rows.append(one)
                cells = [
                    f"{one[f'{name}_wall_s'] * 1e3:.1f} ({one[f'{name}_cpu_s'] * 1e3:.0f})"
                    for name in ("whole", "encoder", "decoder", "trie")
                ]
                table.add_row(
                    *map(str, (batch, beams, items)),
                    f"{one['wall_s_per_user'] * 1e3:.2f}",
                    *cells,
                    f"{one['whole_compile_cpu_s']:.1f} s",
                )
    Console(width=120).print(table)
    settings = {name: getattr(arguments, name) for name in ("model", "vocab", "length", "repeats")}
    path = common.write_result("beam_search", {"settings": settings, "rows": rows})
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
