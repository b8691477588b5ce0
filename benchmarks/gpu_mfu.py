"""Model FLOPs utilisation of the training step, bfloat16, on the shapes of T5-small, T5-base and T5-XL.

    PYTHONPATH=. python benchmarks/gpu_mfu.py --model t5_base
    PYTHONPATH=. python benchmarks/gpu_mfu.py --model t5_xl --rows 32 --remat full

The step is the one of `genrec train`: forward, backward, Adafactor, donated state, parameters in float32.
Rows are packed examples without padding. `mfu` is `genrec_jax/training/throughput.py`'s, the same formula
that every run prints; `of_matmul` divides by what a large bfloat16 product reached in the same run instead
of by the data sheet. Steps are dispatched one after another and waited for once, as in training. A model
that does not fit is a result too; any other error stands in its row, and the other rows are measured.

A second row has the attention of cuDNN's fused kernel (`T5Config.attention`), which `gpu_attention.py`
measures alone. T5-small has a last row whose loss computes the logits of a few target positions at a time,
and again in the backward pass (`LossConfig.positions_at_a_time`).
"""

import argparse
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import common, measured
from benchmarks.train_step import packed_batch
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel import rules
from genrec_jax.training import losses, optimizers, state, step, throughput

VOCAB = 32_128
EXAMPLE, TARGET = 64, 8
"""Tokens of one packed example."""

T5_1_0 = {"mlp_activations": ("relu",), "tied_head": True, "scale_head_input": True}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model, and the batch that it is measured on.

    Attributes:
        config: the model.
        rows: of 512 packed tokens.
        dropout: rates to measure with.
        positions: target positions with logits at a time, of one more row; None: there is no such row.
    """

    config: T5Config
    rows: int
    dropout: tuple[float, ...]
    positions: int | None = None


def shape(width: int, heads: int, mlp: int, layers: int, **others: Any) -> T5Config:
    """A T5 in bfloat16 whose two stacks are equally deep."""
    return T5Config(VOCAB, width, heads, 64, mlp, layers, layers, dtype="bfloat16", **others)


SHAPES = {
    "t5_small": Shape(shape(512, 8, 2048, 6, **T5_1_0), 128, (0.1, 0.0), 16),
    "t5_base": Shape(shape(768, 12, 3072, 12, **T5_1_0), 64, (0.1, 0.0)),
    "t5_xl": Shape(shape(2048, 32, 5120, 24, remat="dots"), 16, (0.1,)),
}


def smaller(chosen: Shape) -> Shape:
    """The same kind of model at a size that any machine runs."""
    config = dataclasses.replace(
        chosen.config,
        vocab_size=256,
        embed_dim=32,
        num_heads=2,
        head_dim=16,
        mlp_dim=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    return Shape(config, 2, chosen.dropout[:1], chosen.positions and 4)


def matmul_rate(size: int) -> float:
    """Operations a second of a product of two random bfloat16 matrices."""
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, b))
    best, calls = float("inf"), 10
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(calls):
            result = product(a, b)
        jax.block_until_ready(result)
        best = min(best, (time.perf_counter() - began) / calls)
    return 2.0 * size**3 / best


def measure(
    config: T5Config, rows: int, positions: int | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Compile time, time of a step, operations and memory; or that it does not fit, or what went wrong."""
    try:
        return timed(config, rows, positions, arguments)
    except Exception as error:  # one row's: the others are measured all the same
        said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return {"does_not_fit" if "RESOURCE_EXHAUSTED" in str(error) else measured.FAILED: said}


