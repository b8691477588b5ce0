"""Weights of Hugging Face and T5X, as those frameworks wrote them, become our parameters bit for bit."""

import dataclasses
import json
import shutil
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from genrec_jax.checkpoint import (
    filling,
    import_weights,
    tensor_files,
    weight_names,
)
from genrec_jax.checkpoint.import_weights import ForeignWeights
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.training.state import number_of_parameters
from tests.checkpoint import foreign
from tests.model import fixture_params

CHECKPOINTS = [
    ("t5x_t511", "checkpoint_legacy/checkpoint_3"),
    ("t5x_t511", "checkpoint_orbax/checkpoint_3"),
    ("t5x_t50", "checkpoint_legacy/checkpoint_3"),
    ("t5x_t50", "checkpoint_orbax/checkpoint_3"),
]


@pytest.mark.parametrize(("name", "path"), CHECKPOINTS)
def test_t5x_checkpoints_hold_what_t5x_trained(shared, name, path):
    fixture = shared / "fixtures" / name
    train3 = np.load(fixture / "train3.npz")
    prefix = "params_after_3/"
    trained = {n.removeprefix(prefix): train3[n] for n in train3 if n.startswith(prefix)}
    weights = ForeignWeights.open(fixture / path)
    assert weights.config == dataclasses.replace(fixture_params.config_of(name), dropout_rate=0.1)
    expected = fixture_params.from_t5x(trained, weights.config)
    foreign.assert_same(foreign.flat(weights.params()), expected)


def test_the_scanned_checkpoint_of_t5x(shared):
    fixture = shared / "fixtures/t5x_t511_scanned"
    weights = ForeignWeights.open(fixture / "checkpoint_legacy/checkpoint_0")
    expected = fixture_params.weights_of(fixture).params()
    foreign.assert_same(foreign.flat(weights.params()), foreign.flat(expected))


@pytest.mark.parametrize("name", ["hf_t511", "hf_t50"])
def test_both_ages_of_config_describe_the_same_network(shared, tmp_path, name):
    fixture = shared / "fixtures" / name
    shutil.copyfile(fixture / "config_hub_style.json", tmp_path / "config.json")
    (tmp_path / "model.safetensors").symlink_to(fixture / "model.safetensors")
    assert ForeignWeights.open(tmp_path).config == ForeignWeights.open(fixture).config


def test_shards_are_the_whole(shared):
    whole = ForeignWeights.open(shared / "fixtures/hf_t511").params()
    sharded = ForeignWeights.open(shared / "fixtures/hf_t511/sharded").params()
    foreign.assert_same(foreign.flat(sharded), foreign.flat(whole))


@pytest.mark.parametrize("name", ["hf_t511", "t5x_t50/checkpoint_orbax/checkpoint_3"])
def test_an_imported_folder_restores_bit_for_bit(shared, tmp_path, name):
    folder = shared / "fixtures" / name
    made = import_weights.import_weights(folder, tmp_path / "weights")
    weights = ForeignWeights.open(folder)
    assert made.model_config == weights.config
    assert made.vocabulary is None
    again = ImportedWeights.load(tmp_path / "weights").restore_params()
    foreign.assert_same(foreign.flat(again), foreign.flat(weights.params()))
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


class Recorder(fixture_params.Arrays):
    """Remembers how much of each array was read at once."""

    def __init__(self, arrays):
        super().__init__(arrays)
        self.reads: list[tuple[str, tuple[slice, ...]]] = []

    def read(self, name, index):
        self.reads.append((name, index))
        return super().read(name, index)


