"""Multi-head attention as T5 has it: no bias, no scaling by the head width, relative positions.

In this file Q counts query positions and S key positions, whichever stack they belong to.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.model.config import T5Config
from genrec_jax.model.layers import Key, linear, parameter

# Stands for a masked score, so that the softmax of a query which sees nothing (padding) is uniform; T5X
# adds the same number.
MASKED = -1e10


def relative_buckets(
    relative_QS: Int[Array, "Q S"], *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Array, "Q S"]:
    """Bucket of each relative position (Raffel et al. 2020, section 2.1; mesh-tensorflow's rule).

    Half of the buckets are exact distances, the others grow logarithmically up to `max_distance`.

    Args:
        relative_QS: key position minus query position.
        bidirectional: the encoder's rule, with half of the buckets for keys ahead of the query;
            otherwise keys ahead share the bucket of distance 0.
        num_buckets: number of buckets.
        max_distance: distances from here on share the last bucket.
    """
    ahead_QS = jnp.zeros_like(relative_QS)
    distance_QS = -relative_QS
    if bidirectional:
        num_buckets //= 2
        ahead_QS = (relative_QS > 0).astype(relative_QS.dtype) * num_buckets
        distance_QS = jnp.abs(relative_QS)
    distance_QS = jnp.maximum(distance_QS, 0)
    exact = num_buckets // 2
    # The small number is T5X's: it keeps log(0) out of the branch that is not taken.
    ratio_QS = jnp.log(distance_QS.astype(jnp.float32) / exact + jnp.finfo(jnp.float32).eps)
    growth_QS = ratio_QS / math.log(max_distance / exact) * (num_buckets - exact)
    far_QS = jnp.minimum(exact + growth_QS.astype(relative_QS.dtype), num_buckets - 1)
    return ahead_QS + jnp.where(distance_QS < exact, distance_QS, far_QS)


class RelativeBias(nnx.Module):
    """One learned number per head and bucket of relative position, added to the scores."""

    def __init__(
        self,
        config: T5Config,
        num_layers: int | None = None,
        *,
        bidirectional: bool,
        rngs: nnx.Rngs,
    ):
        self.bidirectional = bidirectional
        self.num_buckets = config.relative_buckets
        self.max_distance = config.relative_max_distance
        self.embedding = parameter(
            rngs,
            {"heads": config.num_heads, "relpos_buckets": config.relative_buckets},
            stddev=1 / math.sqrt(config.num_heads),
            num_layers=num_layers,
        )

    def __call__(
        self, query_positions_Q: Int[Array, " Q"], key_positions_S: Int[Array, " S"]
    ) -> Float[Array, "H Q S"]:
        """The float32 bias of every query position towards every key position."""
        buckets_QS = relative_buckets(
            key_positions_S[None, :] - query_positions_Q[:, None],
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        # A product with one-hot vectors: its gradient is a product too, not a long serial scatter.
        one_hot_QSb = jax.nn.one_hot(buckets_QS, self.num_buckets, dtype=jnp.float32)
        return jnp.einsum(
            "hb,qsb->hqs", self.embedding[...], one_hot_QSb, precision=jax.lax.Precision.HIGHEST
        )


def dot_product_attention(
    queries_BQHK: Float[Array, "B Q H K"],
    keys_BSHK: Float[Array, "B S H K"],
    values_BSHK: Float[Array, "B S H K"],
    *,
    mask_BQS: Bool[Array, "#B #Q S"],
    bias_HQS: Float[Array, "H Q S"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key | None = None,
    implementation: str = "own",
) -> Float[Array, "B Q H K"]:
    """Softmax attention; scores and softmax in float32, no scaling by the head width.

    Args:
        queries_BQHK: queries.
        keys_BSHK: keys.
        values_BSHK: values.
        mask_BQS: which keys a query sees; a query that sees none attends to all alike.
        bias_HQS: added to the scores, the same for every row.
        dropout_rate: of the attention weights; one draw per row, head and key, as T5X does.
        dropout_key: None means no dropout.
        implementation: see `T5Config.attention`; `cudnn` is `own` where JAX computes on no GPU.
    """
    kept = 1.0
    if dropout_key is not None and dropout_rate > 0:
        # A draw that all queries share drops the key's value: the weights need not be written down.
        kept = 1 - dropout_rate
        batch, length, heads, _ = values_BSHK.shape
        keep_BH1S = jax.random.bernoulli(dropout_key, kept, (batch, heads, 1, length))
        keep_BSH1 = jnp.transpose(keep_BH1S, (0, 3, 1, 2))
        values_BSHK = jnp.where(keep_BSH1, values_BSHK, 0)
    if implementation == "own" or (implementation == "cudnn" and jax.default_backend() != "gpu"):
        attended_BQHK = _own_attention(queries_BQHK, keys_BSHK, values_BSHK, mask_BQS, bias_HQS)
    else:
        bias_1HQS = None if bias_HQS is None else bias_HQS[None]
        if implementation == "cudnn" and bias_1HQS is not None:
            bias_1HQS = bias_1HQS.astype(queries_BQHK.dtype)
        attended_BQHK = jax.nn.dot_product_attention(
            queries_BQHK,
            keys_BSHK,
            values_BSHK,
            bias_1HQS,
            mask_BQS[:, None],
            scale=1.0,
            implementation="cudnn" if implementation == "cudnn" else "xla",
        ).astype(jnp.float32)
    return (attended_BQHK / kept).astype(values_BSHK.dtype)


def _own_attention(
    queries_BQHK: Float[Array, "B Q H K"],
    keys_BSHK: Float[Array, "B S H K"],
    values_BSHK: Float[Array, "B S H K"],
    mask_BQS: Bool[Array, "#B #Q S"],
    bias_HQS: Float[Array, "H Q S"] | None,
) -> Float[Array, "B Q H K"]:
    """The attention written out, in float32 after the products."""
    scores_BHQS = jnp.einsum(
        "bqhk,bshk->bhqs", queries_BQHK, keys_BSHK, preferred_element_type=jnp.float32
    )
    if bias_HQS is not None:
        scores_BHQS = scores_BHQS + bias_HQS[None]
    scores_BHQS = jnp.where(mask_BQS[:, None], scores_BHQS, MASKED)
    # The softmax, divided by its sum after the product with the values: one pass less over B H Q S.
    highest_BHQ1 = jax.lax.stop_gradient(jnp.max(scores_BHQS, axis=-1, keepdims=True))
    weights_BHQS = jnp.exp(scores_BHQS - highest_BHQ1)
    sums_BHQ = jnp.sum(weights_BHQS, axis=-1)
    attended_BQHK = jnp.einsum(
        "bhqs,bshk->bqhk",
        weights_BHQS.astype(values_BSHK.dtype),
        values_BSHK,
        preferred_element_type=jnp.float32,
    )
    return attended_BQHK / jnp.swapaxes(sums_BHQ, 1, 2)[..., None]


class Attention(nnx.Module):
    """The four projections of one attention block, all layers of a stack in one module."""

    def __init__(self, config: T5Config, num_layers: int, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim
        embed, joined = config.embed_dim, config.num_heads * config.head_dim
        into = {"embed": embed, "joined_kv": joined}
        out = {"joined_kv": joined, "embed": embed}
        std = 1 / math.sqrt(embed)
        # T5 does not scale the scores; the query starts smaller by that factor instead.
        query_std = std / math.sqrt(config.head_dim)
        self.query = parameter(rngs, into, stddev=query_std, num_layers=num_layers)
        self.key = parameter(rngs, into, stddev=std, num_layers=num_layers)
        self.value = parameter(rngs, into, stddev=std, num_layers=num_layers)
        self.out = parameter(rngs, out, stddev=1 / math.sqrt(joined), num_layers=num_layers)

    def _heads(self, x_BQD: Float[Array, "B Q D"], kernel: nnx.Param) -> Float[Array, "B Q H K"]:
        projected_BQJ = linear(x_BQD, kernel[...])
        return projected_BQJ.reshape(*x_BQD.shape[:2], self.num_heads, self.head_dim)

    def queries(self, x_BQD: Float[Array, "B Q D"]) -> Float[Array, "B Q H K"]:
        """Queries of every position, split into heads."""
        return self._heads(x_BQD, self.query)

    def keys_values(
        self, x_BSD: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S H K"], Float[Array, "B S H K"]]:
        """Keys and values of every position, split into heads."""
        return self._heads(x_BSD, self.key), self._heads(x_BSD, self.value)

    def output(self, attended_BQHK: Float[Array, "B Q H K"]) -> Float[Array, "B Q D"]:
        """Joins the heads and projects back to the residual stream."""
        joined_BQJ = attended_BQHK.reshape(*attended_BQHK.shape[:2], -1)
        return linear(joined_BQJ, self.out[...])
