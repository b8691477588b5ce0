"""Two runs on the same users, compared user by user: their lists joined, each metric's paired difference.

Users are known by their numbers, which only datasets of one fingerprint share. Rankings of candidates are
compared where both runs ranked the same ones. The file of `genrec evaluate --compare FILE` is

    {
      "format_version": 1,
      "runs": [{"run_dir": "runs/a", "step": 12000, "parameters": "..."}, ...],
      "split": "test", "protocol": ..., "max_users": ..., "sample_seed": ..., "dtype": ...,
      "interval": {...}, "num_beams": 20, "length_penalty": 0.0, "finish_within_beams": false,
      "exact_exclusion": false,
      "paired": [{"dataset": "Beauty", "system": "model/sequential/A1", "a": "runs/a", "b": "runs/b",
                  "footing": "seen_kept", "metric": "hr@10", "difference": .01, "low": ..., "high": ...,
                  "p_value": ..., "count": 22363}, ...]
    }

with a figure of `a` less that of `b`, and all else as in metrics.json (`results`).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec_jax.errors import UserError
from genrec_jax.evaluation import intervals, results
from genrec_jax.evaluation.metrics import metric_names
from genrec_jax.evaluation.stored import Stored

FORMAT_VERSION = 1
MUST_AGREE = ("split", "protocol", "max_users", "sample_seed", "dtype", "interval")
SEARCH = ("num_beams", "length_penalty", "finish_within_beams", "exact_exclusion")
RANKS = dict(zip(results.FOOTINGS, ("rank", "rank_seen_excluded"), strict=True))

Metrics = Mapping[str, Any]
"""A metrics.json, or what is known of one before its evaluation (`description.foreseen`)."""


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


def comparable(one: Metrics, other: Metrics) -> str | None:
    """Why two evaluations cannot be joined by user; None where they can."""
    pairs = [(key, one.get(key), other.get(key)) for key in MUST_AGREE]
    marks = (metrics.get("dataset", {}).get("fingerprint") for metrics in (one, other))
    pairs.append(("dataset fingerprint", *marks))
    differing = [f"{key} is {a!r} and {b!r}" for key, a, b in pairs if a != b]
    if not differing:
        return None
    return (
        f"{'; '.join(differing)}. Users' numbers mean the same only in one dataset: evaluate both runs on"
        " one, with the same --split, --max-users, --seed, --dtype and settings of intervals"
    )


def shared_systems(name: str, one: Metrics, other_name: str, other: Metrics) -> list[str]:
    """Rows of the model that two evaluations have and that can be compared.

    Args:
        name: what to call one run.
        one: its metrics.
        other_name: what to call the other.
        other: its metrics.

    Raises:
        UserError: the evaluations cannot be joined by user, or there is no such row.
    """
    refused = _refused(name, other_name)
    problem = comparable(one, other)
    if problem is not None:
        raise UserError(f"{refused}: {problem}")
    rows, other_rows = (
        [system for system in metrics["systems"] if system.startswith("model/")]
        for metrics in (one, other)
    )
    shared = [system for system in rows if system in other_rows]
    problems = {system: _other_question(one, system, other, system) for system in shared}
    fitting = [system for system, problem in problems.items() if problem is None]
    if fitting:
        return fitting
    told = [f"{system}: {problem}" for system, problem in problems.items()] or [
        f"they share no prompt, for the first has {', '.join(rows) or 'none'} and the second"
        f" {', '.join(other_rows) or 'none'}. Name with --templates one that both have"
    ]
    raise UserError(f"{refused}: {'; '.join(told)}")


def check(evaluations: Sequence[tuple[str, Metrics]]) -> None:
    """Refuses evaluations, made or to come, two of which cannot be compared.

    Args:
        evaluations: what to call each run, and its metrics. Where the systems of one are not known yet,
            these are not looked at.

    Raises:
        UserError: it names the two and says why.
    """
    for (name, one), (other_name, other) in itertools.combinations(evaluations, 2):
        if "systems" in one and "systems" in other:
            shared_systems(name, one, other_name, other)
        elif (problem := comparable(one, other)) is not None:
            raise UserError(f"{_refused(name, other_name)}: {problem}")


def compare(one: Row, other: Row) -> list[dict[str, Any]]:
    """Every metric of one run's row less the other's; intervals and tests are made as the runs' own were.

    Args:
        one: a row.
        other: another run's; its template may be another.

    Returns:
        Entries as in `paired` of metrics.json, for each footing that both have; `a` and `b` are the runs.

    Raises:
        UserError: the runs scored other users, or these have other targets or candidates.
    """
    refused = _refused(one.name, other.name)
    metrics, other_metrics = one.stored.metrics, other.stored.metrics
    problem = comparable(metrics, other_metrics) or _other_question(
        metrics, one.system, other_metrics, other.system
    )
    if problem is not None:
        raise UserError(f"{refused}: {problem}")
    a, b = (_ranks(row) for row in (one, other))
    if not a["key"].equals(b["key"]):
        common = len(np.intersect1d(a["key"].to_numpy(), b["key"].to_numpy()))
        raise UserError(
            f"{refused}: they scored other users, {len(a)} and {len(b)}, of whom {common} are the same."
            " Evaluate both again, with the same --max-users and --seed or without"
        )
    if not a["target"].equals(b["target"]):
        raise UserError(f"{refused}: {one.system} and {other.system} ask for other items")
    max_rank = min(row.stored.metrics["num_beams"] for row in (one, other))
    of_candidates = results.pool_of(one.system, metrics) == "candidates"
    entries = []
    for footing, column in RANKS.items():
        if a[column].null_count or b[column].null_count:
            continue  # nobody knows whose history it is
        if of_candidates and footing == "seen_excluded":
            continue  # negatives are none of the user's items: there is nothing to strike
        for found in intervals.paired(
            a[column].to_numpy(),
            b[column].to_numpy(),
            metric_names(max_rank),
            _intervals(metrics),
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
        for system in shared_systems(name, one.metrics, other_name, other.metrics):
            rows = (Row(name, one, system), Row(other_name, other, system))
            made.append((system, compare(*rows)))
    return made


def content(evaluations: Sequence[Metrics], paired: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The file's content.

    Args:
        evaluations: one of each run, of any dataset, made by one command.
        paired: the entries of `compare_all`, each with its `dataset` and `system`.
    """
    return {
        "format_version": FORMAT_VERSION,
        "runs": [{key: m[key] for key in ("run_dir", "step", "parameters")} for m in evaluations],
        **{key: evaluations[0][key] for key in (*MUST_AGREE, *SEARCH)},
        "paired": list(paired),
    }


