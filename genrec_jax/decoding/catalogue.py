"""The items that a run knows, by source id and title; what a person types is found among them."""

import copy
import dataclasses
import html
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import pyarrow.parquet as pq

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

GRAM = 3
LEAST_SIMILARITY = 0.5
"""What an unknown title is at least like the one it is taken for. Of the titles of ML-100K and
MovieTweetings, 97% with one letter wrong and 90% with two are that like themselves, and 10% of those that
are not in the catalogue are that like another."""

Unknown = Literal["nearest", "skip", "error"]
"""What becomes of an entry that is not in the catalogue: the nearest title, nothing, or an error."""

T = TypeVar("T")


class Rows(Sequence[T], Generic[T]):
    """A list that stays as it is; a longer one shares what was there first, and copies the rest."""

    def __init__(self, first: list[T], more: Iterable[T] = ()):
        self._first, self._more = first, [*more]

    def extended(self, added: Iterable[T]) -> "Rows[T]":
        """These rows and then the added ones."""
        return Rows(self._first, [*self._more, *added])

    def __len__(self) -> int:
        return len(self._first) + len(self._more)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # negative places, and IndexError
        known = len(self._first)
        return self._first[place] if place < known else self._more[place - known]

    def __iter__(self) -> Iterator[T]:
        yield from self._first
        yield from self._more

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Rows, list, tuple)) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return repr([*self])


@dataclasses.dataclass(frozen=True)
class Match:
    """What one entry of a history was taken for.

    Attributes:
        query: as it was given; of an item number or an item, its source id.
        item: number of the item it was taken for.
        source_id: of that item.
        title: of that item, None where it has none.
        similarity: 1 for the very source id or title, less for the nearest known title.
    """

    query: str
    item: int
    source_id: str
    title: str | None
    similarity: float

    @property
    def exact(self) -> bool:
        """Whether the query is the item's source id or title, capitals and spaces aside."""
        return self.similarity == 1.0


@runtime_checkable
class KnownItem(Protocol):
    """An item as answers have it: a `Recommendation` or a `Match`."""

    @property
    def item(self) -> int:
        """Its number."""
        ...

    @property
    def source_id(self) -> str:
        """The source's own id."""
        ...


Query = str | int | np.integer | KnownItem
"""How an item may be named: source id or title as text, item number, or an item of an earlier answer."""


