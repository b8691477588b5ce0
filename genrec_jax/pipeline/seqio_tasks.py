"""OpenP5's examples as SeqIO tasks and mixtures, for T5X and any other SeqIO user.

A task's examples are those of `OpenP5Task` in the order of the dataset, epoch 0, token for token; a
SeqIO pipeline then shuffles, mixes and repeats them in its own way. Two things differ from
`pipeline.batches` by SeqIO's nature: a mixture draws tasks by rate and cannot alternate batches, and
every pass over a task (or its cache) sees the same draw of templates.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from genrec_jax.data import artefacts, splits
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids, vocabulary
from genrec_jax.pipeline import hashing, openp5, seqio_runtime
from genrec_jax.pipeline.openp5 import MAX_INPUT_LENGTH, OpenP5Task
from genrec_jax.pipeline.prompt_tables import BoundPrompts, PromptTables
from genrec_jax.pipeline.token_runs import TokenRuns
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.prompts.templates import TASKS, Task

CUTOFFS = (1, 5, 10, 20)
_BLOCK = 1024
_SHUFFLE = 4
_EVALUATED = ("validation", "test")


def register(
    dataset_dir: artefacts.PathLike,
    index_dir: artefacts.PathLike,
    *,
    name_prefix: str = "openp5",
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
    seqio, tf = seqio_runtime.import_seqio()
    manifest = artefacts.read_json(
        pathlib.Path(dataset_dir) / dataset_lib.MANIFEST,
        wanted="the manifest of a dataset that `genrec prepare` wrote",
        remedy="Run `genrec prepare` first",
    )
    words = item_ids.load_vocabulary(index_dir)
    assert words.path is not None
    feature = seqio.Feature(
        vocabulary=seqio.SentencePieceVocabulary(str(words.path), extra_ids=0), add_eos=True
    )
    templates = templates_lib.load_templates(templates_file)
    counts = manifest["counts"]
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
        sizes: dict[str, int] = dict.fromkeys(_EVALUATED, counts["users"])
        if seen:
            sizes["train"] = (counts["interactions"] - 3 * counts["users"]) * draws
        _check_free(seqio, name)
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(
                dataset_fn=_dataset_fn(tf, build), splits=tuple(sizes), num_input_examples=sizes
            ),
            preprocessors=[
                seqio.CacheDatasetPlaceholder(),
                seqio.preprocessors.append_eos_after_trim,
            ],
            output_features={"inputs": feature, "targets": feature},
            postprocess_fn=_postprocess,
            metric_fns=[ranking_metrics],
        )
        names.append(name)

    for task in TASKS:
        for seen, suffix in ((True, ""), (False, "_unseen")):
            add(f"{mixture}_{task}{suffix}", task, seen)
    _check_free(seqio, mixture)
    trained = [name for name in names if not name.endswith("_unseen")]
    seqio.MixtureRegistry.add(mixture, trained, default_rate=1.0)
    return (*names, mixture)


def register_from_environment(value: str, *, name_prefix: str = "openp5") -> tuple[str, ...]:
    """Registers what an environment variable lists.

    Args:
        value: `DATASET_DIR=INDEX_DIR`, several separated by commas. With several there is also a
            mixture of all of them, named by the prefix alone.
        name_prefix: begins every name.

    Raises:
        UserError: the value is not of that form, or as `register`.
    """
    names: list[str] = []
    mixtures = []
    for entry in value.split(","):
        dataset_dir, equals, index_dir = entry.partition("=")
        if not equals or not dataset_dir or not index_dir:
            raise UserError(
                f"got {entry!r}; wanted DATASET_DIR=INDEX_DIR, several separated by commas, such as"
                " data/lastfm=data/lastfm/index/random"
            )
        names += register(dataset_dir, index_dir, name_prefix=name_prefix)
        mixtures.append(names[-1])
    if len(mixtures) > 1:
        seqio, _ = seqio_runtime.import_seqio()
        trained = [name for name in names if name.endswith(TASKS)]
        seqio.MixtureRegistry.add(name_prefix, trained, default_rate=1.0)
        names.append(name_prefix)
    return tuple(names)


def ranking_metrics(targets: list[str], predictions: list[Any]) -> dict[str, float]:
    """HR, NDCG and MRR from texts: SeqIO's metric function.

    Args:
        targets: for each example the right text.
        predictions: for each example one text, or several, the best first. Cutoffs beyond the number
            of predictions are left out, for they would say nothing of what lies there.
    """
    lists = [[guess] if isinstance(guess, str) else list(guess) for guess in predictions]
    deepest = min((len(guesses) for guesses in lists), default=0)
    ranks = np.array(
        [
            guesses.index(target) + 1 if target in guesses else np.inf
            for target, guesses in zip(targets, lists, strict=True)
        ]
    )
    metrics = {}
    for k in CUTOFFS:
        if k > deepest:
            continue
        found = ranks <= k
        metrics[f"hr@{k}"] = float(np.mean(found))
        metrics[f"ndcg@{k}"] = float(np.mean(np.where(found, 1 / np.log2(ranks + 1), 0)))
        metrics[f"mrr@{k}"] = float(np.mean(np.where(found, 1 / ranks, 0)))
    return metrics


def _postprocess(output: Any, **_: Any) -> Any:
    if isinstance(output, str):
        return output.strip()
    return [text.strip() for text in output]


def _dataset_fn(tf: Any, build: Callable[[str], OpenP5Task]) -> Callable[..., Any]:
    """SeqIO's source function: one epoch of a split; every call gives the same examples."""

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        def blocks() -> Iterator[dict[str, Any]]:
            return _blocks(build(split), shuffle_files, seed)

        def kinds(*names: str, dtype: Any) -> dict[str, Any]:
            return dict.fromkeys(names, tf.TensorSpec((None,), dtype))

        signature = {
            **kinds("inputs", "targets", "user", "item", dtype=tf.int32),
            **kinds("inputs_offsets", "targets_offsets", dtype=tf.int64),
            **kinds("inputs_pretokenized", "targets_pretokenized", dtype=tf.string),
        }
        dataset = tf.data.Dataset.from_generator(blocks, output_signature=signature)
        as_it_stands = tf.autograph.experimental.do_not_convert
        return dataset.flat_map(as_it_stands(functools.partial(_split_block, tf)))

    return dataset_fn


