"""Exact scores of every item, not of a beam: the catalogue's prefixes are fed once, tree by tree.

An id's score is the log-probability of its tokens under the full vocabulary, end-of-sequence included,
as beam search's are. A tree of several hundred prefixes is one pass of the decoder in which each token
sees its own ancestors (`incremental.feed_tree`), so that the work is a few large products, the prompt
is encoded once, and memory is bounded by rows times block.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding import network, token_trees
from genrec_jax.decoding.token_trees import CandidateTrees, TokenTree
from genrec_jax.model import incremental, t5
from genrec_jax.parallel import rules
from genrec_jax.parallel.on_mesh import OnMesh
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.pipeline.token_runs import TokenRuns

BLOCK_SIZE = 128


class CatalogueScorer:
    """Scores the whole catalogue for batches of prompts; compiled once for each shape of batch.

    Attributes:
        num_items: of the catalogue.
        num_blocks: passes of the decoder that one batch takes.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        targets: TokenRuns,
        ranks_I: Int[np.ndarray, " I"],
        *,
        eos_id: int,
        block_size: int = BLOCK_SIZE,
        mesh: Mesh | None = None,
    ):
        """Plans the blocks.

        Args:
            graphdef: the model's structure.
            targets: the ids' tokens by item (`PromptAssembler.target_runs`).
            ranks_I: `trie.item_ranks` of their trie.
            eos_id: end-of-sequence.
            block_size: prefixes fed at once for each row: more is faster up to a point, and takes
                memory in proportion.
            mesh: as in `recommend.make_recommend_step`.

        Raises:
            UserError: a block that does not hold the longest id.
        """
        self.num_items = len(ranks_I)
        blocks = token_trees.catalogue_blocks(
            targets.values_P,
            targets.offsets_E1,
            np.argsort(ranks_I),
            eos_id=eos_id,
            block_size=block_size,
        )
        self.num_blocks = len(blocks)
        everywhere = None if mesh is None else rules.replicated(mesh)
        self._blocks = [jax.device_put(block, everywhere) for block in blocks]
        self._encode = _on(mesh, jax.jit(_with_model(graphdef, _encode)))

        def score_block(model, encoded, block, scores_BI):
            cross, valid_BL = encoded
            rows = valid_BL.shape[0]
            tokens_BQ = jnp.broadcast_to(block.tokens_Q, (rows, block.tokens_Q.shape[0]))
            lasts_BC = jnp.broadcast_to(block.lasts_C, (rows, block.lasts_C.shape[0]))
            scores_BC = score_tree(model, cross, valid_BL, tokens_BQ, block.tree, lasts_BC, eos_id)
            return scores_BI.at[:, block.items_C].set(scores_BC, mode="drop")

        # Each block's scores are written into the buffer of those before it.
        self._score_block = _on(mesh, jax.jit(_with_model(graphdef, score_block), donate_argnums=3))
        rows_sharding = None if mesh is None else rules.batch_sharding(mesh)

        def empty(valid_BL):
            # Computed from the prompts, so that it has their sharding from the first block on.
            nothing_B = jnp.where(valid_BL[:, 0], -jnp.inf, -jnp.inf).astype(jnp.float32)
            return jnp.broadcast_to(nothing_B[:, None], (nothing_B.shape[0], self.num_items))

        self._empty = jax.jit(empty, out_shardings=rows_sharding)

    def __call__(
        self, params: nnx.State, batch: PromptBatch, on_block: Callable[[], None] | None = None
    ) -> Float[Array, "B I"]:
        """The log-probability of every item's id for every prompt.

        Args:
            params: the model's parameters.
            batch: prompts; rows of padding get scores that mean nothing.
            on_block: told when each block has been handed to the device, to show progress.
        """
        encoded = self._encode(params, batch)
        scores_BI = self._empty(encoded[1])
        for block in self._blocks:
            scores_BI = self._score_block(params, encoded, block, scores_BI)
            if on_block is not None:
                on_block()
        return scores_BI


