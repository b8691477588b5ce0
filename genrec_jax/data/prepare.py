"""Raw log -> dataset dir: k-core, numbering, sorting, writing, and the leakage audit at the end.

    RawLog --codes--> k-core --> sort by user, time, file order --> number --> dataset.write --> audit

Interactions are held as integers from the start; texts of reviews stay on disk until it is known
which rows survive.
"""

import dataclasses
import importlib.metadata
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool

from genrec_jax import progress
from genrec_jax.data import (
    artefacts,
    audit,
    dataset,
    hashing,
    item_matching,
    kcore,
    rawlog,
    splits,
)
from genrec_jax.errors import UserError

LEAVE_ONE_OUT_NEEDS = 3
SHORT_USER = "user with fewer than 3 interactions"
TIMES = ("timestamp", "within_second")

UserOrder = Literal["shuffled", "file"]
"""How users are numbered: by a fixed shuffle of their sorted source ids, or by first appearance."""


@dataclasses.dataclass(frozen=True)
class Filters:
    """What `prepare` drops, and how it orders ties.

    Attributes:
        min_user: interactions a user needs (k-core).
        min_item: interactions an item needs (k-core).
        drop_duplicates: drop rows equal to an earlier one in user, item, time and rating; without
            times, those equal to the user's row before, since a later repeat may be a new interaction.
            Off by default: the published counts include such rows where there are any.
        skip_short_users: leave-one-out: drop users left with under 3 interactions, which it cannot
            split, where the default is an error.
        tie_seed: order tied times at random with this seed, to see how much a result owes to file
            order; refused if there are no times. None keeps file order.
    """

    min_user: int = 5
    min_item: int = 5
    drop_duplicates: bool = False
    skip_short_users: bool = False
    tie_seed: int | None = None


@dataclasses.dataclass(frozen=True)
class SplitBy:
    """How interactions are held out; see `splits.manifest_entry`.

    Attributes:
        protocol: `leave_one_out` or `temporal`.
        validation_from: seconds since 1970; temporal only.
        test_from: likewise.

    Raises:
        UserError: as `splits.check_protocol`.
    """

    protocol: splits.Protocol = "leave_one_out"
    validation_from: int | None = None
    test_from: int | None = None

    def __post_init__(self):
        splits.check_protocol(self.protocol, self.validation_from, self.test_from)


FIVE_CORE, LEAVE_ONE_OUT = Filters(), SplitBy()


