"""Decoding a few tokens at a time with cached keys and values; beam search sees the network through it.

The hypotheses of one example are a tree of tokens. Its nodes share one row of cache: the tokens that
all hypotheses begin with, then one block of slots for the beams of each step. A beam is a query that
sees the slots of its own ancestors, so that continuing another beam changes a few numbers (its
lineage) and copies no key. The encoder's keys and values stand once per example too.

Up to `MOST_MASKED` beams attend to the whole row under a mask: one matrix product, whose size grows
with the square of the beams. More beams read their own ancestors' keys one by one instead, which takes
time and memory in proportion to the beams.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.model.attention import MASKED
from genrec_jax.model.stacks import ACTIVATION_AXES, DecoderLayer, run_layers
from genrec_jax.model.t5 import T5
from genrec_jax.parallel import rules
from genrec_jax.pytree import pytree_dataclass, static_field

CACHE_AXES = ("batch", "heads", "length", "kv")
MOST_MASKED = 64
"""Beams up to which each attends to the slots of all under a mask."""

# One array for all layers of a stack, or one for each where the parameters are split (`split_layers`).
CrossLayers = Float[Array, "N B H L K"] | tuple[Float[Array, "B H L K"], ...]
SelfLayers = Float[Array, "N B H S K"] | tuple[Float[Array, "B H S K"], ...]
# From queries, keys, values and a bias to what was attended to.
Attend = Callable[[Array, Array, Array, Array | None], Array]


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
        lineage_BMT: which beam of each step a beam continues, itself at the step when it was fed; -1
            at steps that are still to come. Beam m of step t has slot shared + t * beams + m.
        shared: the first slots, of the tokens that were fed with one beam.
    """

    keys_NBHSK: SelfLayers
    values_NBHSK: SelfLayers
    lineage_BMT: Int[Array, "B M T"]
    shared: int = static_field()


def cross_keys_values(model: T5, encoded_BLD: Float[Array, "B L D"]) -> CrossCache:
    """The encoder's keys and values for every decoding step, computed once."""

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
        model,
        tokens_BQ,
        positions_Q,
        positions_Q,
        _under_mask(causal_1QQ),
        store,
        None,
        cross,
        encoder_valid_BL,
    )
    return hidden_BQD, SelfCache(keys, values, jnp.zeros((batch, 1, 0), jnp.int32), new)


def make_room(cache: SelfCache, beams: int, steps: int) -> SelfCache:
    """The cache after `feed_shared`, with slots for as many beams and steps."""
    slots = cache.shared + beams * steps

    def lengthen(cached):
        before = [(0, 0)] * (cached.ndim - 2)
        return jnp.pad(cached, [*before, (0, slots - cached.shape[-2]), (0, 0)])

    return dataclasses.replace(
        cache,
        keys_NBHSK=jax.tree.map(lengthen, cache.keys_NBHSK),
        values_NBHSK=jax.tree.map(lengthen, cache.values_NBHSK),
        lineage_BMT=jnp.full((*cache.lineage_BMT.shape[:2], steps), -1, jnp.int32),
    )


def continue_beams(cache: SelfCache, parents_BM: Int[Array, "B M"]) -> SelfCache:
    """The cache of beams that continue others: beam m what was beam `parents[b, m]`."""
    lineage_BMT = jnp.take_along_axis(cache.lineage_BMT, parents_BM[:, :, None], axis=1)
    return dataclasses.replace(cache, lineage_BMT=lineage_BMT)


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
    beams, shared = tokens_BM.shape[1], cache.shared
    position = jnp.asarray(position, jnp.int32)
    step = position - shared
    steps_T = jnp.arange(cache.lineage_BMT.shape[2], dtype=jnp.int32)
    beams_M = jnp.arange(beams, dtype=jnp.int32)
    is_new_11T = (steps_T == step)[None, None]
    lineage_BMT = jnp.where(is_new_11T, beams_M[None, :, None], cache.lineage_BMT)
    positions_P = jnp.arange(shared, dtype=jnp.int32)
    if beams <= MOST_MASKED:
        # Slot t * beams + m is seen by the beams that continue beam m of step t.
        own_BMTM = lineage_BMT[..., None] == beams_M[None, None, None]
        own_BMS = own_BMTM.reshape(*lineage_BMT.shape[:2], -1)
        attend = _under_mask(jnp.pad(own_BMS, ((0, 0), (0, 0), (shared, 0)), constant_values=True))
        later_S = jnp.repeat(shared + steps_T, beams)
    else:
        attend = _to_lineage(lineage_BMT, shared)
        later_S = shared + steps_T

    def store(cached_BHSK, new_BHMK):
        first_slot = shared + step * beams
        return jax.lax.dynamic_update_slice_in_dim(cached_BHSK, new_BHMK, first_slot, axis=2)

    hidden_BMD, keys, values = _run(
        model,
        tokens_BM,
        position[None],
        jnp.concatenate([positions_P, later_S]),
        attend,
        store,
        (cache.keys_NBHSK, cache.values_NBHSK),
        cross,
        encoder_valid_BL,
    )
    return hidden_BMD, SelfCache(keys, values, lineage_BMT, shared)


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
        _under_mask(visible_QQ[None]),
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
    key_positions_s: Int[Array, " s"],
    attend: Attend,
    store,
    cached,
    cross: CrossCache,
    encoder_valid_BL: Bool[Array, "B L"],
) -> tuple[Float[Array, "B Q D"], SelfLayers, SelfLayers]:
    """The decoder over new tokens; `store` puts a layer's new keys among its cached ones.

    Query positions are one for each token, or one for all of them. `attend` is self-attention, whose
    bias is of these query and key positions.
    """
    decoder, config = model.decoder, model.config
    shared_Hqs = None
    if not config.relative_bias_per_layer:
        shared_Hqs = decoder.relative_bias(query_positions_q, key_positions_s)
    attend_to_prompt = _under_mask(encoder_valid_BL[:, None, :])

    def apply(layer: DecoderLayer, x_BQD, of_layer):
        own, cross_keys_BHLK, cross_values_BHLK = of_layer
        bias_Hqs = shared_Hqs
        if bias_Hqs is None:
            bias_Hqs = layer.relative_bias(query_positions_q, key_positions_s)
        normed_BQD = layer.self_attention_norm(x_BQD)
        new_keys_BQHK, new_values_BQHK = layer.self_attention.keys_values(normed_BQD)
        keys_BHSK, values_BHSK = own if own is not None else (None, None)
        keys_BHSK = store(keys_BHSK, _heads_first(new_keys_BQHK))
        values_BHSK = store(values_BHSK, _heads_first(new_values_BQHK))
        queries_BQHK = layer.self_attention.queries(normed_BQD)
        attended_BQHK = attend(queries_BQHK, keys_BHSK, values_BHSK, bias_Hqs)
        x_BQD = x_BQD + layer.self_attention.output(attended_BQHK)
        queries_BQHK = layer.cross_attention.queries(layer.cross_attention_norm(x_BQD))
        attended_BQHK = attend_to_prompt(queries_BQHK, cross_keys_BHLK, cross_values_BHLK, None)
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