def _blocks(task: OpenP5Task, shuffle: bool, seed: int | None) -> Iterator[dict[str, Any]]:
    """One epoch in blocks, without end-of-sequence, which SeqIO appends after it has trimmed."""
    key = hashing.hash_numbers(int(seed or 0), _SHUFFLE)
    words = task.prompts.tables.vocabulary
    for first in range(0, task.num_examples, _BLOCK):
        numbers_E = np.arange(first, min(first + _BLOCK, task.num_examples))
        if shuffle:
            numbers_E = hashing.permute(numbers_E, task.num_examples, key)
        block = task.assemble(0, numbers_E)
        features: dict[str, Any] = {"user": block.users_E, "item": block.items_E}
        for name, runs in (("inputs", block.inputs), ("targets", block.targets)):
            rows = [row[:-1] for row in runs.to_lists()]
            shorn = TokenRuns.from_lists(rows)
            features[name], features[f"{name}_offsets"] = shorn.values_P, shorn.offsets_E1
            features[f"{name}_pretokenized"] = [words.decode(row) for row in rows]
        yield features


def _split_block(tf: Any, block: dict[str, Any]) -> Any:
    """A dataset of a block's examples: a generator that yields them singly is many times slower."""

    def example(number: Any) -> dict[str, Any]:
        one = {name: block[name][number] for name in ("user", "item")}
        for name in ("inputs", "targets"):
            offsets = block[f"{name}_offsets"]
            one[name] = block[name][offsets[number] : offsets[number + 1]]
            one[f"{name}_pretokenized"] = block[f"{name}_pretokenized"][number]
        return one

    return tf.data.Dataset.range(tf.size(block["user"], out_type=tf.int64)).map(example)


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
    return dataset, splits.leave_one_out(dataset), openp5.bind_dataset(tables, dataset)


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
        positions_N = split_positions.targets_U("validation" if split == "validation" else "test")
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


def _check_free(seqio: Any, name: str) -> None:
    if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        raise UserError(f"SeqIO has a {name!r} already; give this index its own name_prefix")
