"""What a recommender may recommend now: items, how they are written, and the trie; changed as a whole."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from genrec_jax import checks
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.decoding import constraints, live, request_checks
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.catalogue import Catalogue
from genrec_jax.decoding.constraints import Constraints, ItemList
from genrec_jax.decoding.live import LiveIds
from genrec_jax.decoding.trie import Trie
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.indexing.vocabulary import UNK_ID
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from genrec_jax.pipeline.token_runs import TokenRuns


@dataclasses.dataclass(frozen=True)
class Stock:
    """The items of one moment; immutable, so that a request that holds one sees no half of a change.

    Attributes:
        catalogue: every item there ever was, retired ones too: histories may hold them.
        assembler: writes prompts.
        trie: ids of the items that may be recommended, on the device.
        ranks_I: `trie.item_ranks` of it.
        numbers_I: the number in the catalogue of each item of the trie.
        places_N: the number in the trie of each item of the catalogue, -1 for those retired.
        room_left: items that may be added before shapes grow (`live.room_left`).
        ids: the same with its tokens, for the next change; None before the first, unless there is room.
        dataset: which of the run's datasets.
    """

    catalogue: Catalogue
    assembler: PromptAssembler
    trie: Trie
    ranks_I: Int[np.ndarray, " I"]
    numbers_I: Int[np.ndarray, " I"]
    places_N: Int[np.ndarray, " N"]
    room_left: int
    ids: LiveIds | None
    dataset: str

    @classmethod
    def load(cls, run_dir: RunDir, dataset: str | None, room: int) -> "Stock":
        """The items that a run was trained on.

        Args:
            run_dir: the run.
            dataset: which of its datasets; not needed if it has one.
            room: items that may be added without a new shape of the trie.
        """
        checks.check_whole("room", room, 0)
        entry = run_dir.dataset(dataset)
        ids = run_dir.item_ids(entry.name)
        trie = tries.load(entry.trie)
        assembler = PromptAssembler(
            run_dir.vocabulary,
            ids.texts,
            run_dir.templates,
            entry.name,
            run_dir.mixture["history"],
            max_input_length=run_dir.mixture["max_input_length"],
            cut=run_dir.mixture["cut"],
            titles=ids.titles,
        )
        catalogue = Catalogue.load(entry.folder / item_ids_lib.TABLE)
        return cls.of(catalogue, assembler, trie, entry.name, room=room)

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        assembler: PromptAssembler,
        trie: Trie,
        dataset: str,
        *,
        room: int,
    ) -> "Stock":
        """The stock of a trie in NumPy arrays; with room, what the first change waits for is done now."""
        trie = live.with_room(trie, room) if room else trie
        numbers_I = np.arange(len(catalogue), dtype=np.int32)
        stock = cls(
            catalogue,
            assembler,
            trie=jax.device_put(trie),
            ranks_I=tries.item_ranks(trie),
            numbers_I=numbers_I,
            places_N=numbers_I,
            room_left=live.room_left(trie),
            ids=None,
            dataset=dataset,
        )
        return dataclasses.replace(stock, ids=stock._live(room)) if room else stock

    @property
    def capacity(self) -> int:
        """Items that the trie's arrays could hold; as long as its form stays, so does this."""
        return self.trie.capacities.items - 1

    def constraints_of(
        self,
        exclude: Sequence[ItemList],
        allow: Sequence[ItemList | None],
        width: int | None = None,
    ) -> Constraints:
        """`constraints.constraints_of` of numbers in the catalogue; what is retired is left out."""
        known: dict[int, np.ndarray] = {}  # by identity: requests may share a long list

        def places_of(listed: ItemList) -> np.ndarray:
            if id(listed) not in known:
                places_X = self.places_N[np.asarray(listed, np.int64)]
                known[id(listed)] = places_X[places_X >= 0]
            return known[id(listed)]

        return constraints.constraints_of(
            self.ranks_I,
            [places_of(listed) for listed in exclude],
            [None if listed is None else places_of(listed) for listed in allow],
            width,
        )

    def updated(
        self,
        add: Any,
        retire: Any,
        titles: Any,
    ) -> "Stock":
        """The stock after a change; this one stays as it is. See `Recommender.update`."""
        request_checks.check_texts("add", "id text", add)
        request_checks.check_texts("titles", "title", titles)
        self._check_ids(add)
        ids = self.ids or self._live(room=0)
        if unknown := sorted(titles.keys() - add.keys()):
            raise UserError(
                f"a title is given for {unknown[0]!r}, which is not among the items added"
            )
        retired = self.catalogue.items_of(retire)
        gone = set(retired)
        for source_id in add:
            number = self.catalogue.number_of(source_id)
            if number is None or number in gone or self.places_N[number] < 0:
                continue
            raise UserError(
                f"{source_id!r} is in the catalogue already; wanted the source id of a new item, or"
                " of one that is retired"
            )
        catalogue, assembler, runs = self.catalogue, self.assembler, TokenRuns.from_lists([])
        if add:
            names = [titles.get(source_id) for source_id in add]
            catalogue = catalogue.extended(list(add), names)
            assembler = assembler.extended(list(add.values()), names)
            runs = assembler.target_runs(begin=len(self.catalogue))
        if retired:
            catalogue = catalogue.retiring(retired)
        ids = ids.updated(
            runs.values_P,
            runs.offsets_E1,
            np.asarray(retired, np.int64),
            name_of=lambda number: repr(catalogue.source_ids[number]),
        )
        places_N = np.full(len(catalogue), -1, np.int32)
        places_N[ids.numbers_I] = np.arange(len(ids.numbers_I))
        return dataclasses.replace(
            self,
            catalogue=catalogue,
            assembler=assembler,
            trie=jax.device_put(ids.trie),
            ranks_I=ids.ranks_I,
            numbers_I=ids.numbers_I,
            places_N=places_N,
            room_left=live.room_left(ids.trie),
            ids=ids,
        )

    def _check_ids(self, add: Mapping[str, str]) -> None:
        """Refuses ids that no token sequence says."""
        vocabulary = self.assembler.tables.vocabulary
        texts = list(add.values())
        for source_id, text, tokens in zip(add, texts, vocabulary.encode_batch(texts), strict=True):
            if not tokens or UNK_ID in tokens:
                raise UserError(
                    f"the id {text!r} of {source_id!r} holds what the vocabulary has no token for; wanted"
                    " one written as those in column `item_id` of the run dir's `item_ids.parquet` are"
                )

    def _live(self, room: int) -> LiveIds:
        runs = self.assembler.target_runs()
        trie = jax.tree.map(np.asarray, self.trie)
        vocab_size = self.assembler.tables.vocabulary.size
        return LiveIds.first(trie, self.ranks_I, runs.values_P, runs.offsets_E1, vocab_size, room)
