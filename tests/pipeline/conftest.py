"""Small datasets and vocabularies for the pipeline's tests; real ones from ../shared where there are."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from genrec_jax.data.dataset import Dataset
from genrec_jax.indexing import t5_vocabulary, unigram_vocabulary, vocabulary
from genrec_jax.pipeline import mixtures
from genrec_jax.prompts import templates
from tests.pipeline.pipeline_data import random_sequences, read_sequences, write_dataset

MakeDataset = Callable[..., Dataset]


@pytest.fixture(scope="session")
def make_dataset(tmp_path_factory: pytest.TempPathFactory) -> MakeDataset:
    def make(name: str, sequences: Sequence[Sequence[int]]) -> Dataset:
        return write_dataset(tmp_path_factory.mktemp("data") / name, name, sequences)

    return make


@pytest.fixture(scope="session")
def shop(make_dataset: MakeDataset) -> Dataset:
    """60 users, 90 items, sequences of 5 to 39 items."""
    return make_dataset("Shop", random_sequences(60, 90, seed=1))


@pytest.fixture(scope="session")
def market(make_dataset: MakeDataset) -> Dataset:
    """A smaller dataset, for mixtures of several."""
    return make_dataset("Market", random_sequences(25, 40, seed=2, longest=15))


@pytest.fixture(scope="session")
def openp5_templates() -> tuple[templates.Template, ...]:
    return templates.load_templates()


@pytest.fixture(scope="session")
def small_vocabulary(openp5_templates) -> vocabulary.Vocabulary:
    """A unigram vocabulary trained on the prompts' words."""
    lines = [
        template.input.split("{")[0] + template.input.split("}")[-1]
        for template in openp5_templates
    ]
    return unigram_vocabulary.train(lines, words=["Shop", "Market", "Beauty"])


@pytest.fixture(scope="session")
def t5(shared: pathlib.Path) -> vocabulary.Vocabulary:
    return vocabulary.Vocabulary(shared / "data" / "t5_vocabulary" / "spiece.model")


@pytest.fixture(scope="session")
def beauty(shared: pathlib.Path, make_dataset: MakeDataset) -> Dataset:
    return make_dataset(
        "Beauty", read_sequences(shared / "data" / "amazon_beauty" / "user_sequence.txt")
    )


@pytest.fixture(scope="session")
def beauty_collaborative(
    shared: pathlib.Path, t5: vocabulary.Vocabulary
) -> tuple[tuple[str, ...], vocabulary.Vocabulary]:
    """Texts such as `item_<CI0><CI3>` for Beauty's items, in some order, and T5 with their tokens."""
    file = (
        shared
        / "data"
        / "openp5_beauty_golden"
        / "item_collaborative_indexing_500_20_sequential.txt"
    )
    texts = ["item_" + line.split()[1] for line in file.read_text().splitlines()]
    tokens = sorted({token + ">" for text in texts for token in text[5:].split(">") if token})
    return tuple(texts), t5_vocabulary.extend(t5, tokens)


@pytest.fixture(scope="session")
def texts_of() -> Callable[[Dataset], list[str]]:
    """Item texts, shuffled so that an item's number never passes for its text."""

    def texts(dataset: Dataset) -> list[str]:
        order = np.random.default_rng(0).permutation(dataset.num_items)
        return [f"item_{1001 + number}" for number in order]

    return texts


@pytest.fixture(scope="session")
def make_mixture(small_vocabulary, openp5_templates, texts_of):
    """`build_mixture` with the fixtures' vocabulary, templates and texts filled in."""

    def make(name: str, *datasets: Dataset, **options) -> mixtures.Mixture:
        texts = [texts_of(dataset) for dataset in datasets]
        return mixtures.build_mixture(
            name, datasets, texts, small_vocabulary, openp5_templates, **options
        )

    return make
