"""The leakage audit: a model's input must not reveal held-out interactions.

`prepare` ends with `audit_dataset`, `index` with `audit_item_ids`, and the report repeats both on the
artefacts. What is compared is positions in the log, never item identity: a user may legitimately
take an item twice. All checks read plain arrays and texts, so that anybody's artefact can be put
to them.

| check | fails, or warns, when |
|---|---|
| `order_in_time` | there are no timestamps: the order is taken on trust (warns) |
| `ties_in_time` | many test targets share a timestamp with their user's interaction next to it (warns) |
| `sequences_not_sorted_by_id` | sequences climb or fall by item id, and not by time (by both: warns) |
| `source_ids_not_by_time` | source ids were numbered by first appearance (warns: never use them as ids) |
| `user_numbers_tell_nothing` | users have their test items from those numbered next to them (warns) |
| `splits_disjoint` | a position serves two splits, or lies outside its user's sequence |
| `no_duplicates_across_splits` | a held-out row is an exact copy of a training row (warns) |
| `item_ids_not_by_held_out` | ids count the items in an order that only held-out interactions have |
| `item_ids_rebuilt`, `vocabulary_rebuilt` | built anew with other held-out items they come out otherwise |
| `item_ids_made_elsewhere` | ids came from a file: what they were made from is taken on trust (warns) |
| `inputs_before_targets` | an example's input or target reaches into held-out positions |
| `targets_are_held_out` | predictions were scored on something else than the split's target |
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from genrec_jax.data import audit_users
from genrec_jax.data.audit_result import AuditResult
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import NO_TARGET, SplitName, Splits

# Adjacent pairs in ascending order: 0.69 to 0.72 in Amazon's product codes, which are dealt out as
# products appear, and 1.0 in a sorted copy.
SORTED_SHARE, SUSPICIOUS_SHARE = 0.9, 0.8
DECIDED_SHARE = 0.1  # of neighbours: where times of fewer differ, time made no order
NUMBERED_CORRELATION = 0.95
TIED_SHARE = 0.05
FEWEST_COLD_ITEMS = 8  # fewer stand in any given order by chance too often


def audit_dataset(dataset: Dataset, splits: Splits) -> list[AuditResult]:
    """Every check that a dataset dir and its split can be put to."""
    return [
        audit_order(dataset),
        audit_ties(dataset, splits),
        audit_sorted_sequences(dataset),
        audit_source_ids(dataset),
        audit_users.audit_user_numbers(dataset, splits),
        audit_splits(dataset, splits),
        audit_duplicates(dataset, splits),
    ]


def audit_order(dataset: Dataset) -> AuditResult:
    """Looks for evidence that the sequences are in the order of time."""
    if not _timed(dataset):
        return AuditResult(
            "order_in_time",
            "warn",
            "the source has no timestamps: the order of each sequence is taken on trust",
        )
    assert dataset.timestamps_X is not None
    same_user_X = np.diff(dataset.users_X) == 0
    backwards = int((np.diff(dataset.timestamps_X)[same_user_X] < 0).sum())
    if backwards:
        return AuditResult(
            "order_in_time", "fail", f"{backwards:,} interactions are older than the one before"
        )
    return AuditResult("order_in_time", "pass", "every sequence is in the order of its timestamps")


def audit_ties(dataset: Dataset, splits: Splits) -> AuditResult:
    """Looks for targets that a tie rule decided, not time."""
    if dataset.timestamps_X is None:
        return AuditResult("ties_in_time", "pass", "no timestamps, so none that tie")
    share = tied_share(dataset, splits, "test")
    detail = (
        f"{share:.1%} of test targets share a timestamp with the user's interaction next to them"
    )
    if share > TIED_SHARE:
        rule = (dataset.manifest.get("ties") or {}).get("rule", "file order")
        return AuditResult("ties_in_time", "warn", f"{detail}; {rule} decides which is the target")
    return AuditResult("ties_in_time", "pass", detail)


def tied_share(dataset: Dataset, splits: Splits, split: SplitName) -> float:
    """The share of a split's targets that have their user's timestamp before or after them too."""
    tied_X = dataset.tied_X.copy()
    tied_X[:-1] |= dataset.tied_X[1:]
    targets_U = splits.targets_U(split)
    tied_U = tied_X[targets_U[targets_U != NO_TARGET]]
    return float(tied_U.mean()) if len(tied_U) else 0.0


def audit_sorted_sequences(dataset: Dataset) -> AuditResult:
    """Looks for sequences that climb (or fall) by item id where their times did not order them.

    Ids that were dealt out as items appeared (news, counters) climb in any true order, so sequences
    that climb where their times differ are told of and do not fail.
    """
    check = "sequences_not_sorted_by_id"
    neighbours_X = np.diff(dataset.users_X) == 0
    by_time_X = neighbours_X & ~dataset.tied_X[1:]
    if not _timed(dataset) or by_time_X.sum() < DECIDED_SHARE * neighbours_X.sum():
        by_time_X = np.zeros_like(neighbours_X)
    worst = worst_by_time = 0.5
    for rank_I in _source_orders(dataset.item_source_ids):
        steps_X = np.diff(rank_I[dataset.items_X])
        worst = max(worst, _one_way(steps_X[neighbours_X]))
        worst_by_time = max(worst_by_time, _one_way(steps_X[by_time_X]))
    detail = f"{worst:.1%} of neighbours in the sequences stand in one order of their ids"
    if worst < SUSPICIOUS_SHARE:
        return AuditResult(check, "pass", detail)
    if worst_by_time >= SUSPICIOUS_SHARE:
        return AuditResult(
            check,
            "warn",
            f"{detail}, and {worst_by_time:.1%} of those whose times differ: ids grow (or fall) with time",
        )
    if worst >= SORTED_SHARE:
        return AuditResult(check, "fail", f"{detail}: the sequences are sorted by id, not by time")
    return AuditResult(check, "warn", f"{detail}, where about half would be expected")


def audit_source_ids(dataset: Dataset) -> AuditResult:
    """Looks for source ids numbered by first appearance: such an id tells the time."""
    worst = 0.0
    for first_I in _first_appearances(dataset, np.ones(dataset.num_interactions, bool)):
        for rank_I in _source_orders(dataset.item_source_ids):
            seen_I = first_I < dataset.num_interactions
            worst = max(worst, abs(_correlation(first_I[seen_I], rank_I[seen_I])))
    detail = f"rank correlation {worst:.2f} between source ids and first appearance in the log"
    if worst >= NUMBERED_CORRELATION:
        return AuditResult(
            "source_ids_not_by_time",
            "warn",
            f"{detail}: they were numbered by first appearance, held-out interactions included."
            " Never use them as item IDs; an indexing method makes ids that tell nothing",
        )
    return AuditResult("source_ids_not_by_time", "pass", detail)


def audit_splits(dataset: Dataset, splits: Splits) -> AuditResult:
    """Checks that every position serves one split only, of its own user, in the order of time."""
    starts_U, ends_U = dataset.offsets_U1[:-1], dataset.offsets_U1[1:]
    wrong_U = (splits.train_end_U < starts_U) | (splits.train_end_U > ends_U)
    earliest_U = splits.train_end_U
    for target_U in (splits.validation_U, splits.test_U):
        has_U = target_U != NO_TARGET
        wrong_U = wrong_U | (has_U & ((target_U < earliest_U) | (target_U >= ends_U)))
        earliest_U = np.where(has_U, target_U + 1, earliest_U)
    if wrong_U.any():
        return AuditResult(
            "splits_disjoint",
            "fail",
            f"{int(wrong_U.sum()):,} users have a position in two splits or outside their sequence,"
            f" the first of them user {int(np.flatnonzero(wrong_U)[0])}",
        )
    if splits.protocol == "temporal" and (early := _count_early(dataset, splits)):
        return AuditResult(
            "splits_disjoint",
            "fail",
            f"temporal: training has {early:,} interactions that are as late as some target of validation"
            " or test, or validation some as late as a target of the test",
        )
    return AuditResult(
        "splits_disjoint", "pass", f"{splits.protocol}: no position serves two splits"
    )


def _count_early(dataset: Dataset, splits: Splits) -> int:
    """Interactions that train although some target is as old; targets that validate likewise."""
    times_X = dataset.timestamps_X
    if times_X is None:
        return dataset.num_interactions
    training_X, validation_X, test_X = (
        times_X[splits.in_training_X(dataset)],
        *(
            times_X[targets_U[targets_U != NO_TARGET]]
            for targets_U in (splits.validation_U, splits.test_U)
        ),
    )
    first_test = test_X.min(initial=np.iinfo(np.int64).max)
    first_held_out = validation_X.min(initial=first_test)
    return int((training_X >= first_held_out).sum() + (validation_X >= first_test).sum())


def audit_duplicates(dataset: Dataset, splits: Splits) -> AuditResult:
    """Looks for held-out rows that copy a training row in user, item and timestamp."""
    check = "no_duplicates_across_splits"
    if dataset.timestamps_X is None:
        return AuditResult(check, "pass", "without timestamps a repeated item is a new interaction")
    # Only rows that tie with a held-out row can be its copy: few, even of 50 million.
    tied_X = dataset.tied_X.copy()
    tied_X[:-1] |= dataset.tied_X[1:]
    training_X = splits.in_training_X(dataset)

    times = (dataset.timestamps_X, dataset.within_second_X)
    columns = (
        dataset.users_X,
        dataset.items_X,
        *(times_X for times_X in times if times_X is not None),
    )

    def rows(chosen_X: Bool[np.ndarray, " X"]) -> list[tuple[int, ...]]:
        return list(zip(*(column[chosen_X].tolist() for column in columns), strict=True))

    trained = set(rows(tied_X & training_X))
    copies = sum(row in trained for row in rows(tied_X & ~training_X))
    if copies:
        return AuditResult(
            check,
            "warn",
            f"{copies:,} held-out interactions copy a training row in user, item and timestamp",
        )
    return AuditResult(check, "pass", "no held-out interaction copies a training row")


def audit_item_ids(
    dataset: Dataset,
    splits: Splits,
    texts: Sequence[str],
    rebuild: Callable[[Dataset], Sequence[str]] | None = None,
    *,
    ordered: bool = True,
) -> list[AuditResult]:
    """Checks that the ids were made from training interactions alone.

    Args:
        dataset: what the ids are for.
        splits: what is held out.
        texts: the id of item i, such as `item_1001` or `item_<CI3><CI7>`; their numbers give the
            order in which the ids count.
        rebuild: makes the ids of a dataset as they were made for this one. When given, they are
            made anew on a copy whose held-out items are exchanged, and must come out the same.
        ordered: whether a model can tell the ids' order; see `ItemIds.ordered`.
    """
    check = "item_ids_not_by_held_out"
    unordered = AuditResult(
        check, "pass", "every id is a token of its own, and tokens have no order"
    )
    results = [_audit_id_order(check, dataset, splits, texts) if ordered else unordered]
    if rebuild is not None:
        results.append(audit_rebuild("item_ids_rebuilt", dataset, splits, list(texts), rebuild))
    return results


def audit_rebuild(
    check: str,
    dataset: Dataset,
    splits: Splits,
    artefact: Any,
    build: Callable[[Dataset], Any],
) -> AuditResult:
    """Builds an artefact anew on a dataset with other held-out items; it must not change.

    Args:
        check: the check's name, `item_ids_rebuilt` or `vocabulary_rebuilt`.
        dataset: what the artefact was made from.
        splits: what is held out.
        artefact: a list of texts, or anything that `==` compares, such as a checksum.
        build: makes the artefact from a dataset.
    """
    anew = build(exchange_held_out(dataset, splits))
    if isinstance(artefact, list | tuple):
        anew, artefact = list(anew), list(artefact)
        differing = sum(a != b for a, b in zip(artefact, anew, strict=False))
        differing += abs(len(artefact) - len(anew))
    else:
        differing = int(anew != artefact)
    if differing:
        return AuditResult(
            check,
            "fail",
            f"{differing:,} entries change when only held-out interactions change",
        )
    return AuditResult(check, "pass", "unchanged when the held-out interactions are exchanged")


def exchange_held_out(dataset: Dataset, splits: Splits) -> Dataset:
    """The same dataset with every held-out interaction moved to some other item, always the same."""
    random = np.random.default_rng(0)
    held_X = ~splits.in_training_X(dataset)
    items_X = dataset.items_X.copy()
    shift = random.integers(1, max(dataset.num_items, 2), int(held_X.sum()))
    items_X[held_X] = (items_X[held_X] + shift) % dataset.num_items
    return dataclasses.replace(dataset, items_X=items_X)


def audit_examples(
    dataset: Dataset,
    splits: Splits,
    split: Literal["training", "validation", "test"],
    users_E: Int[np.ndarray, " E"],
    history_starts_E: Int[np.ndarray, " E"],
    history_ends_E: Int[np.ndarray, " E"],
    targets_E: Int[np.ndarray, " E"],
) -> AuditResult:
    """Checks that examples read only what they may, by flat positions in the log.

    Args:
        dataset: the log.
        splits: what is held out.
        split: what the examples are for. In training neither input nor target may be held out;
            elsewhere the target is the split's own and the input ends before it.
        users_E: whose examples they are.
        history_starts_E: first position of the input.
        history_ends_E: one past the last position of the input.
        targets_E: position of the target.
    """
    wrong_E = (history_starts_E < dataset.offsets_U1[users_E]) | (history_ends_E > targets_E)
    if split == "training":
        wrong_E = wrong_E | (targets_E >= splits.train_end_U[users_E])
    else:
        wrong_E = wrong_E | (targets_E != splits.targets_U(split)[users_E])
    if wrong_E.any():
        return AuditResult(
            "inputs_before_targets",
            "fail",
            f"{int(wrong_E.sum()):,} of {len(wrong_E):,} {split} examples read a position they may"
            f" not, the first of them of user {int(users_E[wrong_E][0])}",
        )
    return AuditResult(
        "inputs_before_targets",
        "pass",
        f"{len(wrong_E):,} {split} examples read nothing at or after their target"
        + (", nothing held out" if split == "training" else ""),
    )


def audit_predictions(
    dataset: Dataset,
    splits: Splits,
    split: SplitName,
    users_E: Int[np.ndarray, " E"],
    target_items_E: Int[np.ndarray, " E"],
) -> AuditResult:
    """Checks that predictions were scored on the split's own targets."""
    positions_E = splits.targets_U(split)[users_E]
    wrong_E = (positions_E == NO_TARGET) | (dataset.items_X[positions_E] != target_items_E)
    if wrong_E.any():
        detail = f"{int(wrong_E.sum()):,} predictions name a target that is not the {split} item"
        return AuditResult("targets_are_held_out", "fail", detail)
    detail = f"all {len(wrong_E):,} predictions were scored on the {split} item"
    return AuditResult("targets_are_held_out", "pass", detail)


