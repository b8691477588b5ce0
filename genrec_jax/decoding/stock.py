"""What a recommender may recommend now: items, how they are written, and the trie; changed as a whole."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.decoding import live
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.catalogue import Catalogue
from genrec_jax.decoding.constraints import LAST_ITEM
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
        ids: the same with its tokens, for the next change; None before the first, unless there is room.
        dataset: which of the run's datasets.
    """

    catalogue: Catalogue
    assembler: PromptAssembler
    trie: Trie
    ranks_I: Int[np.ndarray, " I"]
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
        if room < 0:
            raise UserError(f"room is {room}; wanted 0 items or more")
        entry = run_dir.dataset(dataset)
        ids = run_dir.item_ids(entry.name)
        trie = tries.load(entry.trie)
        trie = live.with_room(trie, room) if room else trie
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
        return cls.of(catalogue, assembler, trie, entry.name, ready=room > 0)

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        assembler: PromptAssembler,
        trie: Trie,
        dataset: str,
        *,
        ready: bool,
    ) -> "Stock":
        """The stock of a trie in NumPy arrays; `ready` does now what the first change waits for."""
        ranks_I = tries.item_ranks(trie)
        stock = cls(catalogue, assembler, jax.device_put(trie), ranks_I, None, dataset)
        return dataclasses.replace(stock, ids=stock._live()) if ready else stock

    def updated(
        self,
        add: Mapping[Any, Any],
        retire: Iterable[Any],
        titles: Mapping[str, str],
    ) -> "Stock":
        """The stock after a change; this one stays as it is. See `Recommender.update`."""
        self._check_added(add)
        ids = self.ids or self._live()
        if unknown := sorted(titles.keys() - add.keys()):
            raise UserError(
                f"a title is given for {unknown[0]!r}, which is not among the items added"
            )
        retired = self.catalogue.items_of(retire)
        gone = set(retired)
        for source_id in add:
            number = self.catalogue.number_of(source_id)
            if number is None or number in gone or ids.ranks_I[number] == LAST_ITEM:
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
        return dataclasses.replace(
            self,
            catalogue=catalogue,
            assembler=assembler,
            trie=jax.device_put(ids.trie),
            ranks_I=ids.ranks_I,
            ids=ids,
        )

    def _check_added(self, add: Mapping[Any, Any]) -> None:
        """Refuses source ids and id texts that are no text, and ids that no token sequence says."""
        for source_id, text in add.items():
            if not isinstance(source_id, str) or not isinstance(text, str):
                raise UserError(
                    f"add has {source_id!r}: {text!r}; wanted the id text of each source id, both as text"
                )
        vocabulary = self.assembler.tables.vocabulary
        texts = list(add.values())
        for source_id, text, tokens in zip(add, texts, vocabulary.encode_batch(texts), strict=True):
            if not tokens or UNK_ID in tokens:
                raise UserError(
                    f"the id {text!r} of {source_id!r} holds what the vocabulary has no token for; wanted"
                    " one written as those in column `item_id` of the run dir's `item_ids.parquet` are"
                )

    def _live(self) -> LiveIds:
        runs = self.assembler.target_runs()
        numbers_I = np.arange(len(runs), dtype=np.int32)
        trie = jax.tree.map(np.asarray, self.trie)
        vocab_size = self.assembler.tables.vocabulary.size
        return LiveIds(trie, self.ranks_I, runs.values_P, runs.offsets_E1, numbers_I, vocab_size)
