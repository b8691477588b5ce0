"""Evaluations that lie in a run dir: which there are, the one that is meant, and its lists."""

import dataclasses
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import EVALUATIONS, RunDir
from genrec_jax.data import artefacts
from genrec_jax.data.splits import SplitName
from genrec_jax.errors import UserError
from genrec_jax.evaluation import predictions, results
from genrec_jax.evaluation.evaluator import EvaluateConfig


@dataclasses.dataclass(frozen=True)
class Stored:
    """One evaluation of one dataset.

    Attributes:
        folder: where it lies on this machine.
        metrics: the content of metrics.json.
    """

    folder: pathlib.Path
    metrics: dict[str, Any]

    def predictions(self, columns: list[str] | None = None) -> pa.Table:
        """The rows of predictions.parquet; its columns are those of `predictions`."""
        return self._read(predictions.PREDICTIONS_FILE, columns)

    def references(self) -> pa.Table:
        """The rows of references.parquet: the baselines' ranks of the same users."""
        return self._read(predictions.REFERENCES_FILE, None)

    def _read(self, name: str, columns: list[str] | None) -> pa.Table:
        file = self.folder / name
        if not file.is_file():
            raise UserError(
                "is missing; wanted what `genrec evaluate` wrote there. Evaluate the run again",
                file=str(file),
            )
        return pq.read_table(file, columns=columns)


def every(run: RunDir) -> list[Stored]:
    """All evaluations of a run, in the order of their folders' names.

    Raises:
        UserError: a metrics file is broken, or the run's store cannot be reached.
    """
    run.bring(EVALUATIONS)
    return [
        Stored(file.parent, results.load(file))
        for pattern in ("*", "*/*")
        for file in sorted(run.eval_dir.glob(f"{pattern}/{results.METRICS_FILE}"))
    ]


def find(
    run_dir: RunDir | artefacts.PathLike,
    split: SplitName = "test",
    *,
    name: str | None = None,
    dataset: str | None = None,
) -> Stored:
    """One evaluation of a run: that of all users by the best checkpoint, searched in the usual way.

    Args:
        run_dir: the run.
        split: `validation` or `test`.
        name: of another evaluation: its folder in the run's `eval`, such as `test-2000-beams10`.
        dataset: whose, where the run has several.

    Raises:
        UserError: there is none; it says which there are.
    """
    run = run_dir if isinstance(run_dir, RunDir) else RunDir.load(run_dir)
    entry = run.dataset(dataset)
    wanted = name or EvaluateConfig(split=split).folder(restore.choose_step(run))
    below = wanted if len(run.datasets) == 1 else f"{wanted}/{entry.name}"
    found = every(run)
    for stored in found:
        if stored.folder == run.eval_dir / below:
            return stored
    names = sorted({one.folder.relative_to(run.eval_dir).parts[0] for one in found})
    there = f"there are {', '.join(names)}; name one of them" if names else "there is none at all"
    raise UserError(
        f"holds no evaluation {below}; {there}, or run `genrec evaluate {run.location}`",
        file=str(run.output_path(EVALUATIONS)),
    )


def load_predictions(
    run_dir: RunDir | artefacts.PathLike,
    split: SplitName = "test",
    *,
    name: str | None = None,
    dataset: str | None = None,
) -> pa.Table:
    """Every scored user's list; see `find` for which evaluation's, and `predictions` for the columns."""
    return find(run_dir, split, name=name, dataset=dataset).predictions()
