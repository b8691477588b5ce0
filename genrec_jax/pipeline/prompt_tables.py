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
from genrec_jax.pipeline import token_runs
from genrec_jax.pipeline.token_runs import TokenRuns
from genrec_jax.prompts import compiling, rendering
from genrec_jax.prompts.compiling import CompiledText, Slot, Tokenizer
from genrec_jax.prompts.templates import Template

Cut = Literal["items", "tokens"]
_SEPARATOR = rendering.HISTORY_SEPARATOR.strip()
_EMPTY_RUN = 0
_EOS_RUN = 1


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Which slices of a pool make up each example; the last one ends in end-of-sequence.

    Attributes:
        starts_EJ: where each slice begins in the pool (J slices an example, some of them empty).
        lengths_EJ: tokens of each slice.
    """

    starts_EJ: Int64[np.ndarray, "E J"]
    lengths_EJ: Int64[np.ndarray, "E J"]

    @property
    def lengths_E(self) -> Int64[np.ndarray, " E"]:
        """Tokens of each example, end-of-sequence included."""
        return self.lengths_EJ.sum(axis=1)

    def take(self, indices_E: Int[np.ndarray, " E2"]) -> "RunPlan":
        """The plan of some of the examples."""
        return RunPlan(self.starts_EJ[indices_E], self.lengths_EJ[indices_E])


@dataclasses.dataclass(frozen=True)
class _Programs:
    """How to find the run of part j of template t: `base + user * user_TJ + item * ...`.

    `single` replaces `base` where a history has one item only. `slice_TJ` marks the part that is a
    slice of the histories; `head_T` and `tail_T` say that its first or last item has a run of its
    own, because the template glues something to it.
    """

    base_TJ: np.ndarray
    single_TJ: np.ndarray
    user_TJ: np.ndarray
    target_TJ: np.ndarray
    first_TJ: np.ndarray
    last_TJ: np.ndarray
    slice_TJ: np.ndarray
    head_T: np.ndarray
    tail_T: np.ndarray


class PromptTables:
    """Every template compiled for one dataset, with every item tokenised in each way it is written.

    Attributes:
        dataset: the dataset's name in prompts.
        templates: the templates; their places here are the template numbers of the methods below.
        separator: the tokens between two items of a history.
        item_runs: each item followed by the separator.
    """

    def __init__(
        self,
        vocabulary: Tokenizer,
        dataset: str,
        item_texts: Sequence[str],
        templates: Sequence[Template],
    ):
        """Compiles and tokenises.

        Raises:
            UserError: as `compiling.compile_template`.
        """
        self.dataset = dataset
        self.templates = tuple(templates)
        self.vocabulary = vocabulary
        self._item_texts = list(item_texts)
        self._compiled = [compiling.compile_template(t, dataset, vocabulary) for t in templates]
        self.separator = vocabulary.encode(_SEPARATOR)
        self._runs: list[Sequence[int]] = [(), (vocabulary.eos_id,)]
        self._item_tables: dict[tuple[str, str, bool], int] = {}
        self.user_patterns: list[tuple[str, str]] = []
        self._inputs = self._programs([c.input for c in self._compiled])
        self._targets = self._programs([c.target for c in self._compiled])
        plain = self._item_table("", "", separated=True)
        self.static_runs = TokenRuns.from_lists(self._runs)
        self.item_runs = self.static_runs.take(np.arange(plain, plain + len(item_texts)))
        pieces = vocabulary.pieces(list(range(vocabulary.size)))
        self.word_starts_V = np.array([piece.startswith("▁") for piece in pieces], np.int32)

    def number_of(self, template_id: str) -> int:
        """The template's number.

        Raises:
            UserError: there is no such template.
        """
        for number, template in enumerate(self.templates):
            if template.id == template_id:
                return number
        known = ", ".join(template.id for template in self.templates)
        raise UserError(f"there is no template {template_id!r}; wanted one of {known}")

    def target_runs(self, template_number: int = 0) -> TokenRuns:
        """Every item's target tokens, dataset's name and end-of-sequence included: a trie's input."""
        bound = self.bind([], np.zeros(0, np.int32))
        items_E = np.arange(len(self._item_texts), dtype=np.int64)
        plan = bound.plan_targets(np.full(len(items_E), template_number), items_E)
        return bound.tokens(plan)

    def bind(self, user_ids: Sequence[str], items_X: Int32[np.ndarray, " X"]) -> "BoundPrompts":
        """Adds users and histories to the pool.

        Args:
            user_ids: the text of `{user_id}` of each user.
            items_X: all histories end to end; histories are ranges of its positions.
        """
        texts = [
            prefix + user + suffix for prefix, suffix in self.user_patterns for user in user_ids
        ]
        users = TokenRuns.from_lists(self.vocabulary.encode_batch(texts) if texts else [])
        return BoundPrompts(self, len(user_ids), users, items_X)

    def _programs(self, texts: list[CompiledText]) -> _Programs:
        rows = [self._program(text) for text in texts]
        width = max(len(row) for row in rows)
        empty = dict.fromkeys(("user", "target", "first", "last", "slice"), 0)
        padding = {"base": _EMPTY_RUN, "single": _EMPTY_RUN, **empty}
        table = {
            field: np.array(
                [
                    [part.get(field, 0) for part in row + [padding] * (width - len(row))]
                    for row in rows
                ],
                np.int64,
            )
            for field in padding
        }
        return _Programs(
            base_TJ=table["base"],
            single_TJ=table["single"],
            user_TJ=table["user"],
            target_TJ=table["target"],
            first_TJ=table["first"],
            last_TJ=table["last"],
            slice_TJ=table["slice"].astype(bool),
            head_T=np.asarray(table["first"].any(axis=1), np.int64),
            tail_T=np.asarray(table["last"].any(axis=1), bool),
        )

    def _program(self, text: CompiledText) -> list[dict[str, int]]:
        parts: list[dict[str, int]] = []
        for part in text:
            if not isinstance(part, Slot):
                self._runs.append(part)
                parts.append(self._run(len(self._runs) - 1))
            elif part.name == "user_id":
                pattern = (part.prefix, part.suffix)
                if pattern not in self.user_patterns:
                    self.user_patterns.append(pattern)
                parts.append(self._run(self.user_patterns.index(pattern), user=1))
            elif part.name == "target":
                parts.append(self._run(self._item_table(part.prefix, part.suffix), target=1))
            else:
                parts += self._history(part)
        return parts

    def _history(self, slot: Slot) -> list[dict[str, int]]:
        """The history's slice, between runs for a first and a last item that carry glued text."""
        parts = [self._run(_EMPTY_RUN, slice=1)]
        if slot.prefix:
            first = self._run(self._item_table(slot.prefix, "", separated=True), first=1)
            first["single"] = self._item_table(slot.prefix, slot.suffix)
            parts.insert(0, first)
        if slot.suffix:
            last = self._run(self._item_table("", slot.suffix), last=1)
            if slot.prefix:  # a single item has its run already
                last["single"] = self._item_table(None, "")
            parts.append(last)
        return parts

    @staticmethod
    def _run(base: int, **entries: int) -> dict[str, int]:
        return {"base": base, "single": base, **entries}

    def _item_table(self, prefix: str | None, suffix: str, *, separated: bool = False) -> int:
        """The first run of a table of all items, written with that prefix and suffix (None: empty runs)."""
        key = ("\0" if prefix is None else prefix, suffix, separated)
        if key not in self._item_tables:
            self._item_tables[key] = len(self._runs)
            if prefix is None:
                self._runs += [()] * len(self._item_texts)
            else:
                texts = [prefix + text + suffix for text in self._item_texts]
                tail = self.separator if separated else []
                self._runs += [[*tokens, *tail] for tokens in self.vocabulary.encode_batch(texts)]
        return self._item_tables[key]