def prepare(
    raw: rawlog.RawLog,
    output: artefacts.PathLike,
    *,
    name: str,
    filters: Filters = FIVE_CORE,
    user_order: UserOrder = "shuffled",
    split: SplitBy = LEAVE_ONE_OUT,
    expected_counts: dict[str, int] | None = None,
    overwrite: bool = False,
    manifest: dict[str, Any] | None = None,
    steps: progress.Steps | None = None,
) -> dataset.Dataset:
    """Filters, numbers and writes a raw log.

    Items are numbered in the order of their source ids, so that a number tells no more about time than
    they do; users by a fixed shuffle of theirs, so that a number tells nothing about what the user takes.
    A log sorted by item, as Amazon's are, meets a user first at the least of all items, held-out ones
    included, and prompts name users by their numbers. A user's interactions are sorted by time, file
    order breaking ties.

    Args:
        raw: what a reader made.
        output: the dataset dir to write.
        name: what prompts call the dataset: letters, digits, `_` and `-`.
        filters: what is dropped, and how tied times are ordered.
        user_order: `file` numbers users by first appearance, as public OpenP5 files do.
        split: what is held out for validation and test.
        expected_counts: `users`, `items`, `interactions` that must come out (a recipe's published
            counts); keys may be absent.
        overwrite: replace an existing dataset.
        manifest: further entries for `dataset.json`.
        steps: where progress is shown.

    Raises:
        UserError: the output exists, nothing survives the filters, a user is too short to split,
            the dates do not fit, or the counts are not the expected ones. No dataset is left behind.
    """
    _check_name(name)
    target = str(output)
    steps = steps or progress.Steps()
    timed = "timestamp" in raw.interactions.collect_schema() and not raw.order_trusted
    if filters.tie_seed is not None and not timed:
        raise UserError(
            f"--tie-seed {filters.tie_seed} has no effect: this source gives no times, so no two of them"
            " tie and the order of the rows is taken as it is. Leave the flag out",
            file=target,
        )
    if split.protocol == "temporal" and not timed:
        splits.manifest_entry("temporal", None)  # says so before any work is done
    log = _with_rows(raw.interactions)
    rejected = dict(raw.rejected)
    dropped = 0
    if filters.drop_duplicates:
        log, dropped = _without_duplicates(log, timed)
    with steps.step("numbering users and items"):
        coded, user_ids, item_ids = _encode(log, user_order)
    with steps.step("k-core"):
        kept, rounds = _k_core(coded, filters, target)
        filtered = len(coded) - len(kept)
        del coded
        short = 0
        if split.protocol == "leave_one_out":
            kept, short = _check_short_users(kept, user_ids, raw, skip=filters.skip_short_users)
        if short:
            rejected[SHORT_USER] = rejected.get(SHORT_USER, 0) + short
            before = len(kept)  # items may have too few without the short users
            longer = dataclasses.replace(filters, min_user=LEAVE_ONE_OUT_NEEDS)
            kept, more_rounds = _k_core(kept, longer, target)
            filtered, rounds = filtered + before - len(kept), rounds + more_rounds
    with steps.step("sorting"):
        kept = _sort(kept, timed=timed, tie_seed=filters.tie_seed)
    tables = _number(kept, user_ids, item_ids)
    _check_counts(tables, expected_counts, name=name, path=target)
    items, matched = item_matching.match(tables.item_ids, raw.items, file=target)
    times_X = kept["timestamp"].to_numpy() if timed else None
    part = splits.manifest_entry(split.protocol, times_X, split.validation_from, split.test_from)
    content: dict[str, Any] = {
        **(manifest or {}),
        **raw.manifest,
        "order": "timestamp" if timed else "trusted",
        "filters": dataclasses.asdict(filters),
        "user_order": user_order,
        "split": part,
        "k_core_rounds": rounds,
        "rows": {
            "read": raw.rows_read,
            "rejected": rejected,
            "dropped_by_k_core": filtered,
            "kept": len(kept),
        },
        "duplicates": {"exact_kept": _count_duplicates(kept, timed), "exact_dropped": dropped},
        "ties": _ties(kept, filters.tie_seed) if timed else None,
        "item_table": matched,
        "sources": [dataclasses.asdict(source) for source in raw.sources],
        "versions": {
            package: importlib.metadata.version(package) for package in ("polars", "pyarrow")
        },
    }
    if split.protocol != "leave_one_out":
        content.pop("oracle", None)  # the generator's own best is known of each user's last item
    with steps.step("writing"):
        interactions = _interaction_table(kept, tables, log)
        del kept
        return dataset.write(
            output,
            name=name,
            interactions=interactions,
            items=items.to_arrow(),
            users=pa.table(
                {
                    "user": np.arange(len(tables.user_ids), dtype=np.int32),
                    "source_id": tables.user_ids.to_arrow(),
                }
            ),
            manifest=content,
            overwrite=overwrite,
            finish=audit_entries,
        )


def audit_entries(written: dataset.Dataset) -> dict[str, Any]:
    """The leakage audit of a dataset and its split, as entries for its manifest."""
    results = audit.audit_dataset(written, splits.of(written))
    return {"audit": [dataclasses.asdict(result) for result in results]}


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """Final numbers: row `n` of `user_ids` is user n; `users_X`, `items_X` are the columns."""

    user_ids: pl.Series
    item_ids: pl.Series
    users_X: np.ndarray
    items_X: np.ndarray


def _with_rows(interactions: pl.LazyFrame | pl.DataFrame) -> pl.LazyFrame:
    log = interactions.lazy()
    if "row" in log.collect_schema().names():
        return log
    return log.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))


def _without_duplicates(log: pl.LazyFrame, timed: bool) -> tuple[pl.LazyFrame, int]:
    frame = log.collect(engine="streaming").sort("row")
    if timed:
        unique = frame.unique(_identity(frame), keep="first", maintain_order=True)
    else:
        repeats = [
            pl.col(name).eq_missing(pl.col(name).shift().over("user")) for name in _identity(frame)
        ]
        unique = frame.filter(~pl.all_horizontal(repeats))
    return unique.lazy(), len(frame) - len(unique)


