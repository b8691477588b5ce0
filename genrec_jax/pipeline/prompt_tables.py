"""Compiled prompts bound to users, items and histories: a prompt becomes a handful of slices of one pool.

The pool holds, end to end: the templates' constant runs, every item's tokens (once for each way a
template writes an item), every user's word, and all histories, each item followed by the
separator. A history is then one slice of the pool, whatever its length.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import SENTINELS
from genrec_jax.pipeline import list_prompts, prompt_programs, token_runs
from genrec_jax.pipeline.prompt_programs import Programs
from genrec_jax.pipeline.run_book import EOS_RUN, RunBook
from genrec_jax.pipeline.token_runs import RunPlan, TokenRuns
from genrec_jax.prompts import compiling
from genrec_jax.prompts.compiling import Tokenizer
from genrec_jax.prompts.templates import LISTING_TASKS, Template, find

Cut = Literal["items", "tokens"]


class PromptTables:
    """Every template compiled for one dataset, with every item tokenised in each way it is written.

    Attributes:
        dataset: the dataset's name in prompts.
        vocabulary: what tokenised.
        templates: the templates; their places here are the template numbers of the methods below.
        separator: the tokens between two items of a history.
        item_runs: each item of a history, followed by the separator.
        static_runs: all runs that no user or history is needed for.
        table_starts: where in them each table of items begins, ascending.
        inputs: prompts without lists of items other than the history, as programs.
        targets: targets that are one item, likewise.
        list_inputs: the other prompts, by template number.
        list_targets: the other targets.
        sentinel_runs: number of the run `<extra_id_0>`, the others following; None: no template or no
            vocabulary has them.
        word_starts_V: which pieces begin a word.
    """

    def __init__(
        self,
        vocabulary: Tokenizer,
        dataset: str,
        item_ids: Sequence[str],
        templates: Sequence[Template],
        titles: Sequence[str | None] | None = None,
    ):
        """Compiles and tokenises.

        Args:
            vocabulary: the run's vocabulary.
            dataset: what `{dataset}` becomes.
            item_ids: the id of each item.
            templates: all of one file: they write items alike.
            titles: the title of each item, where the templates show titles.

        Raises:
            UserError: as `compiling.compile_template`.
        """
        self.dataset = dataset
        self.templates = tuple(templates)
        self.vocabulary = vocabulary
        texts = self.templates[0].texts
        compiled = [compiling.compile_template(t, dataset, vocabulary) for t in templates]
        book = RunBook(vocabulary, item_ids, titles)
        self.separator = book.separator(texts)
        self.user_patterns: list[tuple[str, str]] = []
        lists = {number for number, t in enumerate(templates) if t.task in LISTING_TASKS}
        self.inputs = prompt_programs.build_programs(
            book,
            [() if number in lists else c.input for number, c in enumerate(compiled)],
            texts,
            self.user_patterns,
        )
        self.targets = prompt_programs.build_programs(
            book,
            [c.target if list_prompts.is_one_item(c.target) else () for c in compiled],
            texts,
            self.user_patterns,
        )
        self.list_inputs = {
            n: list_prompts.compile_lists(book, compiled[n].input, compiled[n].template)
            for n in lists
        }
        self.list_targets = {
            n: list_prompts.compile_lists(book, c.target, c.template)
            for n, c in enumerate(compiled)
            if not list_prompts.is_one_item(c.target)
        }
        plain = book.items(texts, "", texts.after_item, separated=True)
        self.sentinel_runs = _sentinels(book) if any(t.task == "mlm" for t in templates) else None
        self.static_runs = book.runs()
        self.table_starts = tuple(book._tables.values())
        self.item_runs = self.static_runs.take(np.arange(plain, plain + len(item_ids)))
        pieces = vocabulary.pieces(list(range(vocabulary.size)))
        self.word_starts_V = np.array([piece.startswith("▁") for piece in pieces], np.int32)

    def number_of(self, template_id: str) -> int:
        """The template's number.

        Raises:
            UserError: there is no such template.
        """
        return self.templates.index(find(self.templates, template_id))

    def target_runs(self) -> TokenRuns:
        """Every item's target tokens, dataset's name and end-of-sequence included: a trie's input."""
        number = next((n for n in range(len(self.templates)) if n not in self.list_targets), None)
        if number is None:
            raise UserError(
                "no template's target is {target}, an item; wanted at least one, because it says how the"
                " catalogue's items are written"
            )
        bound = self.bind([], np.zeros(0, np.int32))
        items_E = np.arange(len(self.item_runs), dtype=np.int64)
        plan = bound.plan_targets(np.full(len(items_E), number), items_E)
        return bound.tokens(plan)

    def bind(
        self,
        user_ids: Sequence[str],
        items_X: Int32[np.ndarray, " X"],
        values: Sequence[str] = (),
    ) -> "BoundPrompts":
        """Adds users, histories and other texts to the pool.

        Args:
            user_ids: the text of `{user_id}` of each user.
            items_X: all histories end to end; histories are ranges of its positions.
            values: further texts that prompts or targets are made of.
        """
        texts = [
            prefix + user + suffix for prefix, suffix in self.user_patterns for user in user_ids
        ]
        texts += values
        extra = TokenRuns.from_lists(self.vocabulary.encode_batch(texts) if texts else [])
        return BoundPrompts(self, len(user_ids), extra, items_X)


