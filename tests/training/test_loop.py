"""The loop with a toy step: order of reading, saving and validating; stops; resuming."""

import functools
import os
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.checkpoint import run_log, store
from genrec_jax.errors import UserError
from genrec_jax.pytree import pytree_dataclass
from genrec_jax.training import logging, loop, preemption, progress, throughput


@pytree_dataclass
class State:
    step: Any
    params: Any


def fresh() -> State:
    return State(jnp.int32(0), {"w": jnp.ones((4,), jnp.float32)})


def abstract() -> State:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), fresh())


@jax.jit
def update(state: State, noise: jax.Array, step: jax.Array):
    draw = jax.random.normal(jax.random.fold_in(jax.random.key(5), step), (4,))
    w = state.params["w"] * 0.9 + noise * draw
    metrics = {
        "loss_sum": jnp.sum(w * w),
        "target_tokens": jnp.float32(2),
        "grad_norm": jnp.max(jnp.abs(w)),
        "param_norm": jnp.sqrt(jnp.sum(w * w)),
        "learning_rate": 0.5 / (1 + step),
    }
    return State(state.step + 1, {"w": w}), metrics


class Batches:
    """Numbers as batches; one of them may be poison."""

    def __init__(self, poisoned: int | None = None):
        self.poisoned = poisoned

    def prepare(self, step: int) -> loop.Prepared:
        value = np.float32(np.nan if step == self.poisoned else 0.01 * step)
        return loop.Prepared(value, examples=3, cells=10, padding=4)

    def describe(self, step: int) -> str:
        return f"epoch 0, task toy, examples {3 * step} to {3 * step + 2}"


class Watched(progress.Silent):
    def __init__(self):
        self.said = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Run:
    """A run dir and the loop in it; `go` resumes from what is there."""

    def __init__(
        self, folder, *, batches=None, validate=None, at_step=None, utilisation=None, **schedule
    ):
        self.folder = folder
        self.schedule = loop.Schedule(**{"train_steps": 12, "log_period": 5, **schedule})
        self.batches = batches or Batches()
        self.validate, self.utilisation = validate, utilisation
        self.at_step = at_step or {}
        self.display = Watched()

    def go(self, stop: preemption.StopRequest | None = None) -> loop.Result:
        checkpoints = store.CheckpointStore(
            self.folder / "checkpoints", best_metric=self.schedule.metric, notify=self.display.say
        )
        step = checkpoints.latest_valid_step() or 0
        checkpoints.discard_after(step or None)
        state = checkpoints.restore(step, abstract()) if step else fresh()
        done = loop.Progress.from_json(checkpoints.progress(step)) if step else None
        owes = done is not None and done.owes_validation
        log = logging.MetricsLog(self.folder, after_step=step, owes_validation=owes)
        try:
            return loop.Loop(
                schedule=self.schedule,
                train_step=self.train_step,
                batches=self.batches,
                store=checkpoints,
                display=self.display,
                log=log,
                validate=self.validate,
                utilisation=self.utilisation,
            ).run(state, step, done, stop)
        finally:
            log.close()
            checkpoints.close()

    def train_step(self, state, batch, step):
        if step in self.at_step:
            self.at_step.pop(step)()
        return update(state, batch, jnp.int32(step))

    def steps(self) -> list[int]:
        return store.CheckpointStore(self.folder / "checkpoints").steps()

    def records(self, kind: str) -> list[dict]:
        return [r for r in run_log.read_metrics(self.folder) if r["kind"] == kind]


def by_hand(steps: int) -> tuple[State, list[dict]]:
    state, read = fresh(), []
    for step in range(steps):
        state, metrics = update(state, np.float32(0.01 * step), jnp.int32(step))
        read.append({name: float(value) for name, value in metrics.items()})
    return state, read