class CandidateScorer:
    """Scores each example's own candidates; compiled once for each shape of batch."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        targets: TokenRuns,
        *,
        eos_id: int,
        num_candidates: int,
        mesh: Mesh | None = None,
    ):
        """Plans the trees; see `CatalogueScorer` for the arguments."""
        self._trees = CandidateTrees.of(
            targets.values_P, targets.offsets_E1, eos_id=eos_id, num_candidates=num_candidates
        )

        def score(model, batch, form, tokens_BQ, lasts_BC):
            cross, valid_BL = _encode(model, batch)
            return score_tree(model, cross, valid_BL, tokens_BQ, form, lasts_BC, eos_id)

        self._score = _on(mesh, jax.jit(_with_model(graphdef, score)))
        self._place = lambda array: array
        if mesh is not None:
            rows = rules.batch_sharding(mesh)
            self._place = lambda array: jax.make_array_from_callback(
                array.shape, rows, lambda index: array[index]
            )

    def __call__(
        self, params: nnx.State, batch: PromptBatch, items_BC: Int[np.ndarray, "B C"]
    ) -> Float[Array, "B C"]:
        """The log-probability of each candidate's id; what stands for padding means nothing."""
        tokens_BQ, lasts_BC = (self._place(array) for array in self._trees.fill(items_BC))
        return self._score(params, batch, self._trees.form, tokens_BQ, lasts_BC)


def score_tree(
    model: t5.T5,
    cross: incremental.CrossCache,
    valid_BL: Bool[Array, "B L"],
    tokens_BQ: Int[Array, "B Q"],
    tree: TokenTree,
    lasts_BC: Int[Array, "B C"],
    eos_id: int,
) -> Float[Array, "B C"]:
    """Log-probabilities of the ids that end at some nodes of a tree, end-of-sequence included.

    Args:
        model: the network.
        cross: of the encoded prompts.
        valid_BL: real prompt positions.
        tokens_BQ: the tokens of each example's tree.
        tree: the form that they all have.
        lasts_BC: nodes of the ids' last tokens.
        eos_id: end-of-sequence.
    """
    nodes_Q = jnp.arange(tokens_BQ.shape[1])
    ends_Q = jnp.asarray(tree.ends_Q)
    visible_QQ = (nodes_Q[None, :] <= nodes_Q[:, None]) & (nodes_Q[:, None] < ends_Q[None, :])
    hidden_BQD = incremental.feed_tree(
        model, tokens_BQ, jnp.asarray(tree.depths_Q), visible_QQ, cross, valid_BL
    )
    normaliser_BQ = network.normaliser(model, hidden_BQD[:, None])[:, 0]
    parents_Q = jnp.asarray(tree.parents_Q)
    logits_BQ = network.logits_of_tokens(model, hidden_BQD[:, parents_Q], tokens_BQ[:, :, None])
    steps_BQ = jnp.where(nodes_Q > 0, logits_BQ[:, :, 0] - normaliser_BQ[:, parents_Q], 0.0)
    # The sum along a path is one over its ancestors and itself.
    paths_BQ = jnp.einsum(
        "bs,qs->bq", steps_BQ, visible_QQ.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    hidden_BCD = jnp.take_along_axis(hidden_BQD, lasts_BC[:, :, None], axis=1)
    eos_BC1 = jnp.full((*lasts_BC.shape, 1), eos_id, jnp.int32)
    endings_BC = network.logits_of_tokens(model, hidden_BCD, eos_BC1)[:, :, 0]
    endings_BC -= jnp.take_along_axis(normaliser_BQ, lasts_BC, axis=1)
    return jnp.take_along_axis(paths_BQ, lasts_BC, axis=1) + endings_BC


def _encode(model: t5.T5, batch: PromptBatch) -> tuple[incremental.CrossCache, Bool[Array, "B L"]]:
    """What every block needs of the prompts, once."""
    tokens_BL = jnp.asarray(batch.encoder_input_tokens_BL)
    whole_words_BL = jnp.asarray(batch.encoder_whole_word_ids_BL)
    encoded_BLD = model.encode(tokens_BL, whole_word_ids_BL=whole_words_BL)
    return incremental.cross_keys_values(model, encoded_BLD), tokens_BL > 0


def _with_model(graphdef: nnx.GraphDef, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *rest: function(nnx.merge(graphdef, params), *rest)


def _on(mesh: Mesh | None, jitted: Callable[..., Any]) -> Callable[..., Any]:
    return jitted if mesh is None else OnMesh(jitted, mesh)
