"""How alike two systems' lists are: of bfloat16 and float32, say, or of two searches."""

import dataclasses

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Two lists for each of some users, compared.

    Attributes:
        lists: users compared.
        shared: mean share of the longer list's items that both lists hold; 1 where both are empty.
        identical: share of users whose two lists are equal, order included.
        first: share of users whose first items are equal.
    """

    lists: int
    shared: float
    identical: float
    first: float


def compare(
    items_ER: Int[np.ndarray, "E R"], other_ER: Int[np.ndarray, "E R"], cutoff: int
) -> Overlap:
    """Compares the first `cutoff` places of two systems' lists.

    Args:
        items_ER: distinct items, best first; -1 in empty places.
        other_ER: the other system's, of the same users in the same order.
        cutoff: places compared.
    """
    one_EK, other_EK = items_ER[:, :cutoff], other_ER[:, :cutoff]
    both_EKK = (one_EK[:, :, None] == other_EK[:, None, :]) & (one_EK[:, :, None] >= 0)
    shared_E = both_EKK.sum(axis=(1, 2))
    longer_E = np.maximum((one_EK >= 0).sum(axis=1), (other_EK >= 0).sum(axis=1))
    shares_E = np.where(longer_E > 0, shared_E / np.maximum(longer_E, 1), 1.0)
    return Overlap(
        lists=len(one_EK),
        shared=float(shares_E.mean()),
        identical=float((one_EK == other_EK).all(axis=1).mean()),
        first=float((one_EK[:, 0] == other_EK[:, 0]).mean()),
    )