@pytest.mark.parametrize("format", ["hugging_face", "t5x", "t5x_scanned"])
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)])
def test_born_sharded_equals_one_device(format, sizes):
    config = dataclasses.replace(
        foreign.T5_1_1, relative_bias_per_layer=format == "t5x_scanned", num_heads=8
    )
    arrays = foreign.arrays(format, config)
    whole = fixture_params.in_memory(fixture_params.Arrays(arrays), format, config)
    split = fixture_params.in_memory(Recorder(arrays), format, config)
    mesh = mesh_lib.make_mesh(*sizes)
    params = split.params(mesh)
    foreign.assert_same(foreign.flat(params), foreign.flat(whole.params()))
    embedding = params["token_embedding"].get_value()
    assert embedding.sharding.shard_shape(embedding.shape) == (256 // sizes[2], 8 // sizes[1])


def test_heads_that_a_mesh_cuts_through_are_read_whole_and_cut():
    """2 heads of width 4 over 4 devices: each takes half a head of T5X's scanned kernels."""
    config = dataclasses.replace(foreign.T5_1_1, relative_bias_per_layer=True)
    arrays = foreign.arrays("t5x_scanned", config)
    weights = fixture_params.in_memory(fixture_params.Arrays(arrays), "t5x_scanned", config)
    whole = foreign.flat(weights.params())
    for name in ("encoder/layers/self_attention/query", "decoder/layers/cross_attention/out"):
        axis = 2 if name.endswith("query") else 1
        for start in range(0, 8, 2):
            index = [slice(0, size) for size in whole[name].shape]
            index[axis] = slice(start, start + 2)
            part = np.empty(whole[name][tuple(index)].shape, np.float32)
            weights.fill(name, tuple(index), part)
            np.testing.assert_array_equal(part, whole[name][tuple(index)])


def test_a_part_reads_no_more_than_itself():
    """With parameters over 8 devices, no read of a matrix is larger than an eighth of it."""
    arrays = foreign.arrays("hugging_face", foreign.T5_1_1)
    source = Recorder(arrays)
    fixture_params.in_memory(source, "hugging_face", foreign.T5_1_1).params(
        mesh_lib.make_mesh(1, 8, 1)
    )
    matrices = [(name, index) for name, index in source.reads if len(index) == 2]
    assert {name for name, _ in matrices} == {n for n, a in arrays.items() if a.ndim == 2}
    for name, index in matrices:
        if "relative_attention_bias" not in name:
            assert arrays[name][index].size * 8 == arrays[name].size


@pytest.mark.parametrize(("stored", "code"), [(ml_dtypes.bfloat16, "BF16"), (np.float16, "F16")])
def test_half_precision_becomes_float32(tmp_path, stored, code):
    values = foreign.arrays("hugging_face", foreign.T5_1_0)
    folder = foreign.write_hugging_face(tmp_path, foreign.T5_1_0, values)
    header, data = {}, b""
    for name, array in values.items():
        half = array.astype(stored).tobytes()
        place = [len(data), len(data) + len(half)]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": place}
        data += half
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    params = foreign.flat(ForeignWeights.open(folder).params())
    expected = values["shared.weight"].astype(stored).astype(np.float32)
    np.testing.assert_array_equal(params["token_embedding"][:200], expected)
    assert params["token_embedding"].dtype == np.float32
    assert not params["token_embedding"][200:].any()


# Tying and head scaling: the rule that fits transformers 4 and 5.


@pytest.mark.parametrize(
    ("head", "changes", "tied", "scaled"),
    [
        (None, {"tie_word_embeddings": None}, True, True),
        (None, {"tie_word_embeddings": True}, True, True),
        (None, {"tie_word_embeddings": True, "scale_decoder_outputs": False}, True, False),
        ("copy", {"tie_word_embeddings": None}, True, True),
        ("copy", {"tie_word_embeddings": False}, True, False),
        ("own", {"tie_word_embeddings": False}, False, False),
        ("own", {"tie_word_embeddings": True, "scale_decoder_outputs": False}, False, False),
        ("own", {"tie_word_embeddings": True, "scale_decoder_outputs": True}, False, True),
    ],
)
def test_tying_and_scaling(tmp_path, head, changes, tied, scaled):
    values = foreign.arrays("hugging_face", foreign.T5_1_0)
    if head is not None:
        values["lm_head.weight"] = values["shared.weight"] + (1 if head == "own" else 0)
    folder = foreign.write_hugging_face(tmp_path, foreign.T5_1_0, values, **changes)
    config = ForeignWeights.open(folder).config
    assert (config.tied_head, config.scale_head_input) == (tied, scaled)


def test_copies_of_the_embedding_and_the_unused_bias_are_let_pass(tmp_path):
    values = foreign.arrays("hugging_face", foreign.T5_1_0)
    expected = foreign.write_hugging_face(tmp_path / "plain", foreign.T5_1_0, values)
    values["encoder.embed_tokens.weight"] = values["shared.weight"]
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    values[unused] = np.ones((32, 2), np.float32)
    folder = foreign.write_hugging_face(tmp_path / "more", foreign.T5_1_0, values)
    foreign.assert_same(
        foreign.flat(ForeignWeights.open(folder).params()),
        foreign.flat(ForeignWeights.open(expected).params()),
    )


# The table itself

BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


def sized(config: T5Config, embed_dim: int, *, heads: int, width: int, inner: int) -> T5Config:
    """A network of 24 + 24 layers and the public models' vocabulary."""
    return dataclasses.replace(
        config,
        vocab_size=32128,
        embed_dim=embed_dim,
        num_heads=heads,
        head_dim=width,
        mlp_dim=inner,
        num_encoder_layers=24,
        num_decoder_layers=24,
    )


@pytest.mark.parametrize("format", ["hugging_face", "t5x", "t5x_scanned"])
@pytest.mark.parametrize("config", [foreign.T5_1_0, foreign.T5_1_1], ids=["1.0", "1.1"])
def test_the_table_fills_every_parameter_once(format, config):
    config = dataclasses.replace(config, relative_bias_per_layer=format == "t5x_scanned")
    lines = weight_names.table_of(format, config)
    abstract = nnx.to_flat_state(t5.abstract_graph_and_params(config)[1])
    parameters = ["/".join(map(str, path)) for path, _ in abstract]
    assert sorted(line.ours for line in lines) == sorted(parameters)
    values = foreign.arrays(format, config)
    source = fixture_params.Arrays(values)
    params = foreign.flat(fixture_params.in_memory(source, format, config).params())
    written = {}
    for line in lines:
        written |= dict(weight_names.to_theirs(line, params[line.ours], config))
    foreign.assert_same(written, values)


@pytest.mark.parametrize(
    ("config", "parameters", "some"),
    [
        (
            sized(foreign.T5_1_1, 2048, heads=32, width=64, inner=5120),
            2_849_757_184,
            {
                "lm_head.weight": (32128, 2048),
                "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (5120, 2048),
                f"decoder.block.0.{BIAS}": (32, 32),
            },
        ),
        (
            sized(foreign.T5_1_0, 1024, heads=32, width=128, inner=16_384),
            2_851_598_336,
            {
                "shared.weight": (32128, 1024),
                "decoder.block.23.layer.1.EncDecAttention.o.weight": (1024, 4096),
                "encoder.block.23.layer.1.DenseReluDense.wi.weight": (16_384, 1024),
                f"encoder.block.0.{BIAS}": (32, 32),
            },
        ),
        (
            sized(foreign.T5_1_0, 1024, heads=128, width=128, inner=65_536),
            11_307_321_344,
            {
                "shared.weight": (32128, 1024),
                "decoder.block.23.layer.1.EncDecAttention.o.weight": (1024, 16_384),
                "encoder.block.23.layer.1.DenseReluDense.wi.weight": (65_536, 1024),
                f"encoder.block.0.{BIAS}": (32, 128),
            },
        ),
    ],
    ids=["flan_t5_xl", "t5_3b", "t5_11b"],
)
def test_published_sizes(config, parameters, some):
    """The names, shapes and numbers of parameters that the public models have; nothing is allocated."""
    shapes = weight_names.their_shapes("hugging_face", config)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
    assert number_of_parameters(t5.abstract_graph_and_params(config)[1]) == parameters
    assert {name: shapes[name] for name in some} == some
    assert ("lm_head.weight" in shapes) != config.tied_head


# Vocabulary


def test_the_vocabulary_beside_the_weights(shared, tmp_path):
    spiece = shared / "data/t5_vocabulary/spiece.model"
    assert import_weights.find_vocabulary(tmp_path) is None
    shutil.copyfile(spiece, tmp_path / "spiece.model")
    plain = import_weights.find_vocabulary(tmp_path)
    assert plain is not None and plain.size == 32_100
    assert plain.id_of("<extra_id_0>") == 32_099
    (tmp_path / "added_tokens.json").write_text('{"<CI1>": 32101, "<CI0>": 32100, "</s>": 1}')
    grown = import_weights.find_vocabulary(tmp_path)
    assert grown is not None and grown.pieces([32_100, 32_101]) == ["<CI0>", "<CI1>"]
    (tmp_path / "added_tokens.json").write_text('{"<CI1>": 32101}')
    with pytest.raises(UserError, match="without a gap"):
        import_weights.find_vocabulary(tmp_path)


def test_a_vocabulary_with_more_tokens_than_rows_is_refused(shared, tmp_path):
    spiece = shared / "data/t5_vocabulary/spiece.model"
    with pytest.raises(UserError, match="32100 tokens and the embedding 1152 rows"):
        import_weights.import_weights(
            shared / "fixtures/hf_t50", tmp_path / "out", vocabulary=spiece
        )


def test_safetensors_written_here_are_read_by_safetensors(tmp_path):
    values = foreign.arrays("hugging_face", foreign.T5_1_1)
    file = tmp_path / "model.safetensors"
    shapes = {name: array.shape for name, array in values.items()}
    tensor_files.write_safetensors(file, shapes, values.__getitem__)
    foreign.assert_same(safetensors.numpy.load_file(file), values)
    safetensors.numpy.save_file(values, file)
    foreign.assert_same(foreign.all_of(tensor_files.Safetensors([file])), values)


def test_filled_memory_becomes_the_parameter_without_a_copy():
    """What keeps the peak of an import at the parameters themselves, on a CPU."""
    seen = {}

    def fill(name, index, out):
        out[...] = 1
        seen[name] = out.ctypes.data

    params = filling.make_params(foreign.T5_1_0, mesh_lib.single_device_mesh(), fill)
    if jax.default_backend() != "cpu":
        pytest.skip("only a CPU shares memory with NumPy")
    for name, array in foreign.export.named(params).items():
        assert array.unsafe_buffer_pointer() == seen[name], name
