"""Decoding a few tokens at a time with cached keys and values; beam search sees the network through it.

The hypotheses of one example are a tree of tokens. Its nodes share one row of cache: the tokens that
all hypotheses begin with, then one block of slots for the beams of each step. A beam is a query that
sees the slots of its own ancestors, so that continuing another beam changes a mask and copies no key.
The encoder's keys and values stand once per example too.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.model.attention import MASKED
from genrec_jax.model.stacks import ACTIVATION_AXES, DecoderLayer, run_layers
from genrec_jax.model.t5 import T5
from genrec_jax.parallel import rules
from genrec_jax.pytree import pytree_dataclass, static_field

CACHE_AXES = ("batch", "heads", "length", "kv")

# One array for all layers of a stack, or one for each where the parameters are split (`split_layers`).
CrossLayers = Float[Array, "N B H L K"] | tuple[Float[Array, "B H L K"], ...]
SelfLayers = Float[Array, "N B H S K"] | tuple[Float[Array, "B H S K"], ...]


@pytree_dataclass
class CrossCache:
    """Keys and values of the encoder's output, one set for all beams of an example.

    Attributes:
        keys_NBHLK: keys of every decoder layer.
        values_NBHLK: values of every decoder layer.
    """

    keys_NBHLK: CrossLayers
    values_NBHLK: CrossLayers


@pytree_dataclass
class SelfCache:
    """Keys and values of the tokens decoded so far, of all beams of an example in one row of slots.

    Attributes:
        keys_NBHSK: keys of every decoder layer; slots not yet written are zero and never seen.
        values_NBHSK: values of every decoder layer.
        visible_BMS: the slots that hold the tokens of each beam.
        positions_S: position in its id of the token in each slot.
        shared: the first slots, of the tokens that were fed with one beam.
    """

    keys_NBHSK: SelfLayers
    values_NBHSK: SelfLayers
    visible_BMS: Bool[Array, "B M S"]
    positions_S: Int[Array, " S"]
    shared: int = static_field()


def cross_keys_values(model: T5, encoded_BLD: Float[Array, "B L D"]) -> CrossCache:
    """What every decoding step needs of the encoder, computed once."""

    def apply(layer: DecoderLayer, x_BLD, _):
        keys_BLHK, values_BLHK = layer.cross_attention.keys_values(x_BLD)
        keys_BHLK, values_BHLK = _heads_first(keys_BLHK), _heads_first(values_BLHK)
        return x_BLD, (
            rules.constrain(keys_BHLK, CACHE_AXES),
            rules.constrain(values_BHLK, CACHE_AXES),
        )

    layers = model.decoder.layers
    _, (keys_NBHLK, values_NBHLK) = run_layers(model.config, layers, apply, encoded_BLD, None)
    return CrossCache(keys_NBHLK, values_NBHLK)


def feed_shared(
    model: T5,
    tokens_BQ: Int[Array, "B Q"],
    cross: CrossCache,
    encoder_valid_BL: Bool[Array, "B L"],
) -> tuple[Float[Array, "B Q D"], SelfCache]:
    """Feeds the tokens that all hypotheses begin with, in one pass.

    Args:
        model: the network.
        tokens_BQ: the tokens; 0 starts a sequence and is an ordinary token.
        cross: from `cross_keys_values`.
        encoder_valid_BL: real prompt positions.

    Returns:
        The decoder's output at every token, ready for `T5.logits`, and a cache of one beam.
    """
    batch, new = tokens_BQ.shape
    positions_Q = jnp.arange(new, dtype=jnp.int32)
    causal_1QQ = jnp.tri(new, dtype=bool)[None]

    def store(_, new_BHQK):
        return new_BHQK

    hidden_BQD, keys, values = _run(
        model, tokens_BQ, positions_Q, positions_Q, causal_1QQ, store, None, cross, encoder_valid_BL
    )
    visible_BMS = jnp.ones((batch, 1, new), bool)
    return hidden_BQD, SelfCache(keys, values, visible_BMS, positions_Q, new)


def make_room(cache: SelfCache, beams: int, steps: int) -> SelfCache:
    """The cache after `feed_shared`, with slots for as many beams and steps."""
    slots = cache.shared + beams * steps

    def lengthen(cached):
        before = [(0, 0)] * (cached.ndim - 2)
        return jnp.pad(cached, [*before, (0, slots - cached.shape[-2]), (0, 0)])

    later_S = cache.shared + jnp.repeat(jnp.arange(steps, dtype=jnp.int32), beams)
    return dataclasses.replace(
        cache,
        keys_NBHSK=jax.tree.map(lengthen, cache.keys_NBHSK),
        values_NBHSK=jax.tree.map(lengthen, cache.values_NBHSK),
        visible_BMS=jnp.pad(cache.visible_BMS, ((0, 0), (0, 0), (0, beams * steps))),
        positions_S=jnp.concatenate([cache.positions_S, later_S]),
    )


def continue_beams(cache: SelfCache, parents_BM: Int[Array, "B M"]) -> SelfCache:
    """The cache of beams that continue others: beam m what was beam `parents[b, m]`."""
    visible_BMS = jnp.take_along_axis(cache.visible_BMS, parents_BM[:, :, None], axis=1)
    return dataclasses.replace(cache, visible_BMS=visible_BMS)


def feed_beams(
    model: T5,
    tokens_BM: Int[Array, "B M"],
    position: Int[Array, ""] | int,
    cache: SelfCache,
    cross: CrossCache,
    encoder_valid_BL: Bool[Array, "B L"],
) -> tuple[Float[Array, "B M D"], SelfCache]:
    """Feeds one token to every beam, which sees the beam's earlier tokens, itself and the prompt.

    Args:
        model: the network.
        tokens_BM: the new tokens.
        position: how many tokens each beam was fed before.
        cache: has room (`make_room`) for M beams at this step.
        cross: from `cross_keys_values`.
        encoder_valid_BL: real prompt positions.

    Returns:
        The decoder's output, ready for `T5.logits`, and the cache with the new tokens in it.
    """
    beams = tokens_BM.shape[1]
    position = jnp.asarray(position, jnp.int32)
    first_slot = cache.shared + (position - cache.shared) * beams
    slots = cache.positions_S.shape[0]
    own_MS = jnp.arange(slots)[None, :] == first_slot + jnp.arange(beams)[:, None]
    visible_BMS = cache.visible_BMS | own_MS[None]

    def store(cached_BHSK, new_BHMK):
        return jax.lax.dynamic_update_slice_in_dim(cached_BHSK, new_BHMK, first_slot, axis=2)

    hidden_BMD, keys, values = _run(
        model,
        tokens_BM,
        position[None],
        cache.positions_S,
        visible_BMS,
        store,
        (cache.keys_NBHSK, cache.values_NBHSK),
        cross,
        encoder_valid_BL,
    )
    return hidden_BMD, SelfCache(keys, values, visible_BMS, cache.positions_S, cache.shared)


def feed_tree(
    model: T5,
    tokens_BQ: Int[Array, "B Q"],
    positions_Q: Int[Array, " Q"],
    visible_QQ: Bool[Array, "Q Q"],
    cross: CrossCache,
    encoder_valid_BL: Bool[Array, "B L"],
) -> Float[Array, "B Q D"]:
    """Feeds a whole tree of tokens, of one form for all examples, in one pass.

    Args:
        model: the network.
        tokens_BQ: the token of each node.
        positions_Q: how many tokens come before it on its path.
        visible_QQ: which nodes each node sees: those of its own path, itself among them.
        cross: from `cross_keys_values`.
        encoder_valid_BL: real prompt positions.

    Returns:
        The decoder's output at every node, ready for `T5.logits`.
    """

    def store(_, new_BHQK):
        return new_BHQK

    hidden_BQD, _, _ = _run(
        model,
        tokens_BQ,
        positions_Q,
        positions_Q,
        visible_QQ[None],
        store,
        None,
        cross,
        encoder_valid_BL,
    )
    return hidden_BQD


def _run(
    model: T5,
    tokens_BQ: Int[Array, "B Q"],
    query_positions_q: Int[Array, " q"],
    key_positions_S: Int[Array, " S"],
    visible_BQS: Bool[Array, "#B Q S"],
    store,
    cached,
    cross: CrossCache,
    encoder_valid_BL: Bool[Array, "B L"],
) -> tuple[Float[Array, "B Q D"], SelfLayers, SelfLayers]:
    """The decoder over new tokens; `store` puts a layer's new keys among its cached ones.

    Query positions are one for each token, or one for all of them.
    """
    decoder, config = model.decoder, model.config
    shared_HqS = None
    if not config.relative_bias_per_layer:
        shared_HqS = decoder.relative_bias(query_positions_q, key_positions_S)
    seen_B1L = encoder_valid_BL[:, None, :]

    def apply(layer: DecoderLayer, x_BQD, of_layer):
        own, cross_keys_BHLK, cross_values_BHLK = of_layer
        bias_HqS = shared_HqS
        if bias_HqS is None:
            bias_HqS = layer.relative_bias(query_positions_q, key_positions_S)
        normed_BQD = layer.self_attention_norm(x_BQD)
        new_keys_BQHK, new_values_BQHK = layer.self_attention.keys_values(normed_BQD)
        keys_BHSK, values_BHSK = own if own is not None else (None, None)
        keys_BHSK = store(keys_BHSK, _heads_first(new_keys_BQHK))
        values_BHSK = store(values_BHSK, _heads_first(new_values_BQHK))
        queries_BQHK = layer.self_attention.queries(normed_BQD)
        attended_BQHK = _attend(queries_BQHK, keys_BHSK, values_BHSK, visible_BQS, bias_HqS)
        x_BQD = x_BQD + layer.self_attention.output(attended_BQHK)
        queries_BQHK = layer.cross_attention.queries(layer.cross_attention_norm(x_BQD))
        attended_BQHK = _attend(queries_BQHK, cross_keys_BHLK, cross_values_BHLK, seen_B1L, None)
        x_BQD = x_BQD + layer.cross_attention.output(attended_BQHK)
        x_BQD = x_BQD + layer.mlp(layer.mlp_norm(x_BQD))
        cached = rules.constrain(keys_BHSK, CACHE_AXES), rules.constrain(values_BHSK, CACHE_AXES)
        return rules.constrain(x_BQD, ACTIVATION_AXES), cached

    per_layer = (cached, cross.keys_NBHLK, cross.values_NBHLK)
    x_BQD, (keys, values) = run_layers(
        config, decoder.layers, apply, model.embed(tokens_BQ), per_layer
    )
    return model.head_input(decoder.final_norm(x_BQD)), keys, values


def _heads_first(x_BLHK: Float[Array, "B L H K"]) -> Float[Array, "B H L K"]:
    """The layout in which one head's keys lie together, as a product per head reads them."""
    return jnp.swapaxes(x_BLHK, 1, 2)


