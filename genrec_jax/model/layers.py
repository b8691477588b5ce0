"""The parts of a T5 layer that know nothing of attention: parameters, norm, feed-forward, dropout.

Every parameter here may be stacked: with `num_layers` given, one module holds all layers of a stack,
each array with a leading `layers` axis, and is called on the slice of one layer (`stacks.py`).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from genrec_jax.model.config import T5Config

Key = PRNGKeyArray | UInt32[Array, "2"]


def parameter(
    rngs: nnx.Rngs, dims: dict[str, int], *, stddev: float | None, num_layers: int | None = None
) -> nnx.Param:
    """A float32 parameter, drawn from a normal distribution or constant 1.

    Args:
        rngs: gives the key.
        dims: size of each dimension by its logical axis name, in order.
        stddev: standard deviation of the draw; None for constant 1.
        num_layers: if given, puts a `layers` axis of that size in front.
    """
    if num_layers is not None:
        dims = {"layers": num_layers, **dims}
    shape = tuple(dims.values())
    if stddev is None:
        value = jnp.ones(shape, jnp.float32)
    else:
        value = stddev * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, axes=tuple(dims))


def dropout(x_BLD: Float[Array, "B L D"], rate: float, key: Key | None) -> Float[Array, "B L D"]:
    """Drops whole columns of a row: one draw for all its positions, as T5X does.

    Args:
        x_BLD: activations.
        rate: share of columns set to zero.
        key: None means no dropout.
    """
    if key is None or rate == 0:
        return x_BLD
    batch, _, width = x_BLD.shape
    keep_B1D = jax.random.bernoulli(key, 1 - rate, (batch, 1, width))
    return jnp.where(keep_B1D, x_BLD / (1 - rate), jnp.zeros((), x_BLD.dtype))


def linear(x: Float[Array, "*rows D"], kernel_DF: Float[Array, "D F"]) -> Float[Array, "*rows F"]:
    """`x @ kernel` in `x`'s type, over rows laid out flat.

    One matrix product forwards and two backwards: XLA's CPU backend takes a third longer for a gradient
    that is contracted over batch and position apart.
    """
    flat_ND = x.reshape(-1, x.shape[-1])
    return (flat_ND @ kernel_DF.astype(x.dtype)).reshape(*x.shape[:-1], kernel_DF.shape[-1])


class RMSNorm(nnx.Module):
    """Root-mean-square norm without centring or bias (T5's layer norm), computed in float32."""

    def __init__(self, config: T5Config, num_layers: int | None, *, rngs: nnx.Rngs):
        self.epsilon = config.norm_epsilon
        self.scale = parameter(
            rngs, {"norm_embed": config.embed_dim}, stddev=None, num_layers=num_layers
        )

    def __call__(self, x_BLD: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalises over the last dimension."""
        x32_BLD = x_BLD.astype(jnp.float32)
        mean_square_BL1 = jnp.mean(jnp.square(x32_BLD), axis=-1, keepdims=True)
        scale_D = self.scale[...].reshape((1,) * (x_BLD.ndim - 1) + (-1,))
        normed_BLD = x32_BLD * jax.lax.rsqrt(mean_square_BL1 + self.epsilon) * scale_D
        return normed_BLD.astype(x_BLD.dtype)


class FeedForward(nnx.Module):
    """T5 1.0's ReLU block, or T5 1.1's gated GELU (Shazeer 2020): gelu(x wi_0) * (x wi_1), then wo."""

    def __init__(self, config: T5Config, num_layers: int, *, rngs: nnx.Rngs):
        self.activations = config.mlp_activations
        self.dropout_rate = config.dropout_rate
        embed, mlp = config.embed_dim, config.mlp_dim
        into = {"embed": embed, "mlp": mlp}
        into_std, out_std = 1 / math.sqrt(embed), 1 / math.sqrt(mlp)
        self.wi_0 = parameter(rngs, into, stddev=into_std, num_layers=num_layers)
        if len(self.activations) == 2:
            self.wi_1 = parameter(rngs, into, stddev=into_std, num_layers=num_layers)
        self.wo = parameter(
            rngs, {"mlp": mlp, "embed": embed}, stddev=out_std, num_layers=num_layers
        )

    def __call__(
        self, x_BLD: Float[Array, "B L D"], dropout_key: Key | None = None
    ) -> Float[Array, "B L D"]:
        """Applies one layer's block (the parameters are that layer's slice)."""
        hidden_BLF = linear(x_BLD, self.wi_0[...])
        if self.activations == ("relu",):
            hidden_BLF = jax.nn.relu(hidden_BLF)
        else:
            hidden_BLF = jax.nn.gelu(hidden_BLF, approximate=True)
            hidden_BLF = hidden_BLF * linear(x_BLD, self.wi_1[...])
        hidden_BLF = dropout(hidden_BLF, self.dropout_rate, dropout_key)
        return linear(hidden_BLF, self.wo[...])
