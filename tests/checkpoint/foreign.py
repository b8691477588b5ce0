"""Small models of other frameworks, made here, for the tests of importing and exporting."""

import json
import pathlib

import jax
import numpy as np
from flax import nnx
from sentencepiece import sentencepiece_model_pb2

from genrec_jax.checkpoint import export, foreign_config, tensor_files, weight_names
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model.config import T5Config

T5_1_1 = T5Config(
    vocab_size=200,
    embed_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=2,
    num_decoder_layers=3,
    whole_word_embedding=False,
)
T5_1_0 = T5Config(
    vocab_size=200,
    embed_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=2,
    num_decoder_layers=3,
    mlp_activations=("relu",),
    tied_head=True,
    scale_head_input=True,
    whole_word_embedding=False,
)


def arrays(format: weight_names.Format, config: T5Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays of every name and shape that a checkpoint of this network has."""
    random = np.random.default_rng(seed)
    shapes = weight_names.their_shapes(format, config)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_hugging_face(
    folder: pathlib.Path, config: T5Config, values: dict[str, np.ndarray], **changes
) -> pathlib.Path:
    """A Hugging Face folder with these arrays; `changes` of its config.json (None removes a key)."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {name: array.shape for name, array in values.items()}
    file = folder / tensor_files.SAFETENSORS
    tensor_files.write_safetensors(file, shapes, values.__getitem__)
    content = foreign_config.to_hugging_face(config) | changes
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def flat(params: nnx.State) -> dict[str, np.ndarray]:
    """Parameters by name."""
    return {name: np.asarray(array) for name, array in export.named(params).items()}


def all_of(source: tensor_files.TensorSource) -> dict[str, np.ndarray]:
    """Every array of a source, whole."""
    return {
        name: np.array(source.read(name, tuple(slice(0, size) for size in shape)))
        for name, shape in source.shapes.items()
    }


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """The same names, and the same bits."""
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def add_tokens(vocabulary: Vocabulary, tokens: list[str]) -> Vocabulary:
    """A vocabulary with user-defined tokens appended."""
    proto = sentencepiece_model_pb2.ModelProto
    model = proto.FromString(vocabulary.serialized)
    for token in tokens:
        model.pieces.add(piece=token, score=0.0, type=proto.SentencePiece.USER_DEFINED)
    return Vocabulary(model.SerializeToString(deterministic=True))


def devices(count: int) -> list[jax.Device]:
    return jax.devices()[:count]