def _under_mask(visible_BQS: Bool[Array, "#B #Q S"]) -> Attend:
    """`attention.dot_product_attention` to the keys that each query sees; they lie head by head."""

    def attend(queries_BQHK, keys_BHSK, values_BHSK, bias_HqS):
        scores_BHQS = _scores("bqhk,bhsk->bhqs", queries_BQHK, keys_BHSK, bias_HqS)
        scores_BHQS = jnp.where(visible_BQS[:, None], scores_BHQS, MASKED)
        weights_BHQS = jnp.exp(scores_BHQS - jnp.max(scores_BHQS, axis=-1, keepdims=True))
        total_BHQK = _weighted("bhqs,bhsk->bhqk", weights_BHQS, values_BHSK)
        mean_BHQK = total_BHQK / jnp.sum(weights_BHQS, axis=-1, keepdims=True)
        return jnp.swapaxes(mean_BHQK.astype(values_BHSK.dtype), 1, 2)

    return attend


def _to_lineage(lineage_BMT: Int[Array, "B M T"], shared: int) -> Attend:
    """Attention of each beam to the shared slots and to its own lineage, whose keys it gathers."""
    batch, beams, steps = lineage_BMT.shape
    firsts_T = shared + beams * jnp.arange(steps, dtype=jnp.int32)
    slots_BMT = firsts_T[None, None] + jnp.maximum(lineage_BMT, 0)
    slots_B1X1 = slots_BMT.reshape(batch, 1, -1, 1)

    def own(cached_BHSK):
        own_BHXK = jnp.take_along_axis(cached_BHSK, slots_B1X1, axis=2)
        return own_BHXK.reshape(*own_BHXK.shape[:2], beams, steps, -1)

    def attend(queries_BMHK, keys_BHSK, values_BHSK, bias_HqS):
        common, later = (None, None) if bias_HqS is None else jnp.split(bias_HqS, [shared], axis=2)
        common_BHMP = _scores("bmhk,bhpk->bhmp", queries_BMHK, keys_BHSK[:, :, :shared], common)
        later_BHMT = _scores("bmhk,bhmtk->bhmt", queries_BMHK, own(keys_BHSK), later)
        later_BHMT = jnp.where(lineage_BMT[:, None] >= 0, later_BHMT, MASKED)
        scores_BHMS = jnp.concatenate([common_BHMP, later_BHMT], axis=-1)
        weights_BHMS = jnp.exp(scores_BHMS - jnp.max(scores_BHMS, axis=-1, keepdims=True))
        common_BHMP, later_BHMT = jnp.split(weights_BHMS, [shared], axis=-1)
        total_BHMK = _weighted("bhmp,bhpk->bhmk", common_BHMP, values_BHSK[:, :, :shared])
        total_BHMK += _weighted("bhmt,bhmtk->bhmk", later_BHMT, own(values_BHSK))
        mean_BHMK = total_BHMK / jnp.sum(weights_BHMS, axis=-1, keepdims=True)
        return jnp.swapaxes(mean_BHMK.astype(values_BHSK.dtype), 1, 2)

    return attend


def _scores(
    product: str, queries: Float[Array, "..."], keys: Float[Array, "..."], bias: Array | None
) -> Float[Array, "B H Q S"]:
    """Float32 scores of queries and keys, by an einsum, with the bias of heads and positions."""
    scores_BHQS = jnp.einsum(product, queries, keys, preferred_element_type=jnp.float32)
    return scores_BHQS if bias is None else scores_BHQS + bias[None]


def _weighted(
    product: str, weights: Float[Array, "B H Q S"], values: Float[Array, "..."]
) -> Float[Array, "B H Q K"]:
    """The float32 sum of values by their weights, by an einsum."""
    weights = weights.astype(values.dtype)
    return jnp.einsum(product, weights, values, preferred_element_type=jnp.float32)
