"""Generative recommenders in JAX, from raw logs to a constrained beam search.

One function for each subcommand of `genrec`, in the order in which they are called:

    prepare              raw logs -> dataset dir
    build_index          dataset dir -> item ids and vocabulary
    train                dataset and item ids -> run dir with checkpoints
    evaluate_checkpoint  run dir -> metrics and predictions
    load                 run dir -> a Recommender, whose `recommend` gives the next items
    plan                 a configuration and a cluster -> memory, time and a mesh that fits
    write_report         run dirs -> one HTML page
    import_weights       Hugging Face or T5X weights -> a start for training
    export               run dir -> Hugging Face folder or T5X checkpoint

Everything else is in the packages. They import one another in one direction: data, prompts, indexing,
parallel, pipeline, model, checkpoint, decoding, baselines, evaluation, training, cli. This module imports
none of them before it is asked for one of its names, so that importing it takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

from genrec_jax.errors import UserError

if TYPE_CHECKING:
    from genrec_jax.checkpoint.export import export
    from genrec_jax.checkpoint.import_weights import import_weights
    from genrec_jax.data.prepare_run import prepare_from as prepare
    from genrec_jax.decoding.recommendations import Recommendation, Recommendations
    from genrec_jax.decoding.recommender import Recommender, load
    from genrec_jax.evaluation.checkpoints import evaluate_checkpoint
    from genrec_jax.evaluation.evaluator import EvaluateConfig
    from genrec_jax.evaluation.report import write_report
    from genrec_jax.indexing.build import IndexConfig, build_index
    from genrec_jax.training.config import TrainConfig
    from genrec_jax.training.plan_request import plan
    from genrec_jax.training.run import train

__version__ = "0.1.0"
__all__ = [
    "EvaluateConfig",
    "IndexConfig",
    "Recommendation",
    "Recommendations",
    "Recommender",
    "TrainConfig",
    "UserError",
    "__version__",
    "build_index",
    "evaluate_checkpoint",
    "export",
    "import_weights",
    "load",
    "plan",
    "prepare",
    "train",
    "write_report",
]

# Name -> module and name there; what is imported above for type checkers, once more for Python.
_HOMES = {
    "EvaluateConfig": ("genrec_jax.evaluation.evaluator", "EvaluateConfig"),
    "IndexConfig": ("genrec_jax.indexing.build", "IndexConfig"),
    "Recommendation": ("genrec_jax.decoding.recommendations", "Recommendation"),
    "Recommendations": ("genrec_jax.decoding.recommendations", "Recommendations"),
    "Recommender": ("genrec_jax.decoding.recommender", "Recommender"),
    "TrainConfig": ("genrec_jax.training.config", "TrainConfig"),
    "build_index": ("genrec_jax.indexing.build", "build_index"),
    "evaluate_checkpoint": ("genrec_jax.evaluation.checkpoints", "evaluate_checkpoint"),
    "export": ("genrec_jax.checkpoint.export", "export"),
    "import_weights": ("genrec_jax.checkpoint.import_weights", "import_weights"),
    "load": ("genrec_jax.decoding.recommender", "load"),
    "plan": ("genrec_jax.training.plan_request", "plan"),
    "prepare": ("genrec_jax.data.prepare_run", "prepare_from"),
    "train": ("genrec_jax.training.run", "train"),
    "write_report": ("genrec_jax.evaluation.report", "write_report"),
}


def __getattr__(name: str) -> Any:
    """Imports what a public name stands for, when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _HOMES[name]
    globals()[name] = found = getattr(importlib.import_module(module), there)
    return found


def __dir__() -> list[str]:
    """The public names too, imported or not."""
    return sorted({*globals(), *__all__})
