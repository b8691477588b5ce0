"""A catalogue that changes while it is searched: items come and go, and nothing is compiled again.

A change makes a new trie beside the old one, in the same shapes: the old order of ids is kept, so that
only what was added is sorted, and arrays have room for items to come. A trie numbers its items from 0 on
without gaps, so a retired item leaves no trace in it; `numbers_I` says which item of the catalogue each
is. Whoever holds the old object goes on with the old catalogue; nothing is ever changed in place. So a
request sees all of a change or none of it, and the search, item ranks and constraints are those of a
catalogue built anew.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from genrec_jax.data.distinct import distinct
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.trie import Sizes, Trie
from genrec_jax.errors import UserError

ROOM = 1024


@dataclasses.dataclass(frozen=True)
class LiveIds:
    """The ids of the items that may be recommended now; immutable.

    Attributes:
        trie: their trie, of NumPy arrays; what it calls item i is row i of the others.
        ranks_I: `trie.item_ranks` of it.
        values_P: the tokens of all ids, one after the other.
        offsets_I: row i's tokens are `values[offsets[i]:offsets[i + 1]]`.
        numbers_I: the number in the catalogue of each row, ascending, so that equal scores have the same
            order in both.
        next_number: of the next item added; no number is given out again.
        vocab_size: tokens are below it.
        room: items that may be added, whatever their ids, after shapes grew.
    """

    trie: Trie
    ranks_I: Int[np.ndarray, " I"]
    values_P: np.ndarray
    offsets_I: Int[np.ndarray, " I1"]
    numbers_I: Int[np.ndarray, " I"]
    next_number: int
    vocab_size: int
    room: int

    @classmethod
    def build(
        cls,
        values_P: Int[np.ndarray, " P"],
        offsets_I: Int[np.ndarray, " I1"],
        *,
        vocab_size: int,
        eos_id: int = 1,
        room: int = ROOM,
        name_of: Callable[[int], str] = "item number {}".format,
    ) -> "LiveIds":
        """Builds the first trie; arguments are those of `trie.build_trie`.

        Args:
            values_P: the tokens of all ids.
            offsets_I: where each begins.
            vocab_size: tokens are below it.
            eos_id: end-of-sequence.
            room: items that may be added, whatever their ids, before shapes grow. A retired item gives
                back what it took. An id that is longer than all others by more than padding, or does
                not begin as all others do, changes shapes at once.
            name_of: what to call an item in an error.
        """
        trie = tries.build_trie(
            values_P, offsets_I, vocab_size=vocab_size, eos_id=eos_id, name_of=name_of
        )
        ranks_I = tries.item_ranks(trie)
        return cls.first(with_room(trie, room), ranks_I, values_P, offsets_I, vocab_size, room)

    @classmethod
    def first(
        cls,
        trie: Trie,
        ranks_I: Int[np.ndarray, " I"],
        values_P: Int[np.ndarray, " P"],
        offsets_I: Int[np.ndarray, " I1"],
        vocab_size: int,
        room: int,
    ) -> "LiveIds":
        """The ids of a trie that was never changed, whose numbers are those of the catalogue."""
        count = len(ranks_I)
        numbers_I = np.arange(count, dtype=np.int32)
        offsets_I = np.asarray(offsets_I, np.int64)
        return cls(trie, ranks_I, values_P, offsets_I, numbers_I, count, vocab_size, room)

    def updated(
        self,
        values_P: Int[np.ndarray, " P"],
        offsets_A: Int[np.ndarray, " A1"],
        retired_R: Int[np.ndarray, " R"],
        *,
        name_of: Callable[[int], str] = "item number {}".format,
    ) -> "LiveIds":
        """The catalogue with some items added and some retired; this one stays as it is.

        Args:
            values_P: the tokens of the added ids, one after the other.
            offsets_A: where each begins. The added items get the next numbers.
            retired_R: numbers of items to be had no more. An id of theirs may be given to another.
            name_of: what to call an item, by its number, in an error.

        Raises:
            UserError: two items with one id, an id that `trie.build_trie` refuses, an item retired
                that is not there, or no item left. Nothing is changed then.
        """
        next_number = self.next_number + len(offsets_A) - 1
        added_A = np.arange(self.next_number, next_number, dtype=np.int32)
        retired_R = distinct(np.asarray(retired_R, np.int64))
        known = np.isin(retired_R, self.numbers_I)
        if not known.all():
            raise UserError(
                f"{name_of(int(retired_R[~known][0]))} cannot be retired: it is not in the catalogue;"
                " wanted an item that is, once"
            )
        stays_N = ~np.isin(self.numbers_I, retired_R)
        numbers_I = np.concatenate([self.numbers_I[stays_N], added_A])
        if not len(numbers_I):
            raise UserError("no item would be left in the catalogue; wanted one or more")
        lengths_N = np.diff(self.offsets_I)
        own_P = self.values_P[self.offsets_I[0] : self.offsets_I[-1]]
        values_P = np.concatenate([own_P[np.repeat(stays_N, lengths_N)], values_P])
        lengths_I = np.concatenate([lengths_N[stays_N], np.diff(offsets_A)])
        offsets_I = np.concatenate([[0], np.cumsum(lengths_I)])
        trie = tries.build_trie(
            values_P,
            offsets_I,
            vocab_size=self.vocab_size,
            eos_id=self.trie.eos_id,
            name_of=lambda row: name_of(int(numbers_I[row])),
            remedy="Give each item an id of its own, or retire the one that has it",
            order_I=self._order(stays_N, len(added_A)),
            room=self.trie,
        )
        if form_of(trie) != form_of(self.trie):
            trie = with_room(trie, self.room)
        return dataclasses.replace(
            self,
            trie=trie,
            ranks_I=tries.item_ranks(trie),
            values_P=values_P,
            offsets_I=offsets_I,
            numbers_I=numbers_I,
            next_number=next_number,
        )

    def _order(self, stays_N: np.ndarray, num_added: int) -> np.ndarray:
        """The rows that stay in token order, under their new row numbers, and the added ones."""
        order_N = np.empty(len(self.ranks_I), np.int64)
        order_N[self.ranks_I] = np.arange(len(self.ranks_I))
        rows_N = np.cumsum(stays_N) - 1
        kept = rows_N[order_N[stays_N[order_N]]]
        return np.concatenate([kept, np.arange(len(kept), len(kept) + num_added)])


def with_room(trie: Trie, items: int) -> Trie:
    """The trie in arrays that have room for so many more items, whatever their ids."""
    most = _most_of_one_id(trie)
    grown = (have + items * each for have, each in zip(trie.capacities, most, strict=True))
    return tries.resized(trie, Sizes(*map(tries.padded_size, grown)))


def room_left(trie: Trie) -> int:
    """Items that may be added in the same shapes, whatever their ids; more, if ids share beginnings.

    That is, ids no longer than padding allows, which begin as all others do.
    """
    columns = zip(trie.capacities, tries.sizes_used(trie), _most_of_one_id(trie), strict=True)
    return min((have - used) // most for have, used, most in columns)


def form_of(trie: Trie) -> Any:
    """What a search is compiled for: static fields and shapes. Equal for tries that can share one."""
    return jax.tree.structure(trie), [np.shape(leaf) for leaf in jax.tree.leaves(trie)]


def _most_of_one_id(trie: Trie) -> Sizes:
    """Entries that an added id needs at most in each part.

    It has one arc of its own and splits one tail at most, into as many nodes of one arc as it has tokens.
    """
    steps = trie.max_steps
    return Sizes(arcs=steps + 1, nodes=steps, items=1, tail_tokens=steps)
