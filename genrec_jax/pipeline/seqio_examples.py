"""The held-out examples of a SeqIO mixture's tasks, read once, to be searched for in the catalogue."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Tokens, Vocabulary
from genrec_jax.pipeline import seqio_reader, seqio_runtime, token_runs
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.pipeline.token_runs import TokenRuns


@dataclasses.dataclass(frozen=True)
class TaskExamples:
    """One task's examples of one split, in SeqIO's unshuffled order.

    Attributes:
        name: the task.
        inputs: its own prompts, cut as in training.
        targets_N: the item that each target names.
        users_N: the examples' `user`, or None unless all have one, a number.
    """

    name: str
    inputs: TokenRuns
    targets_N: Int32[np.ndarray, " N"]
    users_N: Int32[np.ndarray, " N"] | None

    def __len__(self) -> int:
        return len(self.targets_N)

    def batches(
        self,
        vocabulary: Vocabulary,
        examples_E: Int[np.ndarray, " E"],
        rows_E: Int[np.ndarray, " E"],
        batch_size: int,
    ) -> Iterator[PromptBatch]:
        """Prompts of some examples, longest first; the last batch is filled with rows of -1.

        Args:
            vocabulary: of the tokens.
            examples_E: which examples.
            rows_E: what each of them is called in `PromptBatch.users_B`.
            batch_size: rows of a batch.
        """
        order = np.argsort(-self.inputs.lengths_E[examples_E], kind="stable")
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            runs = self.inputs.take(examples_E[chosen])
            length = int(runs.lengths_E.max())
            tokens_BL = np.zeros((batch_size, length), np.int32)
            tokens_BL[: len(chosen)] = runs.padded(length)
            users_B, targets_B = np.full((2, batch_size), -1, np.int32)
            users_B[: len(chosen)] = rows_E[chosen]
            targets_B[: len(chosen)] = self.targets_N[examples_E[chosen]]
            real_BL = tokens_BL > 0
            positions_BL = np.arange(length) * real_BL
            words_BL = seqio_reader.whole_words(vocabulary, tokens_BL, real_BL, positions_BL)
            yield PromptBatch(tokens_BL, words_BL, users_B, targets_B)


class Catalogue:
    """Finds the item that a target names: by its tokens, or by the text where they differ."""

    def __init__(self, vocabulary: Vocabulary, targets: TokenRuns):
        """Notes how every item is written.

        Args:
            vocabulary: of the tokens.
            targets: for each item the tokens that the model writes, end-of-sequence included.
        """
        self._vocabulary = vocabulary
        rows = [self._bare(row) for row in targets.to_lists()]
        self._by_tokens = {row: item for item, row in enumerate(rows)}
        self._by_text = {vocabulary.decode(row): item for item, row in enumerate(rows)}

    def item_of(self, tokens: Tokens) -> int | None:
        """The item's number, or None if there is no such item."""
        bare = self._bare(tokens)
        item = self._by_tokens.get(bare)
        return self._by_text.get(self._vocabulary.decode(bare)) if item is None else item

    def example(self) -> str:
        """How the first item is written."""
        return next(iter(self._by_text))

    def _bare(self, tokens: Tokens) -> tuple[int, ...]:
        special = (self._vocabulary.eos_id, self._vocabulary.pad_id)
        return tuple(int(token) for token in tokens if token not in special)


@dataclasses.dataclass(frozen=True)
class MixtureExamples:
    """The examples that a mixture is evaluated on.

    Attributes:
        tasks: the tasks that have examples of this dataset, in the mixture's order.
        remarks: a sentence for each task that has none, and why.
    """

    tasks: tuple[TaskExamples, ...]
    remarks: tuple[str, ...]


