"""Numeric ids: `item_1001`, ..., random and sequential (Hua et al. 2023; OpenP5); short, `I1`, ..."""

import hashlib
from typing import Literal

import numpy as np
from jaxtyping import Int64

from genrec_jax.data import hashing
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits

FIRST_NUMBER = 1001
ColdItems = Literal["shuffled", "held-out-order"]


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
    dataset: Dataset, splits: Splits, *, cold_items: ColdItems = "shuffled"
) -> Int64[np.ndarray, " I"]:
    """Items in the order in which a walk over the users' training sequences meets them.

    Users are walked by number. Items that no training sequence has (cold ones) come last.

    Args:
        dataset: the dataset.
        splits: which interactions train.
        cold_items: `shuffled` numbers cold items in a fixed shuffle of the catalogue, whose own order
            is that of source ids and may be that of time. `held-out-order` takes them in the order of
            the held-out interactions, which lets the ids depend on them: that is what OpenP5's public
            files do, and it is for comparing with those only.
    """
    in_training_X = splits.in_training_X(dataset)
    met = dataset.items_X[in_training_X].tolist()
    held_out = dataset.items_X[~in_training_X].tolist() if cold_items == "held-out-order" else []
    shuffled = hashing.draw_order(dataset.num_items).tolist()
    order = dict.fromkeys([*met, *held_out, *shuffled])  # each item where it first stands
    return np.array(list(order), np.int64)


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
