"""Speed of one training step: tokens and FLOP per second, and the share of the matmul rate reached.

    PYTHONPATH=. python benchmarks/train_step.py
    PYTHONPATH=. taskset -c 0 python benchmarks/train_step.py --row-lengths 64 128 256 --examples 64

Every row length gets the same examples, as many to a row as fit, so `examples/s` compares packings.
Times are processor seconds of this process (which a busy machine disturbs little) and wall seconds;
rates are per processor second unless they say wall. The matmul rate is measured in the same run, as
products of the model's own feed-forward shape. FLOP are those of the model's products, backward twice
forward; masked attention counts in full, and recomputation counts for nothing.
"""

import argparse
import dataclasses
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import common
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes
from genrec_jax.pipeline.batch import Batch
from genrec_jax.training import losses, optimizers, state, step


def packed_batch(config: T5Config, examples: int, row_length: int, length: int, target: int):
    """`examples` examples of equal length, as many to a row as fit."""
    per_row = row_length // length
    rows = -(-examples // per_row)
    random = np.random.default_rng(0)

    def side(example_length, total):
        used = per_row * example_length
        segments = np.zeros((rows, total), np.int32)
        segments[:, :used] = np.repeat(np.arange(1, per_row + 1), example_length)
        segments[-1, (examples - (rows - 1) * per_row) * example_length :] = 0
        positions = np.zeros((rows, total), np.int32)
        positions[:, :used] = np.tile(np.arange(example_length), per_row)
        tokens = random.integers(2, config.vocab_size, (rows, total)).astype(np.int32)
        return tokens * (segments > 0), segments, positions

    inputs, input_segments, input_positions = side(length, row_length)
    targets, target_segments, target_positions = side(target, per_row * target)
    return Batch(
        encoder_input_tokens_BL=inputs,
        decoder_target_tokens_BT=targets,
        decoder_input_tokens_BT=np.roll(targets, 1, axis=1) * (target_positions > 0),
        decoder_loss_weights_BT=(target_segments > 0).astype(np.float32),
        encoder_segment_ids_BL=input_segments,
        decoder_segment_ids_BT=target_segments,
        encoder_positions_BL=input_positions,
        decoder_positions_BT=target_positions,
        encoder_whole_word_ids_BL=input_positions // 2,
    )


def model_flops(config: T5Config, rows: int, length: int, target: int) -> float:
    """Floating-point operations of the products of a forward and a backward pass."""
    joined = config.num_heads * config.head_dim
    projection = 2 * config.embed_dim * joined
    mlp = (len(config.mlp_activations) + 1) * 2 * config.embed_dim * config.mlp_dim
    inputs, targets = rows * length, rows * target
    encoder = inputs * (4 * projection + mlp) + 4 * rows * length * length * joined
    decoder = targets * (6 * projection + mlp) + inputs * 2 * projection
    decoder += 4 * rows * target * (target + length) * joined
    head = 2 * targets * config.embed_dim * config.padded_vocab_size
    return 3.0 * (config.num_encoder_layers * encoder + config.num_decoder_layers * decoder + head)


def timed(call, repeats: int) -> tuple[float, float]:
    """Processor and wall seconds of one call, the least of several."""
    jax.block_until_ready(call())
    best = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        jax.block_until_ready(call())
        best.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(cpu for cpu, _ in best), min(wall for _, wall in best)


def matmul_rate(config: T5Config, tokens: int, repeats: int) -> float:
    """FLOP per processor second of (tokens, D) x (D, F) and back, float32."""
    x = jnp.ones((tokens, config.embed_dim))
    wi = jnp.ones((config.embed_dim, config.mlp_dim))
    product = jax.jit(lambda x, wi: (x @ wi) @ wi.T)
    cpu, _ = timed(lambda: product(x, wi), repeats * 3)
    return 4.0 * tokens * config.embed_dim * config.mlp_dim / cpu


def measure(config: T5Config, batch: Batch, repeats: int) -> dict[str, float]:
    """Compile time and speed of the step on one batch."""
    mesh = meshes.single_device_mesh()
    optimizer = optimizers.Optimizer()
    train_state = state.create_state(config, optimizer, mesh, 0)
    train_step = step.jit_train_step(config, optimizer, losses.LossConfig(), mesh)
    key = jax.random.key(0)
    started = time.process_time()
    train_state, _ = train_step(train_state, batch, key)
    compile_seconds = time.process_time() - started

    def call():
        nonlocal train_state
        train_state, metrics = train_step(train_state, batch, key)
        return metrics

    cpu, wall = timed(call, repeats)
    rows, length = batch.encoder_input_tokens_BL.shape
    flops = model_flops(config, rows, length, batch.decoder_target_tokens_BT.shape[1])
    return {
        "compile_cpu_s": compile_seconds,
        "cpu_s": cpu,
        "wall_s": wall,
        "flop": flops,
        "flop_per_s": flops / cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=64, help="examples in a step")
    parser.add_argument("--input-length", type=int, default=60, help="tokens of one input")
    parser.add_argument("--target-length", type=int, default=5, help="tokens of one target")
    parser.add_argument("--row-lengths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--layers", type=int, default=3, help="of each stack")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--mlp", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=4000)
    parser.add_argument("--t50", action="store_true", help="ReLU and tied head instead of T5 1.1")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.1])
    parser.add_argument("--scan", choices=["both", "yes", "no"], default="both")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    base = T5Config(
        vocab_size=arguments.vocab,
        embed_dim=arguments.width,
        num_heads=arguments.heads,
        head_dim=arguments.width // arguments.heads,
        mlp_dim=arguments.mlp,
        num_encoder_layers=arguments.layers,
        num_decoder_layers=arguments.layers,
        mlp_activations=("relu",) if arguments.t50 else ("gelu", "linear"),
        tied_head=arguments.t50,
        scale_head_input=arguments.t50,
    )
    matmul = matmul_rate(base, 4096, arguments.repeats)
    title = f"training step; matmul {matmul / 1e9:.1f} GFLOP per processor second"
    table = Table(title=title)
    columns = ("row", "rows", "scan", "dropout", "compile cpu s", "step cpu s", "step wall s")
    for column in (*columns, "examples/s", "input tokens/s", "GFLOP/s", "of matmul"):
        table.add_column(column, justify="right")
    scans = {"both": [False, True], "yes": [True], "no": [False]}[arguments.scan]
    results = []
    for row_length, scan, dropout in itertools.product(
        arguments.row_lengths, scans, arguments.dropout
    ):
        config = dataclasses.replace(base, scan_layers=scan, dropout_rate=dropout)
        lengths = (arguments.input_length, arguments.target_length)
        batch = packed_batch(config, arguments.examples, row_length, *lengths)
        rows = batch.encoder_input_tokens_BL.shape[0]
        measured = measure(config, batch, arguments.repeats)
        measured["examples_per_s"] = arguments.examples / measured["cpu_s"]
        measured["share_of_matmul"] = measured["flop_per_s"] / matmul
        results.append(
            {"row_length": row_length, "rows": rows, "scan": scan, "dropout": dropout, **measured}
        )
        table.add_row(
            str(row_length),
            str(rows),
            str(scan),
            str(dropout),
            f"{measured['compile_cpu_s']:.1f}",
            f"{measured['cpu_s']:.3f}",
            f"{measured['wall_s']:.3f}",
            f"{measured['examples_per_s']:.0f}",
            f"{measured['examples_per_s'] * arguments.input_length:.0f}",
            f"{measured['flop_per_s'] / 1e9:.1f}",
            f"{measured['share_of_matmul']:.0%}",
        )
    Console(width=140).print(table)
    settings = dict(vars(arguments))
    path = common.write_result(
        "train_step",
        {"settings": settings, "matmul_flop_per_s": matmul, "results": results},
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
