"""Datasets made for tests, and real sequences read from ../shared."""

import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data.dataset import Dataset


def write_dataset(path: pathlib.Path, name: str, sequences: Sequence[Sequence[int]]) -> Dataset:
    """A dataset dir with those item numbers as sequences."""
    lengths = [len(sequence) for sequence in sequences]
    items = np.concatenate([np.asarray(sequence) for sequence in sequences])
    count = int(items.max()) + 1
    return dataset_lib.write(
        path,
        name=name,
        interactions=pa.table(
            {"user": np.repeat(np.arange(len(lengths)), lengths).astype(np.int32), "item": items}
        ),
        items=pa.table({"item": np.arange(count), "source_id": [f"i{i}" for i in range(count)]}),
        users=pa.table(
            {"user": np.arange(len(lengths)), "source_id": [f"u{u}" for u in range(len(lengths))]}
        ),
    )


def random_sequences(users: int, items: int, *, seed: int, longest: int = 40) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, longest, users)
    sequences = [generator.integers(0, items, length).tolist() for length in lengths]
    sequences[0][0] = items - 1
    return sequences


def read_sequences(path: pathlib.Path) -> list[list[int]]:
    rows = [line.split()[1:] for line in path.read_text().splitlines()]
    numbers = {item: number for number, item in enumerate(sorted({i for row in rows for i in row}))}
    return [[numbers[item] for item in row] for row in rows]
