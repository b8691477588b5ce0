"""A catalogue that changes while it is searched: items come and go, and nothing is compiled again.

A change makes a new trie beside the old one, in the same shapes: the old order of ids is kept, so that
only what was added is sorted, and arrays have room for items to come. Whoever holds the old object
goes on with the old catalogue; nothing is ever changed in place. So a request sees all of a change or
none of it, and the search, item ranks and constraints are those of a catalogue built anew.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.trie import Trie
from genrec_jax.errors import UserError

ROOM = 1024


@dataclasses.dataclass(frozen=True)
class LiveIds:
    """The ids of the items that may be recommended now; immutable.

    Attributes:
        trie: their trie, of NumPy arrays; item numbers are never given out again.
        ranks_I: `trie.item_ranks` of it; the largest int32 for items that are gone.
        values_P: the tokens of all ids, one after the other, by item number.
        offsets_I: row i's tokens are `values[offsets[i]:offsets[i + 1]]`.
        numbers_I: the item number of each row, ascending.
        vocab_size: tokens are below it.
    """

    trie: Trie
    ranks_I: Int[np.ndarray, " I"]
    values_P: np.ndarray
    offsets_I: Int[np.ndarray, " I1"]
    numbers_I: Int[np.ndarray, " N"]
    vocab_size: int

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
            room: items that may be added, whatever their ids, before shapes grow. Retired items give
                theirs back, except for one number each. An id that is longer than all others by more
                than padding, or does not begin as all others do, changes shapes at once.
            name_of: what to call an item in an error.
        """
        trie = tries.build_trie(
            values_P, offsets_I, vocab_size=vocab_size, eos_id=eos_id, name_of=name_of
        )
        trie = with_room(trie, room)
        numbers_I = np.arange(len(offsets_I) - 1, dtype=np.int32)
        offsets_I = np.asarray(offsets_I, np.int64)
        return cls(trie, tries.item_ranks(trie), values_P, offsets_I, numbers_I, vocab_size)

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
        first = int(self.trie.num_items)
        added_A = np.arange(first, first + len(offsets_A) - 1, dtype=np.int32)
        retired_R = np.unique(np.asarray(retired_R, np.int64))
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
            numbers_I=numbers_I,
            order_I=self._order(stays_N, len(added_A)),
            room=self.trie,
        )
        ranks_I = tries.item_ranks(trie)
        return LiveIds(trie, ranks_I, values_P, offsets_I, numbers_I, self.vocab_size)

    def _order(self, stays_N: np.ndarray, num_added: int) -> np.ndarray:
        """The rows that stay in token order, under their new row numbers, and the added ones."""
        ranks_N = self.ranks_I[self.numbers_I]
        order_N = np.empty(len(ranks_N), np.int64)
        order_N[ranks_N] = np.arange(len(ranks_N))
        rows_N = np.cumsum(stays_N) - 1
        kept = rows_N[order_N[stays_N[order_N]]]
        return np.concatenate([kept, np.arange(len(kept), len(kept) + num_added)])


def with_room(trie: Trie, items: int) -> Trie:
    """The trie in arrays that have room for so many more items, whatever their ids.

    An added id has one arc of its own and splits one tail at most, into as many nodes of one arc as
    the id has tokens.
    """
    more = {
        "arc_tokens_A": items * (trie.max_steps + 1),
        "arc_nexts_A": items * (trie.max_steps + 1),
        "node_arcs_J": items * trie.max_steps,
        "node_items_J": items * trie.max_steps,
        "node_starts_J": items * trie.max_steps,
        "node_counts_J": items * trie.max_steps,
        "tail_starts_I": items,
        "tail_tokens_Y": items * trie.max_steps,
    }
    # Padding repeats the last entry of arrays of starts, and is never read from the others.
    padded = {}
    for name, count in more.items():
        array = np.asarray(getattr(trie, name))
        size = tries.padded_size(len(array) + count)
        padded[name] = np.pad(array, (0, size - len(array)), mode="edge")
    return dataclasses.replace(trie, **padded)
