"""Which items an example may get: what lies under a place of the trie is counted, not listed.

The items under a node are neighbours in the trie's order, so two binary searches of an example's
sorted list count those of them that are on it. The step of the search asks `alive` about each child.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from genrec_jax.decoding.trie import Trie
from genrec_jax.pytree import pytree_dataclass

LAST_ITEM = np.iinfo(np.int32).max


@pytree_dataclass
class Exclusions:
    """Items that each example must not get.

    Attributes:
        items_BX: their numbers, ascending; padding is the largest int32, at the end.
        ranks_BX: their places in the trie's order (`trie.item_ranks`), ascending; padded likewise.
    """

    items_BX: Int[Array | np.ndarray, "B X"]
    ranks_BX: Int[Array | np.ndarray, "B X"]


def exclusions_of(
    ranks_I: Int[np.ndarray, " I"], lists: Sequence[Sequence[int]], width: int
) -> Exclusions:
    """Exclusions from one list of items per example.

    Args:
        ranks_I: `trie.item_ranks` of the trie that will be searched.
        lists: the items each example must not get; numbers beyond the catalogue mean nothing.
        width: the padded length (X), at least that of the longest list.
    """
    items_BX = np.full((len(lists), width), LAST_ITEM, np.int32)
    ranks_BX = np.full((len(lists), width), LAST_ITEM, np.int32)
    for row, listed in enumerate(lists):
        items = np.unique(np.asarray(listed, np.int32))
        items = items[(items >= 0) & (items < len(ranks_I))]
        items_BX[row, : len(items)] = items
        ranks_BX[row, : len(items)] = np.sort(ranks_I[items])
    return Exclusions(items_BX, ranks_BX)


def alive(
    places_BMC: Int[Array, "B M C"], trie: Trie, exclusions: Exclusions
) -> Bool[Array, "B M C"]:
    """Whether an item that the example may get lies under each place.

    Args:
        places_BMC: nodes, or `-1 - item` where one item is left.
        trie: the catalogue.
        exclusions: what each example must not get.
    """

    def of_example(places, items_X, ranks_X):
        items = jnp.maximum(-1 - places, 0)
        found = items_X.at[jnp.searchsorted(items_X, items)].get(mode="clip") == items
        nodes = jnp.maximum(places, 0)
        starts, counts = trie.node_starts_J[nodes], trie.node_counts_J[nodes]
        first = jnp.searchsorted(ranks_X, starts)
        last = jnp.searchsorted(ranks_X, starts + counts)
        return jnp.where(places < 0, ~found, last - first < counts)

    return jax.vmap(of_example)(places_BMC, exclusions.items_BX, exclusions.ranks_BX)
