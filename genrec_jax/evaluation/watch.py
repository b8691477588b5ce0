"""Evaluates new checkpoints while a job trains, until the job is done."""

import time
from collections.abc import Callable, Iterator

from genrec_jax import storage
from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.checkpoint.run_log import FINISHED
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.evaluation.checkpoints import Evaluation, RunEvaluation
from genrec_jax.parallel import hosts


def watch_run(
    run_dir: artefacts.PathLike,
    open_evaluation: Callable[[RunDir], RunEvaluation],
    *,
    poll_seconds: float = 30.0,
    timeout_seconds: float = 6 * 3600.0,
    notify: Callable[[str], None] = print,
) -> Iterator[tuple[Evaluation, ...]]:
    """Evaluates the checkpoints of a run as they appear, those already there first.

    On several hosts each of them calls it; host 0 looks, so that all evaluate the same.

    Args:
        run_dir: the run; it need not have begun.
        open_evaluation: called once, as soon as the run dir is complete.
        poll_seconds: how often to look.
        timeout_seconds: give up after this long without anything new.
        notify: told in one line of a checkpoint that went before its turn came.

    Raises:
        UserError: nothing new came in time and the run is not done, or an evaluation failed.
    """
    evaluation: RunEvaluation | None = None

    def find() -> list[int]:
        return restore.open_store(RunDir.load(run_dir)).steps() if RunDir.exists(run_dir) else []

    def steps() -> list[int]:
        return hosts.from_first(find)

    for step in new_steps(
        steps,
        lambda: hosts.from_first(lambda: storage.exists(storage.join(run_dir, FINISHED))),
        poll_seconds=poll_seconds,
        timeout_seconds=timeout_seconds,
        clock=lambda: hosts.from_first(time.monotonic),
    ):
        evaluation = evaluation or open_evaluation(RunDir.load(run_dir))
        try:
            written = evaluation.evaluate(step)
        except UserError:
            if step in steps():
                raise
            notify(f"checkpoint {step} was removed by the run's retention before it was evaluated")
            continue
        yield written


def new_steps(
    steps: Callable[[], list[int]],
    is_finished: Callable[[], bool],
    *,
    poll_seconds: float = 30.0,
    timeout_seconds: float = 6 * 3600.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[int]:
    """Yields every complete checkpoint once, rising, while the caller evaluates them between yields.

    Retention may remove a checkpoint while it waits its turn: then it is passed over.

    Args:
        steps: the complete checkpoints at this moment.
        is_finished: whether the job has ended; asked before looking at the steps, so that the
            checkpoints it wrote last are seen.
        poll_seconds: how long to sleep when there is nothing new.
        timeout_seconds: give up after this long without a new checkpoint.
        sleep: for tests.
        clock: for tests; seconds.

    Raises:
        UserError: nothing new came within the timeout and the job did not say that it was done.
    """
    done: set[int] = set()
    last_news = clock()
    while True:
        finished = is_finished()
        waiting = sorted(set(steps()) - done)
        if waiting:
            done.add(waiting[0])
            yield waiting[0]
            last_news = clock()
        elif finished:
            return
        elif clock() - last_news > timeout_seconds:
            raise UserError(
                f"no new checkpoint for {timeout_seconds:g} seconds, and the job has not said that it"
                " is done. If it was killed, start it again, or run without --watch; for a slower job"
                " give a larger --watch-timeout"
            )
        else:
            sleep(poll_seconds)
