"""Templates with at most a user, a history and a target, as tables: prompts of many templates in one go.

OpenP5 draws among ten templates, so a block of its examples mixes them. A template is a row of small
integer tables here, and the runs of a block are one formula over its template numbers.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from genrec_jax.pipeline.run_book import EMPTY_RUN, PLAIN, RunBook
from genrec_jax.prompts.compiling import CompiledText, Slot
from genrec_jax.prompts.templates import ItemTexts

Pattern = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Programs:
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


def build_programs(
    book: RunBook,
    texts: Sequence[CompiledText],
    item_texts: ItemTexts,
    user_patterns: list[Pattern],
) -> Programs:
    """The tables of some compiled inputs or targets.

    Args:
        book: gets their runs.
        texts: one for each template; an empty one gives a row of empty runs.
        item_texts: how a history's items are written.
        user_patterns: what is glued to a user's text; new ones are added.
    """
    rows = [_program(book, text, item_texts, user_patterns) for text in texts]
    width = max(len(row) for row in rows)
    empty = dict.fromkeys(("user", "target", "first", "last", "slice"), 0)
    padding = {"base": EMPTY_RUN, "single": EMPTY_RUN, **empty}
    table = {
        field: np.array(
            [[part.get(field, 0) for part in row + [padding] * (width - len(row))] for row in rows],
            np.int64,
        ).reshape(len(rows), width)
        for field in padding
    }
    return Programs(
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


def _program(
    book: RunBook, text: CompiledText, item_texts: ItemTexts, user_patterns: list[Pattern]
) -> list[dict[str, int]]:
    parts: list[dict[str, int]] = []
    for part in text:
        if not isinstance(part, Slot):
            parts.append(_run(book.constant(part)))
        elif part.name == "user_id":
            pattern = (part.prefix, part.suffix)
            if pattern not in user_patterns:
                user_patterns.append(pattern)
            parts.append(_run(user_patterns.index(pattern), user=1))
        elif part.name == "target":
            parts.append(_run(book.items(PLAIN, part.prefix, part.suffix), target=1))
        else:
            parts += _history(book, part, item_texts)
    return parts


def _history(book: RunBook, slot: Slot, texts: ItemTexts) -> list[dict[str, int]]:
    """The history's slice, between runs for a first and a last item that carry glued text."""
    parts = [_run(EMPTY_RUN, slice=1)]
    suffix = texts.after_item + slot.suffix
    if slot.prefix:
        first = _run(book.items(texts, slot.prefix, texts.after_item, separated=True), first=1)
        first["single"] = book.items(texts, slot.prefix, suffix)
        parts.insert(0, first)
    if slot.suffix:
        last = _run(book.items(texts, "", suffix), last=1)
        if slot.prefix:  # a single item has its run already
            last["single"] = book.empty_items()
        parts.append(last)
    return parts


def _run(base: int, **entries: int) -> dict[str, int]:
    return {"base": base, "single": base, **entries}