def _timed(dataset: Dataset) -> bool:
    """Whether times ordered the sequences."""
    return dataset.timestamps_X is not None and dataset.manifest.get("order") != "trusted"


def _audit_id_order(
    check: str, dataset: Dataset, splits: Splits, texts: Sequence[str]
) -> AuditResult:
    numbers = sorted(range(len(texts)), key=lambda item: _natural(texts[item]))
    rank_I = np.empty(len(texts), np.int64)
    rank_I[numbers] = np.arange(len(texts))
    training_X = splits.in_training_X(dataset)
    everything = _first_appearances(dataset, np.ones(dataset.num_interactions, bool))
    training = _first_appearances(dataset, training_X)
    for first_I, first_trained_I in zip(everything, training, strict=True):
        warm_I = first_trained_I < dataset.num_interactions
        by_all = _climbing(first_I[warm_I], rank_I[warm_I])
        by_training = _climbing(first_trained_I[warm_I], rank_I[warm_I])
        if by_all >= NUMBERED_CORRELATION and by_all > by_training:
            return AuditResult(
                check,
                "fail",
                f"{by_all:.1%} of neighbouring ids follow first appearance in the whole log, only"
                f" {by_training:.1%} in its training part: held-out interactions numbered them",
            )
        cold_I = ~warm_I & (first_I < dataset.num_interactions)
        order = _correlation(first_I[cold_I], rank_I[cold_I])
        if cold_I.sum() >= FEWEST_COLD_ITEMS and order >= NUMBERED_CORRELATION:
            return AuditResult(
                check,
                "fail",
                f"the {int(cold_I.sum()):,} items unseen in training are numbered in the order of"
                f" the held-out interactions (rank correlation {order:.2f})",
            )
    return AuditResult(check, "pass", "the ids' order tells nothing about held-out interactions")


