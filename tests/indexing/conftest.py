"""Small datasets written through `dataset.write`, as `prepare` would."""

import pathlib
from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest

from genrec_jax.data import dataset
from genrec_jax.prompts import templates

MakeDataset = Callable[..., dataset.Dataset]


@pytest.fixture
def make_dataset(tmp_path: pathlib.Path) -> MakeDataset:
    """Writes sequences of source ids as a dataset."""

    def make(sequences: Sequence[Sequence[str]], name: str = "Tiny") -> dataset.Dataset:
        return write_dataset(tmp_path / name, sequences, name)

    return make


@pytest.fixture(scope="session")
def beauty_path(shared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Amazon Beauty's dataset dir, users in file order."""
    with (shared / "data/amazon_beauty/user_sequence.txt").open(encoding="utf-8") as file:
        sequences = [line.split()[1:] for line in file]
    path = tmp_path_factory.mktemp("data") / "beauty"
    write_dataset(path, sequences, "Beauty")
    return path


@pytest.fixture(scope="session")
def beauty(beauty_path: pathlib.Path) -> dataset.Dataset:
    """Amazon Beauty, users in file order."""
    return dataset.load(beauty_path)


@pytest.fixture(scope="session")
def prompt_lines() -> list[str]:
    """The words of OpenP5's templates, slots left out."""
    texts = [
        text
        for template in templates.load_templates()
        for text in (template.input, template.target)
    ]
    return [" ".join(word for word in text.split() if "{" not in word) for text in texts]


def write_dataset(
    path: pathlib.Path,
    sequences: Sequence[Sequence[str]],
    name: str,
    titles: Sequence[str] | None = None,
) -> dataset.Dataset:
    """Users in the order given; items are numbered, and `titles` go, in the order of their source ids."""
    sources = sorted({item for sequence in sequences for item in sequence})
    number = {source: item for item, source in enumerate(sources)}
    users, items = [], []
    for user, sequence in enumerate(sequences):
        users += [user] * len(sequence)
        items += [number[item] for item in sequence]
    return dataset.write(
        path,
        name=name,
        interactions=pa.table({"user": users, "item": items}),
        items=pa.table(
            {
                "item": list(range(len(sources))),
                "source_id": sources,
                "title": list(titles or [f"The {source}" for source in sources]),
            }
        ),
        users=pa.table(
            {
                "user": list(range(len(sequences))),
                "source_id": [f"u{user}" for user in range(len(sequences))],
            }
        ),
    )
