"""Watching a job that writes checkpoints: in a thread, and with a clock made by hand."""

import threading
import time

import pytest

from genrec_jax.errors import UserError
from genrec_jax.evaluation import watch


def test_sees_every_checkpoint_of_a_running_thread_once():
    steps, finished = [], threading.Event()

    def job():
        for step in (10, 20, 30, 40):
            steps.append(step)
            time.sleep(0.02)
        steps.append(50)
        finished.set()

    thread = threading.Thread(target=job)
    thread.start()
    seen = list(
        watch.new_steps(
            lambda: list(steps), finished.is_set, poll_seconds=0.001, timeout_seconds=30.0
        )
    )
    thread.join()
    assert seen == [10, 20, 30, 40, 50]


def test_checkpoints_written_just_before_the_end_are_not_lost():
    """The job writes its last checkpoint and ends between two looks of the watcher."""
    steps = [1]
    looks = []

    def is_finished():
        looks.append(len(steps))
        return len(looks) > 2

    def sleep(_):
        steps.append(2)

    assert list(watch.new_steps(lambda: list(steps), is_finished, sleep=sleep)) == [1, 2]


def test_a_checkpoint_removed_before_its_turn_is_passed_over():
    steps = [1, 2, 3]
    seen = []
    for step in watch.new_steps(lambda: list(steps), lambda: True):
        seen.append(step)
        if step == 1:
            steps.remove(2)
    assert seen == [1, 3]


def test_a_job_that_died_is_given_up_on():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    watching = watch.new_steps(
        lambda: [5],
        lambda: False,
        poll_seconds=10.0,
        timeout_seconds=60.0,
        sleep=sleep,
        clock=lambda: now[0],
    )
    assert next(watching) == 5
    with pytest.raises(UserError, match="no new checkpoint for 60 seconds"):
        next(watching)


def test_time_spent_evaluating_is_not_time_without_news():
    now = [0.0]
    steps = [1]

    def sleep(seconds):
        now[0] += seconds
        steps.append(len(steps) + 1)

    watching = watch.new_steps(
        lambda: list(steps),
        lambda: False,
        poll_seconds=1.0,
        timeout_seconds=5.0,
        sleep=sleep,
        clock=lambda: now[0],
    )
    assert next(watching) == 1
    now[0] += 1000
    assert next(watching) == 2
