"""Batches made ahead: in order, errors handed on, closable at any time."""

import threading

import pytest

from genrec_jax.training import prefetch


def test_batches_come_in_order_and_from_the_start_asked_for():
    ahead = prefetch.Prefetcher(lambda step: step * step, 3, 8)
    assert [ahead.next(step) for step in range(3, 8)] == [9, 16, 25, 36, 49]
    assert ahead.seconds_waited >= 0
    ahead.close()


def test_at_most_the_asked_number_is_made_ahead():
    made = []
    enough = threading.Event()

    def prepare(step):
        made.append(step)
        if len(made) == 3:
            enough.set()
        return step

    ahead = prefetch.Prefetcher(prepare, 0, 100, ahead=2)
    assert enough.wait(30)
    assert made == [0, 1, 2]  # two in the queue, one in the thread's hand
    ahead.close()
    assert len(made) < 10


def test_an_error_in_the_thread_is_raised_at_its_own_step():
    def prepare(step):
        if step == 2:
            raise OSError("no such shard")
        return step

    ahead = prefetch.Prefetcher(prepare, 0, 5)
    assert [ahead.next(0), ahead.next(1)] == [0, 1]
    with pytest.raises(OSError, match="no such shard"):
        ahead.next(2)
    ahead.close()


def test_an_error_outside_prepare_is_handed_on_too(monkeypatch):
    def broken(*bounds):
        raise TypeError(f"no steps from {bounds}")

    monkeypatch.setattr(prefetch, "range", broken, raising=False)
    ahead = prefetch.Prefetcher(lambda step: step, 0, 5)
    _, error = ahead._ready.get(timeout=5)  # `next` would wait for ever
    assert isinstance(error, TypeError)
    ahead.close()


def test_asking_for_another_step_than_the_next_is_an_error():
    ahead = prefetch.Prefetcher(lambda step: step, 0, 5)
    with pytest.raises(ValueError, match="step 0, not 1"):
        ahead.next(1)
    ahead.close()