class Catalogue:
    """Source ids and titles by item number, and the search among them. Immutable.

    A whole number is an item number, never a source id. A text is looked up as a source id, then as a
    title (capitals, white space and HTML entities aside; of items with one source id the last, of items
    with one title the first that may be recommended). Otherwise the title nearest to it may be meant:
    cosine of character trigrams, the rarer the weightier, `LEAST_SIMILARITY` or more. What looks like a
    source id (one word with a digit) is never taken for another item, nor is anything taken for the source
    id that it resembles: such likeness means nothing.

    Attributes:
        source_ids: the source's own id of each item.
        titles: the title of each item, None where it has none.
    """

    def __init__(self, source_ids: Sequence[str], titles: Sequence[str | None]):
        self.source_ids = Rows([*source_ids])
        self.titles = Rows([_unescaped(title) for title in titles])
        # The items there were first, and beside them those added since.
        self._by_source_id = (_by_source_id(self.source_ids, 0), dict[str, int]())
        self._by_title = (_by_title(self.titles, 0), dict[str, int | list[int]]())
        self._retired = frozenset[int]()
        self._lock = threading.Lock()
        self._grams = _GramIndex([])

    def extended(self, source_ids: Sequence[str], titles: Sequence[str | None]) -> "Catalogue":
        """A catalogue with more items, which get the next numbers; this one stays as it is.

        It takes time by the items added since the first catalogue, not by those that were in it.

        Args:
            source_ids: of the added items; an earlier item's may come again, and then means the new one.
            titles: of the added items.
        """
        extended = copy.copy(self)
        added = [_unescaped(title) for title in titles]
        extended.source_ids = self.source_ids.extended(source_ids)
        extended.titles = self.titles.extended(added)
        first, more = self._by_source_id
        extended._by_source_id = first, more | _by_source_id(source_ids, len(self))
        first, more = self._by_title
        more = dict(more)
        for title, items in _by_title(added, len(self)).items():
            more[title] = [*_each(more[title]), *_each(items)] if title in more else items
        extended._by_title = first, more
        extended._lock = threading.Lock()
        return extended

    def retiring(self, items: Iterable[int]) -> "Catalogue":
        """A catalogue in which a title means other items sooner than these; this one stays as it is."""
        retiring = copy.copy(self)
        retiring._retired = self._retired.union(items)
        retiring._lock = threading.Lock()
        return retiring

    @classmethod
    def load(cls, table: artefacts.PathLike) -> "Catalogue":
        """Reads the `item_ids.parquet` of a run dir."""
        columns = pq.read_table(table, columns=["source_id", "title"])
        return cls(columns["source_id"].to_pylist(), columns["title"].to_pylist())

    def __len__(self) -> int:
        return len(self.source_ids)

    def find(self, query: Any, *, nearest: bool = True) -> Match:
        """The item that a source id or a title means, or that of the nearest title.

        Args:
            query: see `Query`.
            nearest: whether the nearest title may be meant.

        Raises:
            UserError: it is not in the catalogue, and no title is near enough; or it is no `Query`.
        """
        match = self._find(query, nearest)
        if match is None:
            text = query.strip()
            like = ", nor like a title of it" if nearest else ""
            raise UserError(
                f"{text!r} is neither a source id nor a title of the catalogue{like}; wanted something"
                f" such as {self._example()}"
            )
        return match

    def read(self, history: Any, unknown: Unknown) -> tuple[list[Match], list[str]]:
        """What the entries of a history mean, and those that mean nothing.

        Args:
            history: see `Query`.
            unknown: what becomes of a text that is not in the catalogue; with `nearest`, one like no
                title is skipped.

        Returns:
            the matches in the history's order, and the entries skipped.

        Raises:
            UserError: an unknown text where `unknown` is `error`, an item number beyond the catalogue, an
                item of another one, or an entry that is no `Query`.
        """
        matches, skipped = [], []
        for entry in history:
            if unknown == "error":
                matches.append(self.find(entry, nearest=False))
                continue
            match = self._find(entry, unknown == "nearest")
            skipped.append(entry.strip()) if match is None else matches.append(match)
        return matches, skipped

    def index_titles(self) -> None:
        """Makes the index that finds nearest titles, which the first unknown entry otherwise waits for."""
        self._grams_now()

    def items_of(self, queries: Any) -> list[int]:
        """The item numbers of `Query`s, each the very one; none is taken for another.

        Raises:
            UserError: no list, some that are not in the catalogue, the title of several items that may be
                recommended, or an entry that is no `Query`.
        """
        if not is_list(queries):
            raise UserError(
                f"items are given as {queries!r}; wanted a list of source ids, titles, item numbers or"
                f" recommendations, such as [{self._example()}]"
            )
        items, unknown = [], []
        for query in queries:
            if not isinstance(query, str):
                items.append(self._number(query))
                continue
            text = query.strip()
            item = self.number_of(text)
            found = self.titled(text) if item is None else [item]
            if len(found) > 1:
                names = ", ".join(repr(self.source_ids[one]) for one in found[:5])
                more = f" and {len(found) - 5} more" if len(found) > 5 else ""
                raise UserError(
                    f"{text!r} is the title of {len(found)} items, {names}{more}; wanted the source ids"
                    " of those that are meant"
                )
            items += found
            if not found:
                unknown.append(text)
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise UserError(
                f"{', '.join(map(repr, unknown[:3]))}{more}: neither source ids nor titles of the"
                f" catalogue; wanted such as {self._example()}"
            )
        return items

    def number_of(self, source_id: str) -> int | None:
        """The item's number, None where there is no such source id."""
        first, more = self._by_source_id
        return more.get(source_id, first.get(source_id))

    def titled(self, text: str) -> list[int]:
        """The items of that title; where some of them are retired and others not, the others."""
        title = _plain(text)
        found = [item for known in self._by_title for item in _each(known.get(title, []))]
        return [item for item in found if item not in self._retired] or found

    def _find(self, query: Any, nearest: bool) -> Match | None:
        if not isinstance(query, str):
            item = self._number(query)
            return self._match(self.source_ids[item], item, 1.0)
        text = query.strip()
        item = self._exact(text)
        if item is not None:
            return self._match(text, item, 1.0)
        if not nearest or _looks_like_a_source_id(text):
            return None
        item, similarity = self._grams_now().nearest(text)
        if similarity < LEAST_SIMILARITY:
            return None
        # Texts may be alike to the last trigram without being equal.
        return self._match(text, item, min(similarity, 0.999))

    def _number(self, query: Any) -> int:
        """The item number that anything but a text is or has."""
        answered = isinstance(query, KnownItem)
        number: Any = query.item if answered else query
        whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
        known = whole and 0 <= number < len(self)
        if known and (not answered or self.source_ids[number] == query.source_id):
            return int(number)
        if answered:
            raise UserError(
                f"item {number!r} with source id {query.source_id!r} is not of this catalogue; wanted one"
                " that this recommender answered, or its source id as text"
            )
        raise UserError(
            f"an item is given as {query!r}; wanted a source id or title as text, an item number from 0 to"
            f" {len(self) - 1}, or a recommendation (source ids that are numbers are text, too; a table's"
            " whole numbers become floats where some are missing, leave those out)"
        )

    def _exact(self, text: str) -> int | None:
        item = self.number_of(text)
        return item if item is not None else next(iter(self.titled(text)), None)

    def _grams_now(self) -> "_GramIndex":
        """The index of titles' trigrams, made or brought up to date by the first who needs it."""
        with self._lock:
            known = len(self._grams)
            if known < len(self):
                self._grams = _GramIndex(self.titles[known:], self._grams)
            return self._grams

    def _match(self, query: str, item: int, similarity: float) -> Match:
        return Match(query, item, self.source_ids[item], self.titles[item], similarity)

    def _example(self) -> str:
        title = self.titles[0]
        return repr(self.source_ids[0]) + (f" or {title!r}" if title else "")


