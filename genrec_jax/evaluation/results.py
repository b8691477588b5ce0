"""metrics.json: what an evaluation writes and the report, the aggregate and people read.

    {
      "format_version": 1,
      "run_dir": "runs/beauty", "step": 12000, "checkpoint": "best", "split": "test",
      "parameters": "...",                    checksum of the checkpoint's files
      "max_users": null,                      or how many were to be scored at most, a sample
      "sample_seed": null,                    or the seed that this sample was drawn with
      "protocol": "leave_one_out",            or "temporal", or "seqio_tasks": what a mixture's tasks hold
      "dataset": {"name": "Beauty", "path": "data/beauty", "fingerprint": "...",
                  "users": 22363, "items": 12101, "interactions": 198502,
                  "split": {"protocol": "temporal", "validation_from": ..., "test_from": ...}},
      "users": 22363,                         users scored (a cap makes this fewer), or else examples
      "unit": "users",                        or "examples": of all tasks of a SeqIO mixture
      "num_beams": 20, "length_penalty": 0.0, "finish_within_beams": false,
      "exact_exclusion": false, "dtype": "float32" (or "bfloat16": of the activations), "history": 20,
      "candidates": {"number": 100, "seed": 0}, of rankings, null without any
      "item_ids": {"method": ..., "parameters": {...}},
      "systems": {
        "model/sequential/A1": {
          "seen_kept":     {"hr@10": {"value": .05, "low": .047, "high": .053, "count": 22363}, ...},
          "seen_excluded": {...}              without the items of the user's history; absent where a
                                              SeqIO task does not say whose history
        },
        "model/sequential/A11": {...},        one a template, or a task: "model/seqio/my_task"
        "popularity": {...}, "transition": {...}, "transition_2": {...}  (no third in earlier versions)
      },
      "templates": {"A1": {"task": "sequential", "seen": true, "trained": true}, ...},
                                              whether training saw the wording, and any of the task; null
                                              for a SeqIO task
      "paired": [{"a": "model/sequential/A1", "b": "transition", "footing": "seen_kept",
                  "metric": "hr@10", "difference": -.01, "low": ..., "high": ..., "p_value": ...,
                  "count": 22363}],
      "interval": {"method": ..., "level": 0.95, "resamples": 10000, "seed": 0},
      "audit": [{"check": ..., "status": "pass" | "warn" | "fail", "detail": ...}],
      "lists": {"model/sequential/A1": {"seen_share": .06, "empty_share": 0.0}, ...},
      "exact": null, or with --exact (for ranking always) what each of the model's rows is without beams;
        a row "exact/sequential/A1" stands among the systems too {
        "model/sequential/A1": {
          "items": 12101,                     that are ranked: the catalogue, or an example's candidates
          "ranks": {"seen_kept": {"mrr": .03, "mean_rank": 812.0, "median_rank": 240.0, "count": 22363},
                    "seen_excluded": {...}},  over the whole catalogue; a target in the history counts as
                                              0 in the MRR, and not in mean and median
          "beam": {"10": {"miss_rate": .02,   share of the truly best 10 that the beam's 10 lack
                          "target_miss_rate": .01, "targets": 1200}, ...}}},  of the targets truly among
                                              the best 10 (so many), the share that the beam's 10 lack
      "ratings": null, or what a run that predicts ratings is worth {
        "users": 12000, "liked": .77,         share of the held-out items that were liked
        "systems": {"model/rating/rating": {"auc_roc": {"value": .7, "low": .68, "high": .72, ...}},
                                              one a wording, named after the template with both lists
                    "history": {...}},        intervals and tests by DeLong's components (`auc`); null where
                                              all users liked their items, or none: there is no area
        "paired": [{"a": "model/rating/rating", "b": "history", "metric": "auc_roc", ...}]},
      "exact_block": null, or prefixes scored at once,
      "tie_orders": null, or the baselines' spread over random orders of ties (`tie_orders`),
      "remarks": ["..."],                     what a SeqIO mixture could not be scored on, and why
      "oracle": {...} or null,                the generator's own optimum, for generated data
      "notes": ["..."],                       where this departs from the published protocol
      "seconds": 61.2, "created": "2026-01-31T12:00:00+00:00",
      "conditions": {"python": ..., "jax": ..., "device": ...}
    }

Metrics of a list of n items stop at the cutoff n, so with 10 beams there is no `hr@20`. A run on
several datasets has one such file a dataset, in `eval/<split>-<step>/<dataset>/`; another search than the
usual one is in a folder that says so (`EvaluateConfig.folder`). Several evaluations under one name are
merged (`merging`): `created` and `conditions` are the last one's, `seconds` their sum.
"""

import dataclasses
import datetime
import importlib.metadata
import math
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Int

