"""Ranking's and rating's prompts of a run, in batches, with the candidates or the labels of each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int32

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.evaluation.alignment import Choices
from genrec_jax.pipeline import alignment_eval, prompt_batches
from genrec_jax.pipeline.alignment_eval import EvaluationExamples
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.prompts.templates import Task, Template

Blocks = Callable[[], Iterable[Int32[np.ndarray, " E"]]]
"""The users to be scored, some at a time: prompts are tokenised for so many at once."""


def choose_wordings(
    templates: Sequence[Template], chosen: Sequence[Template]
) -> tuple[tuple[tuple[Template, ...], ...], tuple[str, ...]]:
    """The wordings of rating prediction that chosen templates belong to.

    Args:
        templates: all of the run's.
        chosen: those to evaluate with, of any task.

    Returns:
        A triple of templates for each wording (`templates.rating_wordings`), and the ids of the chosen
        rating templates that belong to none.
    """
    known = templates_lib.rating_wordings(templates)
    wordings, alone = [], []
    for template in templates_lib.select(list(chosen), task="rating"):
        wording = next((wording for wording in known if template in wording), None)
        if wording is None:
            alone.append(template.id)
        elif wording not in wordings:
            wordings.append(wording)
    return tuple(wordings), tuple(alone)


class AskedExamples:
    """The evaluation examples of one task in several wordings, of those users who have one.

    Attributes:
        users_E: users with an example, ascending.
    """

    def __init__(
        self,
        run_dir: RunDir,
        task: Task,
        wordings: Mapping[str, Sequence[str]],
        assembler: prompt_batches.PromptAssembler,
        dataset: Dataset,
        splits: Splits,
        split: SplitName,
        blocks: Blocks,
        batch_size: int,
    ):
        """Binds everything; prompts are made when batches are asked for.

        Args:
            run_dir: the run, for the number of candidates, and what is a like.
            task: `ranking` or `rating`.
            wordings: by a name of yours the templates to ask with, one wording each, at least one.
            assembler: makes the prompts.
            dataset: the histories.
            splits: where they end.
            split: which target is asked about.
            blocks: the users.
            batch_size: rows of a batch.
        """
        prompts = assembler.tables.bind([], dataset.items_X)
        self._sources = {
            name: alignment_eval.EvaluationSource(
                assembler,
                dataset,
                splits,
                split,
                task,
                template_ids,
                prompts=prompts,
                num_candidates=run_dir.mixture["num_candidates"],
                like_above=run_dir.mixture["like_above"],
            )
            for name, template_ids in wordings.items()
        }
        self._blocks, self._batch_size = blocks, batch_size
        users_E = np.concatenate([np.zeros(0, np.int32), *blocks()])
        any_source = next(iter(self._sources.values()))  # all ask the same users
        self.users_E = np.intersect1d(users_E, any_source.users_E).astype(np.int32)

    def with_candidates(self, wording: str, choices: Choices) -> Iterator[PromptBatch]:
        """Ranking's batches, all of one size; `choices` learns the candidates of each."""
        for batch, examples in self._batches(wording):
            assert examples.candidates_EC is not None
            choices.learn(examples.users_E, examples.candidates_EC)
            yield batch

    def with_labels(self, wording: str) -> Iterator[tuple[PromptBatch, np.ndarray]]:
        """Rating's batches, all of one size, and for each row whether the user liked the item."""
        for batch, examples in self._batches(wording):
            places_B = np.searchsorted(examples.users_E, np.asarray(batch.users_B))
            labels_E = examples.labels_E
            assert labels_E is not None
            yield batch, labels_E[np.minimum(places_B, len(labels_E) - 1)]

    def _batches(self, wording: str) -> Iterator[tuple[PromptBatch, EvaluationExamples]]:
        """Longest prompts of each block first."""
        for users_E in self._blocks():
            examples = self._sources[wording].examples(users_E)
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
