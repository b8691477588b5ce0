"""Traces of steps and of batches: which ones, where, and what a run too short for one is told."""

import contextlib
import gzip
import json

import jax
import jax.numpy as jnp

from genrec_jax.parallel import profiling


def run(folder, calls: int, **options) -> list[str]:
    said: list[str] = []
    double = jax.jit(lambda x: x * 2)
    traced = profiling.TracedSteps(
        lambda state, batch, step: (double(state) + batch, {}), folder, say=said.append, **options
    )
    state = jnp.ones(3)
    for step in range(calls):
        state, _ = traced(state, 1.0, step)
    traced.close()
    expected = jnp.ones(3)
    for _ in range(calls):
        expected = expected * 2 + 1
    assert jnp.array_equal(state, expected)
    return said


def steps_in_trace(folder) -> set[str]:
    (file,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    with gzip.open(file) as opened:
        events = json.load(opened)["traceEvents"]
    return {e["args"]["step_num"] for e in events if "step_num" in e.get("args", {})}


def test_the_steps_after_the_first_few_are_traced(tmp_path):
    said = run(tmp_path, calls=6, skip=2, count=3)
    assert steps_in_trace(tmp_path) == {"2", "3", "4"}
    assert said == [f"trace of 3 steps: tensorboard --logdir {tmp_path}"]


def test_a_run_that_ends_early_still_closes_its_trace(tmp_path):
    said = run(tmp_path, calls=4, skip=2, count=9)
    assert steps_in_trace(tmp_path) == {"2", "3"}
    assert said[0].startswith("trace of 2 steps")


def test_a_run_too_short_says_so(tmp_path):
    assert run(tmp_path, calls=2, skip=2) == [
        "no trace: it begins after 2 steps, and this run made 2"
    ]
    assert not list(tmp_path.iterdir())


def test_the_first_batches_are_traced_once_after_they_were_warmed_up(tmp_path):
    said, warmed = [], []
    tracer = profiling.TracedBatches(tmp_path, say=said.append, count=3)
    handed = []
    for batch in tracer.trace(iter("abcde"), warmed.append):
        assert warmed == ["a", "b", "c"]  # all of them before the trace begins
        handed.append(batch)
    assert handed == list("abcde")
    assert steps_in_trace(tmp_path) == {"0", "1", "2"}
    assert said == [f"trace of 3 batches: tensorboard --logdir {tmp_path}"]
    assert list(tracer.trace("fg", warmed.append)) == ["f", "g"]
    assert (len(warmed), len(said)) == (3, 1)


def test_a_trace_of_batches_ends_with_its_consumer(tmp_path):
    tracer = profiling.TracedBatches(tmp_path, count=3)
    assert list(tracer.trace([], lambda batch: None)) == []  # nothing to trace: the next may
    with contextlib.closing(tracer.trace("abcde", lambda batch: None)) as batches:
        assert next(batches) == "a"
    assert steps_in_trace(tmp_path) == {"0"}
    jax.profiler.start_trace(tmp_path / "another")  # refused while one is being taken
    jax.profiler.stop_trace()
