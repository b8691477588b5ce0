"""Implementations of attention with T5's additive position bias, forward and with its gradients.

    PYTHONPATH=. python benchmarks/gpu_attention.py
    PYTHONPATH=. python benchmarks/gpu_attention.py --models t5_base --length 1024 --rows 32

Every implementation gets the same queries, keys, values (bfloat16), the bias of one table for all rows, and
packed rows' mask: a token sees its own example only. `ours` is the model's; `xla` and `cudnn` are
`jax.nn.dot_product_attention`'s. The bias is learned, so its gradient counts; `cudnn, bias fixed` leaves it
out, and `cudnn, no mask` leaves the mask out, to see what either costs. `error` is the largest difference
from the same in float32, over the largest value. What an implementation refuses is told in its words.

Pallas' kernels for GPUs (`jax.experimental.pallas.ops.gpu.attention.mha`) and TPUs' splash attention are no
rows here: neither takes an additive bias.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import common
from genrec_jax.model import attention

MODELS = {"t5_small": (64, 8), "t5_base": (64, 12), "t5_xl": (16, 32)}
"""Rows of a batch, and heads; the quickest first."""

HEAD_DIM, EXAMPLE = 64, 64
Attend = Callable[..., jax.Array]


def ours(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, mask: jax.Array) -> jax.Array:
    """The model's own."""
    return attention.dot_product_attention(q, k, v, mask_BQS=mask, bias_HQS=bias)


def jaxs(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array,
    mask: jax.Array,
    *,
    to: Literal["xla", "cudnn"],
) -> jax.Array:
    """`jax.nn.dot_product_attention` without its scaling, which T5 does not have."""
    return jax.nn.dot_product_attention(
        q, k, v, bias[None].astype(q.dtype), mask[:, None], scale=1.0, implementation=to
    )


def bias_fixed(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, mask: jax.Array):
    """cuDNN, asked for no gradient of the bias."""
    return jaxs(q, k, v, jax.lax.stop_gradient(bias), mask, to="cudnn")


def no_mask(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, mask: jax.Array):
    """cuDNN, every token seeing every other: another result, of the same work."""
    return jax.nn.dot_product_attention(
        q, k, v, bias[None].astype(q.dtype), scale=1.0, implementation="cudnn"
    )


IMPLEMENTATIONS: dict[str, tuple[Attend, int]] = {
    "ours": (ours, 4),
    "xla": (functools.partial(jaxs, to="xla"), 4),
    "cudnn": (functools.partial(jaxs, to="cudnn"), 4),
    "cudnn, bias fixed": (bias_fixed, 3),
    "cudnn, no mask": (no_mask, 0),
}
"""By name, and how many of the gradients (of q, k, v, bias) are to be those of the reference."""

SAME_RESULT = ("ours", "xla", "cudnn")
"""Measured on every model before the others, which only explain them."""


def gradients(attend: Attend) -> Callable[..., Any]:
    """Of a sum of the outputs, each with a weight of its own."""

    def total(q, k, v, bias, mask, weights):
        return jnp.sum(attend(q, k, v, bias, mask).astype(jnp.float32) * weights)

    return jax.grad(total, argnums=(0, 1, 2, 3))


def inputs(rows: int, heads: int, length: int) -> tuple[jax.Array, ...]:
    """Random queries, keys, values, bias and weights; the mask of rows packed with examples."""
    keys = jax.random.split(jax.random.key(0), 5)
    shape = (rows, length, heads, HEAD_DIM)
    # T5's queries are small instead of its scores being divided by the root of the width.
    q, k, v = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys[:3])
    bias = jax.random.normal(keys[3], (heads, length, length), jnp.float32)
    weights = jax.random.normal(keys[4], shape, jnp.float32)
    example = jnp.arange(length) // EXAMPLE
    mask = jnp.broadcast_to(example[:, None] == example[None, :], (rows, length, length))
    return q * HEAD_DIM**-0.5, k, v, bias, mask, weights


