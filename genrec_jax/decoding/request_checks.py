"""What a recommender is asked, looked at before any work is done."""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Int32

from genrec_jax.decoding.catalogue import Catalogue, Match, Unknown
from genrec_jax.errors import UserError
from genrec_jax.prompts import rendering

logger = logging.getLogger(__name__)

LARGEST_USER = np.iinfo(np.int32).max - 1
"""Prompts number users from 1, in int32."""


@dataclasses.dataclass(frozen=True)
class History:
    """A request's history as it was read.

    Attributes:
        matches: what its entries mean.
        skipped: those that are not in the catalogue and mean nothing.
    """

    matches: list[Match]
    skipped: list[str]


def read_histories(catalogue: Catalogue, histories: Iterable[Any], unknown: Any) -> list[History]:
    """What the histories mean; a line of the log says what is not in the catalogue.

    Args:
        catalogue: the items there are.
        histories: as `Recommender.recommend` got them.
        unknown: what becomes of entries that are not in the catalogue.

    Raises:
        UserError: a text in place of a history or of all, or what `Catalogue.read` refuses.
    """
    check_unknown(unknown)
    given = [histories] if isinstance(histories, str) else [*histories]  # may be a generator
    for history in given:
        if isinstance(history, str) or not isinstance(history, Iterable):
            raise UserError(
                f"a history is {history!r}; wanted a list of source ids or titles for each request, such"
                " as [['first', 'second']]"
            )
    read = [History(*catalogue.read(history, unknown)) for history in given]
    skipped = [text for one in read for text in one.skipped]
    taken = [match for one in read for match in one.matches if not match.exact]
    if skipped or taken:
        logger.info(
            "%d entries of %d histories are not in the catalogue: %d skipped (%s), %d taken for the"
            " nearest title (%s)",
            len(skipped) + len(taken),
            len(read),
            len(skipped),
            ", ".join(map(repr, skipped[:3])),
            len(taken),
            ", ".join(f"{one.query!r} for {one.title!r}" for one in taken[:3]),
        )
    return read


def check_unknown(unknown: str) -> None:
    """Checks that `unknown` is one of the policies for unknown entries."""
    if unknown not in get_args(Unknown):
        raise UserError(f"unknown is {unknown!r}; wanted one of {', '.join(get_args(Unknown))}")


def user_numbers(
    users: Sequence[Any] | None, requests: int, known: int | None
) -> Int32[np.ndarray, " E"]:
    """The users' numbers, those of new users too.

    Args:
        users: as `Recommender.recommend` got them.
        requests: how many requests there are.
        known: users that the run was trained on; None where that is not known.

    Raises:
        UserError: not one for each request, or what is no user's number.
    """
    if users is None:
        return np.full(requests, rendering.UNKNOWN_USER, np.int32)
    if len(users) != requests:
        raise UserError(f"got {len(users)} users and {requests} histories; wanted as many of each")
    most = LARGEST_USER if known is None else known - 1
    numbers = []
    for user in users:
        if user is None:
            numbers.append(rendering.UNKNOWN_USER)
            continue
        whole = isinstance(user, (int, np.integer)) and not isinstance(user, bool)
        number = int(user) if whole else -1
        if not 0 <= number <= most:
            raise UserError(
                f"users has {user!r}; wanted user numbers of the dataset trained on, from 0 to {most}, or"
                " None for a new user"
            )
        numbers.append(number)
    return np.asarray(numbers, np.int32)


def item_lists(
    name: str, lists: Iterable[Any] | None, requests: int, known: int
) -> list[Any] | None:
    """`exclude` or `allow` as given, once it is one list of known items for each request.

    Args:
        name: which of the two; None in place of a list excludes nothing, and allows everything.
        lists: as `Recommender.recommend` got them.
        requests: how many requests there are.
        known: items that there are.

    Raises:
        UserError: not one for each request, or what is no item's number.
    """
    if lists is None:
        return None
    given = [*lists]
    if len(given) != requests:
        raise UserError(
            f"{name} has {len(given)} lists for {requests} requests; wanted one for each"
        )
    nothing = None if name == "allow" else np.zeros(0, np.int64)
    read: dict[int, np.ndarray] = {}  # by identity: requests may share a long list
    for listed in given:
        if listed is not None and id(listed) not in read:
            read[id(listed)] = _item_numbers(name, listed, known)
    return [nothing if listed is None else read[id(listed)] for listed in given]


def _item_numbers(name: str, listed: Any, known: int) -> np.ndarray:
    if not isinstance(listed, str) and isinstance(listed, Iterable):
        try:
            items = listed if isinstance(listed, np.ndarray) else np.asarray([*listed])
        except ValueError:  # lists of several lengths
            items = np.asarray([[]])
        if not items.size and items.ndim == 1:
            return np.zeros(0, np.int64)
        whole = items.dtype.kind in "iu" and items.ndim == 1
        if whole and items.min() >= 0 and items.max() < known:
            return items
    raise UserError(
        f"{name} has {' '.join(str(listed).split())[:80]}; wanted for each request a list of item numbers"
        f" from 0 to {known - 1} (`catalogue.items_of` gives those of source ids and titles), or None"
    )
