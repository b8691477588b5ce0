"""A shop with titles and ratings, its alignment tasks, and its items written out by hand."""

import pathlib

import numpy as np
import pyarrow as pa

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import splits as splits_lib
from genrec_jax.data.dataset import Dataset
from genrec_jax.indexing import t5_vocabulary, vocabulary
from genrec_jax.pipeline import alignment_mixtures
from genrec_jax.pipeline.alignment import AlignmentSettings, AlignmentTask
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.prompts import templates

LEAD = (
    "A user has purchased the following Amazon products (arranged in chronological order, from earliest"
    " to most recent): "
)
WORDS = ("Wooden Train, Red", "Kite (Large)", "Puzzle 500-Piece", "Doll's House", "K'NEX & Co: Set")


def write_shop(path: pathlib.Path, *, users: int = 80, items: int = 130, seed: int = 4) -> Dataset:
    """Sequences of 5 to 45 items, popular ones more often; two items have no title."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 46, users)
    lengths[:4] = 23, 22, 24, 5
    weights = 1 / (5 + np.arange(items))
    picked = generator.choice(items, lengths.sum(), p=weights / weights.sum())
    picked[:items] = generator.permutation(items)
    titles = [f"{WORDS[i % 5]} {i}" if i not in (3, 7) else None for i in range(items)]
    return dataset_lib.write(
        path,
        name="Shop",
        interactions=pa.table(
            {
                "user": np.repeat(np.arange(users), lengths).astype(np.int32),
                "item": picked,
                "rating": generator.integers(1, 6, lengths.sum()).astype(np.float32),
            }
        ),
        items=pa.table(
            {
                "item": np.arange(items),
                "source_id": [f"i{i}" for i in range(items)],
                "title": titles,
                "brand": [f"Brand {i % 7}" if i % 3 else None for i in range(items)],
                "price": [31.8 if i == 14 else None for i in range(items)],
                "categories": [["Toys", f"Sort {i % 4}"] for i in range(items)],
            }
        ),
        users=pa.table({"user": np.arange(users), "source_id": [f"u{u}" for u in range(users)]}),
    )


def item_ids(dataset: Dataset) -> list[str]:
    """Short ids, shuffled so that an item's number never passes for its text."""
    order = np.random.default_rng(0).permutation(dataset.num_items)
    return [f"I{1 + number}" for number in order]


def t5_with_sentinels(shared: pathlib.Path) -> vocabulary.Vocabulary:
    spiece = shared / "data" / "t5_vocabulary" / "spiece.model"
    return t5_vocabulary.extend(vocabulary.Vocabulary(spiece), [])


def make_tables(dataset: Dataset, words: vocabulary.Vocabulary) -> PromptTables:
    chosen = templates.load_templates(templates.ALIGNMENT_TEMPLATES)
    return PromptTables(words, dataset.name, item_ids(dataset), chosen, dataset.item_titles)


def make_tasks(
    tables: PromptTables, dataset: Dataset, tasks=templates.ALIGNMENT_TASKS, **options
) -> dict[str, AlignmentTask]:
    settings = AlignmentSettings(**options)
    splits = splits_lib.leave_one_out(dataset)
    built = alignment_mixtures.build_tasks(tables, dataset, splits, tasks, settings)
    return {task.task: task for task in built}


class ByHand:
    """Texts of items and lists, from the dataset alone."""

    def __init__(self, dataset: Dataset):
        self._ids, self._titles = item_ids(dataset), dataset.item_titles
        self.number_of = {text: item for item, text in enumerate(self._ids)}

    def id(self, item: int) -> str:
        return self._ids[item]

    def item(self, item: int) -> str:
        title = self._titles[item]
        return f"Item ID: {self._ids[item]}" + (f", Title: {title}" if title else "")

    def listed(self, items) -> str:
        return " ".join(f"{self.item(int(item))};" for item in items)