def test_it_trains_and_logs_what_the_steps_gave(tmp_path):
    run = Run(tmp_path, checkpoint_period=4)
    result = run.go()
    state, read = by_hand(12)
    assert result.stopped == "finished"
    assert result.step == 12
    np.testing.assert_array_equal(result.state.params["w"], state.params["w"])
    records = run.records("train")
    assert [r["step"] for r in records] == [5, 10, 12]
    for record, window in zip(records, (read[:5], read[5:10], read[10:]), strict=True):
        assert record["loss"] == pytest.approx(
            sum(m["loss_sum"] for m in window) / (2 * len(window)), rel=1e-6
        )
        assert record["grad_norm"] == pytest.approx(
            sum(m["grad_norm"] for m in window) / len(window), rel=1e-6
        )
        assert record["learning_rate"] == pytest.approx(window[-1]["learning_rate"])
        assert record["param_norm"] == pytest.approx(window[-1]["param_norm"])
        assert record["padding_share"] == pytest.approx(0.4)
        assert 0 <= record["input_wait_share"] <= 1
    assert [r["examples"] for r in records] == [15, 30, 36]
    assert [r["target_tokens"] for r in records] == [10, 20, 24]
    assert run.steps() == [8, 12]


class SlowBatches(Batches):
    def prepare(self, step: int) -> loop.Prepared:
        time.sleep(0.1)
        return super().prepare(step)


def test_batches_are_made_while_the_step_before_runs(tmp_path):
    """One after another, input would take a third of the time."""
    rest = {step: functools.partial(time.sleep, 0.2) for step in range(10)}
    run = Run(tmp_path, batches=SlowBatches(), at_step=rest, train_steps=10)
    run.go()
    first, second = run.records("train")
    assert second["input_wait_share"] < 0.15
    assert second["seconds"] > first["seconds"] > 0.9


class Counting(throughput.Utilisation):
    """Seven operations a batch, on devices that could do one in all."""

    def __init__(self):
        pass

    def flops(self, batch):
        return 7.0

    def share(self, flops, seconds):
        assert seconds > 0
        return flops


def test_the_share_of_the_peak_is_of_the_batches_since_the_last_line(tmp_path):
    run = Run(tmp_path, utilisation=Counting())
    run.go()
    assert [record["mfu"] for record in run.records("train")] == [35.0, 35.0, 14.0]


def test_nan_stops_with_the_batch_named_and_saves_nothing_after_it(tmp_path):
    run = Run(tmp_path, batches=Batches(poisoned=6), checkpoint_period=3)
    wanted = r"at step 7 loss_sum and grad_norm became nan.*examples 18 to 20.*steps: 3, 6\)"
    with pytest.raises(loop.NonFiniteLoss, match=wanted):
        run.go()
    assert run.steps() == [3, 6]


def test_nan_on_a_step_that_is_to_be_saved_is_not_saved(tmp_path):
    run = Run(tmp_path, batches=Batches(poisoned=5), checkpoint_period=3)
    with pytest.raises(loop.NonFiniteLoss, match=r"at step 6.*steps: 3\)"):
        run.go()
    assert run.steps() == [3]


@pytest.mark.parametrize("bad", [5, 11], ids=["to be saved", "the last"])
def test_parameters_that_a_steps_own_update_spoils_are_not_saved(tmp_path, bad):
    """The loss and the gradient of that step are from before its update, and finite."""
    run = Run(tmp_path, checkpoint_period=3)
    plain = run.train_step

    def train_step(state, batch, step):
        state, metrics = plain(state, batch, step)
        if step == bad:
            state = State(state.step, {"w": state.params["w"] + jnp.inf})
        return state, metrics | {"param_norm": jnp.sqrt(jnp.sum(state.params["w"] ** 2))}

    run.train_step = train_step
    saved = {5: "3", 11: "6, 9"}[bad]
    with pytest.raises(
        loop.NonFiniteLoss, match=rf"at step {bad + 1} param_norm.*steps: {saved}\)"
    ):
        run.go()
    assert run.steps() == [int(step) for step in saved.split(", ")]


