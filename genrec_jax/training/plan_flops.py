"""Operations of a program, counted on its trace: every matrix product, loops multiplied out."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count(function: Callable[..., Any], *args: Any, rounds: int = 1) -> int:
    """Floating-point operations of the matrix products of a function; nothing is run.

    XLA's own figure counts a scanned layer once, so the trace is counted instead.

    Args:
        function: what `jax.jit` would take.
        *args: its arguments; `jax.ShapeDtypeStruct` will do.
        rounds: how often an outermost `while` loop goes round at most; loops inside it count once.
    """
    return _of(jax.make_jaxpr(function)(*args).jaxpr, rounds)


def _of(jaxpr: Any, rounds: int) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _of_product(equation)
        elif name == "cond":
            total += max(_of(branch, rounds) for branch in _inner(equation.params["branches"]))
        elif name == "while":
            total += rounds * sum(_of(inner, 1) for inner in _inner(equation.params["body_jaxpr"]))
        else:
            times = equation.params["length"] if name == "scan" else 1
            for parameter in equation.params.values():
                total += times * sum(_of(inner, rounds) for inner in _inner(parameter))
    return total


def _of_product(equation: Any) -> int:
    (left_contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval
    contracted = math.prod(left.shape[axis] for axis in left_contracted)
    return 2 * contracted * math.prod(equation.outvars[0].aval.shape)


def _inner(parameter: Any) -> Iterator[Any]:
    """The traces among a parameter of an equation."""
    if hasattr(parameter, "eqns"):
        yield parameter
    elif hasattr(parameter, "jaxpr"):
        yield from _inner(parameter.jaxpr)
    elif isinstance(parameter, tuple | list):
        for one in parameter:
            yield from _inner(one)
