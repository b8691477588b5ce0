"""Every check of the audit: an artefact that must be flagged, and one that must not."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from genrec_jax.data import audit, audit_users, dataset, prepare_run, splits


def write(
    path: pathlib.Path,
    sequences: Sequence[Sequence[str]],
    times: Sequence[Sequence[int]] | None = None,
) -> dataset.Dataset:
    """A dataset dir of the given sequences of source ids, items numbered in their text order."""
    source_ids = sorted({item for sequence in sequences for item in sequence})
    numbers = {source_id: number for number, source_id in enumerate(source_ids)}
    columns: dict[str, list] = {
        "user": [user for user, sequence in enumerate(sequences) for _ in sequence],
        "item": [numbers[item] for sequence in sequences for item in sequence],
    }
    if times is not None:
        columns["timestamp"] = [time for row in times for time in row]
    return dataset.write(
        path,
        name="Example",
        interactions=pa.table(columns),
        items=pa.table({"item": range(len(source_ids)), "source_id": source_ids}),
        users=pa.table(
            {"user": range(len(sequences)), "source_id": [str(u) for u in range(len(sequences))]}
        ),
    )


def random_sequences(users: int = 80, items: int = 60, length: int = 8) -> list[list[str]]:
    """Shuffled items named so that neither text order nor number tells when they first appear."""
    random = np.random.default_rng(0)
    names = [f"P{number:04d}" for number in random.permutation(9999)[:items]]
    return [
        [names[item] for item in random.choice(items, length, replace=False)] for _ in range(users)
    ]


def rising_times(sequences: Sequence[Sequence[str]]) -> list[list[int]]:
    starts = np.random.default_rng(1).integers(0, 10**6, len(sequences))
    return [
        list(range(int(start), int(start) + 60 * len(row), 60))
        for start, row in zip(starts, sequences, strict=True)
    ]


@pytest.fixture
def healthy(tmp_path) -> dataset.Dataset:
    sequences = random_sequences()
    return write(tmp_path / "healthy", sequences, rising_times(sequences))


@pytest.fixture
def untimed(tmp_path) -> dataset.Dataset:
    """20 users over 60 items, so that many items are first met, or only met, held out."""
    return write(tmp_path / "untimed", random_sequences(users=20))


def test_a_healthy_dataset_passes_everything(healthy):
    results = audit.audit_dataset(healthy, splits.leave_one_out(healthy))
    assert {result.status for result in results} == {"pass"}
    assert len({result.check for result in results}) == len(results) == 7


def test_order_without_timestamps_is_taken_on_trust(untimed):
    assert audit.audit_order(untimed).status == "warn"


def test_order_against_the_timestamps_fails(tmp_path):
    made = write(tmp_path / "d", [["a", "b", "c"]], [[3, 2, 5]])
    assert audit.audit_order(made).status == "fail"


def test_ties_at_the_targets_are_flagged(tmp_path, healthy):
    sequences = random_sequences()
    times = rising_times(sequences)
    for row in times[:10]:
        row[-2] = row[-1]
    made = write(tmp_path / "ties", sequences, times)
    part = splits.leave_one_out(made)
    result = audit.audit_ties(made, part)
    assert result.status == "warn"
    assert "12.5%" in result.detail
    assert result.detail.endswith("file order decides which is the target")
    made.manifest["ties"] = {"rule": "a random order (seed 3)"}
    assert "(seed 3) decides which" in audit.audit_ties(made, part).detail
    assert audit.audit_ties(healthy, splits.leave_one_out(healthy)).status == "pass"


@pytest.mark.parametrize("reverse", [False, True])
def test_sequences_sorted_by_id_fail(tmp_path, reverse):
    ordered = [sorted(row, reverse=reverse) for row in random_sequences()]
    assert audit.audit_sorted_sequences(write(tmp_path / "d", ordered)).status == "fail"


def test_sequences_sorted_by_the_number_in_the_id_fail(tmp_path):
    random = np.random.default_rng(0)
    sequences = [[f"{n}" for n in np.sort(random.choice(2000, 8))] for _ in range(50)]
    assert audit.audit_sorted_sequences(write(tmp_path / "d", sequences)).status == "fail"


@pytest.mark.parametrize(
    ("moments", "status"),
    [
        (lambda row: range(len(row)), "warn"),  # times that differ made the order
        (lambda row: [number // 2 for number in range(len(row))], "warn"),  # half of it
        (lambda row: [5] * len(row), "fail"),  # nothing but ties
        (lambda row: [5] * (len(row) - 1) + [6], "fail"),  # ties, but for a random last item
    ],
    ids=["times", "halves", "ties", "nearly ties"],
)
def test_ids_that_grow_with_time_are_no_failure(tmp_path, moments, status):
    rows = [[*sorted(row[:-1]), row[-1]] for row in random_sequences(length=14)]
    if status == "warn":
        rows = [sorted(row) for row in rows]
    found = audit.audit_sorted_sequences(write(tmp_path / "d", rows, [moments(r) for r in rows]))
    assert found.status == status, found.detail
    assert ("ids grow (or fall) with time" in found.detail) == (status == "warn")


def test_times_that_did_not_order_the_sequences_excuse_nothing(tmp_path):
    rows = [sorted(row) for row in random_sequences()]
    made = write(tmp_path / "d", rows, rising_times(rows))
    made.manifest["order"] = "trusted"
    assert audit.audit_sorted_sequences(made).status == "fail"


def read_sequences(path: pathlib.Path) -> list[list[str]]:
    return [line.split()[1:] for line in path.read_text().splitlines()]


def test_the_real_toys_passes_and_its_copy_sorted_by_id_fails(shared, tmp_path):
    real = read_sequences(shared / "data/amazon_toys/user_sequence.txt")
    assert audit.audit_sorted_sequences(write(tmp_path / "real", real)).status == "pass"
    made = write(tmp_path / "sorted", [sorted(row) for row in real])
    assert audit.audit_sorted_sequences(made).status == "fail"


def test_the_real_lastfm_is_flagged_for_its_ids(shared, tmp_path):
    made = write(tmp_path / "d", read_sequences(shared / "data/lastfm/user_sequence.txt"))
    part = splits.leave_one_out(made)
    flagged = {r.check: r.status for r in audit.audit_dataset(made, part) if r.status != "pass"}
    assert flagged == {"order_in_time": "warn", "source_ids_not_by_time": "warn"}
    as_ids = [f"item_{source_id}" for source_id in made.item_source_ids]
    assert [result.status for result in audit.audit_item_ids(made, part, as_ids)] == ["fail"]


def test_source_ids_numbered_in_the_order_of_time_are_flagged(tmp_path):
    """Numbered by the clock, not user by user: only the walk by time shows it."""
    sequences = random_sequences()
    times = rising_times(sequences)
    rows = sorted(
        (time, item)
        for row, moments in zip(sequences, times, strict=True)
        for item, time in zip(row, moments, strict=True)
    )
    numbers: dict[str, str] = {}
    for _, item in rows:
        numbers.setdefault(item, str(len(numbers) + 1))
    made = write(tmp_path / "d", [[numbers[item] for item in row] for row in sequences], times)
    assert audit.audit_source_ids(made).status == "warn"


def test_numbers_in_the_order_of_a_log_sorted_by_item_are_flagged(tmp_path):
    """Users in the order of the least of all their items, which for one in eight is the held-out one."""
    sequences = random_sequences(users=1500, items=600)
    in_order = sorted(sequences, key=min)
    for name, order, status in (("dealt", sequences, "pass"), ("sorted", in_order, "warn")):
        made = write(tmp_path / name, order, rising_times(order))
        result = audit_users.audit_user_numbers(made, splits.leave_one_out(made))
        assert result.status == status, result.detail
    assert "--user-order file" in result.detail


def test_the_public_beauty_numbers_are_flagged_and_ours_are_not(shared, tmp_path):
    for user_order, status in (("file", "warn"), ("shuffled", "pass")):
        source = shared / "data/amazon_beauty"
        made = prepare_run.prepare_from(
            "sequences", source, tmp_path / user_order, name="Beauty", user_order=user_order
        )
        (found,) = [
            entry
            for entry in made.manifest["audit"]
            if entry["check"] == "user_numbers_tell_nothing"
        ]
        assert found["status"] == status, found["detail"]


def test_splits_that_share_a_position_fail(healthy):
    part = splits.leave_one_out(healthy)
    overlapping = dataclasses.replace(part, train_end_U=part.train_end_U + 1)
    swapped = dataclasses.replace(part, validation_U=part.test_U, test_U=part.validation_U)
    of_another_user = dataclasses.replace(part, test_U=part.test_U + 1)
    for wrong in (overlapping, swapped, of_another_user):
        assert audit.audit_splits(healthy, wrong).status == "fail"


def test_splits_without_some_targets_pass(healthy):
    part = splits.leave_one_out(healthy)
    some_U = np.arange(healthy.num_users) % 2 == 0
    assert audit.audit_splits(
        healthy,
        dataclasses.replace(part, validation_U=np.where(some_U, part.validation_U, -1)),
    ).status == "pass"  # fmt: skip


def test_training_after_the_date_fails(tmp_path):
    made = write(tmp_path / "d", [["a", "b", "c"], ["b", "c", "a"]], [[1, 5, 9], [4, 6, 8]])
    part = splits.temporal(made, validation_from=5, test_from=7)
    assert audit.audit_splits(made, part).status == "pass"
    later = dataclasses.replace(part, train_end_U=part.train_end_U + np.asarray([0, 1]))
    later = dataclasses.replace(later, validation_U=np.asarray([1, -1]))
    found = audit.audit_splits(made, later)
    assert (found.status, found.check) == ("fail", "splits_disjoint")
    assert "training has 1 interactions" in found.detail
    late_validation = dataclasses.replace(
        part, validation_U=np.asarray([-1, 5]), test_U=np.asarray([2, -1])
    )
    assert audit.audit_splits(made, late_validation).status == "pass"  # 8 is before 9
    late_validation = dataclasses.replace(late_validation, validation_U=np.asarray([1, 5]))
    late_validation = dataclasses.replace(late_validation, test_U=np.asarray([2, -1]))
    exact = dataclasses.replace(made, timestamps_X=np.asarray([1, 5, 8, 4, 6, 8]))
    assert audit.audit_splits(exact, late_validation).status == "fail"


def test_tied_targets_by_hand(tmp_path):
    """User 0's target ties with the item before it, user 1's with one after it, user 2's with none."""
    made = write(
        tmp_path / "d",
        [["a", "b", "c"], ["a", "b", "c", "d"], ["a", "b", "c"]],
        [[1, 9, 9], [1, 2, 9, 9], [1, 2, 9]],
    )
    ends = np.asarray([2, 5, 9])
    part = splits.Splits("temporal", ends - 1, ends - 1, ends)
    assert audit.tied_share(made, part, "test") == pytest.approx(2 / 3)
    part = dataclasses.replace(part, test_U=np.asarray([-1, -1, 9]))
    assert audit.tied_share(made, part, "test") == 0
    assert audit.tied_share(made, splits.leave_one_out(made), "test") == pytest.approx(2 / 3)


