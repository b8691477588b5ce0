"""Templates that show lists of items: candidates, choices, likes, windows with masked items.

Where `prompt_programs` has one slice for a history, a list is one slice for each of its items, chosen
example by example.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from genrec_jax.errors import UserError
from genrec_jax.pipeline.run_book import EMPTY_RUN, PLAIN, RunBook
from genrec_jax.pipeline.token_runs import RunPlan
from genrec_jax.prompts.compiling import CompiledText, Slot
from genrec_jax.prompts.templates import Template

_LISTS = ("window", "likes", "dislikes", "choices", "masked", "chosen")
Kind = Literal["run", "history", "item", "list", "answer", "planned"]


@runtime_checkable
class Pool(Protocol):
    """Finds runs and histories (`prompt_tables.BoundPrompts`)."""

    def columns(self, runs_EJ: Int[np.ndarray, "E J"]) -> RunPlan:
        """The slices that runs of those numbers are."""
        ...

    def history(self, begin_E: Int[np.ndarray, " E"], end_E: Int[np.ndarray, " E"]) -> RunPlan:
        """The slice of each history."""
        ...


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a compiled text.

    Attributes:
        kind: `run`: always the same run; `history`: a slice of the histories; `item`: one item's run;
            `list`: the runs of several items; `answer`: one of two runs; `planned`: whatever slices the
            caller gives.
        name: of the slot.
        base: the run, or the first run of the table of items (of those before a list's last).
        last: the first run of the table of a list's last item.
        masked: the run in a masked item's place.
    """

    kind: Kind
    name: str = ""
    base: int = EMPTY_RUN
    last: int = EMPTY_RUN
    masked: int = EMPTY_RUN


ListText = tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class ItemLists:
    """The items of one slot, example by example.

    Attributes:
        items_EJ: item numbers; what lies beyond the counts does not matter.
        counts_E: items of each example.
        masked_EJ: which of them are shown as masked; None: none.
    """

    items_EJ: Int[np.ndarray, "E J"]
    counts_E: Int[np.ndarray, " E"]
    masked_EJ: Bool[np.ndarray, "E J"] | None = None


@dataclasses.dataclass(frozen=True)
class Positions:
    """A history: positions of the dataset, from `begin_E` up to `end_E`."""

    begin_E: Int[np.ndarray, " E"]
    end_E: Int[np.ndarray, " E"]


def is_one_item(text: CompiledText) -> bool:
    """Whether a compiled target is an item to be generated, with constant text around it."""
    return [part.name for part in text if isinstance(part, Slot)] == ["target"]


def compile_lists(book: RunBook, text: CompiledText, template: Template) -> ListText:
    """The parts of a compiled text; their runs go into the book.

    Raises:
        UserError: text is glued to a slot that cannot have any.
    """
    return tuple(
        _part(book, part, template)
        if isinstance(part, Slot)
        else Part("run", base=book.constant(part))
        for part in text
    )


def plan(pool: Pool, text: ListText, count: int, values: Mapping[str, Any]) -> RunPlan:
    """Plans one template's text for some examples.

    Args:
        pool: the prompts the text was compiled for, bound to histories.
        text: from `compile_lists`.
        count: how many examples.
        values: for each slot `Positions` (`history`), `ItemLists`, the numbers of items, for an answer
            whether it is the like, or for a planned slot its plan.
    """
    return RunPlan.join([_plan_part(pool, part, count, values.get(part.name)) for part in text])


def fixed_tokens(
    pool: Pool, text: ListText, count: int, values: Mapping[str, Any]
) -> Int[np.ndarray, " E"]:
    """Tokens of what `plan` would plan, without the slots that `values` lacks."""
    parts = [part for part in text if part.kind == "run" or part.name in values]
    return plan(pool, tuple(parts), count, values).lengths_E


def longest(
    run_lengths: Int[np.ndarray, " runs"],
    text: ListText,
    num_items: int,
    counts: Mapping[str, int],
) -> int:
    """A bound on the tokens of a text.

    Args:
        run_lengths: tokens of each run.
        text: from `compile_lists`.
        num_items: items of the catalogue.
        counts: for each list how many items it has at most; lists and other slots that are not named
            are left out.
    """

    def longest_of(base: int, count: int) -> int:
        return int(run_lengths[base : base + count].max(initial=0))

    total = 0
    for part in text:
        if part.kind == "list":
            last = max(longest_of(part.last, num_items), longest_of(part.masked, 2))
            item = max(longest_of(part.base, num_items), longest_of(part.masked, 2))
            count = counts.get(part.name, 0)
            total += item * (count - 1) + last if count else 0
        elif part.kind != "history" and part.kind != "planned":
            width = {"run": 1, "item": num_items, "answer": 2}[part.kind]
            total += longest_of(part.base, width)
    return total


def _plan_part(pool: Pool, part: Part, count: int, value: Any) -> RunPlan:
    if part.kind == "planned":
        return value
    if part.kind == "history":
        return pool.history(value.begin_E, value.end_E)
    if part.kind == "run":
        runs_EJ = np.full((count, 1), part.base)
    elif part.kind == "item":
        runs_EJ = part.base + value[:, None]
    elif part.kind == "answer":
        runs_EJ = part.base + value[:, None].astype(np.int64)
    else:
        place_J = np.arange(value.items_EJ.shape[1])
        last_EJ = place_J == value.counts_E[:, None] - 1
        runs_EJ = np.where(last_EJ, part.last, part.base) + value.items_EJ
        if value.masked_EJ is not None:
            runs_EJ = np.where(value.masked_EJ, part.masked + last_EJ, runs_EJ)
        runs_EJ = np.where(place_J < value.counts_E[:, None], runs_EJ, EMPTY_RUN)
    return pool.columns(runs_EJ)


def _part(book: RunBook, slot: Slot, template: Template) -> Part:
    texts, name = template.texts, slot.name
    if name in ("item", "item_id"):
        written = texts if name == "item" else PLAIN
        return Part("item", name, base=book.items(written, slot.prefix, slot.suffix))
    if name == "answer":
        base = book.text(slot.prefix + texts.dislike + slot.suffix)
        book.text(slot.prefix + texts.like + slot.suffix)
        return Part("answer", name, base=base)
    if slot.prefix or (slot.suffix and name not in (*_LISTS, "candidates")):
        raise UserError(
            f"template {template.id}: {slot.prefix!r} and {slot.suffix!r} are glued to {{{name}}}; wanted"
            " a space between them and the slot"
        )
    if name == "history":
        return Part("history", name)
    if template.task == "mlm":
        return Part("planned", name)
    if name == "candidates":
        base = book.items(PLAIN, "", texts.between_candidates.rstrip())
        return Part("list", name, base=base, last=book.items(PLAIN, "", slot.suffix))
    if name in _LISTS:
        suffix = texts.after_item + slot.suffix
        base = book.items(texts, "", texts.after_item, separated=True)
        last = book.items(texts, "", suffix)
        masked = texts.masked_item + texts.after_item
        run = book.constant(book.vocabulary.encode(masked) + book.separator(texts))
        book.text(texts.masked_item + suffix)
        return Part("list", name, base=base, last=last, masked=run)
    return Part("planned", name)
