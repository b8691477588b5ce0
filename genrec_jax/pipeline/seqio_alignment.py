"""The alignment system's examples as SeqIO tasks and mixtures, for T5X and any other SeqIO user.

A task's examples are those of `AlignmentTask` in the order of the dataset, epoch 0, token for token. By
SeqIO's nature every pass over a task, or its cache, sees the same draw of masks and negatives, where
our own training draws anew in each epoch.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from genrec_jax.data import artefacts, splits
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.indexing import item_ids
from genrec_jax.pipeline import (
    alignment_mixtures,
    examples,
    item_questions,
    seqio_runtime,
    seqio_source,
    windows,
)
from genrec_jax.pipeline.alignment import AlignmentSettings
from genrec_jax.pipeline.examples import ExampleTask
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.pipeline.seqio_source import ranking_metrics
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.prompts.templates import ALIGNMENT_TASKS, EVALUATED_TASKS, Task

VALIDATION_USERS = 3000


def register(
    dataset_dir: artefacts.PathLike,
    index_dir: artefacts.PathLike,
    *,
    name_prefix: str = "alignment",
    templates_file: artefacts.PathLike | None = None,
    window: int = 20,
    num_candidates: int = 100,
    like_above: float = 3.0,
    max_input_length: int = 1024,
    validation_users: int | None = VALIDATION_USERS,
    seed: int = 0,
) -> tuple[str, ...]:
    """Registers one dataset's tasks and mixtures with SeqIO; prompts are made when they are asked for.

    For a dataset named Toys, and the prefix `alignment` (SeqIO's names have no `-`; it becomes `_`):

        alignment_Toys_retrieval    task: train, validation (3,000 seeded users), test; so are
        alignment_Toys_ranking      and
        alignment_Toys_rating       (needs ratings)
        alignment_Toys_mim          task: train; so are `_mlm`, `_bpr` and `_ie` (needs items' fields)
        alignment_Toys_reat         mixture, at equal rates; so are `_raat`, `_rpat`, `_ut`, `_ut_at`,
                                    `_ut_ie` and the steps of the ablations, where their tasks exist

    Args:
        dataset_dir: a dataset dir.
        index_dir: a folder with its item ids and vocabulary.
        name_prefix: begins every name; give each index of a dataset its own.
        templates_file: prompts; None: the paper's.
        window: items of a history or window at most.
        num_candidates: of a ranking prompt.
        like_above: a rating above it is a like.
        max_input_length: tokens of a prompt at most; longer ones lose their oldest items. SeqIO itself
            cuts from the end, so let TASK_FEATURE_LENGTHS["inputs"] be no smaller than this.
        validation_users: a seeded sample of so many; None: all.
        seed: of every draw.

    Returns:
        The registered names, tasks first.

    Raises:
        UserError: no dataset or item ids there, SeqIO is absent, or a name is taken.
    """
    seqio_runtime.import_seqio()
    settings = AlignmentSettings(
        window=window,
        num_candidates=num_candidates,
        like_above=like_above,
        max_input_length=max_input_length,
        seed=seed,
        shuffle=False,
    )
    folders = (str(dataset_dir), str(index_dir))
    chosen_file = str(templates_file or templates_lib.ALIGNMENT_TEMPLATES)
    dataset = dataset_lib.load(dataset_dir)
    feature = seqio_source.feature_of(item_ids.load_vocabulary(index_dir))
    prefix = f"{name_prefix}_{dataset.name}".replace("-", "_")
    names = {}
    for task, sizes in _sizes(dataset, settings, chosen_file, validation_users).items():
        names[task] = f"{prefix}_{task}"
        build = functools.partial(_build, *folders, chosen_file, settings, task, validation_users)
        metrics = [label_metrics if task == "rating" else ranking_metrics]
        seqio_source.add_task(
            names[task], build, sizes, feature, metrics if task in EVALUATED_TASKS else []
        )
    registered = list(names.values())
    for mixture, tasks in alignment_mixtures.MIXTURE_TASKS.items():
        if len(tasks) > 1 and names.keys() >= set(tasks):
            own = f"{prefix}_{mixture.removeprefix('alignment_')}"
            seqio_source.add_mixture(own, {names[task]: 1.0 for task in tasks})
            registered.append(own)
    return tuple(registered)


def register_from_environment(value: str) -> tuple[str, ...]:
    """Registers what an environment variable lists: `DATASET_DIR=INDEX_DIR`, separated by commas.

    Raises:
        UserError: the value is not of that form, or as `register`.
    """
    listed = seqio_source.register_listed(value, register)
    return tuple(name for names in listed for name in names)


def label_metrics(targets: Sequence[str], predictions: Sequence[Any]) -> dict[str, float]:
    """The share of right answers: SeqIO's metric function for ratings.

    The paper's AUC-ROC needs the probabilities of both answers: `genrec evaluate` has it.

    Args:
        targets: for each example the right answer.
        predictions: for each example one text, or several, the best first.
    """
    first = [guess if isinstance(guess, str) else guess[0] for guess in predictions]
    right = [guess == target for guess, target in zip(first, targets, strict=True)]
    return {"accuracy": float(np.mean(right))}


def _sizes(
    dataset: dataset_lib.Dataset,
    settings: AlignmentSettings,
    templates_file: str,
    validation_users: int | None,
) -> dict[Task, dict[str, int]]:
    """For each task that the dataset and the templates allow: its splits, and how large they are."""
    part = splits.of(dataset)
    templates = templates_lib.load_templates(templates_file)
    targets = len(windows.target_positions(dataset, part, settings.window))
    parts = len(windows.item_windows(dataset, part, settings.window)[0])
    validated, tested = (
        len(examples.held_out_positions(dataset, part, split, seed=settings.seed))
        for split in ("validation", "test")
    )
    held_out = {"validation": min(validation_users or validated, validated), "test": tested}
    sizes: dict[Task, dict[str, int]] = {}
    for task in ALIGNMENT_TASKS:
        if not templates_lib.select(templates, task=task, seen=True):
            continue
        count = parts if task in ("mim", "mlm") else targets
        if task == "rating" and dataset.ratings_X is None:
            continue
        if task == "ie":
            count = len(item_questions.questions(dataset, templates))
        if count:
            sizes[task] = {"train": count} | (held_out if task in EVALUATED_TASKS else {})
    return sizes


@functools.lru_cache(maxsize=4)
def _load(
    dataset_dir: str, index_dir: str, templates_file: str
) -> tuple[dataset_lib.Dataset, splits.Splits, PromptTables]:
    dataset = dataset_lib.load(dataset_dir)
    ids = item_ids.load(index_dir)
    ids.check_dataset(dataset)
    templates = templates_lib.load_templates(templates_file)
    words = item_ids.load_vocabulary(index_dir)
    tables = PromptTables(words, dataset.name, ids.texts, templates, ids.titles)
    return dataset, splits.of(dataset), tables


def _build(
    dataset_dir: str,
    index_dir: str,
    templates_file: str,
    settings: AlignmentSettings,
    task: Task,
    validation_users: int | None,
    split: str,
) -> ExampleTask:
    dataset, part, tables = _load(dataset_dir, index_dir, templates_file)
    (training,) = alignment_mixtures.build_tasks(tables, dataset, part, [task], settings)
    if split == "train":
        return training
    if split == "validation":
        (held_out,) = training.held_out(part, "validation", max_examples=validation_users)
    else:
        (held_out,) = training.held_out(part, "test")
    return held_out
