"""Several seeds as one result: mean and spread of what their evaluations measured.

    {
      "format_version": 1,
      "runs": [{"run_dir": "runs/a", "step": 12000}, ...],
      "split": "test", "protocol": "leave_one_out", "num_beams": 20, ..., "dataset": {...}, "users": 22363,
      "systems": {"model/sequential/A1": {"seen_kept": {"hr@10": {
          "mean": .05, "standard_deviation": .001, "low": .049, "high": .051, "values": [...]}}}},
      "templates": {...},
      "ratings": null or {"users": 12000, "systems": {"history": {"auc_roc": {"mean": .66, ...}}}}
    }

`low` and `high` are the smallest and the largest run; the standard deviation is the sample's, null
for one run. It is the spread over training runs, which the interval over users does not contain. A
figure that a run lacks (`results` says which may be null) has null for all of these.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from genrec_jax.checkpoint.run_dir import compare_settings
from genrec_jax.errors import UserError

FORMAT_VERSION = 1
MUST_AGREE = (
    *("split", "protocol", "users", "max_users", "sample_seed", "dtype"),
    *("num_beams", "length_penalty", "finish_within_beams", "exact_exclusion"),
)
PLACES = tuple(f"settings.data.{name}" for name in ("datasets", "index_dir", "templates_file"))
"""Settings that say where something lay; what was there is known by its fingerprint."""
MOST_NAMED, LONGEST_VALUE = 6, 60


def aggregate(
    results: Sequence[dict[str, Any]], manifests: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Combines evaluations of runs that differ in nothing but their seed.

    Args:
        results: contents of metrics.json files, one a run.
        manifests: of the runs, in the same order (`RunDir.manifest`).

    Raises:
        UserError: they were not made on the same data, item ids, split and search, they were trained with
            other settings or with the same seed, or a run comes twice.
    """
    if not results:
        raise UserError("got no results to aggregate; name at least one run dir")
    _check_comparable(results)
    check_seeds([result["run_dir"] for result in results], manifests)
    systems = {}
    for system, footings in results[0]["systems"].items():
        if all(system in result["systems"] for result in results):
            systems[system] = {
                footing: {
                    metric: _spread(
                        [r["systems"][system][footing][metric]["value"] for r in results]
                    )
                    for metric in metrics
                }
                for footing, metrics in footings.items()
            }
    return {
        "format_version": FORMAT_VERSION,
        "runs": [{"run_dir": r["run_dir"], "step": r["step"]} for r in results],
        **{key: results[0].get(key) for key in MUST_AGREE},
        "dataset": results[0]["dataset"],
        "templates": results[0].get("templates", {}),
        "systems": systems,
        "ratings": _ratings([result.get("ratings") for result in results]),
    }


def _ratings(found: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Rating prediction, where every run was asked it."""
    every = [ratings for ratings in found if ratings]
    if not every or len(every) < len(found):
        return None
    shared = [name for name in every[0]["systems"] if all(name in one["systems"] for one in every)]
    areas = {
        name: _spread([one["systems"][name]["auc_roc"]["value"] for one in every])
        for name in shared
    }
    return {
        "users": every[0]["users"],
        "liked": every[0]["liked"],
        "systems": {name: {"auc_roc": area} for name, area in areas.items()},
    }


def _spread(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        nothing = dict.fromkeys(("mean", "standard_deviation", "low", "high"))
        return nothing | {"values": values}
    return {
        "mean": statistics.fmean(known),
        "standard_deviation": statistics.stdev(known) if len(known) > 1 else None,
        "low": min(known),
        "high": max(known),
        "values": values,
    }


def _check_comparable(results: Sequence[dict[str, Any]]) -> None:
    first = results[0]
    for result in results[1:]:
        pairs = [(key, first.get(key), result.get(key)) for key in MUST_AGREE]
        fingerprints = [r["dataset"]["fingerprint"] for r in (first, result)]
        pairs.append(("dataset fingerprint", *fingerprints))
        pairs.append(("indexing method", *(r["item_ids"]["method"] for r in (first, result))))
        differing = [
            f"{key} is {theirs!r} in {result['run_dir']} and {ours!r} in {first['run_dir']}"
            for key, ours, theirs in pairs
            if ours != theirs
        ]
        if differing:
            raise UserError(
                f"the runs cannot be averaged: {'; '.join(differing)}. Evaluate them with the same"
                " settings on the same dataset"
            )
    for one, other in itertools.combinations(results, 2):
        _check_two_runs(one, other)


def compare_runs(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[list[tuple[str, str, str]], bool]:
    """How two runs differ in what they were trained with.

    Args:
        one: a run's manifest.
        other: another's.

    Returns:
        The settings that differ, but for seeds and folders: dotted name and both values as text. And
        whether any seed differs.
    """
    parts = ("model", "mixture", "settings")
    differing = compare_settings(*({part: run.get(part) for part in parts} for run in (one, other)))
    seeds = {name for name, *_ in differing if "seed" in name.rpartition(".")[2]}
    return [d for d in differing if d[0] not in seeds and d[0] not in PLACES], bool(seeds)


def check_seeds(names: Sequence[str], manifests: Sequence[Mapping[str, Any]]) -> None:
    """Refuses to average runs of different settings, and two of one seed.

    Args:
        names: what to call the runs.
        manifests: of these runs (`RunDir.manifest`).

    Raises:
        UserError: it names the settings that differ, or the runs of one seed.
    """
    runs = list(zip(names, manifests, strict=True))
    for (one, manifest), (other, other_manifest) in itertools.combinations(runs, 2):
        settings, seeds_differ = compare_runs(manifest, other_manifest)
        if settings:
            named = "; ".join(
                f"{name} is {_short(theirs)} in {other} and {_short(ours)} in {one}"
                for name, ours, theirs in settings[:MOST_NAMED]
            )
            more = len(settings) - MOST_NAMED
            raise UserError(
                "the runs cannot be averaged, for they were trained with different settings:"
                f" {named}{f'; and {more} more' if more > 0 else ''}. Name runs that differ in their seed"
                " alone; to tell two configurations apart, use --compare or `genrec report`"
            )
        if not seeds_differ:
            raise UserError(
                f"{one} and {other} were trained with the same seed, so they say nothing of how seeds"
                " differ. Train each with another, such as --gin.RANDOM_SEED=1; a run that has two names,"
                " name once"
            )


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _check_two_runs(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Checks that no run is given under two paths, by comparing parameters."""
    named = f"{one['run_dir']} and {other['run_dir']}"
    small = "the spread would be too small"
    checksums = (one.get("parameters"), other.get("parameters"))
    if None not in checksums:
        if checksums[0] == checksums[1]:
            raise UserError(
                f"{named} have the same parameters: one run twice, and {small}. Name each run once"
            )
    elif (one["run_dir"], one["step"]) == (other["run_dir"], other["step"]):
        raise UserError(
            f"{named} were evaluated at one path and step: one run twice, and {small}. If they are"
            " two, evaluate them again: that notes a checksum of their parameters"
        )
