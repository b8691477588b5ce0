"""Which of a run's evaluations the report shows, and how its checkpoint stands to the best one."""

import dataclasses
from typing import Any

from genrec_jax.checkpoint import manifest, restore, store
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.evaluation.stored import Stored


@dataclasses.dataclass(frozen=True)
class Best:
    """The best checkpoint on validation, or the latest where none was validated, as the run dir says now.

    Attributes:
        step: its step.
        parameters: checksum of its parameters' files.
    """

    step: int
    parameters: str


@dataclasses.dataclass(frozen=True)
class Standing:
    """How an evaluation's checkpoint stands to the best.

    Attributes:
        said: in a few words.
        alarm: why other figures should stand there, and what to do; None where these are the best's.
    """

    said: str
    alarm: str | None = None


def best_of(run: RunDir) -> Best | None:
    """The best checkpoint by the manifests that are there; None where the run has none (any more)."""
    step = restore.best_now(run)
    if step is None:
        return None
    return Best(step, manifest.digest(run.checkpoint_dir / str(step), only=store.PARAMS))


def importance(
    one: Stored, run: RunDir, best: Best | None
) -> tuple[bool, bool, bool, bool, bool, str]:
    """Orders evaluations of a dataset; the report shows the last.

    Test before validation, everybody before a sample, the best checkpoint before others, the usual search,
    activations and intervals before others, and only then the newest: what was tried last is not chosen by
    what it measured.
    """
    metrics = one.metrics
    usual = EvaluateConfig(split=metrics["split"]).folder(metrics["step"])
    return (
        metrics["split"] == "test",
        metrics.get("max_users") is None,
        _is_best(metrics, best),
        metrics.get("checkpoint") == "best",
        one.folder.relative_to(run.eval_dir).parts[0] == usual,
        metrics.get("created", ""),
    )


def standing(metrics: dict[str, Any], run: RunDir, best: Best | None) -> Standing:
    """How the checkpoint of an evaluation stands to the best, for its facts and for an alarm."""
    step, asked = metrics["step"], metrics.get("checkpoint")
    split = "" if metrics["split"] == "test" else f" --split {metrics['split']}"
    remedy = f"Run `genrec evaluate {run.location}{split}`, then this report again."
    if _is_best(metrics, best):
        return Standing("best")
    if best is None and asked == "best":
        return Standing("best when it was evaluated")
    if best is None:
        return Standing(
            f"evaluated as {asked}",
            f"the figures are of step {step:,}, evaluated as `{asked}`; the run has no checkpoint here that"
            f" would say whether it is the best. {remedy}",
        )
    if step == best.step:
        return Standing(
            "since replaced",
            f"the figures are of an earlier checkpoint of step {step:,}; its parameters are others now."
            f" {remedy}",
        )
    if asked == "best":
        return Standing(
            f"no longer the best, which is step {best.step:,}",
            f"the figures are of step {step:,}, the best checkpoint when it was evaluated; the best is now"
            f" of step {best.step:,}. {remedy}",
        )
    return Standing(
        f"not the best, which is step {best.step:,}",
        f"the figures are of step {step:,}, evaluated as `{asked}`; the best checkpoint is of step"
        f" {best.step:,}. {remedy}",
    )


def _is_best(metrics: dict[str, Any], best: Best | None) -> bool:
    if best is None or metrics["step"] != best.step:
        return False
    return metrics.get("parameters") in (None, best.parameters)
