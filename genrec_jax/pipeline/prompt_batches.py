"""Prompts for recommending: any history and user, known or new, as tokens and as padded batches."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import packing, prompt_picks, token_runs
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.pipeline.openp5 import MAX_INPUT_LENGTH
from genrec_jax.pipeline.prompt_tables import Cut, PromptTables
from genrec_jax.pipeline.token_runs import TokenRuns
from genrec_jax.prompts import rendering
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.prompts.compiling import Tokenizer
from genrec_jax.prompts.templates import Template

_LENGTH_MULTIPLE = 8
_MAX_SHAPES = 4


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Some prompts, as ragged tokens.

    Attributes:
        inputs: tokens, each prompt ending in end-of-sequence.
        whole_words: for each token the index of its word (see `Batch`).
    """

    inputs: TokenRuns
    whole_words: TokenRuns

    def __len__(self) -> int:
        return len(self.inputs)

    def padded(
        self,
        rows: int,
        length: int,
        *,
        users_E: Int[np.ndarray, " E"],
        targets_E: Int[np.ndarray, " E"],
    ) -> PromptBatch:
        """A batch of `rows` rows of `length` tokens; rows beyond the prompts are padding.

        Args:
            rows: at least the number of prompts.
            length: at least the longest prompt.
            users_E: user numbers; -1 for a new user.
            targets_E: items to be found; -1 where there is none.
        """
        count = len(self)

        def fill(values_E: np.ndarray) -> np.ndarray:
            filled = np.full(rows, -1, np.int32)
            filled[:count] = values_E
            return filled

        def pad(runs: TokenRuns) -> np.ndarray:
            padded = np.zeros((rows, length), np.int32)
            padded[:count] = runs.padded(length)
            return padded

        return PromptBatch(pad(self.inputs), pad(self.whole_words), fill(users_E), fill(targets_E))


class PromptAssembler:
    """Makes prompts of one dataset; needs what a run dir holds, and no dataset.

    Attributes:
        tables: the compiled templates and tokenised items.
        added: the same of items that came later (`extended`), whose numbers go on; None: none did.
        history: items a prompt shows at most, the newest.
        max_input_length: tokens of a prompt at most.
        cut: what a longer one loses.
    """

    def __init__(
        self,
        vocabulary: Tokenizer,
        item_texts: Sequence[str],
        templates: Sequence[Template],
        dataset_name: str,
        history: int = 20,
        *,
        max_input_length: int = MAX_INPUT_LENGTH,
        cut: Cut = "items",
        titles: Sequence[str | None] | None = None,
    ):
        """Compiles the templates and tokenises the items.

        Args:
            vocabulary: the run's vocabulary.
            item_texts: the text of each item (`ItemIds.texts`).
            templates: the run's templates, seen and unseen.
            dataset_name: what `{dataset}` becomes.
            history: items a prompt shows at most.
            max_input_length: tokens of a prompt at most.
            cut: what a longer one loses; see `BoundPrompts.plan_inputs`.
            titles: the title of each item (`ItemIds.titles`), for templates that show titles.
        """
        self.tables = PromptTables(vocabulary, dataset_name, item_texts, templates, titles)
        self.added: PromptTables | None = None
        self.history = history
        self.max_input_length = max_input_length
        self.cut: Cut = cut

    @property
    def num_items(self) -> int:
        """Items there are, added ones included."""
        return len(self.tables.item_runs) + (len(self.added.item_runs) if self.added else 0)

    def extended(
        self, item_texts: Sequence[str], titles: Sequence[str | None] | None = None
    ) -> "PromptAssembler":
        """An assembler with more items, which get the next numbers; this one stays as it is.

        It takes time by the items added since the first assembler, not by those that were in it.

        Args:
            item_texts: the text of each added item.
            titles: the title of each, for templates that show titles.
        """
        known = self.tables
        more = PromptTables(known.vocabulary, known.dataset, item_texts, known.templates, titles)
        if self.added is not None:
            both = [self.added, more]
            more = prompt_picks.pick(both, [np.arange(len(one.item_runs)) for one in both])
        extended = copy.copy(self)
        extended.added = more
        return extended

    def target_runs(self, begin: int = 0) -> TokenRuns:
        """Every item's target tokens, with the dataset's name and end-of-sequence: the trie's input.

        Args:
            begin: the first item wanted; those that follow are, too.
        """
        return self._tables_of(np.arange(begin, self.num_items)).target_runs()

    def assemble(
        self,
        template_id: str,
        users: Int[np.ndarray, " E"] | Sequence[str] | None,
        histories: Sequence[Int[np.ndarray, " _"]],
    ) -> Prompts:
        """Makes one prompt for each history.

        Args:
            template_id: which template.
            users: user numbers (-1: a new user), or the texts of `{user_id}`, or None: all new. A new
                user is written `0`, a number that no trained user has.
            histories: item numbers, oldest first; only the newest `history` are shown.

        Raises:
            UserError: an unknown template, an item number out of range, or an empty history where
                the template shows one.
        """
        number = self.tables.number_of(template_id)
        count = len(histories)
        if users is None:
            users = np.full(count, rendering.UNKNOWN_USER)
        user_ids = [
            user if isinstance(user, str) else rendering.user_id_text(int(user)) for user in users
        ]
        shown = [np.asarray(history, np.int32)[-self.history :] for history in histories]
        lengths_E = np.array([len(history) for history in shown], np.int64)
        items_X = np.concatenate([np.zeros(0, np.int32), *shown])
        if len(items_X) and (items_X.min() < 0 or items_X.max() >= self.num_items):
            raise UserError(
                f"a history has item {int(items_X.min() if items_X.min() < 0 else items_X.max())}; wanted"
                f" item numbers from 0 to {self.num_items - 1}"
            )
        template = self.tables.templates[number]
        if template.task not in templates_lib.SEARCHED_TASKS:
            raise UserError(
                f"template {template_id} is of the task {template.task}, whose prompts hold more than a"
                f" history; wanted one of {', '.join(templates_lib.SEARCHED_TASKS)}"
            )
        if "{history}" in template.input and not lengths_E.all():
            raise UserError(
                f"template {template_id} shows the history, and history {int(lengths_E.argmin())} is empty."
                " Give at least one item, or use a straightforward template such as B1"
            )
        offsets_E1 = token_runs.offsets_of(lengths_E)
        distinct = {text: place for place, text in enumerate(dict.fromkeys(user_ids))}
        shown_I, places_X = np.unique(items_X, return_inverse=True)
        bound = self._tables_of(shown_I).bind(list(distinct), places_X.astype(np.int32))
        plan, _ = bound.plan_inputs(
            np.full(count, number),
            np.array([distinct[text] for text in user_ids], np.int64),
            offsets_E1[:-1],
            offsets_E1[1:],
            max_length=self.max_input_length,
            cut=self.cut,
        )
        inputs = bound.tokens(plan)
        return Prompts(inputs, TokenRuns(bound.whole_words(inputs), inputs.offsets_E1))

    def _tables_of(self, items_I: Int[np.ndarray, " I"]) -> PromptTables:
        """The tables of these items alone, given ascending: the pool of a request stays small."""
        if self.added is None:
            return prompt_picks.pick([self.tables], [items_I])
        known = len(self.tables.item_runs)
        first, later = np.split(items_I, [np.searchsorted(items_I, known)])
        return prompt_picks.pick([self.tables, self.added], [first, later - known])


