"""OpenP5's examples as SeqIO tasks and mixtures, for T5X and any other SeqIO user.

A task's examples are those of `OpenP5Task` in the order of the dataset, epoch 0, token for token; a
SeqIO pipeline then shuffles, mixes and repeats them in its own way. Two things differ from
`pipeline.batches` by SeqIO's nature: a mixture draws tasks by rate and cannot alternate batches, and
every pass over a task (or its cache) sees the same draw of templates.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Int64

from genrec_jax import storage
from genrec_jax.data import artefacts, splits
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.indexing import item_ids, vocabulary
from genrec_jax.pipeline import examples, openp5, seqio_runtime, seqio_source
from genrec_jax.pipeline.openp5 import MAX_INPUT_LENGTH, OpenP5Task
from genrec_jax.pipeline.prompt_tables import BoundPrompts, PromptTables
from genrec_jax.pipeline.seqio_source import ranking_metrics
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.prompts.templates import TASKS, Task

PREFIX = "openp5"
_EVALUATED = ("validation", "test")


def register(
    dataset_dir: artefacts.PathLike,
    index_dir: artefacts.PathLike,
    *,
    name_prefix: str = PREFIX,
    templates_file: artefacts.PathLike | None = None,
    history: int = 20,
    templates_per_example: int | None = None,
    max_input_length: int = MAX_INPUT_LENGTH,
    seed: int = 0,
) -> tuple[str, ...]:
    """Registers one dataset's tasks and mixture with SeqIO; the data is read when it is asked for.

    For a dataset named Beauty, and the prefix `openp5` (SeqIO's names have no `-`; it becomes `_`):

        openp5_Beauty_sequential             task: train, validation, test
        openp5_Beauty_sequential_unseen      task: validation, test in the first unseen template (A11)
        openp5_Beauty_straightforward        and its `_unseen`, likewise (B11)
        openp5_Beauty                        mixture of both tasks, at equal rates

    Validation and test show the first seen template (A1, B1). Their metrics take one prediction an
    example, or several with the best first.

    Args:
        dataset_dir: a dataset dir.
        index_dir: a folder with its item ids and vocabulary.
        name_prefix: begins every name; give each index of a dataset its own.
        templates_file: prompts; None: OpenP5's.
        history: items a prompt shows at most.
        templates_per_example: drawn for each training position; None: every seen one.
        max_input_length: tokens of a prompt at most; longer ones lose their oldest items. SeqIO itself
            cuts from the end, so let TASK_FEATURE_LENGTHS["inputs"] be no smaller than this.
        seed: of the draw of templates.

    Returns:
        The registered names; the mixture is the last.

    Raises:
        UserError: no dataset or item ids there, SeqIO is absent, or a name is taken.
    """
    seqio_runtime.import_seqio()
    manifest = artefacts.read_json(
        storage.local_copy(dataset_dir, (dataset_lib.MANIFEST,)) / dataset_lib.MANIFEST,
        shown=storage.join(dataset_dir, dataset_lib.MANIFEST),
        wanted="the manifest of a dataset that `genrec prepare` wrote",
        remedy="Run `genrec prepare` first",
    )
    feature = seqio_source.feature_of(item_ids.load_vocabulary(index_dir))
    templates = templates_lib.load_templates(templates_file)
    examples_of = _examples_of_splits(dataset_dir, manifest)
    mixture = f"{name_prefix}_{manifest['name']}".replace("-", "_")
    names: list[str] = []

    def add(name: str, task: Task, seen: bool) -> None:
        chosen = templates_lib.select(templates, task=task, seen=seen)
        if not chosen:
            return
        training = [template.id for template in chosen] if seen else []
        draws = len(training) if templates_per_example is None else templates_per_example
        build = functools.partial(
            _build_task,
            str(dataset_dir),
            str(index_dir),
            templates_file=None if templates_file is None else str(templates_file),
            task=task,
            training=tuple(training),
            evaluated=chosen[0].id,
            draws=draws,
            history=history,
            max_input_length=max_input_length,
            seed=seed,
        )
        sizes = {split: examples_of[split] for split in _EVALUATED}
        if seen:
            sizes["train"] = examples_of["train"] * draws
        seqio_source.add_task(name, build, sizes, feature, [ranking_metrics])
        names.append(name)

    for task in TASKS:
        for seen, suffix in ((True, ""), (False, "_unseen")):
            add(f"{mixture}_{task}{suffix}", task, seen)
    trained = [name for name in names if not name.endswith("_unseen")]
    seqio_source.add_mixture(mixture, dict.fromkeys(trained, 1.0))
    return (*names, mixture)


def register_from_environment(value: str) -> tuple[str, ...]:
    """Registers what an environment variable lists.

    Args:
        value: `DATASET_DIR=INDEX_DIR`, several separated by commas. With several there is also a
            mixture of all of them, `openp5`.

    Raises:
        UserError: the value is not of that form, or as `register`.
    """
    listed = seqio_source.register_listed(value, register, name_prefix=PREFIX)
    names = [name for registered in listed for name in registered]
    if len(listed) > 1:
        trained = [name for name in names if name.endswith(TASKS)]
        seqio_source.add_mixture(PREFIX, dict.fromkeys(trained, 1.0))
        names.append(PREFIX)
    return tuple(names)


def _examples_of_splits(
    dataset_dir: artefacts.PathLike, manifest: dict[str, Any]
) -> dict[str, int]:
    """How many targets each split has; of leave-one-out the manifest tells, without the log."""
    if manifest.get("split", {}).get("protocol", "leave_one_out") == "leave_one_out":
        users, interactions = (manifest["counts"][name] for name in ("users", "interactions"))
        return {**dict.fromkeys(_EVALUATED, users), "train": interactions - 3 * users}
    dataset = dataset_lib.load(dataset_dir)
    split_positions = splits.of(dataset)
    return {
        **{split: len(_targets(dataset, split_positions, split)) for split in _EVALUATED},
        "train": len(openp5.training_positions(dataset, split_positions)),
    }


def _targets(
    dataset: dataset_lib.Dataset, split_positions: splits.Splits, split: str
) -> Int64[np.ndarray, " E"]:
    name: splits.SplitName = "validation" if split == "validation" else "test"
    return examples.held_out_positions(dataset, split_positions, name, seed=0)


@functools.lru_cache(maxsize=4)
def _load(
    dataset_dir: str, index_dir: str, templates_file: str | None
) -> tuple[dataset_lib.Dataset, splits.Splits, BoundPrompts]:
    dataset = dataset_lib.load(dataset_dir)
    ids = item_ids.load(index_dir)
    ids.check_dataset(dataset)
    words: vocabulary.Vocabulary = item_ids.load_vocabulary(index_dir)
    templates = templates_lib.load_templates(templates_file)
    tables = PromptTables(words, dataset.name, ids.texts, templates)
    part = splits.of(dataset)
    return dataset, part, openp5.bind_dataset(tables, dataset, part)


def _build_task(
    dataset_dir: str,
    index_dir: str,
    split: str,
    *,
    templates_file: str | None,
    task: Task,
    training: tuple[str, ...],
    evaluated: str,
    draws: int,
    history: int,
    max_input_length: int,
    seed: int,
) -> OpenP5Task:
    dataset, split_positions, prompts = _load(dataset_dir, index_dir, templates_file)
    if split == "train":
        positions_N = openp5.training_positions(dataset, split_positions)
        chosen, count = training, draws
    else:
        positions_N = _targets(dataset, split_positions, split)
        chosen, count = (evaluated,), 1
    return OpenP5Task(
        prompts,
        dataset,
        positions_N,
        task,
        chosen,
        templates_per_example=count,
        history=history,
        seed=seed,
        shuffle=False,
        max_input_length=max_input_length,
    )