def test_fractions_of_a_second_untie(tmp_path):
    """As by hand above, the times of one second apart: user 0's by a fraction, user 1's not."""
    made = write(
        tmp_path / "d",
        [["a", "b", "c"], ["a", "c", "c"], ["a", "c", "c"]],
        [[1, 9, 9], [1, 9, 9], [1, 9, 9]],
    )
    part = splits.leave_one_out(made)
    assert audit.tied_share(made, part, "test") == 1
    # Where all but the last item is for training, copies within the second are those that tie.
    part = dataclasses.replace(part, train_end_U=part.test_U)
    assert audit.audit_duplicates(made, part).detail.startswith("2 held-out interactions copy")
    within_X = np.asarray([0, 1, 2, 0, 5, 5, 0, 1, 2], np.int32)
    finer = dataclasses.replace(made, within_second_X=within_X)
    assert finer.tied_X.tolist() == [False] * 5 + [True] + [False] * 3
    assert audit.tied_share(finer, part, "test") == pytest.approx(1 / 3)
    assert audit.audit_duplicates(finer, part).detail.startswith("1 held-out interactions copy")


def test_copies_are_of_one_fraction_of_a_second(tmp_path):
    """Items b and c are taken within one tenth, b and d within the next: no b copies the other."""
    made = write(tmp_path / "d", [["a", "b", "c", "b", "d"]], [[1, 9, 9, 9, 9]])
    part = dataclasses.replace(splits.leave_one_out(made), train_end_U=np.asarray([3]))
    assert audit.audit_duplicates(made, part).status == "warn"
    finer = dataclasses.replace(made, within_second_X=np.asarray([0, 1, 1, 2, 2], np.int32))
    assert audit.audit_duplicates(finer, part).status == "pass"


