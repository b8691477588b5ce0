"""Examples as a pure function of seed, epoch and number: what every system's tasks have in common.

Between the dataset with its item ids and the mixtures. A task (`ExampleTask`) plans examples, which
fixes their lengths, and gathers the tokens of those it is asked for.
"""

import abc
import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from genrec_jax.data import hashing
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline.prompt_tables import BoundPrompts
from genrec_jax.pipeline.token_runs import RunPlan, TokenRuns

ORDER, TEMPLATE, SAMPLE = 1, 2, 3
"""What draws are for; the pipeline's hashes begin with the seed and one of these numbers."""

Epochs = int | Int64[np.ndarray, " E"]


@dataclasses.dataclass(frozen=True)
class ExampleBlock:
    """Some examples, as ragged tokens.

    Attributes:
        inputs: prompts, each ending in end-of-sequence.
        targets: targets, each ending in end-of-sequence.
        whole_words: for each input token the index of its word, from 1; 0 at end-of-sequence.
        users_E: whose examples they are; -1 where nobody's.
        items_E: the items to be generated or asked about; -1 where there is no single one.
        templates_E: template numbers, as places in the tables' templates.
    """

    inputs: TokenRuns
    targets: TokenRuns
    whole_words: TokenRuns
    users_E: Int32[np.ndarray, " E"]
    items_E: Int32[np.ndarray, " E"]
    templates_E: Int64[np.ndarray, " E"]


@dataclasses.dataclass(frozen=True)
class ExamplePlan:
    """Some examples, planned: their lengths are known, their tokens not gathered yet.

    Attributes:
        inputs: slices of the prompts.
        targets: slices of the targets.
        users_E: as in `ExampleBlock`.
        items_E: likewise.
        templates_E: template numbers.
        cut_E: which prompts lost something to the inputs' limit.
    """

    inputs: RunPlan
    targets: RunPlan
    users_E: Int32[np.ndarray, " E"]
    items_E: Int32[np.ndarray, " E"]
    templates_E: Int64[np.ndarray, " E"]
    cut_E: Bool[np.ndarray, " E"]

    def take(self, indices_E: Int[np.ndarray, " E2"]) -> "ExamplePlan":
        """The plan of some of the examples."""
        return ExamplePlan(
            self.inputs.take(indices_E),
            self.targets.take(indices_E),
            self.users_E[indices_E],
            self.items_E[indices_E],
            self.templates_E[indices_E],
            self.cut_E[indices_E],
        )

    @classmethod
    def scatter(
        cls, plans: Sequence["ExamplePlan"], places: Sequence[Int[np.ndarray, " _"]]
    ) -> "ExamplePlan":
        """One plan of the examples of several; example e of plan i becomes example `places[i][e]`.

        Their slices must be of one pool.
        """
        order = np.argsort(np.concatenate(places), kind="stable")

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(plan, name) for plan in plans])[order]

        return cls(
            RunPlan.scatter([plan.inputs for plan in plans], places),
            RunPlan.scatter([plan.targets for plan in plans], places),
            joined("users_E"),
            joined("items_E"),
            joined("templates_E"),
            joined("cut_E"),
        )


