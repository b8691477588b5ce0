"""Data for benchmarks: a dataset dir laid beside them, or a made-up one of Amazon Beauty's size.

Making one up needs NumPy and pyarrow alone, so that it works where there is neither Polars nor a network.
"""

import os
import pathlib

import numpy as np
import pyarrow as pa

from genrec_jax.data import dataset as datasets
from genrec_jax.data.dataset import Dataset

DATA_VARIABLE = "BENCHMARK_DATA"
"""Names a dataset dir with its item ids in `index/<method>`, to measure on instead of made-up data."""

USERS, ITEMS = 22_363, 12_101
MEAN_LENGTH = 8.9


def laid_beside() -> pathlib.Path | None:
    """The dataset dir that the environment names, if it does."""
    named = os.environ.get(DATA_VARIABLE)
    return pathlib.Path(named) if named else None


def made_up(
    folder: pathlib.Path,
    *,
    users: int = USERS,
    items: int = ITEMS,
    titles: bool = False,
    ratings: bool = False,
) -> Dataset:
    """Writes a dataset dir without any structure to learn: random items, sequences from 5 on.

    Args:
        folder: to be made.
        users: how many.
        items: how many.
        titles: give the items titles of 4 to 24 words.
        ratings: give every interaction a rating of 1 to 5.
    """
    generator = np.random.default_rng(0)
    lengths = 5 + generator.geometric(1 / (MEAN_LENGTH - 4), users) - 1
    interactions = {
        "user": np.repeat(np.arange(users), lengths),
        "item": generator.integers(0, items, lengths.sum()),
    }
    if ratings:
        interactions["rating"] = generator.integers(1, 6, lengths.sum()).astype(np.float32)
    described: dict[str, object] = {
        "item": np.arange(items),
        "source_id": [str(item) for item in range(items)],
    }
    if titles:
        words = ["".join(generator.choice(list("aeiklmnoprst"), 6)) for _ in range(5000)]
        described["title"] = [
            " ".join(generator.choice(words, generator.integers(4, 25))).title()
            for _ in range(items)
        ]
    return datasets.write(
        folder,
        name="MadeUp",
        interactions=pa.table(interactions),
        items=pa.table(described),
        users=pa.table(
            {"user": np.arange(users), "source_id": [str(user) for user in range(users)]}
        ),
    )