from genrec_jax.data import artefacts
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.evaluation import intervals
from genrec_jax.evaluation.metrics import RankHistogram, metric_names

FORMAT_VERSION = 1
METRICS_FILE = "metrics.json"
FOOTINGS = ("seen_kept", "seen_excluded")
Pool = Literal["catalogue", "candidates"]
POOLS: tuple[Pool, ...] = ("catalogue", "candidates")
PAIRED_METRICS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10")
INTERVAL_METHOD = "percentile bootstrap over {unit}"

SystemRanks = Mapping[str, Int[np.ndarray, " E"]]
"""Ranks (0 is a miss) of the same users under each footing, `seen_kept` and `seen_excluded`."""

RankTargets = Callable[[Dataset, Splits, SplitName], Mapping[str, SystemRanks]]
"""Ranks by other systems, by name, of every user of the dataset who has a target, in user order."""


def pool_of(system: str, metrics: Mapping[str, Any]) -> Pool:
    """What a system of a metrics.json ranks: the `catalogue`, or each user's own `candidates`."""
    template = metrics.get("templates", {}).get(system.rpartition("/")[2], {})
    return "candidates" if template.get("task") == "ranking" else "catalogue"


def wording(template: Mapping[str, Any]) -> str | None:
    """What training saw of a prompt, by its `templates` entry; None where that is not known."""
    if template.get("seen") is None:
        return None
    if not template.get("trained", True):  # earlier versions did not say
        return "task not trained on"
    return "seen wording" if template["seen"] else "unseen wording"


def noise_of(metrics: Mapping[str, Any]) -> str | None:
    """What rounding does to a comparison with exact scores; None where it does nothing to speak of."""
    if metrics.get("dtype") != "bfloat16":  # earlier versions did not say
        return None
    return (
        "The network was evaluated in bfloat16, whose scores depend on batch and block, so beams that lose"
        " nothing seem to miss some items too; `genrec evaluate --exact --dtype float32` has no such floor."
    )


def entry(figures: Any) -> dict[str, Any]:
    """A dataclass of figures as an entry of metrics.json; those that do not exist (NaN) are null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(figures).items()
    }


def is_by_date(metrics: Mapping[str, Any]) -> bool:
    """Whether the evaluated dataset has a temporal split."""
    return metrics["dataset"].get("split", {}).get("protocol") == "temporal"


def summarise_systems(
    ranks: Mapping[str, SystemRanks], *, max_rank: int, config: intervals.BootstrapConfig
) -> dict[str, Any]:
    """The `systems` entry: every metric with its interval, for every system and footing.

    Args:
        ranks: system name -> footing -> ranks, 1-based, 0 a miss, one a user.
        max_rank: length of the lists; the baselines are cut to the same, to stand on equal footing.
        config: of the intervals.
    """
    return {
        system: {
            footing: {
                metric: dataclasses.asdict(estimate)
                for metric, estimate in intervals.bootstrap(
                    RankHistogram.of(ranks_E, max_rank), config
                ).items()
            }
            for footing, ranks_E in footings.items()
        }
        for system, footings in ranks.items()
    }


def compare_systems(
    ranks: Mapping[str, SystemRanks],
    pairs: Sequence[tuple[str, str]],
    *,
    max_rank: int,
    config: intervals.BootstrapConfig,
) -> list[dict[str, Any]]:
    """The `paired` entry: each pair of systems, on every footing that both have."""
    names = [metric for metric in PAIRED_METRICS if metric in metric_names(max_rank)]
    comparisons = []
    for a, b in pairs:
        for footing in FOOTINGS:
            if footing not in ranks[a] or footing not in ranks[b]:
                continue
            for result in intervals.paired(
                ranks[a][footing], ranks[b][footing], names, config, max_rank
            ):
                comparisons.append(
                    {"a": a, "b": b, "footing": footing} | dataclasses.asdict(result)
                )
    return comparisons


def interval_entry(config: intervals.BootstrapConfig, unit: str = "users") -> dict[str, Any]:
    """The `interval` entry; `unit` names the resampled things."""
    return {"method": INTERVAL_METHOD.format(unit=unit)} | dataclasses.asdict(config)


def conditions() -> dict[str, Any]:
    """The `conditions` entry: versions and device."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def load(path: artefacts.PathLike) -> dict[str, Any]:
    """Reads a metrics.json, given the file or its folder.

    Raises:
        UserError: missing, broken, or of another format version.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file /= METRICS_FILE
    remedy = "Run `genrec evaluate` on the run dir"
    result = artefacts.read_json(file, wanted="the metrics of an evaluation", remedy=remedy)
    artefacts.check_version(result.get("format_version"), FORMAT_VERSION, path=file, remedy=remedy)
    return result
