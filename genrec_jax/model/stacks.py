"""Encoder and decoder layers and how a stack of them is run: scanned or unrolled, with or without remat.

One module holds all layers of a stack: each parameter has a leading `layers` axis. A layer's methods
are written for one layer and are called on a slice.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from genrec_jax.model.attention import Attention, RelativeBias, dot_product_attention
from genrec_jax.model.config import T5Config
from genrec_jax.model.layers import FeedForward, Key, RMSNorm, dropout
from genrec_jax.parallel import rules

ACTIVATION_AXES = ("batch", "length", "activation_embed")


def split_key(key: Key | None, number: int) -> Any:
    """`number` keys, or `number` times None if there is no key (no dropout)."""
    return (None,) * number if key is None else jax.random.split(key, number)


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each on the normed residual stream and added to it."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        layers = config.num_encoder_layers
        self.dropout_rate = config.dropout_rate
        self.implementation = config.attention
        self.self_attention_norm = RMSNorm(config, layers, rngs=rngs)
        self.self_attention = Attention(config, layers, rngs=rngs)
        self.mlp_norm = RMSNorm(config, layers, rngs=rngs)
        self.mlp = FeedForward(config, layers, rngs=rngs)
        if config.relative_bias_per_layer:
            self.relative_bias = RelativeBias(config, layers, bidirectional=True, rngs=rngs)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        *,
        mask_BLL: Bool[Array, "B L L"],
        bias_HLL: Float[Array, "H L L"] | None,
        dropout_key: Key | None,
    ) -> Float[Array, "B L D"]:
        """Runs one layer; `bias_HLL` None means that the layer has a bias of its own."""
        keys = split_key(dropout_key, 4)
        if bias_HLL is None:
            positions_L = jnp.arange(x_BLD.shape[1])
            bias_HLL = self.relative_bias(positions_L, positions_L)
        normed_BLD = self.self_attention_norm(x_BLD)
        x_BLD = x_BLD + dropout(
            _self_attention(self, normed_BLD, mask_BLL, bias_HLL, keys[0]),
            self.dropout_rate,
            keys[1],
        )
        hidden_BLD = self.mlp(self.mlp_norm(x_BLD), keys[2])
        return x_BLD + dropout(hidden_BLD, self.dropout_rate, keys[3])


class DecoderLayer(nnx.Module):
    """Causal self-attention, attention to the encoder, feed-forward."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        layers = config.num_decoder_layers
        self.dropout_rate = config.dropout_rate
        self.implementation = config.attention
        self.self_attention_norm = RMSNorm(config, layers, rngs=rngs)
        self.self_attention = Attention(config, layers, rngs=rngs)
        self.cross_attention_norm = RMSNorm(config, layers, rngs=rngs)
        self.cross_attention = Attention(config, layers, rngs=rngs)
        self.mlp_norm = RMSNorm(config, layers, rngs=rngs)
        self.mlp = FeedForward(config, layers, rngs=rngs)
        if config.relative_bias_per_layer:
            self.relative_bias = RelativeBias(config, layers, bidirectional=False, rngs=rngs)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        encoded_BLD: Float[Array, "B L D"],
        *,
        mask_BTT: Bool[Array, "B T T"],
        cross_mask_BTL: Bool[Array, "B T L"],
        bias_HTT: Float[Array, "H T T"] | None,
        dropout_key: Key | None,
    ) -> Float[Array, "B T D"]:
        """Runs one layer; `bias_HTT` None means that the layer has a bias of its own."""
        keys = split_key(dropout_key, 6)
        if bias_HTT is None:
            positions_T = jnp.arange(x_BTD.shape[1])
            bias_HTT = self.relative_bias(positions_T, positions_T)
        normed_BTD = self.self_attention_norm(x_BTD)
        x_BTD = x_BTD + dropout(
            _self_attention(self, normed_BTD, mask_BTT, bias_HTT, keys[0]),
            self.dropout_rate,
            keys[1],
        )
        keys_BLHK, values_BLHK = self.cross_attention.keys_values(encoded_BLD)
        attended_BTHK = dot_product_attention(
            self.cross_attention.queries(self.cross_attention_norm(x_BTD)),
            keys_BLHK,
            values_BLHK,
            mask_BQS=cross_mask_BTL,
            dropout_rate=self.dropout_rate,
            dropout_key=keys[2],
            implementation=self.implementation,
        )
        x_BTD = x_BTD + dropout(
            self.cross_attention.output(attended_BTHK), self.dropout_rate, keys[3]
        )
        hidden_BTD = self.mlp(self.mlp_norm(x_BTD), keys[4])
        return x_BTD + dropout(hidden_BTD, self.dropout_rate, keys[5])


