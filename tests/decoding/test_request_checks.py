"""What is refused before any work is done, and what lists of items become."""

import numpy as np
import pytest

from genrec_jax.decoding import request_checks
from genrec_jax.decoding.catalogue import Catalogue
from genrec_jax.errors import UserError

HUNDRED = Catalogue([f"s{i}" for i in range(100)], ["Tea", *[None] * 99])


@pytest.mark.parametrize("wrong", [5, "s5", b"ab", bytearray(b"a"), np.asarray(5), {"s5": 1}])
def test_what_is_no_list(wrong):
    for name in ("exclude", "allow"):
        with pytest.raises(UserError, match=f"{name} has .*; wanted for each request a list of"):
            request_checks.item_lists(name, [[1], wrong], 2, HUNDRED)
    with pytest.raises(UserError, match=r"a history is .*; wanted a list"):
        request_checks.read_histories(HUNDRED, [["s1"], wrong], "skip")
    with pytest.raises(UserError, match=r"items are given as .*; wanted a list"):
        HUNDRED.items_of(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        *([[5]], [[5], [6, 7]], [None], [1.5], [True], [5, True], [b"s1"], [10**30], [100]),
        *(np.eye(2), np.asarray([True]), np.asarray([-1]), np.ones((1, 1), int)),
    ],
)
def test_what_is_no_list_of_items(wrong):
    for name in ("exclude", "allow"):
        with pytest.raises(UserError, match=f"(?s){name}: an item is given as .*; wanted a source"):
            request_checks.item_lists(name, [[1], wrong], 2, HUNDRED)


def test_lists_are_read_once_and_arrays_stay_as_they_are():
    shared = np.asarray([3, 1])
    excluded = request_checks.item_lists("exclude", [None, shared, (), shared], 4, HUNDRED)
    assert [items.tolist() for items in excluded] == [[], [3, 1], [], [3, 1]]
    assert excluded[1] is excluded[3] is shared
    allowed = request_checks.item_lists("allow", [None, iter([2]), range(3)], 3, HUNDRED)
    assert allowed[0] is None and [items.tolist() for items in allowed[1:]] == [[2], [0, 1, 2]]
    # Rows of a table come and go as they are read; each is its own list.
    table = request_checks.item_lists("allow", np.arange(6).reshape(3, 2), 3, HUNDRED)
    assert [items.tolist() for items in table] == [[0, 1], [2, 3], [4, 5]]


def test_what_is_a_users_number():
    numbers = request_checks.user_numbers([0, None, np.int64(59)], 3, 60)
    assert numbers.tolist() == [0, -1, 59]
    assert request_checks.user_numbers(None, 2, 60).tolist() == [-1, -1]
    for wrong in (-1, 60, 1.0, True, "shopper_17"):
        with pytest.raises(UserError, match=f"users has {wrong!r}; wanted user numbers"):
            request_checks.user_numbers([0, wrong], 2, 60)
