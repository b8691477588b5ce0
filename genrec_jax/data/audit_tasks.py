"""The leakage audit across tasks: what one task holds out, no task may train on.

A model of several tasks leaks where each splits the log in its own way, as P5's public data does: its
rating examples are split 80/10/10 at random, so many of them are the items that its sequential
prompts hold out for testing (Cao et al. 2024, appendix A.1). Each task looks clean by itself.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int

from genrec_jax.data.audit import AuditResult
from genrec_jax.data.dataset import Dataset

CHECK = "tasks_hold_out_the_same"

Ranges = tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]


def audit_tasks(
    dataset: Dataset, trained: Mapping[str, Ranges], held_out: Mapping[str, Int[np.ndarray, " H"]]
) -> AuditResult:
    """Checks every task's training examples against every task's held-out interactions.

    Args:
        dataset: the log.
        trained: for each task the positions that its training examples are made of, targets included:
            for each example the first one, and one past the last.
        held_out: for each task the positions of its validation and test targets.
    """
    reads = {task: _read_X(dataset, *ranges) for task, ranges in trained.items()}
    for task, read_X in reads.items():
        for other, positions_H in held_out.items():
            seen = positions_H[read_X[positions_H]]
            if len(seen):
                return AuditResult(
                    CHECK,
                    "fail",
                    f"{len(seen):,} of the {len(positions_H):,} interactions that {other} holds out are in"
                    f" the training examples of {task}, the first of them user"
                    f" {int(dataset.users_X[seen[0]])}'s",
                )
    positions = sum(int(read_X.sum()) for read_X in reads.values())
    return AuditResult(
        CHECK,
        "pass",
        f"none of the {positions:,} positions that {', '.join(trained)} train on is held out by"
        f" {', '.join(held_out) or 'any task'}",
    )


def _read_X(
    dataset: Dataset, begin_E: Int[np.ndarray, " E"], end_E: Int[np.ndarray, " E"]
) -> Bool[np.ndarray, " X"]:
    """Which interactions lie in some range."""
    steps = np.zeros(dataset.num_interactions + 1, np.int64)
    np.add.at(steps, begin_E, 1)
    np.add.at(steps, end_E, -1)
    return np.cumsum(steps[:-1]) > 0
