"""Shared by the SeqIO tasks of every system: the source of examples, metrics, registration."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from genrec_jax.data import artefacts, hashing
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.pipeline import seqio_runtime
from genrec_jax.pipeline.examples import ExampleTask
from genrec_jax.pipeline.token_runs import TokenRuns

CUTOFFS = (1, 5, 10, 20)
_BLOCK = 1024
_SHUFFLE = 4

Register = Callable[..., tuple[str, ...]]


def feature_of(words: Vocabulary) -> Any:
    """The SeqIO feature of tokens of a vocabulary."""
    seqio, _ = seqio_runtime.import_seqio()
    assert words.path is not None
    vocabulary = seqio.SentencePieceVocabulary(str(words.path), extra_ids=0)
    return seqio.Feature(vocabulary=vocabulary, add_eos=True)


def vocabulary_of(index_dir: artefacts.PathLike) -> Any:
    """An index's vocabulary as SeqIO has it: T5X's gin files name it by the index (gin_configs/t5x)."""
    return feature_of(item_ids.load_vocabulary(index_dir)).vocabulary


def add_task(
    name: str,
    build: Callable[[str], ExampleTask],
    sizes: Mapping[str, int],
    feature: Any,
    metrics: Sequence[Callable[..., Any]],
) -> None:
    """Registers one task; its examples are made when they are asked for.

    Args:
        name: as SeqIO will know it.
        build: gives the examples of a split.
        sizes: for each split how many examples it has.
        feature: of inputs and targets.
        metrics: SeqIO's metric functions.

    Raises:
        UserError: SeqIO has one of that name.
    """
    seqio, tf = seqio_runtime.import_seqio()
    check_free(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            dataset_fn=_dataset_fn(tf, build), splits=tuple(sizes), num_input_examples=dict(sizes)
        ),
        preprocessors=[
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={"inputs": feature, "targets": feature},
        postprocess_fn=_postprocess,
        metric_fns=list(metrics),
    )


def add_mixture(name: str, rates: Mapping[str, float]) -> None:
    """Registers a mixture of tasks at explicit rates.

    Raises:
        UserError: SeqIO has one of that name.
    """
    seqio, _ = seqio_runtime.import_seqio()
    check_free(name)
    seqio.MixtureRegistry.add(name, list(rates.items()))


def check_free(name: str) -> None:
    """Raises `UserError` where SeqIO has a task or mixture of that name."""
    seqio, _ = seqio_runtime.import_seqio()
    if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        raise UserError(f"SeqIO has a {name!r} already; give this index its own name_prefix")


def register_listed(value: str, register: Register, **options: Any) -> list[tuple[str, ...]]:
    """Registers what an environment variable lists.

    Args:
        value: `DATASET_DIR=INDEX_DIR`, several separated by commas.
        register: registers one dataset and index.
        **options: for it.

    Returns:
        For each entry the names.

    Raises:
        UserError: the value is not of that form, or as `register`.
    """
    names = []
    for entry in value.split(","):
        dataset_dir, equals, index_dir = entry.partition("=")
        if not equals or not dataset_dir or not index_dir:
            raise UserError(
                f"got {entry!r}; wanted DATASET_DIR=INDEX_DIR, several separated by commas, such as"
                " data/lastfm=data/lastfm/index/random"
            )
        names.append(register(dataset_dir, index_dir, **options))
    return names


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


def _dataset_fn(tf: Any, build: Callable[[str], ExampleTask]) -> Callable[..., Any]:
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


def _blocks(task: ExampleTask, shuffle: bool, seed: int | None) -> Iterator[dict[str, Any]]:
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