def _identity(frame: pl.DataFrame) -> list[str]:
    """The columns in which duplicates agree."""
    return [name for name in ("user", "item", *TIMES, "rating") if name in frame.columns]


def _encode(log: pl.LazyFrame, user_order: UserOrder) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Integer codes for users (see `UserOrder`) and items (by source id), and what they mean."""
    users = log.group_by("user").agg(pl.col("row").min().alias("first")).collect(engine="streaming")
    shuffled = user_order == "shuffled"
    users = users.sort("user")[hashing.draw_order(len(users))] if shuffled else users.sort("first")
    users = users.select("user", pl.int_range(pl.len(), dtype=pl.Int32).alias("user_code"))
    items = (
        log.select(pl.col("item").unique())
        .collect(engine="streaming")
        .sort("item")
        .with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("item_code"))
    )
    names = log.collect_schema().names()
    numbers = [name for name in (*TIMES, "rating") if name in names]
    coded = (
        log.select("row", "user", "item", *numbers)
        .join(users.lazy(), on="user")
        .join(items.lazy(), on="item")
        .select(
            "row", *numbers, pl.col("user_code").alias("user"), pl.col("item_code").alias("item")
        )
        .collect(engine="streaming")
    )
    return coded, users["user"], items["item"]


def _k_core(coded: pl.DataFrame, filters: Filters, target: str) -> tuple[pl.DataFrame, int]:
    """What the k-core leaves, and its rounds."""
    core = kcore.k_core(
        coded["user"].to_numpy(),
        coded["item"].to_numpy(),
        min_user=filters.min_user,
        min_item=filters.min_item,
    )
    if not len(core.kept_X):
        raise UserError(
            f"nothing is left of {len(coded)} interactions when every user needs {filters.min_user} and"
            f" every item {filters.min_item}. Lower --min-user-interactions and --min-item-interactions",
            file=target,
        )
    return (coded[core.kept_X] if len(core.kept_X) < len(coded) else coded), core.rounds


def _check_short_users(
    kept: pl.DataFrame, user_ids: pl.Series, raw: rawlog.RawLog, *, skip: bool
) -> tuple[pl.DataFrame, int]:
    lengths_U = np.bincount(kept["user"].to_numpy())
    short_U = (lengths_U > 0) & (lengths_U < LEAVE_ONE_OUT_NEEDS)
    if not short_U.any():
        return kept, 0
    of_short_X = short_U[kept["user"].to_numpy()]
    if not skip:
        user = int(np.flatnonzero(short_U)[0])
        first = kept.filter(pl.col("user") == user)["row"].min()
        file, line = (
            raw.locate(int(first)) if raw.locate and isinstance(first, int) else (None, None)
        )
        raise UserError(
            f"user {user_ids[user]!r} has {lengths_U[user]} interactions (and {short_U.sum() - 1} other"
            f" users have under 3); wanted at least {LEAVE_ONE_OUT_NEEDS}, to train, validate and test"
            " on. Pass --min-user-interactions 3 or more, or --skip-bad-rows to leave them out and"
            " count them",
            file=file,
            line=line,
        )
    left = kept.filter(~of_short_X)
    if not len(left):
        raise UserError(f"no user has {LEAVE_ONE_OUT_NEEDS} interactions. Check --input")
    return left, int(of_short_X.sum())


def _number(kept: pl.DataFrame, user_ids: pl.Series, item_ids: pl.Series) -> _Numbered:
    """Closes the gaps the filter left; codes keep their order, so numbers do too."""
    columns = {}
    for column, ids in (("user", user_ids), ("item", item_ids)):
        codes_X = kept[column].to_numpy()
        present = np.zeros(len(ids), bool)
        present[codes_X] = True
        numbers = np.cumsum(present, dtype=np.int32) - np.int32(1)
        columns[column] = (ids.filter(pl.Series(present)), numbers[codes_X])
    return _Numbered(columns["user"][0], columns["item"][0], columns["user"][1], columns["item"][1])


def _same_as_previous(kept: pl.DataFrame, columns: list[str]) -> Bool[np.ndarray, " X"]:
    same_X = np.ones(len(kept), bool)
    same_X[0] = False
    for column in columns:
        values_X = kept[column].to_numpy()
        same_X[1:] &= values_X[1:] == values_X[:-1]
    return same_X


def _sort(kept: pl.DataFrame, *, timed: bool, tie_seed: int | None) -> pl.DataFrame:
    if not timed:
        return kept.sort("user", "row")
    times = _times(kept)
    if tie_seed is None:
        return kept.sort("user", *times, "row")
    kept = kept.sort("row")  # so that the seed alone decides
    order = np.random.default_rng(tie_seed).permutation(len(kept))
    return kept.with_columns(pl.Series("tie", order)).sort("user", *times, "tie").drop("tie")


def _times(kept: pl.DataFrame) -> list[str]:
    """The columns that order a user's interactions."""
    return [column for column in TIMES if column in kept.columns]


