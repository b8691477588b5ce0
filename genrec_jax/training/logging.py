"""The metrics of a run, step by step: `metrics.jsonl` for programs, TensorBoard events for people.

`metrics.jsonl` has one JSON object a line: `step`, `kind` (`train` or `validation`), `time` (seconds
since 1970), `seconds` (of training so far, over all restarts), then the metrics, null for what is no
finite number. It is the record; the event file is rebuilt from it whenever a run resumes, so that the
two never disagree.
"""

import contextlib
import errno
import io
import json
import math
import os
import pathlib
import time
from typing import Any, Literal

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import record_writer

from genrec_jax.checkpoint.run_dir import EVENTS_FOLDER
from genrec_jax.checkpoint.run_log import METRICS_FILE, read_metrics
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

EVENTS_FILE = "events.out.tfevents.0.genrec"
NOT_CURVES = ("step", "kind", "time")
Kind = Literal["train", "validation"]


class MetricsLog:
    """Appends to both files; only host 0 of a job makes one.

    Args:
        run_dir: where `metrics.jsonl` and `tensorboard/` are.
        after_step: keep earlier records up to this step and cut off the rest: the step that was
            restored, 0 for a fresh start.
        owes_validation: that step's validation is still to come; a record of it, left by a run that was
            killed before the checkpoint had it, goes too.
    """

    def __init__(
        self, run_dir: artefacts.PathLike, *, after_step: int, owes_validation: bool = False
    ):
        folder = pathlib.Path(run_dir)
        self._path = folder / METRICS_FILE
        again = (after_step, "validation") if owes_validation else None
        kept = [
            record
            for record in (read_metrics(folder) if after_step else [])
            if record["step"] <= after_step and (record["step"], record["kind"]) != again
        ]
        with artefacts.atomic_file(self._path) as temporary:
            temporary.write_text("".join(_line(record) for record in kept), encoding="utf-8")
        events = folder / EVENTS_FOLDER / EVENTS_FILE
        for stale in events.parent.glob("events.out.tfevents*"):
            stale.unlink()
        with artefacts.atomic_file(events) as temporary, temporary.open("wb") as file:
            _write_event(file, event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
            for record in kept:
                _write_event(file, _event(record))
        # Unbuffered: each record is on its way to the disk when written, and a full disk says so there.
        self._metrics = self._path.open("ab", buffering=0)
        self._events = events.open("ab", buffering=0)

    def write(self, step: int, kind: Kind, values: dict[str, float]) -> None:
        """Appends one record at once, so that a killed run loses none.

        Raises:
            UserError: the disk is full.
        """
        record = {"step": step, "kind": kind, "time": round(time.time(), 3), **values}
        try:
            self._metrics.write(_line(record).encode())
            _write_event(self._events, _event(record))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"the disk is full: the metrics of step {step} were not written. Checkpoints stand;"
                " free some space and run the same command again",
                file=str(self._path),
            ) from error

    def close(self) -> None:
        """Closes both files, on disk."""
        for file in (self._metrics, self._events):
            with contextlib.suppress(OSError):  # write() has reported a full disk
                os.fsync(file.fileno())
            file.close()


def _line(record: dict[str, Any]) -> str:
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(values, allow_nan=False) + "\n"


def _event(record: dict[str, Any]) -> event_pb2.Event:
    values = [
        summary_pb2.Summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
        for name, value in record.items()
        if name not in NOT_CURVES and isinstance(value, int | float) and math.isfinite(value)
    ]
    return event_pb2.Event(
        wall_time=record["time"], step=record["step"], summary=summary_pb2.Summary(value=values)
    )


def _write_event(file: io.RawIOBase | io.BufferedIOBase, event: event_pb2.Event) -> None:
    record_writer.RecordWriter(file).write(event.SerializeToString())