class _GramIndex:
    """Texts by their character trigrams: an inverted file with inverse-frequency weights.

    One that goes on from another is the same as one of all texts; the other stays as it is.
    """

    def __init__(self, texts: Sequence[str | None], before: "_GramIndex | None" = None):
        """Reads texts; those of `before` are the first."""
        self._size = len(texts) + (len(before) if before else 0)
        self._places: dict[str, int] = dict(before._places) if before else {}
        grams, owners = [], []
        for owner, text in enumerate(texts, self._size - len(texts)):
            for gram in _grams_of(text or ""):
                grams.append(self._places.setdefault(gram, len(self._places)))
                owners.append(owner)
        grams_P, owners_P = np.asarray(grams, np.int32), np.asarray(owners, np.int32)
        order_P = np.argsort(grams_P, kind="stable")
        counts = np.bincount(grams_P, minlength=len(self._places))
        self._owners_P = owners_P[order_P]
        if before:
            # The new owners of a trigram come after its earlier ones.
            known = np.pad(before._counts, (0, len(counts) - len(before._counts)))
            behind_P = np.cumsum(known)[grams_P[order_P]]
            self._owners_P = np.insert(before._owners_P, behind_P, self._owners_P)
            counts += known
        self._counts, self._ends = counts, np.cumsum(counts)
        self._weights = np.log1p(self._size / np.maximum(counts, 1))
        squares_P = np.repeat(self._weights**2, counts)
        squares = np.bincount(self._owners_P, squares_P, minlength=self._size)
        self._norms = np.sqrt(np.maximum(squares, 1e-12))
        self._rarest = float(np.log1p(self._size))

    def __len__(self) -> int:
        return self._size

    def nearest(self, text: str) -> tuple[int, float]:
        """Number of the most similar text, the first of several, and the cosine."""
        scores = np.zeros(len(self._norms))
        square = 0.0
        for gram in _grams_of(text):
            place = self._places.get(gram)
            weight = self._rarest if place is None else float(self._weights[place])
            square += weight**2
            if place is not None:
                start = self._ends[place - 1] if place else 0
                scores[self._owners_P[start : self._ends[place]]] += weight**2
        if not square:
            return 0, 0.0
        scores /= self._norms * np.sqrt(square)
        best = int(np.argmax(scores))
        return best, float(scores[best])


def is_list(given: Any) -> bool:
    """Whether it is several things: no text, no bytes or mapping, read as numbers or as its keys."""
    if isinstance(given, (str, bytes, bytearray, memoryview, Mapping)):
        return False
    if getattr(given, "ndim", 1) == 0:
        return False
    return isinstance(given, Iterable)


def _looks_like_a_source_id(text: str) -> bool:
    return len(text.split()) == 1 and any(map(str.isdigit, text))


def _unescaped(title: str | None) -> str | None:
    return None if title is None else html.unescape(title)


def _by_source_id(source_ids: Iterable[str], begin: int) -> dict[str, int]:
    return {source_id: item for item, source_id in enumerate(source_ids, begin)}


def _by_title(titles: Iterable[str | None], begin: int) -> dict[str, int | list[int]]:
    """The item of each title; a list where there are several."""
    items: dict[str, int | list[int]] = {}
    for item, title in enumerate(titles, begin):
        if title is None:
            continue
        earlier = items.setdefault(_plain(title), item)
        if isinstance(earlier, list):
            earlier.append(item)
        elif earlier != item:
            items[_plain(title)] = [earlier, item]
    return items


def _each(items: int | list[int]) -> list[int]:
    return items if isinstance(items, list) else [items]


def _plain(text: str) -> str:
    return " ".join(html.unescape(text).casefold().split())


def _grams_of(text: str) -> set[str]:
    padded = f"  {_plain(text)} "
    if not padded.strip():
        return set()
    return {padded[i : i + GRAM] for i in range(len(padded) - GRAM + 1)}
