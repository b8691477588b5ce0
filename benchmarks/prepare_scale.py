"""How long, and in how much memory, `genrec prepare` takes for 50 million rows of ratings.

    PYTHONPATH=. python benchmarks/prepare_scale.py         # 50 million rows, about 2 GB of scratch
    PYTHONPATH=. python benchmarks/prepare_scale.py --rows 5000000

Generates a MovieLens-like `ratings.csv` (skewed users and items, unsorted in time), runs the command in
a process of its own, and reads that process's peak memory from the kernel. The goal is 10 minutes and
8 GiB. With the default million users the k-core drops nothing; with `--users 10000000` it has work to do.
Results of other sizes go to files of their own.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import polars as pl

from benchmarks import common

BLOCK = 2_000_000
GOAL_SECONDS = 600
GOAL_GIB = 8


def write_ratings(path: pathlib.Path, *, rows: int, users: int, items: int, seed: int) -> None:
    """Writes `userId,movieId,rating,timestamp` lines in blocks."""
    draws = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            frame = pl.DataFrame(
                {
                    "user": (users * draws.random(count) ** 2).astype(np.int64) + 1,
                    "item": (items * draws.random(count) ** 3).astype(np.int64) + 1,
                    "rating": draws.integers(1, 11, count) / 2,
                    "timestamp": draws.integers(900_000_000, 1_700_000_000, count),
                }
            )
            frame.write_csv(file, include_header=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prepare-scale-") as scratch:
        folder = pathlib.Path(scratch)
        source, output = folder / "ratings.csv", folder / "dataset"
        write_ratings(
            source,
            rows=arguments.rows,
            users=arguments.users,
            items=arguments.items,
            seed=arguments.seed,
        )
        load_before = os.getloadavg()[0]
        begun = time.monotonic()
        command = [sys.executable, "-m", "genrec_jax.cli.main", "prepare", "movielens"]
        subprocess.run(
            [*command, "--input", source, "--output", output, "--name", "Scale"], check=True
        )
        seconds = time.monotonic() - begun
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        manifest = json.loads((output / "dataset.json").read_text())
        result = {
            "rows": arguments.rows,
            "dropped_by_k_core": manifest["rows"]["dropped_by_k_core"],
            "bytes": source.stat().st_size,
            "counts": manifest["counts"],
            "k_core_rounds": manifest["k_core_rounds"],
            "seconds": round(seconds, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_gib": round(used.ru_maxrss / 2**20, 2),
            "rows_per_second": round(arguments.rows / seconds),
            "goal": {"seconds": GOAL_SECONDS, "gib": GOAL_GIB},
            "load_before": round(load_before, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "polars": pl.__version__,
            "note": arguments.note,
        }
    for key, value in result.items():
        print(f"{key:16} {value}")
    name = "prepare_scale"
    if arguments.users != parser.get_default("users"):
        name += "_k_core"
    if arguments.rows != parser.get_default("rows"):
        name += f"_{arguments.rows / 1e6:g}m"
    print(f"written to {common.write_result(name, result)}")


if __name__ == "__main__":
    main()