def _self_attention(
    layer: EncoderLayer | DecoderLayer,
    normed_BLD: Float[Array, "B L D"],
    mask_BLL: Bool[Array, "B L L"],
    bias_HLL: Float[Array, "H L L"],
    dropout_key: Key | None,
) -> Float[Array, "B L D"]:
    keys_BLHK, values_BLHK = layer.self_attention.keys_values(normed_BLD)
    attended_BLHK = dot_product_attention(
        layer.self_attention.queries(normed_BLD),
        keys_BLHK,
        values_BLHK,
        mask_BQS=mask_BLL,
        bias_HQS=bias_HLL,
        dropout_rate=layer.dropout_rate,
        dropout_key=dropout_key,
        implementation=layer.implementation,
    )
    return layer.self_attention.output(attended_BLHK)


class LayerTuple(tuple):
    """One array for each layer, where else a single array has a leading `layers` axis."""


jax.tree_util.register_pytree_node(
    LayerTuple, lambda arrays: (tuple(arrays), None), lambda _, arrays: LayerTuple(arrays)
)


def split_layers(params: nnx.State) -> nnx.State:
    """The same parameters with an array for each layer, for decoding a few rows on a CPU.

    There a scan copies a layer's parameters out of the stack before it uses them, which takes as long
    as the products of a few rows do. The price is a program as long as the network is deep.

    Args:
        params: of a T5 (`t5.graph_and_params`); a graph definition merges either form.
    """

    def split(variable):
        if variable.get_metadata()["axes"][:1] != ("layers",):
            return variable
        return variable.replace(LayerTuple(jnp.unstack(variable.get_value())))

    flat = [(path, split(variable)) for path, variable in nnx.to_flat_state(params)]
    return nnx.from_flat_state(flat)


def stack_layers(params: nnx.State) -> nnx.State:
    """The parameters as checkpoints have them, whether or not `split_layers` split them; on the host."""

    def stack(variable):
        arrays = variable.get_value()
        stacked = np.stack(arrays) if isinstance(arrays, LayerTuple) else np.asarray(arrays)
        return variable.replace(stacked)

    flat = [(path, stack(variable)) for path, variable in nnx.to_flat_state(params)]
    return nnx.from_flat_state(flat)


def run_layers(
    config: T5Config,
    layers: nnx.Module,
    apply: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    x_BLD: jax.Array,
    per_layer: Any,
) -> tuple[jax.Array, Any]:
    """Runs every layer of a stack in turn on the residual stream.

    Args:
        config: says whether to scan and what to recompute in the backward pass.
        layers: the stacked layers.
        apply: `(layer, x, extra) -> (x, output)`, for one layer.
        x_BLD: the residual stream.
        per_layer: pytree of arrays with a leading `layers` axis; each layer gets its slice as `extra`.

    Returns:
        The residual stream after the last layer, and the outputs of all layers, stacked; with layers
        that `split_layers` split, every output is a tuple of one array per layer, and so may
        `per_layer` be.
    """
    graphdef, stacked = nnx.split(layers)

    def body(x_BLD, layer_slice):
        params, extra = layer_slice
        x_BLD, output = apply(nnx.merge(graphdef, params), x_BLD, extra)
        return x_BLD, output

    if config.remat == "full":
        body = jax.checkpoint(body)
    elif config.remat == "dots":
        saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(body, policy=saved)
    is_split = lambda leaf: isinstance(leaf, LayerTuple)  # noqa: E731
    splits = [leaf for leaf in jax.tree.leaves(stacked, is_leaf=is_split) if is_split(leaf)]
    if config.scan_layers and not splits:
        return jax.lax.scan(body, x_BLD, (stacked, per_layer))
    outputs = []
    for number in range(len(splits[0]) if splits else jax.tree.leaves(stacked)[0].shape[0]):
        layer_slice = jax.tree.map(
            lambda leaf, n=number: leaf[n], (stacked, per_layer), is_leaf=is_split
        )
        x_BLD, output = body(x_BLD, layer_slice)
        outputs.append(output)
    join = LayerTuple if splits else jnp.stack
    return x_BLD, jax.tree.map(lambda *arrays: join(arrays), *outputs)


