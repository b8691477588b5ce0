"""Spectral clustering of a sparse co-occurrence graph, for collaborative ids.

The normalised cut of Ng, Jordan and Weiss (2001) with the labels of Damle, Minden and Ying (2019,
"cluster QR"), which need no random start: the same graph gives the same clusters. The partition is
scikit-learn's `SpectralClustering(affinity="precomputed", assign_labels="cluster_qr")`; the time is
not, because the largest eigenvalues of the normalised adjacency are asked for directly instead of
the smallest of the Laplacian by shift and invert.

A node may stand exactly between two clusters (one in Beauty's 12,068 does, in OpenP5's tree of 10 and
100), and two nodes may be equally good pivots. Then rounding would decide, which differs by processor,
by number of BLAS threads and by library; here the order of the nodes does (`TIE`).
"""

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
import threadpoolctl
from jaxtyping import Float64, Int64

DENSE_UP_TO = 400
"""Below this many nodes a dense eigensolver is faster than Lanczos."""
TIE = 1e-7
"""Values that differ by less of themselves are equal but for rounding; Lanczos' own tolerance is 1e-10."""


def cluster(adjacency_II: scipy.sparse.csr_array, num_clusters: int) -> Int64[np.ndarray, " I"]:
    """Splits the nodes of a graph into at most `num_clusters` clusters.

    A node without edges says nothing about where it belongs: all such nodes join the smallest
    cluster (scikit-learn lets rounding errors place them). A graph of more connected parts than
    clusters keeps parts whole: the largest first, each goes to the smallest cluster.

    Args:
        adjacency_II: symmetric, without negative weights, diagonal zero.
        num_clusters: at least 1.

    Returns:
        A label for every node, below `num_clusters`; some labels may be unused. Labels carry no
        order.
    """
    num_nodes = _num_nodes(adjacency_II)
    if num_nodes <= num_clusters:
        return np.arange(num_nodes, dtype=np.int64)
    num_parts, part_I = scipy.sparse.csgraph.connected_components(adjacency_II, directed=False)
    sizes = np.bincount(part_I, minlength=num_parts)
    labels_I = np.full(num_nodes, -1, np.int64)
    parts = [int(part) for part in np.argsort(-sizes, kind="stable") if sizes[part] > 1]
    if len(parts) > num_clusters:
        load = np.zeros(num_clusters, np.int64)
        for part in parts:
            smallest = int(load.argmin())
            labels_I[part_I == part] = smallest
            load[smallest] += sizes[part]
    elif parts:
        # One BLAS thread: sums are then added in the same order whatever the machine has.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            embedding_IN = _embedding(adjacency_II, part_I, parts, num_clusters)
            connected = sizes[part_I] > 1
            labels_I[connected] = _cluster_qr(embedding_IN[connected])
    lone_I = labels_I < 0
    labels_I[lone_I] = np.bincount(labels_I[~lone_I], minlength=num_clusters).argmin()
    return labels_I


def _embedding(
    adjacency_II: scipy.sparse.csr_array,
    part_I: np.ndarray,
    parts: list[int],
    num_vectors: int,
) -> Float64[np.ndarray, "I N"]:
    """Leading eigenvectors of D^-1/2 A D^-1/2, times D^-1/2, as columns.

    Every connected part is solved apart: each has an eigenvalue of exactly 1, and Lanczos from one
    start vector may miss copies of an eigenvalue.
    """
    scale_I = np.ones(len(part_I))
    values, columns = [], []
    for part in parts:
        nodes = np.flatnonzero(part_I == part)
        block = adjacency_II[nodes][:, nodes]
        scale_I[nodes] = scale = 1 / np.sqrt(block.sum(axis=0))
        weights = scipy.sparse.diags_array(scale)
        own_values, own_vectors = _leading_eigenpairs(
            (weights @ block @ weights).tocsr(), min(num_vectors, len(nodes))
        )
        column_IN = np.zeros((len(part_I), len(own_values)))
        column_IN[nodes] = own_vectors
        values.append(own_values)
        columns.append(column_IN)
    order = np.argsort(-np.concatenate(values), kind="stable")
    values_N = np.concatenate(values)[order]
    vectors_IN = np.concatenate(columns, axis=1)[:, order]
    count = min(num_vectors, len(values_N))  # there may be fewer connected nodes than clusters
    above, upto = _last_space(values_N, count)
    last_IN = _first_directions(vectors_IN[:, above:upto], count - above)
    return np.concatenate([vectors_IN[:, :above], last_IN], axis=1) * scale_I[:, None]