def test_exact_copies_across_splits_are_flagged_and_repeated_items_are_not(tmp_path):
    copied = write(tmp_path / "copied", [["a", "b", "b", "c"]], [[1, 2, 2, 3]])
    assert audit.audit_duplicates(copied, splits.leave_one_out(copied)).status == "warn"
    taken_again = write(tmp_path / "again", [["a", "b", "b", "c"]], [[1, 2, 3, 4]])
    assert audit.audit_duplicates(taken_again, splits.leave_one_out(taken_again)).status == "pass"


def walk(made: dataset.Dataset, positions: np.ndarray) -> list[int]:
    return list(dict.fromkeys(made.items_X[positions].tolist()))


def numbered(made: dataset.Dataset, order: Sequence[int]) -> list[str]:
    first = set(order)
    rest = [item for item in range(made.num_items) if item not in first]
    number = {item: 1001 + place for place, item in enumerate([*order, *rest])}
    return [f"item_{number[item]}" for item in range(made.num_items)]


def training_positions(made: dataset.Dataset) -> np.ndarray:
    return np.flatnonzero(splits.leave_one_out(made).in_training_X(made))


def sequential(made: dataset.Dataset) -> list[str]:
    """OpenP5's sequential ids, cold items in catalogue order."""
    return numbered(made, walk(made, training_positions(made)))


