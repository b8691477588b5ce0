"""Collaborative ids: items bought together share their first tokens (Hua et al. 2023; OpenP5).

Items are clustered by co-occurrence in training sequences, and every cluster that is still too large
is clustered again. An id is the path down this tree, `item_<CI1><CI24><CI143><CI7>`: one token for
each cluster, and a last one that numbers the item inside its leaf.
"""

import collections
import dataclasses
import math
import os

import numpy as np
import scipy.sparse
from jaxtyping import Int64

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits, training_counts_I
from genrec_jax.errors import UserError
from genrec_jax.indexing import numbered_ids, spectral

BYTES_A_PAIR = 60
"""What a pair takes while the first level is clustered: a number and an index, and copies of both."""
MEMORY_SHARE = 2
"""Pairs may take one part in so many of the machine's memory, unless it is said how long a user may be."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """The cluster tree, as a path for every item.

    Attributes:
        paths: for item i the numbers of its clusters from the root down, then its number inside
            the leaf.
    """

    paths: tuple[tuple[int, ...], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The id text of each item."""
        return tuple("item_" + "".join(map(token, path)) for path in self.paths)

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Every token that some path has, by number."""
        return tuple(token(number) for number in sorted({n for path in self.paths for n in path}))


def token(number: int) -> str:
    """The token of a cluster or of an item inside its leaf."""
    return f"<CI{number}>"


def default_settings(num_items: int) -> tuple[int, int]:
    """Clusters and largest leaf for a catalogue: OpenP5's 20 and 500, less for small ones.

    A small catalogue gets about as many clusters as a cluster has items, and leaves that may be
    three times the average, so that most ids are one cluster and one item.

    Returns:
        `(clusters, max_cluster)`.
    """
    clusters = min(20, max(2, math.isqrt(num_items)))
    return clusters, min(500, max(clusters, 3 * num_items // clusters))


def build_tree(
    dataset: Dataset,
    splits: Splits,
    *,
    clusters: int,
    max_cluster: int,
    max_user_items: int | None = None,
) -> Tree:
    """Clusters the items that training has seen; the others form a group of their own.

    Clusters of one split are numbered in the order in which training meets them, on from the last
    split's, level by level, modulo `max_cluster` (or `clusters + 1` if that is more, so that
    siblings differ). Items of a leaf are numbered in the same order.

    Args:
        dataset: the dataset.
        splits: which interactions train.
        clusters: clusters of a split (the papers' N), at least 2.
        max_cluster: a cluster of more items is split again (the papers' k), at least 1.
        max_user_items: see `cooccurrence`.

    Raises:
        UserError: a setting is out of range, or there are too many pairs (see `cooccurrence`).
    """
    if clusters < 2:
        raise UserError(f"--clusters is {clusters}; wanted at least 2")
    if max_cluster < 1:
        raise UserError(f"--max-cluster is {max_cluster}; wanted at least 1")
    order_I = numbered_ids.sequential_order(dataset, splits)
    num_warm = int((training_counts_I(dataset, splits) > 0).sum())
    adjacency_II = cooccurrence(dataset, splits, order_I[:num_warm], max_user_items)
    modulus = max(max_cluster, clusters + 1)
    paths: list[list[int]] = [[] for _ in range(dataset.num_items)]
    # Members are positions in `order_I`, ascending, so that they stay in the order of training.
    queue = collections.deque([(np.arange(num_warm), True)])
    counter = 0
    while queue:
        members, warm = queue.popleft()
        is_root = warm and len(members) == num_warm and not counter
        if len(members) <= max_cluster and not is_root:
            for number, member in enumerate(members.tolist()):
                paths[order_I[member]].append(number)
            continue
        if warm:
            groups = _split(adjacency_II[members][:, members], members, clusters)
        else:
            groups = _even_split(members, clusters)
        children = [(group, warm) for group in groups]
        if is_root and num_warm < dataset.num_items:
            children.append((np.arange(num_warm, dataset.num_items), False))
        for group, _ in children:
            for member in group.tolist():
                paths[order_I[member]].append(counter % modulus)
            counter += 1
        queue.extend(children)
    return Tree(tuple(map(tuple, paths)))


def cooccurrence(
    dataset: Dataset,
    splits: Splits,
    items: Int64[np.ndarray, " I"],
    max_user_items: int | None = None,
) -> scipy.sparse.csr_array:
    """How often two items stand in the same training sequence.

    Args:
        dataset: the dataset.
        splits: which interactions train.
        items: the items to count, each once; row and column r are of `items[r]`.
        max_user_items: users with more different items are left out: crawlers and shared accounts, whose
            items say little of each other and are all paired. By default everybody counts.

    Returns:
        A symmetric matrix of float64 whole numbers with a zero diagonal. An item that a user took
        twice counts twice.

    Raises:
        UserError: `max_user_items` is not given, and there may be over `most_pairs` pairs.
    """
    in_training_X = splits.in_training_X(dataset)
    row_of_item = np.full(dataset.num_items, -1, np.int32)
    row_of_item[items] = np.arange(len(items), dtype=np.int32)
    columns = row_of_item[dataset.items_X[in_training_X]]
    users = dataset.users_X[in_training_X]
    known = columns >= 0
    taken_UI = scipy.sparse.coo_array(
        (np.ones(int(known.sum())), (users[known], columns[known])),
        shape=(dataset.num_users, len(items)),
    ).tocsr()
    sizes_U = np.diff(taken_UI.indptr)
    if max_user_items is not None:
        taken_UI = taken_UI[sizes_U <= max_user_items]
    else:
        _check_pairs(dataset, sizes_U.astype(np.int64), len(items))
    counts_II = taken_UI.T.tocsr() @ taken_UI
    counts_II.setdiag(0)
    counts_II.eliminate_zeros()
    counts_II.sort_indices()
    return counts_II


def most_pairs() -> int:
    """Pairs of items that this machine clusters without being told to."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return memory // MEMORY_SHARE // BYTES_A_PAIR


def _check_pairs(dataset: Dataset, sizes_U: Int64[np.ndarray, " U"], num_items: int) -> None:
    """Refuses too many pairs: at most a user's different items squared, summed; or all items squared."""
    pairs, most = min(int((sizes_U**2).sum()), num_items**2), most_pairs()
    if pairs <= most:
        return
    longest = int(sizes_U.argmax())
    sorted_U = np.sort(sizes_U)
    fitting = int(np.searchsorted(np.cumsum(sorted_U**2), most, side="right"))
    proposed = int(sorted_U[fitting]) - 1
    raise UserError(
        f"up to {pairs:,} pairs of items stand in one training sequence, whose clustering needs about"
        f" {pairs * BYTES_A_PAIR / 1e9:.0f} GB of memory; wanted at most {most:,} pairs here. User"
        f" {dataset.user_source_ids[longest]!r} alone has {sizes_U[longest]:,} items. Pass --max-user-items"
        f" {proposed} to leave users with more out of what is counted ({int((sizes_U > proposed).sum()):,};"
        f" they train all the same), or {sizes_U[longest]} to count everybody"
    )


def _split(
    adjacency_II: scipy.sparse.csr_array, members: np.ndarray, clusters: int
) -> list[np.ndarray]:
    """The members' clusters in the order of their first members; at least two."""
    labels = spectral.cluster(adjacency_II, clusters)
    firsts = dict.fromkeys(labels.tolist())
    if len(firsts) == 1:
        return _even_split(members, clusters)
    return [members[labels == label] for label in firsts]


def _even_split(members: np.ndarray, clusters: int) -> list[np.ndarray]:
    """Runs of nearly equal length: what is left where co-occurrence tells nothing."""
    return [run for run in np.array_split(members, clusters) if len(run)]
