"""Numeric ids: `item_1001`, ..., random and sequential (Hua et al. 2023; OpenP5); short, `I1`, ..."""

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
from jaxtyping import Int64

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits

FIRST_NUMBER = 1001
ColdItems = Literal["catalogue-order", "held-out-order"]


def random_order(num_items: int, *, seed: int) -> Int64[np.ndarray, " I"]:
    """A seeded shuffle of the catalogue, the same in every version of every library.

    Items are sorted by SHA-256 of seed and item number.

    Args:
        num_items: items of the catalogue.
        seed: another seed gives another shuffle.
    """
    keys = [hashlib.sha256(f"{seed} {item}".encode()).digest() for item in range(num_items)]
    return np.array(sorted(range(num_items), key=keys.__getitem__), np.int64)


def sequential_order(
    dataset: Dataset, splits: Splits, *, cold_items: ColdItems = "catalogue-order"
) -> Int64[np.ndarray, " I"]:
    """Items in the order in which a walk over the users' training sequences meets them.

    Users are walked by number. Items that no training sequence has (cold ones) come last.

    Args:
        dataset: the dataset.
        splits: which interactions train.
        cold_items: `catalogue-order` numbers cold items in the order of the catalogue.
            `held-out-order` takes them in the order of the held-out interactions, which lets the
            ids depend on them: that is what OpenP5's public files do, and it is for comparing
            with those only.
    """
    in_training_X = splits.in_training_X(dataset)
    met = _first_met(dataset.items_X[in_training_X])
    if cold_items == "held-out-order":
        rest: Iterable[int] = _first_met(dataset.items_X[~in_training_X])
    else:
        rest = range(dataset.num_items)
    known = set(met)
    return np.array(
        met + [item for item in [*rest, *range(dataset.num_items)] if _add(known, item)], np.int64
    )


def numbered(
    order_I: Int64[np.ndarray, " I"], *, prefix: str = "item_", first: int = FIRST_NUMBER
) -> tuple[str, ...]:
    """The id texts when the items, in this order, are numbered from `first`.

    Returns:
        Texts indexed by item number, such as `item_1001`; `I1` with the alignment system's prefix `I`
        and first number 1.
    """
    numbers_I = np.empty(len(order_I), np.int64)
    numbers_I[order_I] = np.arange(first, first + len(order_I))
    return tuple(f"{prefix}{number}" for number in numbers_I.tolist())


def _first_met(items: np.ndarray) -> list[int]:
    return list(dict.fromkeys(items.tolist()))


def _add(known: set[int], item: int) -> bool:
    """Adds `item` to `known`; whether it was new."""
    new = item not in known
    known.add(item)
    return new