def _ties(kept: pl.DataFrame, tie_seed: int | None) -> dict[str, Any]:
    """How many rows share user and time with another, and how many users' last two rows do."""
    tied_X = _same_as_previous(kept, ["user", *_times(kept)])
    shared_X = tied_X.copy()
    shared_X[:-1] |= tied_X[1:]
    users_X = kept["user"].to_numpy()
    last_X = np.append(users_X[1:] != users_X[:-1], True)
    finer = "fractions of the second, then " if len(_times(kept)) > 1 else ""
    return {
        "rows": int(shared_X.sum()),
        "rows_share": float(shared_X.mean()),
        "users_last_two": int(tied_X[last_X].sum()),
        "users_last_two_share": float(tied_X[last_X].mean()),
        "rule": finer + ("file order" if tie_seed is None else f"a random order (seed {tie_seed})"),
    }


def _count_duplicates(kept: pl.DataFrame, timed: bool) -> int:
    """What `_without_duplicates` would drop; without times, of rows sorted by user."""
    if not timed:
        repeats = [pl.col(name).eq_missing(pl.col(name).shift()) for name in _identity(kept)]
        return int(kept.select(pl.all_horizontal(repeats).sum()).item())
    tied_X = _same_as_previous(kept, ["user", *_times(kept)])
    tied_X[:-1] |= tied_X[1:]
    tied = kept.select(_identity(kept)).filter(tied_X)
    return len(tied) - tied.n_unique() if len(tied) else 0


def _check_name(name: str) -> None:
    if not name or not all(letter.isalnum() or letter in "_-" for letter in name):
        raise UserError(
            f"the name {name!r} cannot stand in prompts; wanted letters, digits, `_` and `-`. Pass --name"
        )


def _check_counts(
    tables: _Numbered, expected: dict[str, int] | None, *, name: str, path: str
) -> None:
    got = {
        "users": len(tables.user_ids),
        "items": len(tables.item_ids),
        "interactions": len(tables.users_X),
    }
    wrong = {key: value for key, value in (expected or {}).items() if got[key] != value}
    if wrong:
        difference = ", ".join(
            f"{got[key]:,} {key} (published: {value:,})" for key, value in wrong.items()
        )
        raise UserError(
            f"{name} came out with {difference}. The input is not the data the published figures were"
            " made from, or was filtered before; no dataset was written. Check --input, or prepare it"
            " with its reader instead of `recipe` to use it all the same",
            file=path,
        )


def _interaction_table(kept: pl.DataFrame, tables: _Numbered, log: pl.LazyFrame) -> pa.Table:
    columns: dict[str, Any] = {"user": tables.users_X, "item": tables.items_X}
    for column in ("timestamp", "rating"):
        if column in kept.columns:
            columns[column] = kept[column].to_arrow()
    if "within_second" in kept.columns and (kept["within_second"] != 0).any():
        columns["within_second"] = kept["within_second"].fill_null(0).to_arrow()
    texts = [name for name in ("review", "summary") if name in log.collect_schema().names()]
    if texts:
        places = kept.select("row").with_row_index("place")
        gathered = (
            log.select("row", *texts)
            .join(places.lazy(), on="row")
            .collect(engine="streaming")
            .sort("place")
        )
        for column in texts:
            columns[column] = gathered[column].to_arrow().cast(pa.string())
    return pa.table(columns)
