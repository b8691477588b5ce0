"""Mixtures: a pure function from step to the source and the numbers of its examples."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from genrec_jax.data import splits as splits_lib
from genrec_jax.data.dataset import Dataset
from genrec_jax.errors import UserError
from genrec_jax.pipeline import alignment_mixtures, openp5
from genrec_jax.pipeline.alignment import AlignmentSettings
from genrec_jax.pipeline.blend import Blend
from genrec_jax.pipeline.examples import ExampleTask
from genrec_jax.pipeline.openp5 import MAX_INPUT_LENGTH, OpenP5Task
from genrec_jax.pipeline.prompt_tables import Cut, PromptTables
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.prompts.compiling import Tokenizer
from genrec_jax.prompts.templates import Task, Template

MIXTURE_TASKS: dict[str, tuple[Task, ...]] = {
    "openp5_sequential": ("sequential",),
    "openp5_straightforward": ("straightforward",),
    "openp5": ("sequential", "straightforward"),
    **alignment_mixtures.MIXTURE_TASKS,
}


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Sources that take turns, one batch each; the smaller ones are repeated.

    Step s belongs to source s mod S, and is that source's step s div S. A source's examples run on
    without end, epoch after epoch; a batch may hold the end of one epoch and the start of the next,
    so every batch is full and every example of an epoch comes exactly once.

    Attributes:
        name: as `MIXTURE_OR_TASK_NAME` has it.
        sources: the tasks, in the order of their turns.
    """

    name: str
    sources: tuple[ExampleTask, ...]

    def at(
        self, step: int, batch_size: int
    ) -> tuple[ExampleTask, Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """The source, epochs and example numbers of a step.

        Returns:
            The source, and for each of `batch_size` examples its epoch and its number in the epoch.
        """
        turn, place = divmod(step, len(self.sources))
        source = self.sources[place]
        running_E = np.arange(turn * batch_size, (turn + 1) * batch_size)
        epoch_E, number_E = np.divmod(running_E, source.num_examples)
        return source, epoch_E, number_E

    def steps_per_epoch(self, batch_size: int) -> int:
        """Steps until the largest source has been through once; smaller ones start again before."""
        largest = max(source.num_examples for source in self.sources)
        return -(-largest // batch_size) * len(self.sources)

    @property
    def num_examples(self) -> int:
        """Examples of one epoch, each source counted once."""
        return sum(source.num_examples for source in self.sources)

    def cut_shares(self) -> dict[str, float]:
        """For each task the share of an epoch's prompts that lose items to the inputs' limit."""
        parts = [part for source in self.sources for part in source.parts]
        return {part.name: part.cut_share() for part in parts}

    def task_shares(self, sample: int = 4800) -> dict[str, tuple[float, float]]:
        """For each task its share of the examples, and of the target tokens.

        Args:
            sample: how many of each source's first examples are looked at.
        """
        numbers, lengths = [], []
        for turn in range(len(self.sources)):
            source, epoch_E, number_E = self.at(turn, sample)
            plan = source.plan(epoch_E, number_E)
            numbers.append(plan.templates_E)
            lengths.append(plan.targets.lengths_E)
        tasks_T = np.array([t.task for t in self.sources[0].prompts.tables.templates])
        tasks_E, lengths_E = tasks_T[np.concatenate(numbers)], np.concatenate(lengths)
        found = dict.fromkeys(part.task for source in self.sources for part in source.parts)
        return {
            task: (
                float((tasks_E == task).mean()),
                float(lengths_E[tasks_E == task].sum() / lengths_E.sum()),
            )
            for task in found
        }

    @property
    def max_input_length(self) -> int:
        """No prompt is longer."""
        return max(source.max_input_length for source in self.sources)

    @property
    def max_target_length(self) -> int:
        """No target is longer."""
        return max(source.max_target_length for source in self.sources)


def default_templates(mixture: str) -> pathlib.Path:
    """The prompts of a mixture's paper; of OpenP5 for a user's own SeqIO mixture."""
    alignment = mixture in alignment_mixtures.MIXTURE_TASKS
    return templates_lib.ALIGNMENT_TEMPLATES if alignment else templates_lib.OPENP5_TEMPLATES


def build_mixture(
    name: str,
    datasets: Sequence[Dataset],
    item_texts: Sequence[Sequence[str]],
    vocabulary: Tokenizer,
    templates: tuple[Template, ...],
    *,
    splits: Sequence[splits_lib.Splits] | None = None,
    history: int = 20,
    templates_per_example: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    max_input_length: int = MAX_INPUT_LENGTH,
    cut: Cut = "items",
    titles: Sequence[Sequence[str | None]] | None = None,
    rates: Mapping[str, int] | None = None,
    num_candidates: int = 100,
    like_above: float = 3.0,
) -> Mixture:
    """A mixture by name, over one dataset or (SP5) several.

    Args:
        name: `openp5_sequential`, `openp5_straightforward`, or `openp5`, which alternates batches; or
            one of the alignment system's, `alignment_reat` and so on, which mix within a batch.
        datasets: their names must differ: the name is the namespace of users and items.
        item_texts: for each dataset the text of each item (`ItemIds.texts`).
        vocabulary: one for all of them.
        templates: the run's templates; those with `seen` are drawn.
        splits: for each dataset; without them the dataset's own (`splits.of`).
        history: items a prompt shows at most; OpenP5 has 20, SP5 10.
        templates_per_example: drawn for each position, task and epoch; None: every seen one.
        seed: of every draw and order.
        shuffle: False gives every epoch in the order of the dataset.
        max_input_length: tokens of a prompt at most.
        cut: what a longer one loses: whole oldest `items`, or `tokens` from the end (OpenP5).
        titles: for each dataset the title of each item (`ItemIds.titles`); alignment.
        rates: for each task the examples of one round; None: one of each (alignment).
        num_candidates: of a ranking prompt (alignment).
        like_above: a rating above it is a like (alignment).

    Raises:
        UserError: an unknown name, two datasets of one name, ids that do not fit their dataset, or
            templates that lack the task.
    """
    if name not in MIXTURE_TASKS:
        raise UserError(
            f"there is no mixture {name!r}; wanted one of {', '.join(MIXTURE_TASKS)}, or set"
            " MIXTURE_OR_TASK_MODULE to the module that registers yours with SeqIO"
        )
    _check_datasets(datasets, item_texts)
    if splits is None:
        splits = [splits_lib.of(dataset) for dataset in datasets]
    if name in alignment_mixtures.MIXTURE_TASKS:
        if cut != "items":
            raise UserError(f"{name}: cut is {cut!r}; wanted items, which keeps the question")
        settings = AlignmentSettings(
            window=history,
            num_candidates=num_candidates,
            like_above=like_above,
            max_input_length=max_input_length,
            seed=seed,
            shuffle=shuffle,
        )
        return _alignment(
            name,
            [
                PromptTables(vocabulary, dataset.name, texts, templates, own)
                for dataset, texts, own in zip(
                    datasets, item_texts, titles or [()] * len(datasets), strict=True
                )
            ],
            datasets,
            splits,
            rates or alignment_mixtures.equal_rates(name),
            settings,
        )
    if rates is not None:
        raise UserError(f"{name} takes turns batch by batch and has no rates; leave them out")
    sources = []
    for dataset, texts, split in zip(datasets, item_texts, splits, strict=True):
        tables = PromptTables(vocabulary, dataset.name, texts, templates)
        prompts = openp5.bind_dataset(tables, dataset, split)
        positions_N = openp5.training_positions(dataset, split)
        for task in MIXTURE_TASKS[name]:
            seen = templates_lib.select(templates, task=task, seen=True)
            if not seen:
                raise UserError(f"the templates have no {task} template with seen = true")
            sources.append(
                OpenP5Task(
                    prompts,
                    dataset,
                    positions_N,
                    task,
                    [template.id for template in seen],
                    templates_per_example=templates_per_example,
                    history=history,
                    seed=seed,
                    shuffle=shuffle,
                    max_input_length=max_input_length,
                    cut=cut,
                )
            )
    return Mixture(name, tuple(sources))


def _alignment(
    name: str,
    tables: Sequence[PromptTables],
    datasets: Sequence[Dataset],
    splits: Sequence[splits_lib.Splits],
    rates: Mapping[str, int],
    settings: AlignmentSettings,
) -> Mixture:
    """Each dataset's tasks blended; several datasets take turns."""
    tasks = alignment_mixtures.tasks_of(name)
    blends = []
    for own, dataset, split in zip(tables, datasets, splits, strict=True):
        sources = alignment_mixtures.build_tasks(own, dataset, split, tasks, settings)
        blends.append(Blend(name, sources, rates))
    return Mixture(name, tuple(blends))


def _check_datasets(datasets: Sequence[Dataset], item_texts: Sequence[Sequence[str]]) -> None:
    names = [dataset.name for dataset in datasets]
    if not names or len(set(names)) != len(names):
        raise UserError(
            f"the datasets are named {names}; wanted at least one, and names that differ, because the"
            " name tells users and items of one dataset from those of another"
        )
    for dataset, texts in zip(datasets, item_texts, strict=True):
        if len(texts) != dataset.num_items:
            raise UserError(
                f"{dataset.name} has {dataset.num_items} items and {len(texts)} item ids: the ids are of"
                " another dataset. Run `genrec index` on this one",
                file=str(dataset.path),
            )