class ExampleTask(abc.ABC):
    """A dataset's examples of every epoch, by number: of one task, or of several blended.

    Attributes:
        name: dataset and task, as logs show it: `Beauty/sequential`.
        task: which task, as templates name it.
        dataset: the dataset.
        prompts: the bound prompts, shared by a dataset's tasks.
        seed: of every draw.
        shuffle: whether the numbers of an epoch run through it in random order.
        limit: tokens a prompt may have.
        num_examples: examples of one epoch.
        max_input_length: no prompt is longer.
        max_target_length: no target is longer.
        epochs_differ: whether each epoch is made of other parts of the log.
    """

    num_examples: int
    max_input_length: int
    max_target_length: int
    epochs_differ: bool = False

    def __init__(
        self,
        prompts: BoundPrompts,
        dataset: Dataset,
        task: str,
        *,
        seed: int,
        shuffle: bool,
        limit: int,
    ):
        """Names the task; the arguments are the attributes."""
        self.name = f"{dataset.name}/{task}"
        self.task = task
        self.dataset, self.prompts = dataset, prompts
        self.seed, self.shuffle, self.limit = seed, shuffle, limit
        self.stream = zlib.crc32(self.name.encode())

    @property
    @abc.abstractmethod
    def parts(self) -> "tuple[SingleTask, ...]":
        """The tasks that it blends; a single task gives itself."""

    @abc.abstractmethod
    def plan(self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]) -> ExamplePlan:
        """Plans examples.

        Args:
            epochs: the epoch of all of them, or one for each.
            numbers_E: numbers within the epoch, 0 to `num_examples - 1`.
        """

    @abc.abstractmethod
    def held_out(
        self,
        splits: Splits,
        split: SplitName,
        *,
        template_id: str | None = None,
        max_examples: int | None = None,
    ) -> "tuple[SingleTask, ...]":
        """The examples of a split's held-out targets, unshuffled; none for a task that only trains.

        Args:
            splits: of the dataset.
            split: whose targets.
            template_id: the prompt; by default the task's first seen one.
            max_examples: a seeded sample of the users; None: all of them.
        """

    def lengths(
        self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """Tokens of the inputs and of the targets, without making them."""
        plan = self.plan(epochs, numbers_E)
        return plan.inputs.lengths_E, plan.targets.lengths_E

    def assemble(self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]) -> ExampleBlock:
        """Makes examples; arguments as `plan`."""
        return self.gather(self.plan(epochs, numbers_E))

    def gather(self, plan: ExamplePlan) -> ExampleBlock:
        """Makes planned examples."""
        inputs = self.prompts.tokens(plan.inputs)
        return ExampleBlock(
            inputs=inputs,
            targets=self.prompts.tokens(plan.targets),
            whole_words=TokenRuns(self.prompts.whole_words(inputs), inputs.offsets_E1),
            users_E=plan.users_E,
            items_E=plan.items_E,
            templates_E=plan.templates_E,
        )

    def cut_share(self, *, max_examples: int = 4096) -> float:
        """The share of an epoch's prompts that lose something to the inputs' limit.

        Args:
            max_examples: counted on a sample of so many, evenly spaced in the epoch's order.
        """
        count = min(max_examples, self.num_examples)
        numbers_E = np.arange(count) * self.num_examples // count
        blocks = np.array_split(numbers_E, -(-count // 512))
        return sum(int(self.plan(0, block).cut_E.sum()) for block in blocks) / count

    def _in_order(
        self, epochs: Epochs, numbers_E: Int[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """The epoch of each number, and which example of the task it is."""
        index_E = np.asarray(numbers_E, np.int64)
        epoch_E = np.broadcast_to(np.asarray(epochs, np.int64), index_E.shape)
        if self.shuffle:
            key_E = hashing.hash_numbers(self.seed, ORDER, self.stream, epoch_E)
            index_E = hashing.permute(index_E, self.num_examples, key_E)
        return epoch_E, index_E


class SingleTask(ExampleTask):
    """One task: it can say of each example what of the log it is made of."""

    @property
    def parts(self) -> "tuple[SingleTask, ...]":
        """Itself."""
        return (self,)

    @abc.abstractmethod
    def positions_read(
        self, epoch: int, index_E: Int[np.ndarray, " E"]
    ) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
        """The positions of the log that examples read: first, and last (exclusive).

        The target counts as read. The audit compares these positions with the held-out ones.

        Args:
            epoch: for a task with `epochs_differ`.
            index_E: examples by their place before any shuffling.
        """


def check_not_empty(name: str, num_examples: int) -> None:
    """Checks that a task of that name has an example to train on.

    Raises:
        UserError: it has none.
    """
    if not num_examples:
        raise UserError(
            f"{name} has no example: every user needs two training interactions (four in all, with"
            " leave-one-out). Prepare the dataset with a higher --min-user-interactions, or with later"
            " dates of a temporal split"
        )


def held_out_positions(
    dataset: Dataset,
    splits: Splits,
    split: SplitName,
    *,
    seed: int,
    max_examples: int | None = None,
) -> Int64[np.ndarray, " E"]:
    """Flat positions of a split's targets that have a history before them, or a seeded sample of them."""
    targets_U = splits.targets_U(split)
    # A history must not be empty: a temporal split may hold out a user's first interaction.
    positions_E = np.setdiff1d(targets_U[targets_U >= 0], dataset.offsets_U1[:-1])
    if max_examples is not None and max_examples < len(positions_E):
        key = hashing.hash_numbers(seed, SAMPLE)
        chosen = hashing.permute(np.arange(max_examples), len(positions_E), key)
        positions_E = positions_E[np.sort(chosen)]
    return positions_E
