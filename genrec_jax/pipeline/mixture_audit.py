"""Audits a mixture: compares the positions that its examples read with those its tasks hold out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from genrec_jax.data.audit import AuditResult
from genrec_jax.data.audit_tasks import Ranges, audit_tasks
from genrec_jax.data.distinct import distinct
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline.examples import SingleTask
from genrec_jax.pipeline.mixtures import Mixture

EPOCHS = 3
"""Windows of MLM are drawn anew in each epoch; so many epochs are looked at."""

_SPLITS: tuple[SplitName, ...] = ("validation", "test")


def audit_mixture(mixture: Mixture, splits: Sequence[Splits]) -> list[AuditResult]:
    """One result for each dataset of a mixture.

    Args:
        mixture: what training reads.
        splits: for each dataset of the mixture, in its order.
    """
    by_dataset: dict[str, list[SingleTask]] = {}
    for source in mixture.sources:
        by_dataset.setdefault(source.dataset.name, []).extend(source.parts)
    return [
        audit_tasks(
            tasks[0].dataset,
            {task.name: _trained(task) for task in tasks},
            {task.name: held for task in tasks if len(held := _held_out(task, split))}
            | {"the split": np.flatnonzero(~split.in_training_X(tasks[0].dataset))},
        )
        for tasks, split in zip(by_dataset.values(), splits, strict=True)
    ]


def check_mixture(mixture: Mixture, splits: Sequence[Splits]) -> list[AuditResult]:
    """As `audit_mixture`, but raises an error if the audit fails.

    Raises:
        UserError: a task trains on what another holds out.
    """
    results = audit_mixture(mixture, splits)
    for result in results:
        if result.status == "fail":
            raise UserError(
                f"{mixture.name} leaks: {result.detail}. Split the log in one way for all tasks"
            )
    return results


def _trained(task: SingleTask) -> Ranges:
    numbers_E = np.arange(task.num_examples)
    epochs = EPOCHS if task.epochs_differ else 1
    ranges = [task.positions_read(epoch, numbers_E) for epoch in range(epochs)]
    return np.concatenate([r[0] for r in ranges]), np.concatenate([r[1] for r in ranges])


def _held_out(task: SingleTask, splits: Splits) -> Int64[np.ndarray, " H"]:
    positions = [np.zeros(0, np.int64)]
    for split in _SPLITS:
        for held in task.held_out(splits, split):
            _, end_E = held.positions_read(0, np.arange(held.num_examples))
            positions.append(end_E - 1)
    return distinct(np.concatenate(positions))
