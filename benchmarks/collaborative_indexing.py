"""Time of collaborative indexing: our spectral clustering beside scikit-learn's, same labels asked for.

    PYTHONPATH=. python benchmarks/collaborative_indexing.py        # Beauty, which lies beside the checkout
    PYTHONPATH=. python benchmarks/collaborative_indexing.py data/beauty --sklearn

With `--golden FOLDER` (OpenP5's public files for Beauty) it also reports the agreement of every level
of the tree with them, as adjusted Rand indices.

Times are of the CPU, all threads together, so that a busy machine does not falsify them; the clock's
are in the JSON too. scikit-learn factorises the shifted Laplacian, which takes minutes.
"""

import argparse
import pathlib
import re
import tempfile
import time
from typing import Any

import numpy as np
import sklearn
import sklearn.cluster
import sklearn.metrics
from rich.console import Console
from rich.table import Table

from benchmarks import common
from genrec_jax.data import dataset, prepare_run, splits
from genrec_jax.indexing import collaborative_ids, numbered_ids, spectral

SETTINGS = ((20, 500), (10, 100))
GOLDEN = "item_collaborative_indexing_{max_cluster}_{clusters}_sequential.txt"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset_dir", nargs="?", help="Beauty, beside the checkout, by default")
    parser.add_argument("--golden", type=pathlib.Path, help="folder of OpenP5's public id files")
    parser.add_argument("--repeats", type=int, default=3, help="of ours; the fastest counts")
    parser.add_argument(
        "--sklearn",
        type=int,
        nargs="*",
        default=[20],
        metavar="N",
        help="for which numbers of clusters to run scikit-learn too (default: 20)",
    )
    parser.add_argument("--name", default="collaborative_indexing", help="of the file of results")
    arguments = parser.parse_args()
    if arguments.dataset_dir is None:
        folder = pathlib.Path(tempfile.mkdtemp()) / "data"
        data = prepare_run.prepare_from("sequences", common.BEAUTY, folder, name="Beauty")
    else:
        data = dataset.load(arguments.dataset_dir)
    part = splits.of(data)
    warm_I = splits.training_counts_I(data, part) > 0
    order_I = numbered_ids.sequential_order(data, part)[: int(warm_I.sum())]

    counting, adjacency_II = _timed(
        lambda: collaborative_ids.cooccurrence(data, part, order_I), arguments.repeats
    )
    theirs_II = adjacency_II.copy()  # scikit-learn reads 32-bit indices only
    theirs_II.indices = theirs_II.indices.astype(np.int32)
    theirs_II.indptr = theirs_II.indptr.astype(np.int32)
    payload: dict[str, Any] = {
        "dataset": data.name,
        "items": len(order_I),
        "pairs": int(adjacency_II.nnz),
        "scikit-learn": sklearn.__version__,
        "cooccurrence": counting,
        "settings": [],
    }
    for clusters, max_cluster in SETTINGS:
        row: dict[str, Any] = {"clusters": clusters, "max_cluster": max_cluster}
        row["first_level"], labels_I = _timed(
            lambda n=clusters: spectral.cluster(adjacency_II, n), arguments.repeats
        )
        if clusters in arguments.sklearn:
            reference = sklearn.cluster.SpectralClustering(
                clusters, assign_labels="cluster_qr", random_state=0, affinity="precomputed"
            )
            row["sklearn_first_level"], theirs_I = _timed(
                lambda one=reference: one.fit_predict(theirs_II), 1
            )
            row["first_level_agreement_with_sklearn"] = float(
                sklearn.metrics.adjusted_rand_score(theirs_I, labels_I)
            )
        row["tree"], tree = _timed(
            lambda n=clusters, k=max_cluster: collaborative_ids.build_tree(
                data, part, clusters=n, max_cluster=k
            ),
            arguments.repeats,
        )
        row["leaves"] = len({path[:-1] for path in tree.paths})
        if arguments.golden:
            golden = read_golden(
                arguments.golden / GOLDEN.format(clusters=clusters, max_cluster=max_cluster)
            )
            theirs = [golden[source] for source in data.item_source_ids]
            row["agreement_by_level"] = agreement_by_level(tree.paths, theirs, warm_I)
        payload["settings"].append(row)
    _show(payload)
    print(common.write_result(arguments.name, payload))


def read_golden(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Source id -> numbers of its tokens."""
    with path.open(encoding="utf-8") as file:
        rows = [line.split() for line in file]
    return {source: tuple(map(int, re.findall(r"\d+", tokens))) for source, tokens in rows}


def agreement_by_level(ours: Any, theirs: Any, warm_I: np.ndarray) -> list[float]:
    """Adjusted Rand index of the partitions cut at each depth; the last is that of the leaves."""
    depth = max(len(path) for path in (*ours, *theirs)) - 1
    return [
        float(
            sklearn.metrics.adjusted_rand_score(
                _partition(theirs, warm_I, level), _partition(ours, warm_I, level)
            )
        )
        for level in range(1, depth + 1)
    ]


def _partition(paths: Any, warm_I: np.ndarray, level: int) -> list[str]:
    return [
        str(path[: min(level, len(path) - 1)]) if warm else "unseen in training"
        for path, warm in zip(paths, warm_I, strict=True)
    ]


def _timed(function: Any, repeats: int) -> tuple[dict[str, float], Any]:
    """The fastest run's seconds, and its result."""
    best = {"cpu_seconds": float("inf"), "seconds": float("inf")}
    result = None
    for _ in range(repeats):
        clock, cpu = time.perf_counter(), time.process_time()
        result = function()
        seconds = {
            "cpu_seconds": time.process_time() - cpu,
            "seconds": time.perf_counter() - clock,
        }
        best = min(best, seconds, key=lambda one: one["cpu_seconds"])
    return best, result


def _show(payload: dict[str, Any]) -> None:
    table = Table("N", "k", "first level", "scikit-learn", "whole tree", "leaves", "ARI by level")
    for row in payload["settings"]:
        theirs = row.get("sklearn_first_level")
        table.add_row(
            str(row["clusters"]),
            str(row["max_cluster"]),
            f"{row['first_level']['cpu_seconds']:.2f} s",
            "-" if theirs is None else f"{theirs['cpu_seconds']:.1f} s",
            f"{row['tree']['cpu_seconds']:.2f} s",
            str(row["leaves"]),
            " ".join(f"{value:.6f}" for value in row.get("agreement_by_level", [])),
        )
    Console().print(
        f"{payload['dataset']}: {payload['items']:,} items, {payload['pairs']:,} pairs counted in"
        f" {payload['cooccurrence']['cpu_seconds']:.2f} s of CPU",
        table,
    )


if __name__ == "__main__":
    main()
