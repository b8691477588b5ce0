"""Spectral clustering against scikit-learn's, and on graphs that eigenvectors say little about."""

import numpy as np
import pytest
import scipy.sparse
import sklearn.cluster
import sklearn.metrics

from genrec_jax.indexing import spectral


def _graph(edges, size):
    matrix = np.zeros((size, size))
    for first, second, weight in edges:
        matrix[first, second] = matrix[second, first] = weight
    return scipy.sparse.csr_array(matrix)


def _blocks(rng, sizes, inside=0.3, between=0.01):
    block = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.where(block[:, None] == block[None, :], inside, between)
    counts = rng.poisson(chance * 3)
    counts = np.triu(counts, 1)
    return scipy.sparse.csr_array((counts + counts.T).astype(float)), block


@pytest.mark.parametrize("sizes", [(40, 60, 80), (200, 150, 130, 120)])
def test_partition_is_scikit_learns(sizes):
    # The second graph is above DENSE_UP_TO, so that Lanczos is tested too.
    adjacency_II, block = _blocks(np.random.default_rng(0), sizes)
    ours = spectral.cluster(adjacency_II, len(sizes))
    theirs = sklearn.cluster.SpectralClustering(
        len(sizes), affinity="precomputed", assign_labels="cluster_qr", random_state=0
    ).fit_predict(adjacency_II.toarray())
    assert sklearn.metrics.adjusted_rand_score(theirs, ours) == 1.0
    assert sklearn.metrics.adjusted_rand_score(block, ours) == 1.0


def test_the_same_graph_gives_the_same_labels():
    adjacency_II, _ = _blocks(np.random.default_rng(1), (150, 200, 130))
    assert np.array_equal(
        spectral.cluster(adjacency_II, 5), spectral.cluster(adjacency_II.copy(), 5)
    )


def test_connected_parts_are_clusters():
    edges = [(0, 1, 1), (1, 2, 1), (3, 4, 2), (4, 5, 1), (6, 7, 1), (7, 8, 1), (8, 6, 1)]
    labels = spectral.cluster(_graph(edges, 9), 3)
    groups = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}
    assert groups == {frozenset({0, 1, 2}), frozenset({3, 4, 5}), frozenset({6, 7, 8})}


def test_more_parts_than_clusters_stay_whole_and_balance():
    edges = [(2 * pair, 2 * pair + 1, 1) for pair in range(8)] + [(15, 16, 1)]
    labels = spectral.cluster(_graph(edges, 17), 3)
    assert all(labels[first] == labels[second] for first, second, _ in edges)
    assert sorted(np.bincount(labels).tolist()) == [5, 6, 6]


def test_lone_nodes_join_the_smallest_cluster():
    edges = [(i, j, 1) for i in range(5) for j in range(i)]
    edges += [(i, j, 1) for i in range(5, 8) for j in range(5, i)]
    labels = spectral.cluster(_graph(edges, 11), 2)
    assert len({*labels[:5].tolist()}) == 1
    assert len({*labels[5:].tolist()}) == 1
    assert labels[0] != labels[5]


def test_fewer_nodes_than_clusters():
    assert spectral.cluster(_graph([(0, 1, 1)], 3), 5).tolist() == [0, 1, 2]


def test_fewer_connected_nodes_than_clusters():
    labels = spectral.cluster(_graph([(1, 3, 1)], 6), 4)
    assert labels[1] != labels[3] and labels.max() < 4


@pytest.mark.parametrize("size", [12, 30, 60])
def test_a_complete_graph(size):
    """All but one eigenvalue are equal, where LAPACK's solver for a few eigenvalues can give up."""
    edges = [(first, second, 1) for second in range(size) for first in range(second)]
    labels = spectral.cluster(_graph(edges, size), 10)
    assert labels.shape == (size,)
    assert labels.min() >= 0
    assert labels.max() < 10


def _ring(size):
    return [(node, (node + 1) % size, 1) for node in range(size)]


SYMMETRIC = {
    "a ring": (_ring(24), 24),
    "two equal rings": (_ring(15) + [(a + 15, b + 15, w) for a, b, w in _ring(15)], 30),
    "a star": ([(0, leaf, 1) for leaf in range(1, 20)], 20),
    "every pair": ([(a, b, 1) for b in range(18) for a in range(b)], 18),
    "a node between two cliques": (
        [(a, b, 1) for b in range(6) for a in range(b)]
        + [(a, b, 1) for b in range(6, 12) for a in range(6, b)]
        + [(12, node, 1) for node in range(12)],
        13,
    ),
    "a cube": (
        [(a, a ^ bit, 1) for a in range(16) for bit in (1, 2, 4, 8) if not a & bit],
        16,
    ),
}


@pytest.mark.parametrize("clusters", [2, 3, 4, 7])
@pytest.mark.parametrize("graph", SYMMETRIC)
def test_rounding_decides_nothing(graph, clusters, monkeypatch):
    """Another solver finds another basis of each eigenvalue's space, and other last digits."""
    adjacency_II = _graph(*SYMMETRIC[graph])
    ours = spectral.cluster(adjacency_II, clusters)
    solve = np.linalg.eigh
    rng = np.random.default_rng(0)

    def another(matrix):
        values, vectors = solve(matrix)
        vectors = vectors.copy()
        space = np.concatenate([[0], np.cumsum(np.diff(values) > 1e-9)])
        for number in range(space[-1] + 1):
            (columns,) = np.nonzero(space == number)
            turn, _ = np.linalg.qr(rng.normal(size=(len(columns), len(columns))))
            vectors[:, columns] = vectors[:, columns] @ turn
        noise = 1 + 1e-13 * rng.normal(size=vectors.shape)
        return np.sort(values + 1e-14 * rng.normal(size=values.shape)), vectors * noise

    monkeypatch.setattr(np.linalg, "eigh", another)
    for _ in range(10):
        theirs = spectral.cluster(adjacency_II, clusters)
        assert sklearn.metrics.adjusted_rand_score(ours, theirs) == 1.0


def test_a_node_between_two_clusters_joins_the_smaller():
    edges = [(a, b, 1) for b in range(6) for a in range(b)]
    edges += [(a, b, 1) for b in range(6, 12) for a in range(6, b)]
    edges += [(12, node, 1) for node in range(12)]
    labels = spectral.cluster(_graph(edges, 13), 2)
    assert labels[0] != labels[6]
    assert labels[12] == labels[0]  # of two of one size the one that comes first