class BoundPrompts:
    """Prompt tables with users and histories: plans prompts and gathers their tokens.

    Attributes:
        tables: the templates and items.
        items_X: all histories end to end.
        eos_start: where the pool has an end-of-sequence by itself.
    """

    def __init__(
        self,
        tables: PromptTables,
        num_users: int,
        user_runs: TokenRuns,
        items_X: Int32[np.ndarray, " X"],
    ):
        """Lays out the pool."""
        self.tables = tables
        self.items_X = items_X
        runs = TokenRuns.concatenate([tables.static_runs, user_runs])
        histories = tables.item_runs.take(items_X)
        self._pool_P = np.concatenate([runs.values_P, histories.values_P])
        self._run_starts, self._run_lengths = runs.offsets_E1[:-1], runs.lengths_E
        self._history_starts = histories.offsets_E1 + len(runs.values_P)
        self.eos_start = int(runs.offsets_E1[_EOS_RUN])
        self._first_user_run = len(tables.static_runs)
        self._num_users = num_users
        self._inputs = self._placed(tables._inputs)
        self._targets = self._placed(tables._targets)

    def plan_inputs(
        self,
        templates_E: Int[np.ndarray, " E"],
        users_E: Int[np.ndarray, " E"],
        begin_E: Int[np.ndarray, " E"],
        end_E: Int[np.ndarray, " E"],
        *,
        max_length: int,
        cut: Cut = "items",
    ) -> RunPlan:
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

        Raises:
            UserError: a prompt is too long with a single item of its history.
        """
        if cut == "tokens":
            return _cut_tokens(
                self._plan_inputs(templates_E, users_E, begin_E, end_E), self, max_length
            )
        begin_E = np.array(begin_E, np.int64)
        while True:
            plan = self._plan_inputs(templates_E, users_E, begin_E, end_E)
            excess_E = plan.lengths_E - max_length
            over = np.flatnonzero(excess_E > 0)
            if not len(over):
                return plan
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

    def plan_targets(
        self, templates_E: Int[np.ndarray, " E"], items_E: Int[np.ndarray, " E"]
    ) -> RunPlan:
        """Plans targets: `items_E` are the items to be generated."""
        programs = self._targets
        runs = programs.base_TJ[templates_E] + programs.target_TJ[templates_E] * items_E[:, None]
        return RunPlan(self._run_starts[runs], self._run_lengths[runs])

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
        longest_user = int(self._run_lengths[self._first_user_run :].max(initial=0))
        for j in range(programs.base_TJ.shape[1]):
            runs = programs.base_TJ[template_numbers, j]
            constant = np.where(
                programs.user_TJ[template_numbers, j] > 0, longest_user, self._run_lengths[runs]
            )
            glued = (programs.first_TJ + programs.last_TJ)[template_numbers, j] > 0
            longest_run = int(self._run_lengths[: self._first_user_run].max(initial=0))
            size += np.where(glued, longest_run, constant)
        return int(size.max(initial=0))

    def _placed(self, programs: _Programs) -> _Programs:
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
        starts_EJ, lengths_EJ = self._run_starts[runs], self._run_lengths[runs]
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
