"""Ranking's and rating's prompts of a run, in batches, with the candidates or the labels of each."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Int32

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.evaluation.alignment import Choices
from genrec_jax.pipeline import alignment_eval, prompt_batches
from genrec_jax.pipeline.alignment_eval import EvaluationExamples
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.prompts.templates import Task

Blocks = Callable[[], Iterable[Int32[np.ndarray, " E"]]]
"""The users to be scored, some at a time: prompts are tokenised for so many at once."""


class AskedExamples:
    """The evaluation examples of one task, of those users who have one.

    Attributes:
        users_E: users with an example, ascending.
    """

    def __init__(
        self,
        run_dir: RunDir,
        task: Task,
        assembler: prompt_batches.PromptAssembler,
        dataset: Dataset,
        splits: Splits,
        split: SplitName,
        blocks: Blocks,
        batch_size: int,
    ):
        """Binds everything; prompts are made when batches are asked for.

        Args:
            run_dir: the run, for candidates, likes and seed.
            task: `ranking` or `rating`.
            assembler: makes the prompts.
            dataset: the histories.
            splits: where they end.
            split: which target is asked about.
            blocks: the users.
            batch_size: rows of a batch.
        """
        self._source = alignment_eval.EvaluationSource(
            assembler,
            dataset,
            splits,
            split,
            task,
            num_candidates=run_dir.mixture["num_candidates"],
            like_above=run_dir.mixture["like_above"],
            seed=run_dir.mixture["seed"],
        )
        self._blocks, self._batch_size = blocks, batch_size
        users_E = np.concatenate([np.zeros(0, np.int32), *blocks()])
        self.users_E = np.intersect1d(users_E, self._source.users_E).astype(np.int32)

    def with_candidates(self, choices: Choices) -> Iterator[PromptBatch]:
        """Ranking's batches, all of one size; `choices` learns the candidates of each."""
        for batch, examples in self._batches():
            assert examples.candidates_EC is not None
            choices.learn(examples.users_E, examples.candidates_EC)
            yield batch

    def with_labels(self) -> Iterator[tuple[PromptBatch, np.ndarray]]:
        """Rating's batches, all of one size, and for each row whether the user liked the item."""
        for batch, examples in self._batches():
            places_B = np.searchsorted(examples.users_E, np.asarray(batch.users_B))
            labels_E = examples.labels_E
            assert labels_E is not None
            yield batch, labels_E[np.minimum(places_B, len(labels_E) - 1)]

    def _batches(self) -> Iterator[tuple[PromptBatch, EvaluationExamples]]:
        """Longest prompts of each block first."""
        for users_E in self._blocks():
            examples = self._source.examples(users_E)
            prompts = examples.prompts
            order = np.argsort(-prompts.inputs.lengths_E, kind="stable")
            for start in range(0, len(order), self._batch_size):
                mine = order[start : start + self._batch_size]
                part = prompt_batches.Prompts(
                    prompts.inputs.take(mine), prompts.whole_words.take(mine)
                )
                batch = part.padded(
                    self._batch_size,
                    int(part.inputs.lengths_E.max()),
                    users_E=examples.users_E[mine],
                    targets_E=examples.targets_E[mine],
                )
                yield batch, examples
