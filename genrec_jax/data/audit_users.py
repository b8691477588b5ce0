"""The leakage audit of users' numbers, which prompts contain."""

import numpy as np
from jaxtyping import Int

from genrec_jax.data.audit_result import AuditResult
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import NO_TARGET, Splits

NEIGHBOURS = 10
"""Users asked on each side of a user."""
MOST_USERS_ASKED = 20_000
NEAR_RATIO, NEAR_DEVIATIONS = 1.25, 4.0
"""More than chance by so much of it, and by so many standard deviations, is not chance."""


def audit_user_numbers(dataset: Dataset, splits: Splits) -> AuditResult:
    """Looks for users who are numbered near those that have their held-out item.

    Numbers by first appearance in a log that is sorted by item do so, and a model that is told a
    user's number can tell the block it is in. The comparison is the same log with numbers dealt out
    at random.
    """
    check = "user_numbers_tell_nothing"
    users_E = np.flatnonzero(splits.targets_U("test") != NO_TARGET)
    step = max(len(users_E) // MOST_USERS_ASKED, 1)
    users_E = users_E[::step]
    if len(users_E) == 0 or dataset.num_users <= 2 * NEIGHBOURS:
        return AuditResult(check, "pass", "too few users for their numbers to tell anything")
    trained_X = splits.in_training_X(dataset)
    pairs_X = dataset.users_X[trained_X].astype(np.int64) * dataset.num_items
    pairs_X += dataset.items_X[trained_X]
    pairs_X.sort()
    targets_E = dataset.items_X[splits.targets_U("test")[users_E]].astype(np.int64)

    def near(user_of_number_U: Int[np.ndarray, " U"]) -> float:
        number_of_user_U = np.argsort(user_of_number_U)
        found_E = np.zeros(len(users_E), bool)
        for offset in (*range(-NEIGHBOURS, 0), *range(1, NEIGHBOURS + 1)):
            numbers_E = number_of_user_U[users_E] + offset
            there_E = (numbers_E >= 0) & (numbers_E < dataset.num_users)
            others_E = user_of_number_U[np.clip(numbers_E, 0, dataset.num_users - 1)]
            wanted_E = others_E.astype(np.int64) * dataset.num_items + targets_E
            places_E = np.minimum(np.searchsorted(pairs_X, wanted_E), len(pairs_X) - 1)
            found_E |= there_E & (pairs_X[places_E] == wanted_E)
        return float(found_E.mean())

    if not len(pairs_X):
        return AuditResult(check, "pass", "nothing trains, so numbers tell nothing")
    share = near(np.arange(dataset.num_users))
    random = np.random.default_rng(0)
    dealt = float(np.mean([near(random.permutation(dataset.num_users)) for _ in range(3)]))
    deviation = (max(dealt * (1 - dealt), 1 / len(users_E)) / len(users_E)) ** 0.5
    detail = (
        f"the test item of {share:.1%} of users is among the training items of the {2 * NEIGHBOURS} users"
        f" numbered next to them; of {dealt:.1%} when numbers are dealt out at random"
    )
    if share > NEAR_RATIO * dealt and share - dealt > NEAR_DEVIATIONS * deviation:
        return AuditResult(
            check,
            "warn",
            f"{detail}. Prompts name users by number: prepare the log without --user-order file",
        )
    return AuditResult(check, "pass", detail)
