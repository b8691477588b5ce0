"""Collaborative ids: hand-made graphs, and OpenP5's public files for Beauty."""

import collections
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

from genrec_jax.data import splits
from genrec_jax.errors import UserError
from genrec_jax.indexing import collaborative_ids


def _tree(data, **settings):
    return collaborative_ids.build_tree(data, splits.leave_one_out(data), **settings)


def _paths(data, tree):
    return dict(zip(data.item_source_ids, tree.paths, strict=True))


def _communities(rng, sizes, users_each=30):
    """Users who take items of one community only."""
    sequences, first = [], 0
    for size in sizes:
        items = [f"i{number:04d}" for number in range(first, first + size)]
        first += size
        for _ in range(users_each):
            sequences.append(list(rng.choice(items, size=min(8, size), replace=False)))
    return [sequences[user] for user in rng.permutation(len(sequences))]


def test_cooccurrence_counts_pairs_of_training_sequences(make_dataset):
    # Training parts: `a b a`, `b c`; what is held out (z) must not count.
    data = make_dataset([["a", "b", "a", "z", "c"], ["b", "c", "z", "a"]])
    counts = collaborative_ids.cooccurrence(
        data, splits.leave_one_out(data), np.arange(4, dtype=np.int64)
    )
    wanted = np.array([[0, 2, 0, 0], [2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    assert counts.toarray().tolist() == wanted.tolist()


def test_long_users_are_refused_or_left_out(make_dataset, monkeypatch):
    """Five users of 3 different items, and `u5` of 40: 1645 pairs at most, 45 without it."""
    sequences = [["a", "b", "c", "x", "y"]] * 5
    sequences += [[*(f"i{number:02d}" for number in range(38)), "a", "b", "x", "y"]]
    data = make_dataset(sequences)
    part = splits.leave_one_out(data)
    items = np.flatnonzero(splits.training_counts_I(data, part))
    whole_II = collaborative_ids.cooccurrence(data, part, items)
    assert whole_II.nnz == 40 * 39 + 4
    assert whole_II.indices.dtype == whole_II.indptr.dtype == np.int32
    some_II = collaborative_ids.cooccurrence(data, part, items, max_user_items=39)
    assert some_II.nnz == 6 and set(some_II.data.tolist()) == {5.0}
    monkeypatch.setattr(collaborative_ids, "most_pairs", lambda: 500)
    with pytest.raises(
        UserError,
        match=r"up to 1,645 pairs.* User 'u5' alone has 40.*--max-user-items 39 .*\(1; they",
    ):
        collaborative_ids.cooccurrence(data, part, items)
    assert collaborative_ids.cooccurrence(data, part, items, 40).nnz == whole_II.nnz
    assert collaborative_ids.cooccurrence(data, part, items, 39).nnz == some_II.nnz


def test_communities_become_clusters(make_dataset):
    data = make_dataset(_communities(np.random.default_rng(0), [12, 9, 15]))
    paths = _paths(data, _tree(data, clusters=3, max_cluster=20))
    groups = collections.defaultdict(set)
    for source, path in paths.items():
        groups[path[0]].add(source)
    expected = [range(12), range(12, 21), range(21, 36)]
    assert sorted(map(sorted, groups.values())) == [
        [f"i{number:04d}" for number in numbers] for numbers in expected
    ]
    assert all(len(path) == 2 for path in paths.values())


def test_levels_are_numbered_on_modulo_the_largest_cluster(make_dataset):
    data = make_dataset(_communities(np.random.default_rng(1), [30, 30, 30, 30]))
    tree = _tree(data, clusters=4, max_cluster=10)
    paths = tree.paths
    assert {path[0] for path in paths} == {0, 1, 2, 3}
    second = {path[0]: {other[1] for other in paths if other[0] == path[0]} for path in paths}
    # Four splits of up to four clusters each, numbered 4, 5, 6, ... in the order of their parents.
    numbers = [number for parent in sorted(second) for number in sorted(second[parent])]
    assert set(numbers) <= set(range(10))
    assert second[0] == {4, 5, 6, 7}
    assert {8, 9, 0, 1} == second[1]
    assert max(path[-1] for path in paths) < 10


def test_every_leaf_is_small_and_every_path_its_own(make_dataset):
    data = make_dataset(_communities(np.random.default_rng(2), [40, 25, 60, 3]))
    tree = _tree(data, clusters=3, max_cluster=7)
    assert len(set(tree.paths)) == data.num_items == len(tree.texts)
    leaves = collections.Counter(path[:-1] for path in tree.paths)
    assert max(leaves.values()) <= 7
    assert set(re.findall(r"<CI\d+>", "".join(tree.texts))) == set(tree.added_tokens)
    # No node holds both items and clusters, so no id begins another.
    for path in tree.paths:
        assert not any(path[:length] in set(tree.paths) for length in range(1, len(path)))


def test_items_unseen_in_training_are_a_group_of_their_own(make_dataset):
    sequences = _communities(np.random.default_rng(3), [10, 10])
    sequences = [
        [*sequence, "i0000", f"z{user % 12:02d}"] for user, sequence in enumerate(sequences)
    ]
    data = make_dataset(sequences)
    paths = _paths(data, _tree(data, clusters=2, max_cluster=15))
    cold = {path[0] for source, path in paths.items() if source.startswith("z")}
    warm = {path[0] for source, path in paths.items() if source.startswith("i")}
    assert cold == {2}
    assert warm == {0, 1}
    assert sorted(path[-1] for source, path in paths.items() if source.startswith("z")) == list(
        range(12)
    )


def test_many_unseen_items_are_split_evenly(make_dataset):
    sequences = [["a", "b", f"y{user:03d}", f"z{user:03d}"] for user in range(50)]
    tree = _tree(make_dataset(sequences), clusters=4, max_cluster=5)
    assert len(set(tree.paths)) == 102
    assert max(collections.Counter(path[:-1] for path in tree.paths).values()) <= 5


@pytest.mark.parametrize("sequences", [
    pytest.param([["a", "b", "c"]] * 3, id="one training item"),
    pytest.param([[f"i{user}", "x", "y"] for user in range(40)], id="no pair at all"),
    pytest.param([[*"abcdefghijklmnopqrst", "x", "y"]] * 2, id="all alike"),
    pytest.param([[f"i{user}", f"j{user}", "x", "y"] for user in range(30)], id="only pairs"),
    pytest.param([["hub", f"i{user}", "x", "y"] for user in range(40)], id="a star"),
])  # fmt: skip
def test_graphs_that_do_not_split_end(make_dataset, sequences):
    data = make_dataset(sequences)
    tree = _tree(data, clusters=3, max_cluster=2)
    assert len(set(tree.paths)) == data.num_items
    assert max(collections.Counter(path[:-1] for path in tree.paths).values()) <= 2


def test_held_out_interactions_do_not_matter(make_dataset):
    rng = np.random.default_rng(4)
    sequences = _communities(rng, [20, 20])
    items = sorted({item for sequence in sequences for item in sequence})
    everything = [*items, "i0000", "i0000"]  # so that both datasets have the same catalogue
    shuffled = [[*sequence[:-2], *rng.choice(items, 2)] for sequence in sequences]
    trees = [
        _tree(make_dataset([*some, everything], name), clusters=3, max_cluster=8)
        for name, some in (("One", sequences), ("Two", shuffled))
    ]
    assert trees[0] == trees[1]


def test_settings_out_of_range(make_dataset):
    data = make_dataset([["a", "b", "c"]] * 3)
    with pytest.raises(UserError, match="--clusters is 1"):
        _tree(data, clusters=1, max_cluster=5)
    with pytest.raises(UserError, match="--max-cluster is 0"):
        _tree(data, clusters=2, max_cluster=0)


def test_default_settings_are_openp5s_and_shrink():
    assert collaborative_ids.default_settings(12_101) == (20, 500)
    assert collaborative_ids.default_settings(120) == (10, 36)
    for num_items in (1, 2, 3, 10):
        clusters, max_cluster = collaborative_ids.default_settings(num_items)
        assert clusters >= 2 and max_cluster >= clusters


@pytest.mark.parametrize(
    ("clusters", "max_cluster", "leaves", "lone", "leaf_agreement"),
    [(20, 500, 172, 3, 0.9999), (10, 100, 505, 34, 0.998)],
)
def test_public_partition(beauty, shared, clusters, max_cluster, leaves, lone, leaf_agreement):
    """The first level of OpenP5's public files is exact, and nearly all of the leaves.

    What differs: an item without co-occurrence inside a cluster that is split has only zeros in the
    eigenvectors, and rounding errors placed it in the public run. All others are equal.
    """
    name = f"item_collaborative_indexing_{max_cluster}_{clusters}_sequential.txt"
    with (shared / "data/openp5_beauty_golden" / name).open(encoding="utf-8") as file:
        rows = [line.split() for line in file]
    golden = {source: tuple(map(int, re.findall(r"\d+", tokens))) for source, tokens in rows}
    part = splits.leave_one_out(beauty)
    warm = np.flatnonzero(splits.training_counts_I(beauty, part))
    tree = _tree(beauty, clusters=clusters, max_cluster=max_cluster)
    ours = [tree.paths[item][:-1] for item in warm]
    theirs = [golden[beauty.item_source_ids[item]][:-1] for item in warm]
    everywhere = range(len(warm))
    assert _agreement(theirs, ours, everywhere, depth=1) == 1.0
    assert _agreement(theirs, ours, everywhere) > leaf_agreement
    assert len(set(ours)) == len(set(theirs)) == leaves
    lone_rows = _lone(collaborative_ids.cooccurrence(beauty, part, warm), theirs)
    assert len(lone_rows) == lone
    others = [row for row in everywhere if row not in lone_rows]
    assert _agreement(theirs, ours, others) == 1.0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="OPENBLAS_CORETYPE names x86 processors")
def test_the_processor_does_not_matter(beauty_path):
    """OpenBLAS has kernels for each processor, whose last digits differ; the ids do not."""
    program = """
import hashlib, sys
from genrec_jax.data import dataset, splits
from genrec_jax.indexing import collaborative_ids
data = dataset.load(sys.argv[1])
for clusters, most in ((10, 100), (5, 30)):
    tree = collaborative_ids.build_tree(
        data, splits.leave_one_out(data), clusters=clusters, max_cluster=most
    )
    print(hashlib.sha256("\\n".join(tree.texts).encode()).hexdigest())
"""
    found = set()
    for processor in ("Nehalem", "Haswell"):  # the second has fused multiply-add, in all of ours
        environment = {**os.environ, "OPENBLAS_CORETYPE": processor}
        command = [sys.executable, "-c", program, str(beauty_path)]
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(found) == 1 and len(found.pop().split()) == 2


def _agreement(theirs, ours, rows, depth=100):
    return sklearn.metrics.adjusted_rand_score(
        [str(theirs[row][:depth]) for row in rows], [str(ours[row][:depth]) for row in rows]
    )


def _lone(counts_II, clusters_of_rows):
    """Rows without co-occurrence inside some cluster that is split again."""
    members = collections.defaultdict(list)
    for row, path in enumerate(clusters_of_rows):
        for depth in range(len(path)):
            members[path[:depth]].append(row)  # the clusters that are split: those above a leaf
    found = set()
    for rows in members.values():
        sums = counts_II[rows][:, rows].sum(axis=0)
        found.update(row for row, total in zip(rows, sums, strict=True) if not total)
    return found
