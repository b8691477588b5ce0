"""Prompt tables for only the items of a request's histories, from a large catalogue."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from genrec_jax.pipeline.list_prompts import ListText
from genrec_jax.pipeline.prompt_programs import Programs
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.pipeline.token_runs import TokenRuns


def pick(tables: Sequence[PromptTables], items: Sequence[Int[np.ndarray, " _"]]) -> PromptTables:
    """Tables of some items of each of several tables, numbered anew from 0, one after the other.

    Args:
        tables: of the same vocabulary, dataset and templates.
        items: which items of each, in the order wanted.
    """
    first = tables[0]
    num_items = len(first.item_runs)
    parts, begin = [], 0
    for number, start in enumerate(first.table_starts):
        parts.append(first.static_runs.take(np.arange(begin, start)))
        parts += [
            own.static_runs.take(own.table_starts[number] + picked)
            for own, picked in zip(tables, items, strict=True)
        ]
        begin = start + num_items
    parts.append(first.static_runs.take(np.arange(begin, len(first.static_runs))))
    more = sum(map(len, items)) - num_items

    def move(runs: Any) -> Any:
        """Numbers of runs, which lie behind as many tables as begin before them."""
        return runs + more * np.searchsorted(first.table_starts, runs)

    def move_program(programs: Programs) -> Programs:
        # A user's part has the number of a pattern there, not of a run.
        is_user = programs.user_TJ > 0
        return dataclasses.replace(
            programs,
            base_TJ=np.where(is_user, programs.base_TJ, move(programs.base_TJ)),
            single_TJ=np.where(is_user, programs.single_TJ, move(programs.single_TJ)),
        )

    def move_list(text: ListText) -> ListText:
        return tuple(
            dataclasses.replace(
                part,
                base=int(move(part.base)),
                last=int(move(part.last)),
                masked=int(move(part.masked)),
            )
            for part in text
        )

    made = copy.copy(first)
    made.static_runs = TokenRuns.concatenate(parts)
    made.item_runs = TokenRuns.concatenate(
        [own.item_runs.take(picked) for own, picked in zip(tables, items, strict=True)]
    )
    made.table_starts = tuple(
        start + more * number for number, start in enumerate(first.table_starts)
    )
    made.inputs, made.targets = move_program(first.inputs), move_program(first.targets)
    made.list_inputs = {n: move_list(text) for n, text in first.list_inputs.items()}
    made.list_targets = {n: move_list(text) for n, text in first.list_targets.items()}
    if first.sentinel_runs is not None:
        made.sentinel_runs = int(move(first.sentinel_runs))
    return made
