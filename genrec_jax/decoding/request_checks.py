"""What a recommender is asked, looked at before any work is done."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Int32

from genrec_jax.checks import check_whole
from genrec_jax.decoding.catalogue import Catalogue, Match, Unknown, is_list
from genrec_jax.decoding.constraints import ItemList
from genrec_jax.errors import UserError
from genrec_jax.prompts import rendering

logger = logging.getLogger(__name__)

Constrained = tuple[Sequence[ItemList], Sequence[ItemList | None]]
"""For each request the items it must not get, and the only ones it may get (None for all)."""


@dataclasses.dataclass(frozen=True)
class History:
    """A request's history as it was read.

    Attributes:
        matches: what its entries mean.
        skipped: those that are not in the catalogue and mean nothing.
    """

    matches: list[Match]
    skipped: list[str]


def read_histories(catalogue: Catalogue, histories: Any, unknown: Any) -> list[History]:
    """What the histories mean; a line of the log says what is not in the catalogue.

    Args:
        catalogue: the items there are.
        histories: as `Recommender.recommend` got them.
        unknown: what becomes of entries that are not in the catalogue.

    Raises:
        UserError: no list of lists, or what `Catalogue.read` refuses.
    """
    check_unknown(unknown)
    given = [*histories] if is_list(histories) else [histories]  # may be a generator
    for history in given:
        if not is_list(history):
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


def check_unknown(unknown: Any) -> None:
    """Checks that `unknown` is one of the policies for unknown entries."""
    if unknown not in get_args(Unknown):
        raise UserError(f"unknown is {unknown!r}; wanted one of {', '.join(get_args(Unknown))}")


def check_flag(name: str, value: Any) -> None:
    """Refuses what is neither true nor false, such as one of each for each request."""
    if not isinstance(value, (bool, np.bool_)):
        raise UserError(f"{name} is {value!r}; wanted True or False, for all requests of the call")


def check_template(template: Any) -> None:
    """Refuses what is no template's id; whether there is such a template is for the prompts to say."""
    if template is not None and not isinstance(template, str):
        raise UserError(f"template is {template!r}; wanted the id of a template as text, or None")


def check_counts(name: str, values: Any) -> None:
    """Refuses what is no list of whole numbers of 1 or more."""
    if not is_list(values):
        raise UserError(f"{name} is {values!r}; wanted a list of whole numbers, such as [1, 8]")
    for value in values:
        check_whole(f"one of {name}", value, 1)


def check_texts(name: str, what: str, given: Any) -> None:
    """Refuses what is no mapping from source ids to texts, or has a source id that nobody could name."""
    if not isinstance(given, Mapping):
        raise UserError(
            f"{name} is {' '.join(repr(given).split())[:80]}; wanted a mapping from source ids to {what}"
        )
    for source_id, text in given.items():
        if not isinstance(source_id, str) or not isinstance(text, str):
            raise UserError(
                f"{name} has {source_id!r}: {text!r}; wanted the {what} of each source id, both as text"
            )
        if not source_id or source_id != source_id.strip():
            raise UserError(
                f"{name} has the source id {source_id!r}; wanted one that is not empty, without spaces"
                " around it, which are left out where an item is looked up"
            )


def user_numbers(users: Any, requests: int, known: int) -> Int32[np.ndarray, " E"]:
    """The users' numbers, those of new users too.

    Args:
        users: as `Recommender.recommend` got them.
        requests: how many requests there are.
        known: users that the run was trained on.

    Raises:
        UserError: not one for each request, or what is no user's number.
    """
    if users is None:
        return np.full(requests, rendering.UNKNOWN_USER, np.int32)
    if not is_list(users):
        raise UserError(
            f"users is {users!r}; wanted a user number or None for each request, such as [7, None]"
        )
    users = [*users]
    if len(users) != requests:
        raise UserError(f"got {len(users)} users and {requests} histories; wanted as many of each")
    numbers = []
    for user in users:
        if user is None:
            numbers.append(rendering.UNKNOWN_USER)
            continue
        whole = isinstance(user, (int, np.integer)) and not isinstance(user, bool)
        number = int(user) if whole else -1
        if not 0 <= number < known:
            raise UserError(
                f"users has {user!r}; wanted user numbers of the dataset trained on, from 0 to {known - 1},"
                " or None for a new user"
            )
        numbers.append(number)
    return np.asarray(numbers, np.int32)


def constrained(
    exclude: Any, allow: Any, read: Sequence[History], catalogue: Catalogue, exclude_seen: bool
) -> Constrained | None:
    """What each request may get, of what `Recommender.recommend` got; None: no request has lists.

    Raises:
        UserError: not one list for each request, or what `Catalogue.items_of` refuses.
    """
    left_out = item_lists("exclude", exclude, len(read), catalogue)
    allowed = item_lists("allow", allow, len(read), catalogue)
    if exclude_seen:
        seen = [np.asarray([match.item for match in one.matches], np.int64) for one in read]
        more = seen if left_out is None else left_out
        left_out = [np.concatenate(pair) for pair in zip(more, seen, strict=True)]
    if left_out is None and allowed is None:
        return None
    return left_out or [[]] * len(read), allowed or [None] * len(read)


def item_lists(name: str, lists: Any, requests: int, catalogue: Catalogue) -> list[Any] | None:
    """The item numbers of `exclude` or `allow`, for each request; an array of numbers stays as it is.

    Args:
        name: which of the two; None in place of a list excludes nothing, and allows everything.
        lists: as `Recommender.recommend` got them.
        requests: how many requests there are.
        catalogue: the items there are.

    Raises:
        UserError: not one list for each request, or what `Catalogue.items_of` refuses.
    """
    if lists is None:
        return None
    if not is_list(lists):
        raise UserError(f"{name} is {lists!r}; wanted a list of items, or None, for each request")
    given = [*lists]
    if len(given) != requests:
        raise UserError(
            f"{name} has {len(given)} lists for {requests} requests; wanted one for each"
        )
    nothing = None if name == "allow" else np.zeros(0, np.int64)
    read: dict[int, np.ndarray] = {}  # by identity: requests may share a long list
    for listed in given:
        if listed is not None and id(listed) not in read:
            read[id(listed)] = _item_numbers(name, listed, catalogue)
    return [nothing if listed is None else read[id(listed)] for listed in given]


def _item_numbers(name: str, listed: Any, catalogue: Catalogue) -> np.ndarray:
    if not is_list(listed):
        raise UserError(
            f"{name} has {listed!r}; wanted for each request a list of source ids, titles, item numbers or"
            " recommendations, or None"
        )
    given = listed if isinstance(listed, np.ndarray) else [*listed]
    if all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in _kinds(given)):
        items = np.asarray(given) if len(given) else np.zeros(0, np.int64)
        if not items.size or (
            items.dtype.kind in "iu" and 0 <= items.min() <= items.max() < len(catalogue)
        ):
            return items
    try:
        return np.asarray(catalogue.items_of(given), np.int64)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _kinds(given: Any) -> set[type]:
    """The types of a list's entries, found at the speed of C: it may have a million."""
    if isinstance(given, np.ndarray):
        return {given.dtype.type} if given.ndim == 1 else {np.ndarray}
    return set(map(type, given))
