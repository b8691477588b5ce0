"""Spectral clustering of a sparse co-occurrence graph, for collaborative ids.

The normalised cut of Ng, Jordan and Weiss (2001) with the labels of Damle, Minden and Ying (2019,
"cluster QR"), which need no random start: the same graph gives the same clusters. The partition is
scikit-learn's `SpectralClustering(affinity="precomputed", assign_labels="cluster_qr")`; the time is
not, because the largest eigenvalues of the normalised adjacency are asked for directly instead of
the smallest of the Laplacian by shift and invert.
"""

from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
import threadpoolctl
from jaxtyping import Float64, Int64

DENSE_UP_TO = 400
"""Below this many nodes a dense eigensolver is faster than Lanczos."""


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
    values, columns = [], []
    for part in parts:
        nodes = np.flatnonzero(part_I == part)
        block = adjacency_II[nodes][:, nodes]
        scale = 1 / np.sqrt(block.sum(axis=0))
        weights = scipy.sparse.diags_array(scale)
        own_values, own_vectors = _leading_eigenpairs(
            (weights @ block @ weights).tocsr(), min(num_vectors, len(nodes))
        )
        for value, vector in zip(own_values, own_vectors.T, strict=True):
            column = np.zeros(len(part_I))
            column[nodes] = vector * scale
            values.append(value)
            columns.append(column)
    leading = np.argsort(-np.array(values), kind="stable")[:num_vectors]
    return np.stack([columns[index] for index in leading], axis=1)


def _leading_eigenpairs(
    matrix: scipy.sparse.csr_array, count: int
) -> tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, "I N"]]:
    """The `count` largest eigenvalues, descending, and their vectors."""
    size = _num_nodes(matrix)
    if size <= DENSE_UP_TO or 3 * count >= size:
        # All of them, by divide and conquer: LAPACK's solver for a few gives up where many are equal.
        values, vectors = np.linalg.eigh(matrix.toarray())
        values, vectors = values[size - count :], vectors[:, size - count :]
    else:
        solver: Any = scipy.sparse.linalg.eigsh  # its stubs know only whole tolerances
        start = 1.0 + np.arange(size) % 7 / 7  # any fixed vector with a part in every direction
        values, vectors = solver(
            matrix, k=count, which="LA", v0=start, ncv=min(size, max(3 * count, 40)), tol=1e-10
        )
    return values[::-1].copy(), vectors[:, ::-1].copy()


def _cluster_qr(embedding_IN: Float64[np.ndarray, "I N"]) -> Int64[np.ndarray, " I"]:
    """Labels by a pivoted QR factorisation (Damle, Minden and Ying 2019, algorithm 1).

    The pivots are N nodes that point in N different directions; the rotation that best turns
    their rows into axes then says, for each node, which axis it lies along.
    """
    num_vectors = embedding_IN.shape[1]
    factors: Any = scipy.linalg.qr(embedding_IN.T, mode="economic", pivoting=True)
    pivots = factors[2]
    left, _, right = np.linalg.svd(embedding_IN[pivots[:num_vectors]].T)
    return np.abs(embedding_IN @ (left @ right)).argmax(axis=1)


def _num_nodes(matrix: scipy.sparse.csr_array) -> int:
    shape: Any = matrix.shape
    return int(shape[0])