def largest_error(found: Any, wanted: Any) -> float:
    """The largest difference over the largest value, of the worst array."""
    errors = []
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        errors.append(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))))
    return max(errors)


def seconds_of(run: Callable[[], Any], calls: int) -> float:
    """Of one call among several that are dispatched together; the least of three."""
    jax.block_until_ready(run())
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        best = min(best, (time.perf_counter() - began) / calls)
    return best


def measure(
    attend: Attend, compared: int, given: tuple[jax.Array, ...], wanted: Any, calls: int
) -> dict[str, Any]:
    """Seconds forward and with gradients, temporary memory, errors; or why it would not."""
    *arrays, weights = given
    row: dict[str, Any] = {}
    passes = {"forward": (attend, arrays), "both": (gradients(attend), [*arrays, weights])}
    for (name, (function, arguments)), right in zip(passes.items(), wanted, strict=True):
        try:
            compiled = jax.jit(function).lower(*arguments).compile()
            row[f"{name}_s"] = seconds_of(lambda c=compiled, a=arguments: c(*a), calls)
            memory = compiled.memory_analysis()
            row[f"{name}_temporary_bytes"] = getattr(memory, "temp_size_in_bytes", None)
            found = compiled(*arguments)
            if compared:
                both = (found[:compared], right[:compared]) if name == "both" else (found, right)
                row[f"{name}_error"] = largest_error(*both)
        except (
            Exception
        ) as error:  # whatever it is, it is this implementation's, and the next has its turn
            row[f"{name}_refused"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return row


def reference(given: tuple[jax.Array, ...]) -> tuple[Any, Any]:
    """Ours in float32: the outputs, and the gradients."""
    *arrays, weights = given
    exact = [array.astype(jnp.float32) for array in arrays[:4]]
    with jax.default_matmul_precision("float32"):
        return (
            jax.jit(ours)(*exact, arrays[4]),
            jax.jit(gradients(ours))(*exact, arrays[4], weights),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--length", type=int, default=512, help="tokens of a row (512)")
    parser.add_argument("--rows", type=int, help="of a batch (64, and 16 for XL)")
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.models, arguments.length, arguments.rows = ["t5_small"], 128, 2
        arguments.calls = 1
    payload: dict[str, Any] = {"settings": vars(arguments), "head_dim": HEAD_DIM, "rows": []}
    table = Table(title=f"attention with a bias, rows of {arguments.length}, bfloat16")
    for column in ("model", "implementation", "forward ms", "with gradients ms", "temporary MB"):
        table.add_column(column)

    def sizes(model: str) -> tuple[int, int]:
        rows, heads = MODELS[model]
        return arguments.rows or rows, heads

    @functools.cache
    def prepared(model: str) -> tuple[tuple[jax.Array, ...], Any]:
        given = inputs(*sizes(model), arguments.length)
        return given, reference(given)

    others = tuple(name for name in IMPLEMENTATIONS if name not in SAME_RESULT)
    for model, names in itertools.chain(
        ((model, SAME_RESULT) for model in arguments.models),
        ((model, others) for model in arguments.models),
    ):
        (rows, heads), (given, wanted) = sizes(model), prepared(model)
        for name in names:
            attend, compared = IMPLEMENTATIONS[name]
            row = {"model": model, "implementation": name, "batch": rows, "heads": heads}
            row |= measure(attend, compared, given, wanted, arguments.calls)
            payload["rows"].append(row)
            path = common.write_result("gpu_attention", payload)
            table.add_row(
                model,
                name,
                *(
                    f"{row[f'{one}_s'] * 1e3:.3f}" if f"{one}_s" in row else row[f"{one}_refused"]
                    for one in ("forward", "both")
                ),
                f"{(row.get('both_temporary_bytes') or 0) / 1e6:.0f}",
            )
    Console(width=140).print(table)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
