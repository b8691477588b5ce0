"""Decoding a few tokens at a time with cached keys and values; beam search sees the network through it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.model.attention import dot_product_attention
from genrec_jax.model.config import T5Config
from genrec_jax.model.stacks import DecoderLayer, run_layers
from genrec_jax.model.t5 import T5
from genrec_jax.pytree import pytree_dataclass


@pytree_dataclass
class CrossCache:
    """Keys and values of the encoder's output, one set for all beams of an example.

    Attributes:
        keys_NBLHK: keys of every decoder layer.
        values_NBLHK: values of every decoder layer.
    """

    keys_NBLHK: Float[Array, "N B L H K"]
    values_NBLHK: Float[Array, "N B L H K"]


@pytree_dataclass
class SelfCache:
    """Keys and values of the tokens decoded so far; beams are reordered along M.

    Attributes:
        keys_NBMSHK: keys of every decoder layer; slots not yet written are zero and never seen.
        values_NBMSHK: values of every decoder layer.
    """

    keys_NBMSHK: Float[Array, "N B M S H K"]
    values_NBMSHK: Float[Array, "N B M S H K"]


def cross_keys_values(model: T5, encoded_BLD: Float[Array, "B L D"]) -> CrossCache:
    """What every decoding step needs of the encoder, computed once."""

    def apply(layer: DecoderLayer, x_BLD, _):
        return x_BLD, layer.cross_attention.keys_values(x_BLD)

    layers = model.decoder.layers
    _, (keys_NBLHK, values_NBLHK) = run_layers(model.config, layers, apply, encoded_BLD, None)
    return CrossCache(keys_NBLHK, values_NBLHK)


def empty_cache(config: T5Config, batch: int, beams: int, slots: int) -> SelfCache:
    """A cache in which nothing has been decoded yet.

    Args:
        config: the model's.
        batch: examples.
        beams: hypotheses of each example.
        slots: the most tokens that will be fed, the start token included.
    """
    shape = (config.num_decoder_layers, batch, beams, slots, config.num_heads, config.head_dim)
    # Two arrays, not one twice: a jitted search may donate them.
    return SelfCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


def decode_step(
    model: T5,
    tokens_BMQ: Int[Array, "B M Q"],
    position: Int[Array, ""] | int,
    cache: SelfCache,
    cross: CrossCache,
    encoder_valid_BL: Bool[Array, "B L"],
) -> tuple[Float[Array, "B M Q D"], SelfCache]:
    """Feeds Q tokens to every beam.

    Each new token sees the cached ones before it, itself and the whole encoded prompt. Beams are
    further query positions of cross attention, so its keys are never copied per beam.

    Args:
        model: the network.
        tokens_BMQ: the new tokens; 0 starts a sequence and is an ordinary token.
        position: slot of the first new token, the number of tokens fed before.
        cache: keys and values of the tokens before; its S must hold `position + Q`.
        cross: from `cross_keys_values`.
        encoder_valid_BL: real prompt positions.

    Returns:
        The decoder's output, ready for `T5.logits`, and the cache with the new tokens in it.
    """
    batch, beams, new = tokens_BMQ.shape
    slots = cache.keys_NBMSHK.shape[3]
    start = jnp.asarray(position, jnp.int32)
    query_slots_Q = start + jnp.arange(new, dtype=jnp.int32)
    key_slots_S = jnp.arange(slots, dtype=jnp.int32)
    causal_1QS = (key_slots_S[None, :] <= query_slots_Q[:, None])[None]
    per_stack = not model.config.relative_bias_per_layer
    shared_HQS = model.decoder.relative_bias(query_slots_Q, key_slots_S) if per_stack else None

    def store(cached_BMSHK, new_YQHK):
        new_BMQHK = new_YQHK.reshape(batch, beams, *new_YQHK.shape[1:])
        return jax.lax.dynamic_update_slice_in_dim(cached_BMSHK, new_BMQHK, start, axis=2)

    def rows(cached_BMSHK):
        return cached_BMSHK.reshape(batch * beams, *cached_BMSHK.shape[2:])

    # In this function Y is the flat axis of rows and beams, which only self-attention needs.
    def apply(layer: DecoderLayer, x_YQD, layer_caches):
        keys_BMSHK, values_BMSHK, cross_keys_BLHK, cross_values_BLHK = layer_caches
        bias_HQS = shared_HQS
        if bias_HQS is None:
            bias_HQS = layer.relative_bias(query_slots_Q, key_slots_S)
        normed_YQD = layer.self_attention_norm(x_YQD)
        new_keys_YQHK, new_values_YQHK = layer.self_attention.keys_values(normed_YQD)
        keys_BMSHK = store(keys_BMSHK, new_keys_YQHK)
        values_BMSHK = store(values_BMSHK, new_values_YQHK)
        attended_YQHK = dot_product_attention(
            layer.self_attention.queries(normed_YQD),
            rows(keys_BMSHK),
            rows(values_BMSHK),
            mask_BQS=causal_1QS,
            bias_HQS=bias_HQS,
        )
        x_YQD = x_YQD + layer.self_attention.output(attended_YQHK)

        # Beams and new tokens are together the query axis of cross attention.
        x_BQD = x_YQD.reshape(batch, beams * new, -1)
        attended_BQHK = dot_product_attention(
            layer.cross_attention.queries(layer.cross_attention_norm(x_BQD)),
            cross_keys_BLHK,
            cross_values_BLHK,
            mask_BQS=encoder_valid_BL[:, None, :],
        )
        x_BQD = x_BQD + layer.cross_attention.output(attended_BQHK)
        x_BQD = x_BQD + layer.mlp(layer.mlp_norm(x_BQD))
        return x_BQD.reshape(x_YQD.shape), (keys_BMSHK, values_BMSHK)

    x_YQD = model.embed(tokens_BMQ.reshape(batch * beams, new))
    per_layer = (cache.keys_NBMSHK, cache.values_NBMSHK, cross.keys_NBLHK, cross.values_NBLHK)
    x_YQD, (keys_NBMSHK, values_NBMSHK) = run_layers(
        model.config, model.decoder.layers, apply, x_YQD, per_layer
    )
    hidden_YQD = model.head_input(model.decoder.final_norm(x_YQD))
    hidden_BMQD = hidden_YQD.reshape(batch, beams, new, -1)
    return hidden_BMQD, SelfCache(keys_NBMSHK, values_NBMSHK)
