"""Examples a second of an input pipeline, made by one process or by several that share its tables.

Workers are forked processes that make alternate steps, which random access by step allows.
"""

import concurrent.futures
import multiprocessing
import time

from genrec_jax.pipeline.batches import TrainBatches

_measured: list[TrainBatches] = []
"""What forked workers inherit."""


def examples_per_second(batches: TrainBatches, workers: int, seconds: float) -> tuple[float, float]:
    """Examples of all workers by the wall clock; and per second of CPU, which a busy machine blurs less.

    Args:
        batches: made step by step.
        workers: processes; 1 is this one.
        seconds: for how long.
    """
    _measured[:] = [batches]
    if workers == 1:
        rates = [_work(0, 1, seconds)]
    else:
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = [pool.submit(_work, worker, workers, seconds) for worker in range(workers)]
            rates = [job.result() for job in jobs]
    wall, cpu = zip(*rates, strict=True)
    return sum(wall), sum(cpu) / workers


def _work(worker: int, workers: int, seconds: float) -> tuple[float, float]:
    (batches,) = _measured
    batches.batch(worker)
    start, cpu_start, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        batches.batch(worker + steps * workers)
        steps += 1
    examples = steps * batches.examples_per_step
    return examples / (time.perf_counter() - start), examples / (time.process_time() - cpu_start)
