"""The records of a training run for later readers: its log, and the mark that it is finished."""

import json
import pathlib
from typing import Any

from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"
FINISHED = "finished.json"
"""Training leaves it in the run dir once it will write no more checkpoints."""


def read_metrics(run_dir: artefacts.PathLike) -> list[dict[str, Any]]:
    """The records of a run dir's `metrics.jsonl`, in order; none where there is no such file.

    A torn last line is left out.

    Raises:
        UserError: a line that is not the last is broken.
    """
    path = pathlib.Path(run_dir) / METRICS_FILE
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # the last is empty, or torn by a kill
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"is not JSON ({error}); remove the line, or the file", file=str(path), line=number
            ) from error
    return records
