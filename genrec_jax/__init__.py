"""genrec_jax: generative recommenders in JAX, from raw logs to a constrained beam search.

`genrec_jax.load(run_dir)` opens a trained recommender; everything else is reached through the
subpackages, in the order data flows: data, indexing, prompts, pipeline, model, checkpoint,
decoding, evaluation, training.
"""

from typing import TYPE_CHECKING, Any

from genrec_jax.errors import UserError

if TYPE_CHECKING:
    from genrec_jax.decoding.recommender import Recommender

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load"]


def load(run_dir: str, **options: Any) -> "Recommender":
    """Opens a run dir for recommending; see `genrec_jax.decoding.recommender.load`."""
    from genrec_jax.decoding import recommender

    return recommender.load(run_dir, **options)