def _attend(
    queries_BQHK: Float[Array, "B Q H K"],
    keys_BHSK: Float[Array, "B H S K"],
    values_BHSK: Float[Array, "B H S K"],
    visible_BQS: Bool[Array, "#B #Q S"],
    bias_HqS: Float[Array, "H q S"] | None,
) -> Float[Array, "B Q H K"]:
    """`attention.dot_product_attention` on keys and values that lie head by head."""
    scores_BHQS = jnp.einsum(
        "bqhk,bhsk->bhqs", queries_BQHK, keys_BHSK, preferred_element_type=jnp.float32
    )
    if bias_HqS is not None:
        scores_BHQS = scores_BHQS + bias_HqS[None]
    scores_BHQS = jnp.where(visible_BQS[:, None], scores_BHQS, MASKED)
    weights_BHQS = jnp.exp(scores_BHQS - jnp.max(scores_BHQS, axis=-1, keepdims=True))
    sums_BHQ = jnp.sum(weights_BHQS, axis=-1)
    attended_BHQK = jnp.einsum(
        "bhqs,bhsk->bhqk",
        weights_BHQS.astype(values_BHSK.dtype),
        values_BHSK,
        preferred_element_type=jnp.float32,
    )
    attended_BHQK = (attended_BHQK / sums_BHQ[..., None]).astype(values_BHSK.dtype)
    return jnp.swapaxes(attended_BHQK, 1, 2)
