"""Brings the fixtures' models, made by T5X and by Hugging Face, into our parameters and batches."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
from flax import nnx

from genrec_jax.checkpoint import foreign_config, weight_names
from genrec_jax.checkpoint.import_weights import ForeignWeights
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.batch import Batch

T5X = {"t5x_t511": (True, False), "t5x_t50": (False, False), "t5x_t511_scanned": (True, True)}
HF = {"hf_t511": True, "hf_t50": False}


def config_of(name: str) -> T5Config:
    is_1_1, per_layer = T5X[name] if name in T5X else (HF[name], False)
    return T5Config(
        vocab_size=1152,
        embed_dim=32,
        num_heads=4,
        head_dim=12,
        mlp_dim=80,
        num_encoder_layers=2,
        num_decoder_layers=2,
        mlp_activations=("gelu", "linear") if is_1_1 else ("relu",),
        tied_head=not is_1_1,
        scale_head_input=not is_1_1,
        relative_bias_per_layer=per_layer,
        dropout_rate=0.0,
        whole_word_embedding=False,
    )


def flatten(params: nnx.State) -> dict[str, np.ndarray]:
    """Our parameters by "/"-joined path."""
    flat = nnx.to_flat_state(params)
    return {"/".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in flat}


class Arrays:
    """Arrays in memory, read as the library reads files."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.shapes = {name: array.shape for name, array in arrays.items()}

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        return self.arrays[name][index]


def weights_of(fixture: pathlib.Path) -> ForeignWeights:
    """The parameters of one fixture folder as the library opens them; `config_of` is not asked."""
    if fixture.name in HF:
        return ForeignWeights.open(fixture)
    source = Arrays(dict(np.load(fixture / "params.npz")))
    format, config = foreign_config.t5x_config(source.shapes, file=str(fixture))
    return in_memory(source, format, config)


def in_memory(source: Arrays, format: weight_names.Format, config: T5Config) -> ForeignWeights:
    weight_names.check(format, config, source.shapes, file="memory")
    lines = {line.ours: line for line in weight_names.table_of(format, config)}
    return ForeignWeights(pathlib.Path("memory"), format, config, source, lines, None)


def load(fixture: pathlib.Path) -> tuple[T5Config, nnx.GraphDef, nnx.State]:
    """Our config, graph and parameters of one fixture folder."""
    config, weights = config_of(fixture.name), weights_of(fixture)
    assert dataclasses.replace(weights.config, dropout_rate=0.0) == config
    return config, t5.abstract_graph_and_params(config)[0], weights.params()


def from_t5x(theirs: dict[str, np.ndarray], config: T5Config) -> dict[str, np.ndarray]:
    """T5X's arrays (minimal network) as our parameters, by "/"-joined path."""
    return flatten(in_memory(Arrays(theirs), "t5x", config).params())


def batch_of(features: dict[str, np.ndarray], prefix: str = "") -> Batch:
    """A batch from a fixture's features; segment ids of unpacked rows follow from the padding."""
    features = {
        name.removeprefix(prefix): array
        for name, array in features.items()
        if name.startswith(prefix)
    }
    tokens = features["encoder_input_tokens"]
    targets = features["decoder_target_tokens"]

    def ramp(segments):
        return np.arange(segments.shape[1], dtype=np.int32)[None] * (segments > 0)

    encoder_segments = features.get("encoder_segment_ids", (tokens > 0).astype(np.int32))
    decoder_segments = features.get("decoder_segment_ids", (targets > 0).astype(np.int32))
    return Batch(
        encoder_input_tokens_BL=tokens,
        decoder_target_tokens_BT=targets,
        decoder_input_tokens_BT=features["decoder_input_tokens"],
        decoder_loss_weights_BT=features["decoder_loss_weights"].astype(np.float32),
        encoder_segment_ids_BL=encoder_segments,
        decoder_segment_ids_BT=decoder_segments,
        encoder_positions_BL=features.get("encoder_positions", ramp(encoder_segments)),
        decoder_positions_BT=features.get("decoder_positions", ramp(decoder_segments)),
        encoder_whole_word_ids_BL=np.zeros_like(tokens),
    )


def config_json(fixture: pathlib.Path) -> dict:
    return json.loads((fixture / "config.json").read_text())


def run(graphdef: nnx.GraphDef, params: nnx.State, function, *arguments):
    """`function(model, *arguments)`, jitted over the parameters."""
    return jax.jit(lambda params, *rest: function(nnx.merge(graphdef, params), *rest))(
        params, *arguments
    )
