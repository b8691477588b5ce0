"""Examples per second and padding of the input pipeline, on two cores.

    python benchmarks/input_pipeline.py --dataset data/beauty --index data/beauty/index/random

Workers are processes that make alternate steps, which random access by step allows. Without
--dataset it makes a dataset of Beauty's size and trains a small vocabulary, so that it runs anywhere.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

import common
import numpy as np
import pyarrow as pa

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.indexing import item_ids, unigram_vocabulary
from genrec_jax.pipeline import mixtures
from genrec_jax.pipeline.batches import TrainBatches
from genrec_jax.prompts import templates

_BATCHES: dict[tuple[bool, int], TrainBatches] = {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", help="a dataset dir; default: made up, of Beauty's size")
    parser.add_argument("--index", help="its index dir, with the vocabulary")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seconds", type=float, default=3.0, help="measured for each row")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    mixture, name, tokens = _mixture(options.dataset, options.index)
    rows = []
    print(f"{name}: {mixture.num_examples:,} examples an epoch, vocabulary of {tokens:,} tokens")
    print(
        "packing  batch  workers   examples/s  per CPU s  padding sequential  straightforward  shapes"
    )
    for packing in (False, True):
        for batch_size in options.batch_sizes:
            batches = TrainBatches(mixture, batch_size, packing=packing)
            _BATCHES[packing, batch_size] = batches
            padding = [
                float(np.mean([batches.padding_share(s) for s in range(task, 100, 2)]))
                for task in range(2)
            ]
            shapes = len({batches.shape(step) for step in range(200)})
            for workers in sorted({1, options.workers}):
                speed, per_cpu = _measure((packing, batch_size), workers, options.seconds)
                print(
                    f"{packing!s:7}  {batch_size:5}  {workers:7}  {speed:11,.0f}  {per_cpu:9,.0f}"
                    f"  {padding[0]:18.1%}  {padding[1]:15.1%}  {shapes:6}",
                    flush=True,
                )
                rows.append(
                    {
                        "packing": packing,
                        "batch_size": batch_size,
                        "workers": workers,
                        "examples_per_second": round(speed),
                        "examples_per_cpu_second": round(per_cpu),
                        "padding_share_sequential": padding[0],
                        "padding_share_straightforward": padding[1],
                        "shapes_used": shapes,
                    }
                )
    path = common.write_result(
        "input_pipeline",
        {"dataset": name, "vocabulary": tokens, "load_average": os.getloadavg()[0], "rows": rows},
    )
    print(f"written to {path}", file=sys.stderr)


def _measure(key: tuple[bool, int], workers: int, seconds: float) -> tuple[float, float]:
    """Examples of all workers by the wall clock, and per second of CPU, which a busy machine blurs less.

    Workers are forked, so they share the tables.
    """
    if workers == 1:
        rates = [_work(key, 0, 1, seconds)]
    else:
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = [pool.submit(_work, key, worker, workers, seconds) for worker in range(workers)]
            rates = [job.result() for job in jobs]
    wall, cpu = zip(*rates, strict=True)
    return sum(wall), sum(cpu) / workers


def _work(key: tuple[bool, int], worker: int, workers: int, seconds: float) -> tuple[float, float]:
    batches = _BATCHES[key]
    batches.batch(worker)
    start, cpu_start, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        batches.batch(worker + steps * workers)
        steps += 1
    examples = steps * batches.examples_per_step
    return examples / (time.perf_counter() - start), examples / (time.process_time() - cpu_start)


def _mixture(path: str | None, index: str | None) -> tuple[mixtures.Mixture, str, int]:
    chosen = templates.load_templates()
    if path is None:
        dataset = _made_up()
        lines = [template.input.replace("{", " ").replace("}", " ") for template in chosen]
        words = unigram_vocabulary.train(lines, words=[dataset.name])
        texts = [f"item_{1001 + item}" for item in range(dataset.num_items)]
    else:
        dataset = dataset_lib.load(path)
        folder = pathlib.Path(index or pathlib.Path(path) / "index" / "sequential")
        words = item_ids.load_vocabulary(folder)
        texts = item_ids.load(folder).texts
    mixture = mixtures.build_mixture(
        "openp5", [dataset], [texts], words, chosen, templates_per_example=3
    )
    return mixture, dataset.name, words.size


def _made_up() -> dataset_lib.Dataset:
    """22,363 users, 12,101 items, about 200,000 interactions: Beauty's size, no structure."""
    generator = np.random.default_rng(0)
    lengths = 5 + generator.geometric(1 / 4.9, 22_363) - 1
    items = generator.integers(0, 12_101, lengths.sum())
    return dataset_lib.write(
        pathlib.Path(tempfile.mkdtemp()) / "made_up",
        name="MadeUp",
        interactions=pa.table({"user": np.repeat(np.arange(22_363), lengths), "item": items}),
        items=pa.table({"item": np.arange(12_101), "source_id": [str(i) for i in range(12_101)]}),
        users=pa.table({"user": np.arange(22_363), "source_id": [str(i) for i in range(22_363)]}),
    )


if __name__ == "__main__":
    main()