def leaking(made: dataset.Dataset) -> list[str]:
    """Numbered over everything: what a careless indexer does."""
    return numbered(made, walk(made, np.arange(made.num_interactions)))


def test_ids_numbered_over_held_out_interactions_fail_and_over_training_pass(untimed):
    part = splits.leave_one_out(untimed)
    for make, status in ((sequential, "pass"), (leaking, "fail")):
        results = audit.audit_item_ids(untimed, part, make(untimed), rebuild=make)
        assert [result.status for result in results] == [status, status]


def test_ids_made_of_several_numbers_are_read_part_by_part(untimed):
    """`<A1><A12>` after `<A1><A3>`: the same leak, written as two tokens."""
    numbers = [int(text.removeprefix("item_")) - 1001 for text in leaking(untimed)]
    texts = [f"item_<A{number // 20}><A{number % 20}>" for number in numbers]
    part = splits.leave_one_out(untimed)
    assert audit.audit_item_ids(untimed, part, texts)[0].status == "fail"


def test_cold_items_in_the_order_of_held_out_interactions_fail(tmp_path):
    """The public golden file of OpenP5 does this; in catalogue order they pass."""
    random = np.random.default_rng(0)
    warm = [f"w{number:02d}" for number in range(30)]
    cold = [f"c{number:02d}" for number in random.permutation(20)]
    sequences = [
        [*random.choice(warm, 5, replace=False), held, warm[place]]
        for place, held in enumerate(cold)
    ]
    made = write(tmp_path / "d", [[str(item) for item in row] for row in sequences])
    part = splits.leave_one_out(made)
    trained = walk(made, training_positions(made))
    held_out = [
        item for item in walk(made, np.arange(made.num_interactions)) if item not in trained
    ]
    by_held_out = numbered(made, [*trained, *held_out])
    assert audit.audit_item_ids(made, part, by_held_out)[0].status == "fail"
    assert audit.audit_item_ids(made, part, sequential(made))[0].status == "pass"


