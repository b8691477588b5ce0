"""Peak memory of `genrec evaluate` against the number of users, and the predictions that it streams.

    PYTHONPATH=. python benchmarks/evaluate_memory.py                       # 10 thousand to 1 million users
    PYTHONPATH=. python benchmarks/evaluate_memory.py --users 1000 4000     # a trial
    PYTHONPATH=. python benchmarks/evaluate_memory.py --baselines           # with the reference systems

A tiny random model over a generated log is evaluated by the command itself, each number of users in a
process of its own, whose peak memory the kernel tells. What is recommended means nothing; how memory
grows does. Of each further user evaluation must hold the log (`log_bytes`: items, times, ratings and
where each sequence begins) and a few ranks, never lists or prompts: `bytes_per_user` is what the peak
grew by for each user beyond the smallest log, and `without_log` the same without what the log takes.
Parquet's rows are counted, its row groups too: a group is what is held before it is written.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks import common, random_run
from genrec_jax.data import dataset as datasets
from genrec_jax.data.dataset import Dataset
from genrec_jax.evaluation import predictions
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import compilation_cache

MODEL = {"embed_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}


def write_log(folder: pathlib.Path, users: int, items: int, length: int) -> Dataset:
    """A dataset dir of sequences of one length over skewed items."""
    draws = np.random.default_rng(0)
    rows = users * length
    item_X = (items * draws.random(rows) ** 2).astype(np.int32)
    item_X[:items] = draws.permutation(items)  # every item occurs
    interactions = {
        "user": np.repeat(np.arange(users, dtype=np.int32), length),
        "item": item_X,
        "timestamp": np.tile(1_500_000_000 + 60 * np.arange(length), users),
        "rating": draws.integers(1, 6, rows).astype(np.float32),
    }
    names = [f"item-{number:06d}" for number in draws.permutation(items)]
    return datasets.write(
        folder,
        name="Scale",
        interactions=pa.table(interactions),
        items=pa.table({"item": np.arange(items, dtype=np.int32), "source_id": names}),
        users=pa.table(
            {
                "user": np.arange(users, dtype=np.int32),
                "source_id": [f"user-{number}" for number in range(users)],
            }
        ),
    )


def log_bytes(dataset: Dataset) -> int:
    """What the log takes in memory."""
    columns = (dataset.offsets_U1, dataset.items_X, dataset.timestamps_X, dataset.ratings_X)
    return sum(column.nbytes for column in columns if column is not None)


def evaluate(run_dir: pathlib.Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Runs the command; its peak memory in bytes, its seconds and its processor seconds."""
    command = [sys.executable, "-m", "genrec_jax.cli.main", "evaluate", run_dir, "--templates=A1"]
    command += [f"--num-beams={arguments.beams}", f"--batch-size={arguments.batch}"]
    command += [] if arguments.baselines else ["--no-baselines"]
    begun = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"genrec evaluate failed with exit code {process.returncode}")
    return {
        "peak_bytes": used.ru_maxrss * 1024,
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    }


def measure(folder: pathlib.Path, users: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: a log of `users`, a run on it, and its evaluation."""
    dataset = write_log(folder / "data", users, arguments.items, arguments.length)
    model = lambda vocab: T5Config(  # noqa: E731
        vocab_size=vocab, num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.0, **MODEL
    )
    index = random_run.make_index(dataset, folder / "index")
    run_dir = random_run.make_run(folder / "run", dataset, index, model)
    random_run.add_checkpoint(run_dir)
    row = {"users": users, "log_bytes": log_bytes(dataset), **evaluate(run_dir.path, arguments)}
    (file,) = run_dir.eval_dir.glob(f"*/{predictions.PREDICTIONS_FILE}")
    metadata = pq.ParquetFile(file).metadata
    row |= {
        "parquet_rows": metadata.num_rows,
        "parquet_groups": metadata.num_row_groups,
        "parquet_bytes": file.stat().st_size,
    }
    if metadata.num_rows != users:
        raise SystemExit(f"{users} users, but {metadata.num_rows} rows of predictions")
    return row


def grown(row: dict[str, Any], smallest: dict[str, Any]) -> dict[str, float]:
    """What the peak grew by for each user more than in the smallest log."""
    more = row["users"] - smallest["users"]
    if not more:
        return {}
    peak = (row["peak_bytes"] - smallest["peak_bytes"]) / more
    log = (row["log_bytes"] - smallest["log_bytes"]) / more
    return {"bytes_per_user": round(peak, 1), "without_log": round(peak - log, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--length", type=int, default=5, help="interactions of a user (5)")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--baselines", action="store_true", help="rank the reference systems too")
    arguments = parser.parse_args()
    names = ("users", "peak_bytes", "log_bytes", "bytes_per_user", "without_log", "parquet_rows")
    table = Table(*names, "parquet_groups", "seconds", title="genrec evaluate")
    rows: list[dict[str, Any]] = []
    sizes = sorted(arguments.users)
    compiled = tempfile.TemporaryDirectory(prefix="evaluate-memory-compiled-")
    os.environ[compilation_cache.VARIABLE] = compiled.name
    # Compiling takes more memory than evaluating: the first size is run once before, and not counted.
    for number, users in enumerate([sizes[0], *sizes]):
        with tempfile.TemporaryDirectory(prefix="evaluate-memory-") as scratch:
            row = measure(pathlib.Path(scratch), users, arguments)
        if number == 0:
            continue
        rows.append(row | grown(row, rows[0] if rows else row))
        print(rows[-1], flush=True)
        cells = [rows[-1].get(name, "") for name in (*names, "parquet_groups", "seconds")]
        table.add_row(*(f"{cell:,}" if cell != "" else "" for cell in cells))
        settings = {
            name: getattr(arguments, name)
            for name in ("items", "length", "beams", "batch", "baselines")
        }
        name = "evaluate_memory" + ("_baselines" if arguments.baselines else "")
        path = common.write_result(name, {"settings": settings, "rows": rows})
    compiled.cleanup()
    Console(width=120).print(table)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
