"""Examples per second of the alignment system's mixtures, and the share of prompts that a limit cuts.

    python benchmarks/alignment_pipeline.py --dataset data/beauty --index data/beauty/index/short

Workers are processes that make alternate steps, which random access by step allows. Prompts show
titles; negatives, masks and spans are drawn in the measured time. Without --dataset it makes a dataset
of Beauty's size, with titles of as many words, so that it runs anywhere.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import common
import numpy as np
import pyarrow as pa

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data.dataset import Dataset
from genrec_jax.errors import UserError
from genrec_jax.indexing import build, item_ids
from genrec_jax.pipeline import alignment_mixtures, mixtures
from genrec_jax.pipeline.batches import TrainBatches
from genrec_jax.prompts import templates

MIXTURES = ("alignment_reat", "alignment_raat", "alignment_rpat", "alignment_ut", "alignment_ut_at")
LIMITS = (512, 1024, 1536)
EVERYTHING = 1 << 30
_BATCHES: dict[str, TrainBatches] = {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", help="a dataset dir; default: made up, of Beauty's size")
    parser.add_argument("--index", help="its index dir; default: <dataset>/index/short")
    parser.add_argument("--vocabulary", help="T5's spiece.model, for a made-up dataset's index")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured for each row")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    dataset, index = _open(options)
    rated = dataset.ratings_X is not None
    rows, speeds = [], []
    print(f"{dataset.name}: examples a second of batches of {options.batch_size}, packed")
    for name in MIXTURES:
        if "rating" in alignment_mixtures.MIXTURE_TASKS[name] and not rated:
            print(f"{name}: left out, {dataset.name} has no ratings", file=sys.stderr)
            continue
        mixture = _mixture(name, dataset, index, 1024)
        _BATCHES[name] = TrainBatches(
            mixture, options.batch_size, packing=True, row_length=mixture.max_input_length
        )
        for workers in sorted({1, options.workers}):
            speed, per_cpu = _measure(name, workers, options.seconds)
            print(
                f"{name:18} {workers} workers {speed:10,.0f}   per CPU second {per_cpu:10,.0f}",
                flush=True,
            )
            speeds.append(
                {
                    "mixture": name,
                    "workers": workers,
                    "examples_per_second": round(speed),
                    "examples_per_cpu_second": round(per_cpu),
                }
            )
    print("share of an epoch's prompts that lose items, by the inputs' limit")
    for limit in LIMITS:
        for task in templates.ALIGNMENT_TASKS:
            if task == "ie" or (task == "rating" and not rated):
                continue
            share = _cut_share(f"alignment_{task}", dataset, index, limit)
            print(
                f"{limit:5} {task:10} {'does not fit' if share is None else format(share, '.2%')}"
            )
            rows.append({"limit": limit, "task": task, "cut_share": share})
    path = common.write_result(
        "alignment_pipeline",
        {
            "dataset": dataset.name,
            "batch_size": options.batch_size,
            "load_average": os.getloadavg()[0],
            "speeds": speeds,
            "cut": rows,
        },
    )
    print(f"written to {path}", file=sys.stderr)


def _cut_share(name: str, dataset: Dataset, index: pathlib.Path, limit: int) -> float | None:
    """Over every example of an epoch; None where the question alone does not fit."""
    try:
        (share,) = [
            part.cut_share(max_examples=EVERYTHING)
            for source in _mixture(name, dataset, index, limit).sources
            for part in source.parts
        ]
    except UserError:
        return None
    return share


def _mixture(name: str, dataset: Dataset, index: pathlib.Path, limit: int) -> mixtures.Mixture:
    ids = item_ids.load(index)
    return mixtures.build_mixture(
        name,
        [dataset],
        [ids.texts],
        item_ids.load_vocabulary(index),
        templates.load_templates(templates.ALIGNMENT_TEMPLATES),
        titles=[ids.titles],
        max_input_length=limit,
    )


def _measure(name: str, workers: int, seconds: float) -> tuple[float, float]:
    """Examples of all workers by the wall clock, and per second of CPU, which a busy machine blurs less."""
    if workers == 1:
        rates = [_work(name, 0, 1, seconds)]
    else:
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = [pool.submit(_work, name, worker, workers, seconds) for worker in range(workers)]
            rates = [job.result() for job in jobs]
    wall, cpu = zip(*rates, strict=True)
    return sum(wall), sum(cpu) / workers


def _work(name: str, worker: int, workers: int, seconds: float) -> tuple[float, float]:
    batches = _BATCHES[name]
    batches.batch(worker)
    start, cpu_start, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        batches.batch(worker + steps * workers)
        steps += 1
    examples = steps * batches.examples_per_step
    return examples / (time.perf_counter() - start), examples / (time.process_time() - cpu_start)


def _open(options: Any) -> tuple[Dataset, pathlib.Path]:
    if options.dataset is not None:
        folder = pathlib.Path(options.dataset)
        index = pathlib.Path(options.index or folder / "index" / "short")
        return dataset_lib.load(folder), index
    dataset = _made_up()
    (built,) = build.build_index(
        [dataset.path],
        build.IndexConfig("short"),
        vocabulary=options.vocabulary,
        prompt_lines=[
            template.input.replace("{", " ").replace("}", " ")
            for template in templates.load_templates(templates.ALIGNMENT_TEMPLATES)
        ],
    )
    return dataset, built.path


def _made_up() -> Dataset:
    """22,363 users, 12,101 items, about 200,000 interactions: Beauty's size, titles of 4 to 24 words."""
    generator = np.random.default_rng(0)
    lengths = 5 + generator.geometric(1 / 4.9, 22_363) - 1
    words = ["".join(generator.choice(list("aeiklmnoprst"), 6)) for _ in range(5000)]
    titles = [
        " ".join(generator.choice(words, generator.integers(4, 25))).title() for _ in range(12_101)
    ]
    return dataset_lib.write(
        pathlib.Path(tempfile.mkdtemp()) / "made_up",
        name="MadeUp",
        interactions=pa.table(
            {
                "user": np.repeat(np.arange(22_363), lengths),
                "item": generator.integers(0, 12_101, lengths.sum()),
                "rating": generator.integers(1, 6, lengths.sum()).astype(np.float32),
            }
        ),
        items=pa.table(
            {
                "item": np.arange(12_101),
                "source_id": [str(i) for i in range(12_101)],
                "title": titles,
            }
        ),
        users=pa.table({"user": np.arange(22_363), "source_id": [str(i) for i in range(22_363)]}),
    )


if __name__ == "__main__":
    main()
