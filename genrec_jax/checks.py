"""Checks of settings: each refuses a value of another kind or out of range, and says what was wanted."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from genrec_jax.errors import UserError


def check_whole(name: str, value: Any, least: int, most: int | None = None, do: str = "") -> None:
    """Refuses what is no whole number from `least` to `most`; `do` says what to do about one above it."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    above = whole and most is not None and value > most
    if not whole or value < least or above:
        upper = " or more" if most is None else f" to {most}"
        remedy = do if above else ""
        raise UserError(f"{name} is {value!r}; wanted a whole number, {least}{upper}{remedy}")


def check_number(
    name: str,
    value: Any,
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
) -> None:
    """Refuses what is no finite number within the bounds that are given."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    within = (
        number
        and math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not within:
        bounds = {"at least": least, "above": above, "at most": most, "below": below}
        said = [f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None]
        raise UserError(
            f"{name} is {value!r}; wanted a finite number{', ' if said else ''}{' and '.join(said)}"
        )


def whole_fields(config: Any, *fields: str, least: int = 1, otherwise: str = "") -> None:
    """`check_whole` of a dataclass's fields; None passes where `otherwise` says what it means."""
    for field in fields:
        if getattr(config, field) is None and otherwise:
            continue
        try:
            check_whole(_name(config, field), getattr(config, field), least)
        except UserError as error:
            raise UserError(f"{error}{f' (None: {otherwise})' if otherwise else ''}") from None


def number_fields(config: Any, *fields: str, **bounds: int | float) -> None:
    """`check_number` of a dataclass's fields."""
    for field in fields:
        check_number(_name(config, field), getattr(config, field), **bounds)


def flag_fields(config: Any, *fields: str) -> None:
    """Refuses fields that are neither True nor False, such as the text "False", which counts as true."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, bool):
            raise UserError(
                f"{_name(config, field)} is {value!r}; wanted True or False, without quotes"
            )


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Refuses what is none of a few words."""
    if value not in known:
        raise UserError(f"{name} is {value!r}; wanted {' or '.join(map(repr, known))}")


def _name(config: Any, field: str) -> str:
    return f"{type(config).__name__}.{field}"