def test_sigterm_saves_and_a_restart_ends_bit_for_bit_the_same(tmp_path):
    first = Run(tmp_path, at_step={7: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    result = first.go()
    assert result.stopped == "preempted"
    assert first.steps() == [result.step] == [8]
    second = Run(tmp_path).go()
    assert second.stopped == "finished"
    state, read = by_hand(12)
    assert np.asarray(second.state.params["w"]).tobytes() == np.asarray(state.params["w"]).tobytes()
    records = first.records("train")
    assert [r["step"] for r in records] == [5, 10, 12]
    middle = sum(m["loss_sum"] for m in read[5:10]) / 10
    assert records[1]["loss"] == pytest.approx(middle, rel=1e-6)  # a window over the restart
    assert records[2]["examples"] == 36


def test_a_finished_run_is_not_trained_again(tmp_path):
    Run(tmp_path).go()
    again = Run(tmp_path, at_step=dict.fromkeys(range(12), pytest.fail)).go()
    assert (again.step, again.stopped) == (12, "finished")


class Scores:
    """Validation results by call."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, params):
        return {"hr@10": self.values.pop(0), "loss": 1.0}


def test_the_best_is_saved_with_its_metrics_and_patience_ends_the_run(tmp_path):
    run = Run(tmp_path, validate=Scores(0.1, 0.3, 0.2, 0.3, 0.9), eval_period=2, patience=2)
    result = run.go()
    assert (result.stopped, result.step) == ("early_stopping", 8)
    assert result.progress.best.step == 4
    assert run.steps() == [4, 8]
    checkpoints = store.CheckpointStore(tmp_path / "checkpoints", best_metric="hr@10")
    assert checkpoints.best_step() == 4
    assert checkpoints.metrics(4) == {"hr@10": 0.3, "loss": 1.0}
    assert [r["hr@10"] for r in run.records("validation")] == [0.1, 0.3, 0.2, 0.3]
    assert any("hr@10 0.3000" in line and "best" in line for line in run.display.said)
    again = Run(tmp_path, validate=pytest.fail, eval_period=2, patience=2).go()
    assert (again.stopped, again.step) == ("early_stopping", 8)


class Batched:
    """A validation of three batches whose result follows from the parameters; a signal comes in one.

    Attributes:
        worked_on: for each call, how many batches it got through.
    """

    def __init__(self, stop: preemption.StopRequest, signal_at: tuple[int, int] | None = None):
        self.stop, self.signal_at = stop, signal_at
        self.worked_on: list[int] = []

    def __call__(self, params):
        self.worked_on.append(0)
        for batch in range(3):
            self.stop.raise_if_reached()
            if (len(self.worked_on) - 1, batch) == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            self.worked_on[-1] += 1
        return {"hr@10": -float(abs(params["w"][0] - 0.3)), "loss": float(params["w"][1])}


def go_stopped(folder, signal_at, **schedule) -> tuple[Run, loop.Result, Batched]:
    """A run that a signal comes to in a batch of a validation (both counted from 0)."""
    with preemption.StopRequest() as stop:
        validate = Batched(stop, signal_at)
        run = Run(folder, validate=validate, **schedule)
        return run, run.go(stop), validate


def measured(run: Run) -> list[tuple]:
    return [(r["step"], r["hr@10"], r["loss"], r["examples"]) for r in run.records("validation")]


SCHEDULES = [
    {"checkpoint_period": 4, "eval_period": 4},
    {"checkpoint_period": 6, "eval_period": 2},
    {"eval_period": 3, "patience": 2},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_stop_within_a_validation_saves_at_once_and_the_validation_is_made_up(
    tmp_path, schedule, call
):
    """A run left alone and one stopped so end alike: parameters, records, best and kept checkpoints."""
    whole, expected, _ = go_stopped(tmp_path / "whole", None, **schedule)
    first, result, validate = go_stopped(tmp_path / "stopped", (call, 1), **schedule)
    step = (call + 1) * schedule["eval_period"]
    assert (result.stopped, result.step) == ("preempted", step)
    assert validate.worked_on == [3] * call + [2], "the batch at hand is the last"
    assert first.steps()[-1] == step
    checkpoints = store.CheckpointStore(tmp_path / "stopped/checkpoints", best_metric="hr@10")
    assert checkpoints.metrics(step) == {}
    assert [r[0] for r in measured(first)] == [
        schedule["eval_period"] * n for n in range(1, call + 1)
    ]
    second, result, _ = go_stopped(tmp_path / "stopped", None, **schedule)
    assert (result.stopped, result.step) == (expected.stopped, expected.step)
    params = [np.asarray(r.state.params["w"]).tobytes() for r in (result, expected)]
    assert params[0] == params[1]
    assert measured(second) == measured(whole)
    assert result.progress.best == expected.progress.best
    reference = store.CheckpointStore(tmp_path / "whole/checkpoints", best_metric="hr@10")
    assert checkpoints.best_step() == reference.best_step() == expected.progress.best.step
    for saved in set(first.steps()) & set(reference.steps()):
        assert checkpoints.metrics(saved) == reference.metrics(saved)
        assert checkpoints.progress(saved)["best"] == reference.progress(saved)["best"]


def test_a_validation_due_at_the_step_of_a_stop_is_left_out_too_and_made_up(tmp_path):
    schedule = {"eval_period": 4, "train_steps": 8}
    whole, _, _ = go_stopped(tmp_path / "whole", None, **schedule)
    with preemption.StopRequest() as stop:
        validate = Batched(stop)
        run = Run(tmp_path / "run", validate=validate, at_step={7: stop.request}, **schedule)
        assert run.go(stop).stopped == "preempted"
    assert validate.worked_on == [3]
    assert run.steps()[-1] == 8
    second, result, validate = go_stopped(tmp_path / "run", None, **schedule)
    assert (result.stopped, result.step) == ("finished", 8)
    assert validate.worked_on == [3]
    assert measured(second) == measured(whole)
    assert go_stopped(tmp_path / "run", None, **schedule)[2].worked_on == []


def test_a_kill_before_a_validation_made_up_is_recorded_leaves_no_second_record(
    tmp_path, monkeypatch
):
    schedule = {"eval_period": 4, "checkpoint_period": 4}
    whole, _, _ = go_stopped(tmp_path / "whole", None, **schedule)
    go_stopped(tmp_path / "run", (1, 0), **schedule)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store.CheckpointStore, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            go_stopped(tmp_path / "run", None, **schedule)
    last, _, _ = go_stopped(tmp_path / "run", None, **schedule)
    assert [record[0] for record in measured(last)] == [4, 8, 12]
    assert measured(last) == measured(whole)


def test_a_stop_within_the_validation_of_given_parameters(tmp_path):
    schedule = {"eval_period": 4, "train_steps": 0}
    run, result, _ = go_stopped(tmp_path, (0, 0), **schedule)
    assert (result.stopped, run.steps()) == ("preempted", [0])
    checkpoints = store.CheckpointStore(tmp_path / "checkpoints")
    done = loop.Progress.from_json(checkpoints.progress(0))
    with preemption.StopRequest() as stop:
        validate = Batched(stop)
        again = loop.Loop(
            schedule=run.schedule,
            train_step=pytest.fail,
            batches=Batches(),
            store=checkpoints,
            display=Watched(),
            validate=validate,
        ).run(fresh(), 0, done, stop)
    assert again.stopped == "finished"
    assert validate.worked_on == [3]
    assert set(checkpoints.metrics(0)) == {"hr@10", "loss"}


def test_choosing_by_what_is_not_measured_is_an_error(tmp_path):
    run = Run(tmp_path, validate=Scores(0.1), eval_period=2, metric="auc")
    with pytest.raises(UserError, match=r"'auc'.*measured hr@10, loss"):
        run.go()


def test_what_a_validation_raises_costs_no_step_and_it_is_made_up(tmp_path):
    def broken(params):
        raise RuntimeError("out of memory")

    schedule = {"eval_period": 4, "checkpoint_period": None}
    whole, expected, _ = go_stopped(tmp_path / "whole", None, **schedule)
    run = Run(tmp_path / "run", validate=broken, **schedule)
    with pytest.raises(RuntimeError, match="out of memory"):
        run.go()
    assert run.steps() == [4]
    mended, result, _ = go_stopped(tmp_path / "run", None, **schedule)
    assert measured(mended) == measured(whole)
    assert result.progress.best == expected.progress.best


def test_metrics_are_read_one_step_late(tmp_path):
    """Step N is dispatched before step N-1's metrics are waited for."""
    happened = []

    class Lazy:
        def __init__(self, step):
            self.step = step

        def __float__(self):
            happened.append(f"read {self.step}")
            return 1.0

    def train_step(state, batch, step):
        happened.append(f"dispatch {step}")
        names = ("loss_sum", "grad_norm", "param_norm", "target_tokens")
        return state, {name: Lazy(step) if name == "loss_sum" else 1.0 for name in names}

    run = Run(tmp_path, train_steps=3, log_period=100)
    run.train_step = train_step
    run.go()
    assert happened == ["dispatch 0", "dispatch 1", "read 0", "dispatch 2", "read 1", "read 2"]