def prompt_batches(
    assembler: PromptAssembler,
    dataset: Dataset,
    splits: Splits,
    split: SplitName,
    template_id: str,
    batch_size: int,
    *,
    users: Int[np.ndarray, " U"] | None = None,
    host: int = 0,
    num_hosts: int = 1,
) -> Iterator[PromptBatch]:
    """Every user's prompt for one split, longest first, in batches of one size and few lengths.

    The history is everything before the target (for the test split that holds the validation item). A
    user whom training did not see is a new one.

    Args:
        assembler: of the same dataset.
        dataset: the dataset.
        splits: its splits.
        split: which targets.
        template_id: which template.
        batch_size: rows of a batch over all hosts; the last batch is filled with rows of user -1.
        users: only these users; None: every user with a target and a history.
        host: which host this is.
        num_hosts: how many there are; each gets its contiguous rows.

    Raises:
        UserError: the batch does not divide among the hosts, or no user has a target.
    """
    if batch_size < 1 or batch_size % num_hosts:
        raise UserError(
            f"the batch of {batch_size} does not divide among {num_hosts} hosts; wanted a multiple of"
            f" {num_hosts}, at least {num_hosts}"
        )
    end_U = splits.targets_U(split)
    chosen = np.flatnonzero(end_U > dataset.offsets_U1[:-1])
    if users is not None:
        chosen = np.intersect1d(chosen, users)
    if not len(chosen):
        raise UserError(f"no user has a {split} target with a history before it")
    begin = np.maximum(end_U[chosen] - assembler.history, dataset.offsets_U1[chosen])
    histories = [dataset.items_X[a:b] for a, b in zip(begin, end_U[chosen], strict=True)]
    known = np.where(splits.trained_U(dataset)[chosen], chosen, rendering.UNKNOWN_USER)
    prompts = assembler.assemble(template_id, known, histories)
    order = np.argsort(-prompts.inputs.lengths_E, kind="stable")
    targets = dataset.items_X[end_U[chosen]]
    lengths = packing.round_up(prompts.inputs.lengths_E[order[::batch_size]], _LENGTH_MULTIPLE)
    ladder = packing.fit_ladder(lengths, int(lengths.max()), steps=_MAX_SHAPES)
    rows = batch_size // num_hosts
    for first, length in zip(range(0, len(order), batch_size), lengths, strict=True):
        mine = order[first + host * rows : min(first + (host + 1) * rows, first + batch_size)]
        part = Prompts(prompts.inputs.take(mine), prompts.whole_words.take(mine))
        yield part.padded(
            rows,
            packing.rung(ladder, int(length)),
            users_E=chosen[mine],
            targets_E=targets[mine],
        )