def _first_appearances(
    dataset: Dataset, chosen_X: Bool[np.ndarray, " X"]
) -> list[Int64[np.ndarray, " I"]]:
    """When each item is first met among the chosen interactions: walking user by user, and by time.

    Items never met get the number of interactions.
    """
    walks = [np.arange(dataset.num_interactions)]
    if dataset.timestamps_X is not None:
        walks.append(np.argsort(dataset.timestamps_X, kind="stable"))
    firsts = []
    for walk_X in walks:
        items_X = dataset.items_X[walk_X[chosen_X[walk_X]]]
        first_I = np.full(dataset.num_items, dataset.num_interactions, np.int64)
        first_I[items_X[::-1]] = np.arange(len(items_X))[::-1]
        firsts.append(first_I)
    return firsts


def _source_orders(source_ids: Sequence[str]) -> list[Int64[np.ndarray, " I"]]:
    """Ranks of the items by source id: as text, and by the numbers in it where that differs."""
    ranks = []
    for key in (str, _natural):
        order = sorted(range(len(source_ids)), key=lambda item: key(source_ids[item]))
        rank_I = np.empty(len(order), np.int64)
        rank_I[order] = np.arange(len(order))
        ranks.append(rank_I)
    return ranks if (ranks[0] != ranks[1]).any() else ranks[:1]


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `item_9` before `item_10`; works on `<CI2><CI10>` part by part."""
    parts = re.findall(r"\d+|\D+", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _one_way(steps: Int[np.ndarray, " steps"]) -> float:
    """Share of the steps that go the same way, the commoner of the two; 0.5 where none moves."""
    climbing, falling = int((steps > 0).sum()), int((steps < 0).sum())
    return max(climbing, falling) / (climbing + falling) if climbing + falling else 0.5


def _climbing(values: Int[np.ndarray, " values"], rank: Int[np.ndarray, " values"]) -> float:
    """Share of neighbours, in the order of `rank`, whose values climb."""
    steps = np.diff(values[np.argsort(rank)])
    return float((steps > 0).mean()) if len(steps) else 0.0


def _correlation(a: Int[np.ndarray, " values"], b: Int[np.ndarray, " values"]) -> float:
    """Spearman's rank correlation of two arrays without ties; 0 where there are under three."""
    if len(a) < 3:
        return 0.0

    def ranks(values: Int[np.ndarray, " values"]) -> Float64[np.ndarray, " values"]:
        return np.argsort(np.argsort(values)).astype(np.float64)

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])