def _leading_eigenpairs(
    matrix: scipy.sparse.csr_array, count: int
) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, "I N"]]:
    """At least the `count` largest eigenvalues, descending, and their vectors.

    Of a small matrix also those that equal the last: the choice among them is left to the caller.
    """
    size = _num_nodes(matrix)
    if size <= DENSE_UP_TO or 3 * count >= size:
        # All of them, by divide and conquer: LAPACK's solver for a few gives up where many are equal.
        values, vectors = np.linalg.eigh(matrix.toarray())
        _, upto = _last_space(values[::-1], count)
        return values[::-1][:upto], vectors[:, ::-1][:, :upto]
    solver: Any = scipy.sparse.linalg.eigsh  # its stubs know only whole tolerances
    start = 1.0 + np.arange(size) % 7 / 7  # any fixed vector with a part in every direction
    values, vectors = solver(
        matrix, k=count, which="LA", v0=start, ncv=min(size, max(3 * count, 40)), tol=1e-10
    )
    return values[::-1], vectors[:, ::-1]


def _last_space(values_N: Float64[np.ndarray, " N"], count: int) -> tuple[int, int]:
    """From where to where the descending values equal the `count`-th; the largest of them is 1."""
    last = values_N[count - 1]
    return int((values_N > last + TIE).sum()), int((values_N > last - TIE).sum())


def _first_directions(
    vectors_IM: Float64[np.ndarray, "I M"], count: int
) -> Float64[np.ndarray, "I N"]:
    """Some of the vectors of one eigenvalue: those towards the nodes that stand out most.

    Any basis of such a space is as good as another, and a solver's hangs on rounding; these do not.
    """
    if count == vectors_IM.shape[1]:
        return vectors_IM
    towards_MN, _ = np.linalg.qr(vectors_IM[_pivots(vectors_IM, count)].T)
    return vectors_IM @ towards_MN


def _cluster_qr(embedding_IN: Float64[np.ndarray, "I N"]) -> Int64[np.ndarray, " I"]:
    """Labels by a pivoted QR factorisation (Damle, Minden and Ying 2019, algorithm 1).

    The pivots are N nodes that point in N different directions; the rotation that best turns
    their rows into axes then says, for each node, which axis it lies along.
    """
    rows_NN = embedding_IN[_pivots(embedding_IN, embedding_IN.shape[1])]
    left, _, right = np.linalg.svd(rows_NN.T)
    return _nearest_axis(np.abs(embedding_IN @ (left @ right)))


def _pivots(rows_IN: Float64[np.ndarray, "I N"], count: int) -> Int64[np.ndarray, " P"]:
    """The rows that a QR factorisation with pivoting picks first; of equally good ones the first."""
    rest_IN = rows_IN.copy()
    pivots_P = np.empty(count, np.int64)
    for step in range(count):
        norms_I = np.linalg.norm(rest_IN, axis=1)
        pivots_P[step] = pivot = np.flatnonzero(norms_I >= (1 - TIE) * norms_I.max())[0]
        direction_N = rest_IN[pivot] / norms_I[pivot]
        rest_IN -= np.outer(rest_IN @ direction_N, direction_N)
    return pivots_P


def _nearest_axis(along_IN: Float64[np.ndarray, "I N"]) -> Int64[np.ndarray, " I"]:
    """For each node the axis along which it is longest; of equal ones that of the fewest clear nodes.

    Axes are known by their clear nodes, because their numbers hang on the pivots: of axes with equally
    many that whose first clear node comes first.
    """
    num_nodes, num_axes = along_IN.shape
    labels_I = along_IN.argmax(axis=1)
    near_IN = along_IN >= (1 - TIE) * along_IN.max(axis=1, keepdims=True)
    clear_I = near_IN.sum(axis=1) == 1
    counts_N = np.bincount(labels_I[clear_I], minlength=num_axes)
    firsts_N = np.full(num_axes, num_nodes)
    np.minimum.at(firsts_N, labels_I[clear_I], np.flatnonzero(clear_I))
    by_size_N = np.lexsort((firsts_N, counts_N))
    tied = np.flatnonzero(~clear_I)
    labels_I[tied] = by_size_N[near_IN[tied][:, by_size_N].argmax(axis=1)]
    return labels_I


def _num_nodes(matrix: scipy.sparse.csr_array) -> int:
    shape: Any = matrix.shape
    return int(shape[0])
