"""genrec_jax: generative recommenders in JAX, from raw logs to a constrained beam search.

`genrec_jax.load(run_dir)` opens a trained recommender; everything else is reached through the
subpackages, in the order data flows: data, indexing, prompts, pipeline, model, checkpoint,
decoding, evaluation, training.
"""

import os
from typing import TYPE_CHECKING, Literal

from genrec_jax.errors import UserError

if TYPE_CHECKING:
    from genrec_jax.decoding.recommender import Recommender

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load"]


def load(
    run_dir: str | os.PathLike[str],
    *,
    checkpoint: Literal["best", "latest"] | int = "best",
    dataset: str | None = None,
    num_beams: int = 20,
    room: int = 0,
    unknown: Literal["nearest", "skip", "error"] = "skip",
) -> "Recommender":
    """Opens a run dir for recommending; see `genrec_jax.decoding.recommender.load`."""
    from genrec_jax.decoding import recommender

    return recommender.load(
        run_dir,
        checkpoint=checkpoint,
        dataset=dataset,
        num_beams=num_beams,
        room=room,
        unknown=unknown,
    )