def _refused(name: str, other_name: str) -> str:
    return f"{name} and {other_name} cannot be compared user by user"


def _other_question(one: Metrics, system: str, other: Metrics, other_system: str) -> str | None:
    """Why two rows do not rank the same items; None where they do."""
    pools = (results.pool_of(system, one), results.pool_of(other_system, other))
    if pools[0] != pools[1]:
        return f"{system} ranks the {pools[0]} and {other_system} the {pools[1]}"
    asked = [metrics.get("candidates") for metrics in (one, other)]
    if pools[0] == "catalogue" or (None not in asked and asked[0] == asked[1]):
        return None
    told = [
        "unknown" if of_run is None else f"{of_run['number']} drawn with seed {of_run['seed']}"
        for of_run in asked
    ]
    return (
        f"the users' candidates are {told[0]} and {told[1]}. Compare runs that rank the same; where they"
        " are unknown, evaluate again"
    )


def _intervals(metrics: Metrics) -> intervals.BootstrapConfig:
    """How an evaluation made its own intervals."""
    of_run = metrics["interval"]
    names = [field.name for field in dataclasses.fields(intervals.BootstrapConfig)]
    return intervals.BootstrapConfig(**{name: of_run[name] for name in names})


def _ranks(row: Row) -> pa.Table:
    """The ranks of one row, by the number of the user, or else of the example: `key`."""
    columns = ["user", "example", "template", "target", *RANKS.values()]
    table = row.stored.predictions(columns)
    table = table.filter(pc.equal(table["template"], row.system.rpartition("/")[2]))
    # A user may have several examples of a task.
    keys = pc.coalesce(table["example"], table["user"])
    return table.append_column("key", keys).sort_by("key")