def test_the_golden_beauty_ids_leak_their_cold_items(shared, tmp_path):
    sequences = read_sequences(shared / "data/amazon_beauty/user_sequence.txt")
    made = write(tmp_path / "d", sequences)
    part = splits.leave_one_out(made)
    trained = walk(made, training_positions(made))
    met = set(trained)
    rest = [item for item in walk(made, np.arange(made.num_interactions)) if item not in met]
    assert len(rest) == 33
    results = audit.audit_item_ids(made, part, numbered(made, [*trained, *rest]))
    assert results[0].status == "fail"
    assert "33 items" in results[0].detail
    assert audit.audit_item_ids(made, part, sequential(made))[0].status == "pass"


def test_a_vocabulary_that_counts_held_out_items_fails(healthy):
    part = splits.leave_one_out(healthy)

    def from_everything(made: dataset.Dataset) -> str:
        return str(np.bincount(made.items_X).tolist())

    def from_training(made: dataset.Dataset) -> str:
        return str(np.bincount(made.items_X[training_positions(made)]).tolist())

    for build, status in ((from_everything, "fail"), (from_training, "pass")):
        result = audit.audit_rebuild("vocabulary_rebuilt", healthy, part, build(healthy), build)
        assert (result.check, result.status) == ("vocabulary_rebuilt", status)


def test_a_rebuild_with_fewer_entries_fails(healthy):
    result = audit.audit_rebuild(
        "item_ids_rebuilt", healthy, splits.leave_one_out(healthy), ["a", "b"], lambda _: ["a"]
    )
    assert result.status == "fail"


def test_exchanging_moves_every_held_out_item_and_no_other(healthy):
    part = splits.leave_one_out(healthy)
    changed_X = audit.exchange_held_out(healthy, part).items_X != healthy.items_X
    assert (changed_X == ~part.in_training_X(healthy)).all()


def test_examples_that_read_held_out_positions_fail(healthy):
    part = splits.leave_one_out(healthy)
    users_E = np.arange(healthy.num_users)
    starts_E, ends_E = healthy.offsets_U1[:-1], part.train_end_U

    def check(split, history_ends_E, targets_E, history_starts_E=starts_E) -> str:
        return audit.audit_examples(
            healthy, part, split, users_E, history_starts_E, history_ends_E, targets_E
        ).status

    assert check("training", ends_E - 1, ends_E - 1) == "pass"
    assert check("validation", ends_E, ends_E) == "pass"
    assert check("test", ends_E + 1, ends_E + 1) == "pass"
    assert check("training", ends_E, ends_E) == "fail"  # the target is held out
    assert check("training", ends_E, ends_E - 1) == "fail"  # the input holds the target
    assert check("test", ends_E, ends_E) == "fail"  # scored on the validation item
    assert check("test", ends_E + 2, ends_E + 1) == "fail"
    assert check("test", ends_E + 1, ends_E + 1, starts_E - 1) == "fail"  # another user's history


def test_predictions_scored_on_another_item_fail(healthy):
    part = splits.leave_one_out(healthy)
    users_E = np.arange(healthy.num_users)
    test_E = healthy.items_X[part.test_U]
    assert audit.audit_predictions(healthy, part, "test", users_E, test_E).status == "pass"
    assert audit.audit_predictions(healthy, part, "validation", users_E, test_E).status == "fail"