class Encoder(nnx.Module):
    """All encoder layers, the bias they share and the final norm."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.layers = EncoderLayer(config, rngs=rngs)
        self.final_norm = RMSNorm(config, None, rngs=rngs)
        if not config.relative_bias_per_layer:
            self.relative_bias = RelativeBias(config, bidirectional=True, rngs=rngs)

    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        *,
        mask_BLL: Bool[Array, "B L L"],
        dropout_key: Key | None = None,
    ) -> Float[Array, "B L D"]:
        """From embedded tokens to the encoder's output."""
        rate = self.config.dropout_rate
        first_key, last_key, layers_key = split_key(dropout_key, 3)
        positions_L = jnp.arange(x_BLD.shape[1])
        shared = not self.config.relative_bias_per_layer
        bias_HLL = self.relative_bias(positions_L, positions_L) if shared else None

        def apply(layer, x_BLD, key):
            x_BLD = layer(x_BLD, mask_BLL=mask_BLL, bias_HLL=bias_HLL, dropout_key=key)
            return rules.constrain(x_BLD, ACTIVATION_AXES), None

        keys_N = None
        if layers_key is not None:
            keys_N = jax.random.split(layers_key, self.config.num_encoder_layers)
        x_BLD = rules.constrain(dropout(x_BLD, rate, first_key), ACTIVATION_AXES)
        x_BLD, _ = run_layers(self.config, self.layers, apply, x_BLD, keys_N)
        return dropout(self.final_norm(x_BLD), rate, last_key)


class Decoder(nnx.Module):
    """All decoder layers, the bias they share and the final norm."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.layers = DecoderLayer(config, rngs=rngs)
        self.final_norm = RMSNorm(config, None, rngs=rngs)
        if not config.relative_bias_per_layer:
            self.relative_bias = RelativeBias(config, bidirectional=False, rngs=rngs)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        encoded_BLD: Float[Array, "B L D"],
        *,
        mask_BTT: Bool[Array, "B T T"],
        cross_mask_BTL: Bool[Array, "B T L"],
        dropout_key: Key | None = None,
    ) -> Float[Array, "B T D"]:
        """From embedded, shifted targets to the decoder's output."""
        rate = self.config.dropout_rate
        first_key, last_key, layers_key = split_key(dropout_key, 3)
        positions_T = jnp.arange(x_BTD.shape[1])
        shared = not self.config.relative_bias_per_layer
        bias_HTT = self.relative_bias(positions_T, positions_T) if shared else None

        def apply(layer, x_BTD, key):
            x_BTD = layer(
                x_BTD,
                encoded_BLD,
                mask_BTT=mask_BTT,
                cross_mask_BTL=cross_mask_BTL,
                bias_HTT=bias_HTT,
                dropout_key=key,
            )
            return rules.constrain(x_BTD, ACTIVATION_AXES), None

        keys_N = None
        if layers_key is not None:
            keys_N = jax.random.split(layers_key, self.config.num_decoder_layers)
        x_BTD = rules.constrain(dropout(x_BTD, rate, first_key), ACTIVATION_AXES)
        x_BTD, _ = run_layers(self.config, self.layers, apply, x_BTD, keys_N)
        return dropout(self.final_norm(x_BTD), rate, last_key)
