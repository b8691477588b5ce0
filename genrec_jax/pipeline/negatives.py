"""Items that a user did not take, drawn by popularity: the negatives of ranking and BPR.

A draw picks a training interaction evenly and takes its item, so items come by how often they occur in
training; what the user must not get, and what was drawn before, is passed over. That is sampling
without replacement, one after another, by popularity among what is allowed.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from genrec_jax.data import hashing
from genrec_jax.data import splits as splits_lib
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.distinct import distinct
from genrec_jax.data.splits import Splits
from genrec_jax.errors import UserError

Avoid = Literal["training", "all"]
_MARGIN = 4  # draws beyond the wanted: a quarter, and 8
_RETRY, _FILL = 1, 2


class NegativeSampler:
    """Draws negatives for the users of one dataset."""

    def __init__(self, dataset: Dataset, splits: Splits, count: int, avoid: Avoid):
        """Counts popularity and checks that every user has enough items to draw.

        Args:
            dataset: the log.
            splits: what of it trains; popularity is counted on that alone.
            count: negatives that a draw wants.
            avoid: what a user never gets: the items of the own `training` part, so that nothing held
                out tells on itself, or `all` the user's items up to the last target, for evaluation.

        Raises:
            UserError: a user has too few items to draw from.
        """
        in_training_X = splits.in_training_X(dataset)
        self._popular_P = dataset.items_X[in_training_X].astype(np.int64)
        self._counts_I = splits_lib.training_counts_I(dataset, splits)
        self._num_items, self.count = dataset.num_items, count
        avoided_X = in_training_X
        if avoid == "all":
            # A temporal split's targets have items after them, which nobody knows yet.
            last_U = np.maximum(
                splits.train_end_U - 1, np.maximum(splits.validation_U, splits.test_U)
            )
            avoided_X = np.arange(len(in_training_X)) <= np.repeat(last_U, dataset.lengths_U)
        keys = dataset.users_X[avoided_X] * np.int64(self._num_items) + dataset.items_X[avoided_X]
        self._avoided = distinct(keys)
        known = self._counts_I > 0
        taken = self._avoided[known[self._avoided % self._num_items]] // self._num_items
        taken_U = np.bincount(taken, minlength=dataset.num_users)
        least = int(known.sum() - taken_U.max(initial=0))
        if least < count:
            raise UserError(
                f"{dataset.name} has {int(known.sum())} items in training, and user"
                f" {int(taken_U.argmax())} took all but {least} of them; wanted {count} that the user did"
                f" not take. Set num_candidates to {least + 1} or less"
            )

    def draw(
        self, users_E: Int[np.ndarray, " E"], *numbers: hashing.Numbers
    ) -> Int64[np.ndarray, "E J"]:
        """`count` different items for each row, none that its user must not get.

        Args:
            users_E: whose negatives.
            *numbers: decide the draw, as for `hashing.hash_numbers`; of the rows' shape.
        """
        rows = np.arange(len(users_E))
        found_EJ = np.full((len(users_E), self.count), -1, np.int64)
        columns = [np.broadcast_to(np.asarray(n, np.int64), len(users_E)) for n in numbers]
        width = self.count + self.count // _MARGIN + 8
        for _ in range(2):  # most rows are full at once; a few need a longer look
            drawn_EJ, counts_E = self._passed(users_E[rows], width, [c[rows] for c in columns])
            found_EJ[rows] = drawn_EJ
            rows = rows[counts_E < self.count]
            if not len(rows):
                return found_EJ
            width *= 4
        for row in rows.tolist():
            key = hashing.hash_numbers(*[int(c[row]) for c in columns], _FILL)
            self._fill(found_EJ[row], int(users_E[row]), int(key.astype(np.int64)[0]))
        return found_EJ

    def is_avoided(
        self, users_E: Int[np.ndarray, " E"], items_EJ: Int[np.ndarray, "E J"]
    ) -> Bool[np.ndarray, "E J"]:
        """Whether users must not get those items."""
        keys_EJ = users_E[:, None] * np.int64(self._num_items) + items_EJ
        places_EJ = np.minimum(
            np.searchsorted(self._avoided, keys_EJ), max(len(self._avoided) - 1, 0)
        )
        return self._avoided[places_EJ] == keys_EJ

    def _passed(
        self, users_E: np.ndarray, width: int, columns: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` allowed items of `width` draws, -1 where there are fewer; and how many."""
        hashes_EJ = hashing.hash_numbers(*[c[:, None] for c in columns], _RETRY, np.arange(width))
        size = np.uint64(len(self._popular_P))
        items_EJ = self._popular_P[(hashes_EJ % size).astype(np.int64)]
        good_EJ = ~self.is_avoided(users_E, items_EJ) & _first_of_its_kind(items_EJ)
        rank_EJ = np.cumsum(good_EJ, axis=1) - 1
        good_EJ &= rank_EJ < self.count
        found_EJ = np.full((len(users_E), self.count), -1, np.int64)
        row_EJ = np.broadcast_to(np.arange(len(users_E))[:, None], good_EJ.shape)
        found_EJ[row_EJ[good_EJ], rank_EJ[good_EJ]] = items_EJ[good_EJ]
        return found_EJ, good_EJ.sum(axis=1)

    def _fill(self, found_J: np.ndarray, user: int, key: int) -> None:
        """Completes a row exactly, looking at the whole catalogue.

        Sorting by exponential(weight) draws what is left one after another by weight (Efraimidis and
        Spirakis 2006), which is what more draws would come to.
        """
        missing = np.flatnonzero(found_J < 0)
        weights_I = self._counts_I.astype(np.float64)
        weights_I[found_J[found_J >= 0]] = 0
        keys = self._avoided[
            slice(
                *np.searchsorted(
                    self._avoided, [user * self._num_items, (user + 1) * self._num_items]
                )
            )
        ]
        weights_I[keys - user * self._num_items] = 0
        uniform_I = _uniform(hashing.hash_numbers(key, np.arange(self._num_items)))
        with np.errstate(divide="ignore"):
            times_I = -np.log(uniform_I) / weights_I
        found_J[missing] = np.argsort(times_I, kind="stable")[: len(missing)]


def _first_of_its_kind(items_EJ: Int64[np.ndarray, "E J"]) -> Bool[np.ndarray, "E J"]:
    """Whether no earlier entry of the row is the same."""
    width = items_EJ.shape[1]
    keys_EJ = np.sort((items_EJ << 16) | np.arange(width), axis=1)
    repeated_EJ = np.zeros(items_EJ.shape, bool)
    repeated_EJ[:, 1:] = (keys_EJ[:, 1:] >> 16) == (keys_EJ[:, :-1] >> 16)
    first_EJ = np.empty(items_EJ.shape, bool)
    np.put_along_axis(first_EJ, keys_EJ & 0xFFFF, ~repeated_EJ, axis=1)
    return first_EJ


def _uniform(hashes: np.ndarray) -> Float[np.ndarray, " I"]:
    """Numbers above 0 and below 1."""
    return ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