def timed(
    config: T5Config, rows: int, positions: int | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """As `measure`, for a model that fits."""
    length = arguments.length
    mesh = meshes.single_device_mesh()
    optimizer = optimizers.Optimizer()
    loss = losses.LossConfig(positions_at_a_time=positions or 0)
    examples = rows * (length // EXAMPLE)
    batch = packed_batch(config, examples, length, EXAMPLE, TARGET)
    batch = jax.device_put(batch, rules.batch_sharding(mesh))
    train_step = step.jit_train_step(config, optimizer, loss, mesh)
    key = jax.random.key(0)
    began = time.perf_counter()
    current = state.create_state(config, optimizer, mesh, 0)
    current, metrics = train_step(current, batch, key)
    jax.block_until_ready(metrics)
    compile_s = time.perf_counter() - began
    times = []
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        for _ in range(arguments.steps):
            current, metrics = train_step(current, batch, key)
        jax.block_until_ready(metrics)
        times.append((time.perf_counter() - began) / arguments.steps)
    targets = length // EXAMPLE * TARGET
    flop = throughput.model_flops(config, rows, length, targets)
    peak = throughput.peak_flops(list(mesh.devices.flat))
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "step_s": min(times),
        "step_s_all": times,
        "compile_s": compile_s,
        "flop": flop,
        "flop_per_s": flop / min(times),
        "mfu": None if peak is None else flop / (min(times) * peak),
        "tokens_per_s": rows * (length + targets) / min(times),
        "examples_per_s": examples / min(times),
        "loss": float(metrics["loss_sum"]) / float(metrics["target_tokens"]),
        "peak_bytes": memory.get("peak_bytes_in_use"),
        "parameters": state.number_of_parameters(current.params),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="t5_small")
    parser.add_argument("--rows", type=int, help="of a batch (as SHAPES has it)")
    parser.add_argument("--length", type=int, default=512, help="input tokens of a row (512)")
    parser.add_argument("--remat", choices=["none", "dots", "full"], help="as SHAPES has it")
    parser.add_argument("--dropout", type=float, nargs="+", help="rates (as SHAPES has them)")
    parser.add_argument(
        "--attention", nargs="+", help="own, xla, cudnn (own; of the first dropout rate cudnn too)"
    )
    parser.add_argument(
        "--positions", type=int, help="target positions with logits at a time, in every row (all)"
    )
    parser.add_argument("--steps", type=int, default=10, help="dispatched before waiting (10)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    chosen = SHAPES[arguments.model]
    if arguments.smoke:
        chosen = smaller(chosen)
        arguments.steps, arguments.repeats, arguments.length = 2, 1, 128
    rows = arguments.rows or chosen.rows
    matmul = matmul_rate(256 if arguments.smoke else 8192)
    payload: dict[str, Any] = {
        "settings": vars(arguments)
        | {"rows": rows, "targets": arguments.length // EXAMPLE * TARGET},
        "peak_flop_per_s": throughput.peak_flops(jax.local_devices()[:1]),
        "matmul_flop_per_s": matmul,
        "rows": [],
    }
    rates = arguments.dropout or chosen.dropout
    kinds = arguments.attention or ["own", "cudnn"]
    cases = [(rates[0], arguments.positions, kind) for kind in kinds]
    cases += [(dropout, arguments.positions, kinds[0]) for dropout in rates[1:]]
    if arguments.positions is None and chosen.positions is not None:
        cases.append((rates[0], chosen.positions, kinds[0]))
    for dropout, positions, kind in cases:
        config = dataclasses.replace(
            chosen.config,
            dropout_rate=dropout,
            remat=arguments.remat or chosen.config.remat,
            attention=kind,
        )
        again = "" if positions is None else f", and logits, {positions} positions at a time"
        row = {"dropout": dropout, "remat": config.remat + again, "positions": positions}
        row["attention"] = kind
        row |= measure(config, rows, positions, arguments)
        if measured.FAILED in row:
            row["case"] = (
                f"{arguments.model}, dropout {dropout:g}, remat {row['remat']}, attention {kind}"
            )
        if "flop_per_s" in row:
            row["of_matmul"] = row["flop_per_s"] / matmul
        payload["rows"].append(row)
        path = common.write_result(f"gpu_mfu_{arguments.model}", payload)
    table = Table(title=f"{arguments.model}, {rows} rows of {arguments.length}, bfloat16")
    for column in (
        "dropout",
        "remat",
        "attention",
        "step ms",
        "TFLOP/s",
        "MFU",
        "of matmul",
        "compile s",
    ):
        table.add_column(column, justify="right")
    for row in payload["rows"]:
        if "step_s" not in row:
            fits = row.get(measured.FAILED, "does not fit")
            table.add_row(str(row["dropout"]), row["remat"], row["attention"], fits)
            continue
        table.add_row(
            str(row["dropout"]),
            row["remat"],
            row["attention"],
            f"{row['step_s'] * 1e3:.1f}",
            f"{row['flop_per_s'] / 1e12:.3g}",
            "-" if row["mfu"] is None else f"{row['mfu']:.1%}",
            f"{row['of_matmul']:.1%}",
            f"{row['compile_s']:.1f}",
        )
    Console(width=120).print(table)
    print(f"wrote {path}")
    if any(measured.FAILED in row for row in payload["rows"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
