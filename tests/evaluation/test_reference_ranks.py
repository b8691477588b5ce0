"""Systems of the user's own beside the model: answers in another form are refused by name."""

import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.evaluation import reference_ranks
from genrec_jax.evaluation.reference_ranks import References


def both(ranks):
    return {"seen_kept": ranks, "seen_excluded": ranks}


@pytest.fixture
def count(splits):
    return int((splits.targets_U("test") >= 0).sum())


def test_lists_of_ranks_are_as_good_as_arrays(dataset, splits, count):
    given = References(rank_targets=lambda *_: {"item_knn": both([1] * count)})
    found = reference_ranks.checked(given).rank_targets
    assert found is not None
    for ranks_E in found(dataset, splits, "test")["item_knn"].values():
        np.testing.assert_array_equal(ranks_E, np.ones(count, np.int64))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda n: {"my/bad": both([1] * n)}, r"called 'my/bad'; wanted a name of letters"),
        (lambda n: {"model": both([1] * n)}, "called 'model'"),
        (lambda n: {"mine": {"seen_kept": [1] * n}}, r"mine has \['seen_kept'\]; wanted a dict of"),
        (
            lambda n: {"mine": [1] * n},
            "mine has list; wanted a dict of seen_kept and seen_excluded",
        ),
        (lambda n: [1] * n, "returned a list; wanted a dict, by system"),
        (
            lambda n: {"mine": both([1] * (n + 1))},
            r"mine, seen_kept has values of shape .*user order",
        ),
        (lambda n: {"mine": both([[1], [1, 2]])}, r"values of shape \(\)"),
        (lambda n: {"mine": both([0.5] * n)}, r"type float64; wanted \d+ whole numbers"),
        (lambda n: {"mine": both([-1] * n)}, r"ranks from -1 to -1; wanted 1 to \d+"),
        (lambda n: {"mine": both([10**6] * n)}, "ranks from 1000000 to 1000000"),
    ],
)
def test_ranks_in_another_form_are_refused(dataset, splits, count, answer, said):
    asked = reference_ranks.checked(References(rank_targets=lambda *_: answer(count))).rank_targets
    assert asked is not None
    with pytest.raises(UserError, match=said):
        asked(dataset, splits, "test")


def test_ranks_of_candidates_and_scores_are_checked_too(dataset, splits):
    bad = reference_ranks.checked(
        References(
            rank_candidates=lambda *_: {"mine": [5, 1]}, rate=lambda *_: {"mine": [0.5, np.nan]}
        )
    )
    assert bad.rank_targets is None and bad.rank_candidates is not None and bad.rate is not None
    with pytest.raises(UserError, match="ranks from 1 to 5; wanted 1 to 4"):
        bad.rank_candidates(dataset, splits, np.zeros(2, int), np.zeros((2, 4), int))
    with pytest.raises(UserError, match="scores that are not finite"):
        bad.rate(dataset, splits, np.arange(2), 3.0)


def test_what_is_no_set_of_references_is_refused():
    with pytest.raises(UserError, match=r"is a function; wanted .*References\(rank_targets="):
        reference_ranks.checked(lambda *_: {})
