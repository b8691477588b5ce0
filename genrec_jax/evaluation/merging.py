"""An evaluation beside an earlier one of the same parameters and search: nothing measured is lost.

`genrec evaluate --templates A5` adds a row to what `genrec evaluate` measured before. What was measured
again replaces what it was; all else stays. Another search (beams, a sample of users, ...) is in another
folder (`EvaluateConfig.folder`). A result of other parameters is replaced as a whole, and so is one whose
rankings were of other candidates, or do not say which.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from genrec_jax.errors import UserError
from genrec_jax.evaluation import predictions, results

MUST_AGREE = (
    *("split", "step", "protocol", "unit", "num_beams", "length_penalty", "finish_within_beams"),
    *("exact_exclusion", "max_users", "history", "item_ids", "interval"),
)
PAIR = ("a", "b", "footing", "metric")


def earlier(folder: pathlib.Path, now: dict[str, Any]) -> dict[str, Any] | None:
    """The metrics of an earlier evaluation in a folder that stand beside `now`; None: there are none.

    Args:
        folder: where both belong.
        now: the metrics of the new one.
    """
    try:
        found = results.load(folder)
    except UserError:  # none, or nothing that could be read
        return None
    same = all(found.get(key) == now.get(key) for key in MUST_AGREE)
    same &= found["dataset"]["fingerprint"] == now["dataset"]["fingerprint"]
    same &= found.get("parameters") in (
        None,
        now["parameters"],
    )  # None: written before it was noted
    if now.get("candidates") is not None and _has_rankings(found):
        same &= found.get("candidates") == now["candidates"]
    return found if same else None


def merge(
    before: dict[str, Any], now: dict[str, Any], template_order: Sequence[str]
) -> dict[str, Any]:
    """One metrics.json of two.

    Args:
        before: what was measured earlier.
        now: what was measured now; it wins.
        template_order: template ids as the run lists them; rows of the model are put in this order.
    """
    if now["unit"] == "examples":
        now = _with_own_references(before, now)
    merged = dict(now)
    for key in ("systems", "lists", "templates", "exact"):
        entries = (before.get(key) or {}) | (now.get(key) or {})
        merged[key] = _in_order(entries, template_order)
    merged["exact"] = merged["exact"] or None
    if before.get("ratings") and now.get("ratings"):
        merged["ratings"] = _merge_ratings(before["ratings"], now["ratings"], template_order)
    else:
        merged["ratings"] = now.get("ratings") or before.get("ratings")
    for key in ("tie_orders", "oracle", "exact_block", "candidates"):
        merged[key] = before.get(key) if now.get(key) is None else now[key]
    for key in ("notes", "remarks"):
        merged[key] = list(dict.fromkeys([*now[key], *before.get(key, [])]))
    merged["paired"] = _merge_pairs(before, now)
    checked = {entry["check"] for entry in now["audit"]}
    merged["audit"] = now["audit"] + [
        entry for entry in before["audit"] if entry["check"] not in checked
    ]
    merged["seconds"] = before["seconds"] + now["seconds"]
    if now["unit"] == "examples":  # of all tasks
        merged["users"] = sum(
            next(iter(footings["seen_kept"].values()))["count"]
            for name, footings in merged["systems"].items()
            if name.startswith("model/")
        )
    return merged


def _has_rankings(metrics: dict[str, Any]) -> bool:
    return any(results.pool_of(name, metrics) == "candidates" for name in metrics["systems"])


def _merge_pairs(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparisons of both, each pair of systems once on each footing and metric."""
    compared = {tuple(pair.get(key) for key in PAIR) for pair in now["paired"]}
    return now["paired"] + [
        pair for pair in before["paired"] if tuple(pair.get(key) for key in PAIR) not in compared
    ]


def _merge_ratings(
    before: dict[str, Any], now: dict[str, Any], template_order: Sequence[str]
) -> dict[str, Any]:
    """The wordings of both, which were asked of the same users."""
    systems = _in_order(before["systems"] | now["systems"], template_order)
    return now | {"systems": systems, "paired": _merge_pairs(before, now)}


def _with_own_references(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Names references apart that are on other users than those of the same name before.

    Each task of a SeqIO mixture has its own users. As within one evaluation, references are then called
    after the first row of the model that they stand beside.
    """
    names = {}
    for pair in reversed(now["paired"]):
        found, known = now["systems"][pair["b"]], before["systems"].get(pair["b"])
        if known is not None and known != found:
            names[pair["b"]] = f"{pair['b']}/{pair['a'].rpartition('/')[2]}"
    systems = {names.get(name, name): found for name, found in now["systems"].items()}
    paired = [pair | {"b": names.get(pair["b"], pair["b"])} for pair in now["paired"]]
    return now | {"systems": systems, "paired": paired}


def merge_predictions(
    folder: pathlib.Path, earlier_folder: pathlib.Path, scored: Sequence[str]
) -> None:
    """Adds an earlier evaluation's rows to those in `folder`, but for templates that have them anew.

    Args:
        folder: of the new one.
        earlier_folder: of the earlier one.
        scored: templates that have lists in the new one; baselines need not stand beside them.
    """
    earlier_lists = earlier_folder / predictions.PREDICTIONS_FILE
    if earlier_lists.is_file():
        predictions.add_from(folder / predictions.PREDICTIONS_FILE, earlier_lists, without=scored)
    earlier_ranks = earlier_folder / predictions.REFERENCES_FILE
    if earlier_ranks.is_file():
        file = folder / predictions.REFERENCES_FILE
        anew = pq.read_table(file, columns=["template"])["template"].unique().to_pylist()
        predictions.add_from(file, earlier_ranks, without=anew)


def _in_order(entries: dict[str, Any], template_order: Sequence[str]) -> dict[str, Any]:
    """Rows of the model by template, each with its `exact/` row behind it, then all other systems."""
    places = {template: place for place, template in enumerate(template_order)}

    def place(name: str) -> tuple[bool, int, bool]:
        ours = name.startswith(("model/", "exact/")) or ("/" not in name and name in places)
        last = len(places)
        return (
            not ours,
            places.get(name.rpartition("/")[2], last) if ours else last,
            name.startswith("exact/"),
        )

    return dict(sorted(entries.items(), key=lambda entry: place(entry[0])))
