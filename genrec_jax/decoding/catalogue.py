"""The items that a run knows, by source id and title; what a person types is found among them."""

import dataclasses
import html
import threading
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow.parquet as pq

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

GRAM = 3


@dataclasses.dataclass(frozen=True)
class Match:
    """What one entry of a history was taken for.

    Attributes:
        query: as it was given.
        item: number of the item it was taken for.
        source_id: of that item.
        title: of that item, None where it has none.
        similarity: 1 for the very source id or title, less for the nearest known one.
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


class Catalogue:
    """Source ids and titles by item number, and the search among them.

    A query is looked up as a source id, then as a title (capitals, white space and HTML entities
    aside; of items with one title, the first). Otherwise it gets the source id or title nearest to
    it: cosine of character trigrams, the rarer the weightier.

    Attributes:
        source_ids: the source's own id of each item.
        titles: the title of each item, None where it has none.
    """

    def __init__(self, source_ids: Sequence[str], titles: Sequence[str | None]):
        self.source_ids = list(source_ids)
        self.titles = [None if title is None else html.unescape(title) for title in titles]
        self._by_source_id = {source_id: item for item, source_id in enumerate(self.source_ids)}
        self._by_title: dict[str, int] = {}
        for item, title in enumerate(self.titles):
            if title is not None:
                self._by_title.setdefault(_plain(title), item)
        self._lock = threading.Lock()
        self._grams: _GramIndex | None = None

    @classmethod
    def load(cls, table: artefacts.PathLike) -> "Catalogue":
        """Reads the `item_ids.parquet` of a run dir."""
        columns = pq.read_table(table, columns=["source_id", "title"])
        return cls(columns["source_id"].to_pylist(), columns["title"].to_pylist())

    def __len__(self) -> int:
        return len(self.source_ids)

    def find(self, query: str | int) -> Match:
        """The item that a source id or a title means, or the nearest one.

        Args:
            query: a number is a source id written as a number.

        Raises:
            UserError: nothing in the catalogue is anything like it.
        """
        text = str(query).strip()
        item = self._by_source_id.get(text)
        if item is None:
            item = self._by_title.get(_plain(text))
        if item is not None:
            return self._match(text, item, 1.0)
        with self._lock:
            if self._grams is None:
                self._grams = _GramIndex([*self.source_ids, *(t or "" for t in self.titles)])
        place, similarity = self._grams.nearest(text)
        if similarity <= 0:
            raise UserError(
                f"{text!r} is neither a source id nor a title of the catalogue, nor like any; wanted"
                f" something such as {self._example()}"
            )
        # Texts may be alike to the last trigram without being equal.
        return self._match(text, place % len(self), min(similarity, 0.999))

    def items_of(self, queries: Iterable[str | int]) -> list[int]:
        """The item numbers of source ids or titles, each the very one; none is taken for another.

        Raises:
            UserError: some are not in the catalogue.
        """
        items, unknown = [], []
        for query in queries:
            text = str(query).strip()
            item = self._by_source_id.get(text)
            item = self._by_title.get(_plain(text)) if item is None else item
            unknown.append(text) if item is None else items.append(item)
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise UserError(
                f"{', '.join(map(repr, unknown[:3]))}{more}: neither source ids nor titles of the"
                f" catalogue; wanted such as {self._example()}"
            )
        return items

    def number_of(self, source_id: str) -> int | None:
        """The item's number, None where there is no such source id."""
        return self._by_source_id.get(source_id)

    def _match(self, query: str, item: int, similarity: float) -> Match:
        return Match(query, item, self.source_ids[item], self.titles[item], similarity)

    def _example(self) -> str:
        title = self.titles[0]
        return repr(self.source_ids[0]) + (f" or {title!r}" if title else "")


class _GramIndex:
    """Texts by their character trigrams: an inverted file with inverse-frequency weights."""

    def __init__(self, texts: Sequence[str]):
        places: dict[str, int] = {}
        grams, owners = [], []
        for owner, text in enumerate(texts):
            for gram in _grams_of(text):
                grams.append(places.setdefault(gram, len(places)))
                owners.append(owner)
        grams_P, owners_P = np.asarray(grams, np.int32), np.asarray(owners, np.int32)
        self._places = places
        self._owners_P = owners_P[np.argsort(grams_P, kind="stable")]
        counts = np.bincount(grams_P, minlength=len(places))
        self._ends = np.cumsum(counts)
        self._weights = np.log1p(len(texts) / np.maximum(counts, 1))
        squares = np.bincount(owners_P, self._weights[grams_P] ** 2, minlength=len(texts))
        self._norms = np.sqrt(np.maximum(squares, 1e-12))
        self._rarest = float(np.log1p(len(texts)))

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


def _plain(text: str) -> str:
    return " ".join(html.unescape(text).casefold().split())


def _grams_of(text: str) -> set[str]:
    padded = f"  {_plain(text)} "
    if not padded.strip():
        return set()
    return {padded[i : i + GRAM] for i in range(len(padded) - GRAM + 1)}
