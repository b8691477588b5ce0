"""What a recommender may recommend now: items, how they are written, and the trie; changed as a whole."""

import dataclasses
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jaxtyping import Int

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.decoding import live
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.catalogue import Catalogue
from genrec_jax.decoding.live import LiveIds
from genrec_jax.decoding.trie import Trie
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.pipeline.prompt_batches import PromptAssembler


@dataclasses.dataclass(frozen=True)
class Stock:
    """The items of one moment; immutable, so that a request that holds one sees no half of a change.

    Attributes:
        catalogue: every item there ever was, retired ones too: histories may hold them.
        assembler: writes prompts.
        trie: ids of the items that may be recommended, on the device.
        ranks_I: `trie.item_ranks` of it.
        ids: the same with its tokens, for the next change; None before the first.
        texts: the id text of each item.
        run_dir: the run.
        dataset: which of its datasets.
    """

    catalogue: Catalogue
    assembler: PromptAssembler
    trie: Trie
    ranks_I: Int[np.ndarray, " I"]
    ids: LiveIds | None
    texts: tuple[str, ...]
    run_dir: RunDir
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
        return cls(
            Catalogue.load(entry.folder / item_ids_lib.TABLE),
            _assembler(run_dir, entry.name, ids.texts, ids.titles),
            jax.device_put(trie),
            tries.item_ranks(trie),
            None,
            tuple(ids.texts),
            run_dir,
            entry.name,
        )

    def updated(
        self,
        add: Mapping[str, str],
        retire: Iterable[str | int],
        titles: Mapping[str, str],
    ) -> "Stock":
        """The stock after a change; this one stays as it is. See `Recommender.update`."""
        ids = self.ids or self._live()
        if unknown := sorted(titles.keys() - add.keys()):
            raise UserError(
                f"a title is given for {unknown[0]!r}, which is not among the items added"
            )
        retired_R = np.asarray(self.catalogue.items_of(retire), np.int64)
        now = set(np.setdiff1d(ids.numbers_I, retired_R).tolist())
        for source_id in add:
            number = self.catalogue.number_of(source_id)
            if number in now:
                raise UserError(
                    f"{source_id!r} is in the catalogue already; wanted the source id of a new item, or"
                    " of one that is retired"
                )
        catalogue, assembler = self.catalogue, self.assembler
        names = [*catalogue.titles, *(titles.get(source_id) for source_id in add)]
        sources = [*catalogue.source_ids, *add]
        texts = (*self.texts, *add.values())
        runs = None
        if add:
            catalogue = Catalogue(sources, names)
            assembler = _assembler(self.run_dir, self.dataset, texts, names)
            runs = assembler.target_runs().take(np.arange(len(self.texts), len(texts)))
        ids = ids.updated(
            np.zeros(0, np.int32) if runs is None else runs.values_P,
            np.zeros(1, np.int64) if runs is None else runs.offsets_E1,
            retired_R,
            name_of=lambda number: repr(sources[number]),
        )
        return dataclasses.replace(
            self,
            catalogue=catalogue,
            assembler=assembler,
            trie=jax.device_put(ids.trie),
            ranks_I=ids.ranks_I,
            ids=ids,
            texts=texts,
        )

    def _live(self) -> LiveIds:
        runs = self.assembler.target_runs()
        numbers_I = np.arange(len(runs), dtype=np.int32)
        trie = jax.tree.map(np.asarray, self.trie)
        vocab_size = self.run_dir.vocabulary.size
        return LiveIds(trie, self.ranks_I, runs.values_P, runs.offsets_E1, numbers_I, vocab_size)


def _assembler(run_dir: RunDir, dataset: str, texts, titles) -> PromptAssembler:
    return PromptAssembler(
        run_dir.vocabulary,
        texts,
        run_dir.templates,
        dataset,
        run_dir.mixture["history"],
        max_input_length=run_dir.mixture["max_input_length"],
        cut=run_dir.mixture["cut"],
        titles=titles,
    )
