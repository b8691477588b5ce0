"""T5 as the search sees it: incremental decoding behind `search.Network`'s three functions."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from genrec_jax.decoding.search import Network
from genrec_jax.model import incremental
from genrec_jax.model.t5 import T5

MAX_LOGITS_BYTES = 1 << 28
"""Logits of one step are kept whole up to this size; beyond, only the decoder's output is."""
VOCABULARY_CHUNK = 4096
MASKED = -1e10


def t5_network(
    model: T5,
    cross: incremental.CrossCache,
    encoder_valid_BL: Bool[Array, "B L"],
    num_beams: int,
    num_steps: int,
) -> Network:
    """The network, conditioned on encoded prompts; the search's first cache is None.

    Args:
        model: the network.
        cross: keys and values of the encoded prompts, one set per example whatever the beams.
        encoder_valid_BL: real prompt positions.
        num_beams: beams of the search, which decides whether a step's logits are kept.
        num_steps: times at most that the search feeds all beams (`search.beam_steps`).
    """
    rows = encoder_valid_BL.shape[0] * num_beams
    whole = rows * model.config.padded_vocab_size * 4 <= MAX_LOGITS_BYTES

    def advance(tokens_BMQ: Array, slot: Array, cache: Any) -> tuple[Any, Array, Any]:
        if cache is None:
            with jax.named_scope("prefix"):
                hidden_BQD, cache = incremental.feed_shared(
                    model, tokens_BMQ[:, 0], cross, encoder_valid_BL
                )
            hidden_BMQD = hidden_BQD[:, None]
        else:
            with jax.named_scope("beam_step"):
                hidden_BMD, cache = incremental.feed_beams(
                    model, tokens_BMQ[:, :, 0], slot, cache, cross, encoder_valid_BL
                )
            hidden_BMQD = hidden_BMD[:, :, None]
        with jax.named_scope("head"):
            if not whole:
                return hidden_BMQD, normaliser_in_chunks(model, hidden_BMQD), cache
            logits_BMQV = model.logits(hidden_BMQD)
            return logits_BMQV, jax.nn.logsumexp(logits_BMQV, axis=-1), cache

    def asked_logits(view: Array, tokens_BMC: Array) -> Array:
        if whole:
            return jnp.take_along_axis(view, tokens_BMC, axis=2)
        return jnp.einsum("bmd,bmcd->bmc", view, model.head_VD()[tokens_BMC])

    def reorder(cache: incremental.SelfCache, parents_BM: Array) -> incremental.SelfCache:
        with jax.named_scope("reorder"):
            if cache.positions_S.shape[0] == cache.shared:
                cache = incremental.make_room(cache, parents_BM.shape[1], num_steps)
            return incremental.continue_beams(cache, parents_BM)

    return Network(advance, asked_logits, reorder)


def normaliser_in_chunks(model: T5, hidden_BMQD: Float[Array, "B M Q D"]) -> Float[Array, "B M Q"]:
    """Logsumexp of the logits over the vocabulary, a chunk of it at a time."""
    head_VD = model.head_VD()
    size = model.config.vocab_size
    chunks = -(-size // VOCABULARY_CHUNK)

    def add(total_BMQ: Array, chunk: Array) -> tuple[Array, None]:
        # The last chunk reaches back over tokens that were counted; they are left out.
        wanted = chunk * VOCABULARY_CHUNK
        start = jnp.minimum(wanted, head_VD.shape[0] - width)
        part_VD = jax.lax.dynamic_slice_in_dim(head_VD, start, width, axis=0)
        logits_BMQV = jnp.einsum("bmqd,vd->bmqv", hidden_BMQD, part_VD)
        tokens_V = start + jnp.arange(width)
        counts_V = (tokens_V >= wanted) & (tokens_V < size)
        logits_BMQV = jnp.where(counts_V[None, None, None], logits_BMQV, MASKED)
        return jnp.logaddexp(total_BMQ, jax.nn.logsumexp(logits_BMQV, axis=-1)), None

    width = min(VOCABULARY_CHUNK, head_VD.shape[0])
    nothing_BMQ = jnp.full(hidden_BMQD.shape[:-1], -jnp.inf, jnp.float32)
    total_BMQ, _ = jax.lax.scan(add, nothing_BMQ, jnp.arange(chunks))
    return total_BMQ