def _sentinels(book: RunBook) -> int | None:
    """Adds a run for each of T5's sentinels, from `<extra_id_0>` on; None if there are none."""
    try:
        tokens = [book.vocabulary.id_of(piece) for piece in reversed(SENTINELS)]
    except KeyError:
        return None
    runs = [book.constant([token]) for token in tokens]
    return min(runs)


class BoundPrompts:
    """Prompt tables with users and histories: plans prompts and gathers their tokens.

    Attributes:
        tables: the templates and items.
        items_X: all histories end to end.
        run_lengths: tokens of each run.
        eos_start: where the pool has an end-of-sequence by itself.
    """

    def __init__(
        self,
        tables: PromptTables,
        num_users: int,
        extra_runs: TokenRuns,
        items_X: Int32[np.ndarray, " X"],
    ):
        """Lays out the pool; `extra_runs` are the users' and then the values'."""
        self.tables = tables
        self.items_X = items_X
        runs = TokenRuns.concatenate([tables.static_runs, extra_runs])
        histories = tables.item_runs.take(items_X)
        self._pool_P = np.concatenate([runs.values_P, histories.values_P])
        self._run_starts, self.run_lengths = runs.offsets_E1[:-1], runs.lengths_E
        self._history_starts = histories.offsets_E1 + len(runs.values_P)
        self.eos_start = int(runs.offsets_E1[EOS_RUN])
        self._first_user_run = len(tables.static_runs)
        self._num_users = num_users
        self._first_value_run = self._first_user_run + num_users * len(tables.user_patterns)
        self._inputs = self._placed(tables.inputs)
        self._targets = self._placed(tables.targets)

    def plan_inputs(
        self,
        templates_E: Int[np.ndarray, " E"],
        users_E: Int[np.ndarray, " E"],
        begin_E: Int[np.ndarray, " E"],
        end_E: Int[np.ndarray, " E"],
        *,
        max_length: int,
        cut: Cut = "items",
    ) -> tuple[RunPlan, Bool[np.ndarray, " E"]]:
        """Plans prompts.

        Args:
            templates_E: template numbers.
            users_E: users, as places in what was bound.
            begin_E: first position of each history; templates without a history ignore it.
            end_E: position after the last; a history that a template shows has at least one item.
            max_length: tokens a prompt may have, end-of-sequence included.
            cut: how a longer one is shortened: `items` drops whole items, the oldest first, so that
                the question and the newest items stay; `tokens` keeps the first tokens, as the
                OpenP5 repository does.

        Returns:
            The plan, and which prompts were shortened.

        Raises:
            UserError: a prompt is too long with a single item of its history.
        """
        if cut == "tokens":
            plan = self._plan_inputs(templates_E, users_E, begin_E, end_E)
            return _cut_tokens(plan, self, max_length), plan.lengths_E > max_length
        wanted_E, begin_E = begin_E, np.array(begin_E, np.int64)
        while True:
            plan = self._plan_inputs(templates_E, users_E, begin_E, end_E)
            excess_E = plan.lengths_E - max_length
            over = np.flatnonzero(excess_E > 0)
            if not len(over):
                return plan, begin_E > wanted_E
            if (stuck := over[begin_E[over] >= end_E[over] - 1]).size:
                template = self.tables.templates[int(templates_E[stuck[0]])]
                raise UserError(
                    f"a prompt of template {template.id} has {max_length + int(excess_E[stuck[0]])} tokens"
                    f" even with one item of history; the inputs' limit is {max_length}. Raise"
                    " max_input_length"
                )
            wanted = self._history_starts[begin_E[over]] + excess_E[over]
            shorter = np.searchsorted(self._history_starts, wanted)
            begin_E[over] = np.clip(shorter, begin_E[over] + 1, end_E[over] - 1)

    def columns(self, runs_EJ: Int[np.ndarray, "E J"]) -> RunPlan:
        """The slices that runs of those numbers are."""
        return RunPlan(self._run_starts[runs_EJ], self.run_lengths[runs_EJ])

    def values(self, numbers_E: Int[np.ndarray, " E"]) -> RunPlan:
        """The slices of the bound texts of those numbers."""
        return self.columns(self._first_value_run + numbers_E[:, None])

    def history(self, begin_E: Int[np.ndarray, " E"], end_E: Int[np.ndarray, " E"]) -> RunPlan:
        """Histories of at least one item: a slice each, without the separator after the last."""
        starts_E = self._history_starts[begin_E]
        lengths_E = self._history_starts[end_E] - starts_E - len(self.tables.separator)
        return RunPlan(starts_E[:, None], lengths_E[:, None])

    def cut_oldest(
        self,
        begin_E: Int[np.ndarray, " E"],
        end_E: Int[np.ndarray, " E"],
        room_E: Int[np.ndarray, " E"],
    ) -> Int64[np.ndarray, " E"]:
        """The start of each history after dropping the oldest items that exceed a number of tokens.

        Args:
            begin_E: first position of each.
            end_E: position after the last.
            room_E: tokens that each may have.

        Returns:
            Positions; `end_E` where not even the newest item fits.
        """
        wanted = self._history_starts[end_E] - len(self.tables.separator) - room_E
        first_E = np.searchsorted(self._history_starts, wanted)
        return np.clip(first_E, begin_E, end_E)

    def plan_targets(
        self, templates_E: Int[np.ndarray, " E"], items_E: Int[np.ndarray, " E"]
    ) -> RunPlan:
        """Plans targets: `items_E` are the items to be generated."""
        programs = self._targets
        runs = programs.base_TJ[templates_E] + programs.target_TJ[templates_E] * items_E[:, None]
        return RunPlan(self._run_starts[runs], self.run_lengths[runs])

    def tokens(self, plan: RunPlan) -> TokenRuns:
        """The tokens of planned examples."""
        values_P = token_runs.gather(self._pool_P, plan.starts_EJ.ravel(), plan.lengths_EJ.ravel())
        return TokenRuns(values_P, token_runs.offsets_of(plan.lengths_E))

    def whole_words(self, inputs: TokenRuns) -> Int32[np.ndarray, " P"]:
        """The index of each token's word within its prompt, from 1; 0 at end-of-sequence.

        A word begins at every token whose piece begins with "▁" (the OpenP5 repository's rule). There
        is no upper bound here: the model clips indexes to its table.
        """
        starts_P = self.tables.word_starts_V[inputs.values_P]
        words_P = np.cumsum(starts_P, dtype=np.int32)
        begins_E, lengths_E = inputs.offsets_E1[:-1], inputs.lengths_E
        words_P -= np.repeat(words_P[begins_E] - starts_P[begins_E], lengths_E)
        words_P[inputs.offsets_E1[1:] - 1] = 0
        return words_P

    def history_tokens(
        self, begin_E: Int[np.ndarray, " E"], end_E: Int[np.ndarray, " E"]
    ) -> Int64[np.ndarray, " E"]:
        """Tokens of histories, separators included."""
        return self._history_starts[end_E] - self._history_starts[begin_E]

    def longest_fixed(self, template_numbers: Int[np.ndarray, " T"]) -> int:
        """A bound on the tokens of those templates' prompts apart from what `history_tokens` counts."""
        programs = self._inputs
        size = np.zeros(len(template_numbers), np.int64)
        longest_user = int(self.run_lengths[self._first_user_run :].max(initial=0))
        for j in range(programs.base_TJ.shape[1]):
            runs = programs.base_TJ[template_numbers, j]
            constant = np.where(
                programs.user_TJ[template_numbers, j] > 0, longest_user, self.run_lengths[runs]
            )
            glued = (programs.first_TJ + programs.last_TJ)[template_numbers, j] > 0
            longest_run = int(self.run_lengths[: self._first_user_run].max(initial=0))
            size += np.where(glued, longest_run, constant)
        return int(size.max(initial=0))

    def _placed(self, programs: Programs) -> Programs:
        is_user: Bool[np.ndarray, "T J"] = programs.user_TJ > 0
        base = np.where(
            is_user, self._first_user_run + programs.base_TJ * self._num_users, programs.base_TJ
        )
        single = np.where(is_user, base, programs.single_TJ)
        return dataclasses.replace(programs, base_TJ=base, single_TJ=single)

    def _plan_inputs(self, templates_E, users_E, begin_E, end_E) -> RunPlan:
        programs = self._inputs
        runs = programs.base_TJ[templates_E]
        runs += programs.user_TJ[templates_E] * users_E[:, None]
        head_E, tail_E = programs.head_T[templates_E], programs.tail_T[templates_E]
        if head_E.any() or tail_E.any():
            single_E = end_E - begin_E == 1
            runs = np.where(
                single_E[:, None] & (programs.user_TJ[templates_E] == 0),
                programs.single_TJ[templates_E],
                runs,
            )
            runs += programs.first_TJ[templates_E] * self.items_X[begin_E][:, None]
            runs += programs.last_TJ[templates_E] * self.items_X[end_E - 1][:, None]
        starts_EJ, lengths_EJ = self._run_starts[runs], self.run_lengths[runs]
        slice_EJ = programs.slice_TJ[templates_E]
        if slice_EJ.any():
            begins_E = self._history_starts[np.minimum(begin_E + head_E, end_E)]
            separator = len(self.tables.separator)
            ends_E = np.where(
                tail_E,
                self._history_starts[np.maximum(end_E - 1, 0)],
                self._history_starts[end_E] - separator,
            )
            starts_EJ = np.where(slice_EJ, begins_E[:, None], starts_EJ)
            lengths_EJ = np.where(slice_EJ, np.maximum(ends_E - begins_E, 0)[:, None], lengths_EJ)
        return RunPlan(starts_EJ, lengths_EJ)


def _cut_tokens(plan: RunPlan, bound: BoundPrompts, max_length: int) -> RunPlan:
    """Keeps the first `max_length - 1` tokens and puts end-of-sequence after them."""
    over_E = plan.lengths_E > max_length
    if not over_E.any():
        return plan
    ends_EJ = np.minimum(np.cumsum(plan.lengths_EJ, axis=1), max_length - 1)
    cut_EJ = np.diff(ends_EJ, axis=1, prepend=0)
    # Every prompt ends in end-of-sequence, which its last non-empty slice ends in.
    lengths_EJ = np.where(over_E[:, None], cut_EJ, plan.lengths_EJ)
    eos_E1 = np.where(over_E, bound.eos_start, 0)[:, None]
    return RunPlan(
        np.concatenate([plan.starts_EJ, eos_E1], axis=1),
        np.concatenate([lengths_EJ, over_E.astype(np.int64)[:, None]], axis=1),
    )
