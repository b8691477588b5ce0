"""The whole of recommending in one jitted function: encode prompts, search the trie, return items."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from genrec_jax.decoding import network, search
from genrec_jax.decoding.constraints import Constraints
from genrec_jax.decoding.search import BeamConfig, BeamResult
from genrec_jax.decoding.trie import Trie
from genrec_jax.model import incremental, t5
from genrec_jax.parallel import rules
from genrec_jax.parallel.on_mesh import OnMesh
from genrec_jax.pipeline.batch import PromptBatch

RecommendStep = Callable[..., BeamResult]


def make_recommend_step(
    graphdef: nnx.GraphDef, config: BeamConfig, mesh: Mesh | None = None
) -> RecommendStep:
    """The jitted function that recommends for a batch of prompts.

    Args:
        graphdef: the model's structure (`t5.graph_and_params`).
        config: how to search.
        mesh: where it runs, with parameters split by `rules` and rows over `data` and `fsdp`; None: on
            the device of its arguments.

    Returns:
        (params, batch, trie, constraints=None) -> `BeamResult`, compiled once for each shape of batch,
        trie and constraints. A padding row (no token) gets an empty list. Put params and trie on the
        device once; a batch may be NumPy arrays.
    """

    def recommend_step(
        params: nnx.State,
        batch: PromptBatch,
        trie: Trie,
        constraints: Constraints | None = None,
    ) -> BeamResult:
        model = nnx.merge(graphdef, params)
        return recommend(model, batch, trie, config, constraints)

    if mesh is None:
        return jax.jit(recommend_step)
    return OnMesh(jax.jit(recommend_step, out_shardings=rules.batch_sharding(mesh)), mesh)


def recommend(
    model: t5.T5,
    batch: PromptBatch,
    trie: Trie,
    config: BeamConfig,
    constraints: Constraints | None = None,
) -> BeamResult:
    """Encodes prompts once and searches the trie with beams that share the encoding.

    Profiles name its parts: encoder, cross_keys_values, prefix, beam_step, head, trie, reorder.
    """
    tokens_BL = jnp.asarray(batch.encoder_input_tokens_BL)
    whole_words_BL = jnp.asarray(batch.encoder_whole_word_ids_BL)
    valid_BL = tokens_BL > 0
    with jax.named_scope("encoder"):
        encoded_BLD = model.encode(tokens_BL, whole_word_ids_BL=whole_words_BL)
    with jax.named_scope("cross_keys_values"):
        cross = incremental.cross_keys_values(model, encoded_BLD)
    return search.beam_search(
        network.t5_network(model, cross, valid_BL, config.num_beams, search.beam_steps(trie)),
        None,
        trie,
        config,
        jnp.any(valid_BL, axis=1),
        constraints,
    )
