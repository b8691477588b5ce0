"""The odds of two answers by their first token: how a question of taste is scored."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from genrec_jax.decoding import network
from genrec_jax.decoding.search import DECODER_START
from genrec_jax.model import incremental
from genrec_jax.parallel import rules
from genrec_jax.parallel.on_mesh import OnMesh
from genrec_jax.pipeline.batch import PromptBatch

AnswerStep = Callable[[nnx.State, PromptBatch], Float[Array, " B"]]


def make_answer_step(
    graphdef: nnx.GraphDef, first: int, second: int, mesh: Mesh | None = None
) -> AnswerStep:
    """The jitted function that weighs two answers against each other.

    Args:
        graphdef: the model's structure.
        first: first token of the one answer, such as that of `yes`.
        second: of the other; different from `first`.
        mesh: as in `recommend.make_recommend_step`.

    Returns:
        (params, batch) -> the log-odds of the first answer, log P(first) - log P(second) at the
        decoder's first step; its logistic function is P(first) among the two.
    """

    def answer_step(params: nnx.State, batch: PromptBatch) -> Array:
        model = nnx.merge(graphdef, params)
        tokens_BL = jnp.asarray(batch.encoder_input_tokens_BL)
        whole_words_BL = jnp.asarray(batch.encoder_whole_word_ids_BL)
        encoded_BLD = model.encode(tokens_BL, whole_word_ids_BL=whole_words_BL)
        cross = incremental.cross_keys_values(model, encoded_BLD)
        start_BQ = jnp.full((tokens_BL.shape[0], 1), DECODER_START, jnp.int32)
        hidden_BQD, _ = incremental.feed_shared(model, start_BQ, cross, tokens_BL > 0)
        # The softmax's normaliser is the same for both, so their logits' difference is enough.
        answers_BQC = jnp.broadcast_to(jnp.asarray([first, second]), (*start_BQ.shape, 2))
        logits_BQC = network.logits_of_tokens(model, hidden_BQD, answers_BQC)
        return logits_BQC[:, 0, 0] - logits_BQC[:, 0, 1]

    if mesh is None:
        return jax.jit(answer_step)
    return OnMesh(jax.jit(answer_step, out_shardings=rules.batch_sharding(mesh)), mesh)
