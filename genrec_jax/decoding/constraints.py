"""Which items an example may get: what lies under a place of the trie is counted, not listed.

The items under a node are neighbours in the trie's order, so two binary searches of an example's
sorted list count those of them that are on it. The step of the search asks `alive` about each child.
The search is then exactly that of a catalogue of the remaining items, on one compiled program for
excluded and allowed items alike.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from genrec_jax.data.distinct import distinct
from genrec_jax.decoding.trie import Trie
from genrec_jax.pytree import pytree_dataclass

LAST_ITEM = np.iinfo(np.int32).max
SMALLEST_WIDTH = 32

ItemList = Sequence[int] | Int[np.ndarray, " _"]


@pytree_dataclass
class Constraints:
    """One list of items per example: those it must not get, or the only ones it may get.

    Attributes:
        items_BX: their numbers, ascending; padding is the largest int32, at the end.
        ranks_BX: their places in the trie's order (`trie.item_ranks`), ascending; padded likewise.
        allows_B: whether the list is of the only items allowed; otherwise, of those excluded.
    """

    items_BX: Int[Array | np.ndarray, "B X"]
    ranks_BX: Int[Array | np.ndarray, "B X"]
    allows_B: Bool[Array | np.ndarray, " B"]


def constraints_of(
    ranks_I: Int[np.ndarray, " I"],
    exclude: Sequence[ItemList],
    allow: Sequence[ItemList | None] | None = None,
    width: int | None = None,
) -> Constraints:
    """Constraints from lists of items, one or two per example.

    Args:
        ranks_I: `trie.item_ranks` of the trie that will be searched.
        exclude: the items each example must not get; numbers beyond the catalogue mean nothing.
        allow: the only items each example may get, less those excluded; None allows every item.
        width: the padded length (X), at least that of the longest list; by default a power of two
            that holds it, so that lists of like lengths share a compiled search.
    """
    allow = [None] * len(exclude) if allow is None else allow
    pairs = [*zip(exclude, allow, strict=True)]
    keys = [(id(excluded), id(allowed)) for excluded, allowed in pairs]
    # Examples may share long lists, which are then sorted once; `pairs` keeps their identities.
    known: dict[int, np.ndarray] = {}
    kept: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for key, pair in zip(keys, pairs, strict=True):
        if key in kept:
            continue
        for listed in pair:
            if listed is not None and id(listed) not in known:
                known[id(listed)] = _known(listed, len(ranks_I))
        items_X = known[key[0]]
        if pair[1] is not None:
            items_X = np.setdiff1d(known[key[1]], items_X, assume_unique=True)
        kept[key] = items_X, np.sort(ranks_I[items_X])
    width = width or width_for(max((len(items_X) for items_X, _ in kept.values()), default=0))
    items_BX = np.full((len(pairs), width), LAST_ITEM, np.int32)
    ranks_BX = np.full((len(pairs), width), LAST_ITEM, np.int32)
    for row, key in enumerate(keys):
        items_X, ranks_X = kept[key]
        items_BX[row, : len(items_X)], ranks_BX[row, : len(items_X)] = items_X, ranks_X
    return Constraints(items_BX, ranks_BX, np.array([a is not None for _, a in pairs], bool))


def allowing_only(ranks_I: Int[np.ndarray, " I"], items_BC: Int[np.ndarray, "B C"]) -> Constraints:
    """Constraints that allow each example its own C items: built at once for the whole batch.

    Args:
        ranks_I: `trie.item_ranks` of the trie that will be searched.
        items_BC: item numbers; negative ones are empty places.
    """
    items_BC = items_BC.astype(np.int32)
    ranks_BC = np.where(items_BC < 0, LAST_ITEM, ranks_I[np.maximum(items_BC, 0)])
    sorted_items_BC = np.sort(np.where(items_BC < 0, LAST_ITEM, items_BC), axis=1)
    allows_B = np.ones(len(items_BC), bool)
    return Constraints(sorted_items_BC, np.sort(ranks_BC.astype(np.int32), axis=1), allows_B)


def leaves_any(constraints: Constraints, ranks_I: Int[np.ndarray, " I"]) -> Bool[np.ndarray, " B"]:
    """Whether each example may get any item at all; for constraints in NumPy arrays.

    Args:
        constraints: of the trie whose `trie.item_ranks` these are.
        ranks_I: those ranks.
    """
    listed_B = (np.asarray(constraints.ranks_BX) < LAST_ITEM).sum(axis=1)
    return np.where(constraints.allows_B, listed_B > 0, listed_B < len(ranks_I))


def width_for(length: int) -> int:
    """The power of two, 32 at least, that holds a list of `length` items."""
    return max(SMALLEST_WIDTH, 1 << max(length - 1, 0).bit_length())


def alive(
    places_BMC: Int[Array, "B M C"], trie: Trie, constraints: Constraints
) -> Bool[Array, "B M C"]:
    """Whether an item that the example may get lies under each place.

    Args:
        places_BMC: nodes, or `-1 - item` where one item is left.
        trie: the catalogue.
        constraints: what each example may get.
    """

    def of_example(places, items_X, ranks_X, allows):
        items = jnp.maximum(-1 - places, 0)
        listed = items_X.at[jnp.searchsorted(items_X, items)].get(mode="clip") == items
        nodes = jnp.maximum(places, 0)
        starts, counts = trie.node_ranks_J[nodes], trie.node_counts_J[nodes]
        # Node spans are sorted lists' neighbours, so this is how many of the list lie under the node.
        under = jnp.searchsorted(ranks_X, starts + counts) - jnp.searchsorted(ranks_X, starts)
        may_become = jnp.where(allows, under > 0, under < counts)
        return jnp.where(places < 0, listed == allows, may_become)

    lists = (constraints.items_BX, constraints.ranks_BX, constraints.allows_B)
    return jax.vmap(of_example)(places_BMC, *map(jnp.asarray, lists))


def _known(listed: ItemList, num_items: int) -> Int[np.ndarray, " X"]:
    """The items of a list that are in the catalogue, each once, ascending."""
    items_X = distinct(np.asarray(listed, np.int64))
    return items_X[(items_X >= 0) & (items_X < num_items)]