def read(
    mixture: str,
    module: str | None,
    split: str,
    *,
    vocabulary: Vocabulary,
    catalogues: Mapping[str, Catalogue],
    dataset: str,
    max_input_length: int | None,
    names: Sequence[str] | None = None,
) -> MixtureExamples:
    """Reads a split of a mixture's tasks, as far as its targets are items of one dataset.

    Args:
        mixture: the mixture, or a single task.
        module: the module that registers it.
        split: `validation` or `test`.
        vocabulary: the run's; the mixture's must be the same.
        catalogues: how items are written, for each dataset of the run.
        dataset: whose examples are wanted; a task belongs to the dataset of its first target.
        max_input_length: tokens of a prompt, as in training; None: no limit.
        names: these tasks only, all of which must have the split.

    Raises:
        UserError: the mixture cannot be opened, it has another vocabulary, a task is unknown, none has
            the split, or a target is no item.
    """
    seqio, _ = seqio_runtime.import_seqio()
    provider = seqio_reader.open_mixture(mixture, module)
    if seqio_reader.vocabulary_of(mixture, provider).sha256 != vocabulary.sha256:
        raise UserError(
            f"the SeqIO mixture {mixture!r} tokenises with another vocabulary than the one that the run"
            f" was trained with; wanted {vocabulary.path}. Name the index that was trained on"
        )
    of_mixture = {task.name: task for task in seqio.get_subtasks(provider)}
    chosen = _choose(seqio, of_mixture, mixture, names)
    without = {
        name: f"{name} was not scored: it has no {split} split (it has {', '.join(task.splits)})."
        for name, task in chosen.items()
        if split not in task.splits
    }
    if len(without) == len(chosen) or (names is not None and without):
        raise UserError(
            f"the SeqIO mixture {mixture!r} cannot be evaluated on {split}:"
            f" {' '.join(without.values())} Register the tasks with that split, or ask for another one"
            " with --split"
        )
    tasks, remarks = [], list(without.values())
    for name, task in chosen.items():
        if name in without:
            continue
        found = _read_task(task, split, catalogues, dataset, max_input_length)
        if found is not None and len(found):
            tasks.append(found)
        elif found is not None:
            remarks.append(f"{name} was not scored: its {split} split is empty.")
    if not tasks:
        raise UserError(
            f"the SeqIO mixture {mixture!r} has no {split} example whose target is an item of {dataset}."
            " Register a task that has some, or ask for another split with --split"
        )
    return MixtureExamples(tuple(tasks), tuple(remarks))


def _choose(
    seqio: Any, of_mixture: dict[str, Any], mixture: str, names: Sequence[str] | None
) -> dict[str, Any]:
    """The tasks by name: the mixture's own, or those asked for, which need only be registered."""
    if names is None:
        return of_mixture
    known = set(seqio.TaskRegistry.names())
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise UserError(
            f"got the tasks {', '.join(names) or 'none'}; this run was trained on the SeqIO mixture"
            f" {mixture!r}, so wanted tasks of it, {', '.join(of_mixture)}, or others that its module"
            " registers, each once. Name them with --templates, separated by commas"
        )
    return {name: seqio.TaskRegistry.get(name) for name in names}


def _read_task(
    task: Any,
    split: str,
    catalogues: Mapping[str, Catalogue],
    dataset: str,
    max_input_length: int | None,
) -> TaskExamples | None:
    """One task's examples; None where the first target is an item of another dataset."""
    examples = task.get_dataset(
        # Targets are not cut: they are to be found whole in the catalogue.
        sequence_length={"inputs": max_input_length, "targets": None},
        split=split,
        use_cached=False,
        shuffle=False,
        seed=0,
        num_epochs=1,
    )
    inputs, targets, users = [], [], []
    for number, example in enumerate(examples.as_numpy_iterator()):
        item = catalogues[dataset].item_of(example["targets"])
        if item is None:
            if not number and any(
                c.item_of(example["targets"]) is not None for c in catalogues.values()
            ):
                return None
            text = task.output_features["targets"].vocabulary.decode(example["targets"].tolist())
            raise UserError(
                f"example {number} of the {split} split of the SeqIO task {task.name!r} has the target"
                f" {text!r}, which is no item of {dataset}; wanted an item as the run's catalogue writes"
                f" it, such as {catalogues[dataset].example()!r}. Mend the task's targets, or leave the"
                " task out with --templates"
            )
        inputs.append(example["inputs"])
        targets.append(item)
        user = np.asarray(example.get("user"))
        if user.size == 1 and np.issubdtype(user.dtype, np.integer):
            users.append(user.item())
    return TaskExamples(
        task.name,
        TokenRuns(
            np.concatenate([np.zeros(0, np.int32), *inputs]),
            token_runs.offsets_of(np.array([len(row) for row in inputs], np.int64)),
        ),
        np.array(targets, np.int32),
        np.array(users, np.int32) if len(users) == len(targets) else None,
    )
