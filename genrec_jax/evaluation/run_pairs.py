"""Two runs on the same users, compared user by user: their lists joined, each metric's paired difference.

Users are known by their numbers, which only datasets of one fingerprint share. Rankings of candidates are
left out: each run draws its own.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec_jax.errors import UserError
from genrec_jax.evaluation import intervals, results
from genrec_jax.evaluation.metrics import metric_names
from genrec_jax.evaluation.stored import Stored

MUST_AGREE = ("split", "protocol")
RANKS = dict(zip(results.FOOTINGS, ("rank", "rank_seen_excluded"), strict=True))


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the model of one run.

    Attributes:
        name: what to call the run.
        stored: its evaluation.
        system: the row, such as `model/sequential/A1`.
    """

    name: str
    stored: Stored
    system: str


def comparable(one: Stored, other: Stored) -> str | None:
    """Why two evaluations cannot be joined by user; None where they can."""
    pairs = [(key, one.metrics[key], other.metrics[key]) for key in MUST_AGREE]
    marks = (evaluation.metrics["dataset"]["fingerprint"] for evaluation in (one, other))
    pairs.append(("dataset fingerprint", *marks))
    differing = [f"{key} is {a!r} and {b!r}" for key, a, b in pairs if a != b]
    return "; ".join(differing) or None


def shared_systems(one: Stored, other: Stored) -> list[str]:
    """Rows of the model that both evaluations have, over the catalogue."""
    return [
        system
        for system in one.metrics["systems"]
        if system.startswith("model/")
        and system in other.metrics["systems"]
        and results.pool_of(system, one.metrics) == "catalogue"
    ]


def compare(
    one: Row, other: Row, config: intervals.BootstrapConfig | None = None
) -> list[dict[str, Any]]:
    """Every metric of one run's row less the other's, on the users that both scored.

    Args:
        one: a row.
        other: another run's; its template may be another.
        config: of intervals and tests.

    Returns:
        Entries as in `paired` of metrics.json, for each footing that both have; `a` and `b` are the runs.

    Raises:
        UserError: the runs share no users, or these have other targets.
    """
    named = f"{one.name} and {other.name} cannot be compared user by user"
    problem = comparable(one.stored, other.stored)
    if problem is not None:
        raise UserError(
            f"{named}: {problem}. Users' numbers mean the same only in one dataset: evaluate both runs on"
            " one, with the same split"
        )
    tables = [_ranks(row) for row in (one, other)]
    keys = [table["key"].to_numpy() for table in tables]
    _, rows_a, rows_b = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    if not len(rows_a):
        raise UserError(
            f"{named}: they scored no user in common. Evaluate both without --max-users"
        )
    a, b = tables[0].take(rows_a), tables[1].take(rows_b)
    if not a["target"].equals(b["target"]):
        raise UserError(f"{named}: {one.system} and {other.system} ask for other items")
    config = config or intervals.BootstrapConfig()
    max_rank = min(row.stored.metrics["num_beams"] for row in (one, other))
    entries = []
    for footing, column in RANKS.items():
        if a[column].null_count or b[column].null_count:
            continue  # nobody knows whose history it is
        for found in intervals.paired(
            a[column].to_numpy(),
            b[column].to_numpy(),
            metric_names(max_rank),
            config,
            max_rank,
        ):
            pair = {"a": one.name, "b": other.name, "footing": footing}
            entries.append(pair | dataclasses.asdict(found))
    return entries


def compare_all(
    evaluations: Sequence[tuple[str, Stored]],
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Each row of the model that two runs share, for each pair of runs: the row, and its comparisons.

    Args:
        evaluations: what to call each run, and its evaluation.

    Raises:
        UserError: two of them cannot be compared.
    """
    made = []
    for (name, one), (other_name, other) in itertools.combinations(evaluations, 2):
        systems = shared_systems(one, other)
        if not systems:
            raise UserError(
                f"{name} and {other_name} share no prompt over the catalogue; evaluate both with the same"
                " --templates"
            )
        for system in systems:
            rows = (Row(name, one, system), Row(other_name, other, system))
            made.append((system, compare(*rows)))
    return made


def _ranks(row: Row) -> pa.Table:
    """The ranks of one row, with the number of the user, or else of the example, as `key`."""
    columns = ["user", "example", "template", "target", *RANKS.values()]
    table = row.stored.predictions(columns)
    table = table.filter(pc.equal(table["template"], row.system.rpartition("/")[2]))
    # A user may have several examples of a task.
    return table.append_column("key", pc.coalesce(table["example"], table["user"]))
