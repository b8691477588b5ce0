"""Weights of Hugging Face and T5X, as those frameworks wrote them, become our parameters bit for bit."""

import dataclasses
import json
import pathlib
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
    foreign_config,
    import_weights,
    tensor_files,
    weight_names,
)
from genrec_jax.checkpoint.import_weights import ForeignWeights
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.parallel import mesh as mesh_lib
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


# Errors


def test_everything_wrong_is_listed_in_one_error(tmp_path):
    values = foreign.arrays("hugging_face", foreign.T5_1_1)
    del values["encoder.final_layer_norm.weight"]
    del values["decoder.block.2.layer.1.EncDecAttention.o.weight"]
    values["encoder.block.2.layer.0.layer_norm.weight"] = np.ones(8, np.float32)
    values["adapter.weight"] = np.ones(8, np.float32)
    values["shared.weight"] = np.ones((100, 8), np.float32)
    folder = foreign.write_hugging_face(tmp_path, foreign.T5_1_1, values)
    with pytest.raises(UserError) as caught:
        ForeignWeights.open(folder)
    lines = str(caught.value).splitlines()
    assert "5 problems" in lines[0]
    assert lines[1:6] == [
        "  adapter.weight: unmatched, no parameter of the network takes it",
        "  encoder.block.2.layer.0.layer_norm.weight: unmatched, no parameter of the network takes it",
        "  decoder.block.2.layer.1.EncDecAttention.o.weight: missing, a parameter of the network is not"
        " filled",
        "  encoder.final_layer_norm.weight: missing, a parameter of the network is not filled",
        "  shared.weight: has shape (100, 8), wanted (200, 8)",
    ]


def test_a_t5x_checkpoint_that_lacks_an_array(shared, tmp_path):
    from flax import serialization

    path = shared / "fixtures/t5x_t50/checkpoint_legacy/checkpoint_3"
    folder = tmp_path / "checkpoint_3"
    shutil.copytree(path, folder)
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    target = content["optimizer"]["target"]
    target["decoder"]["extra"] = target["decoder"].pop("decoder_norm")
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(UserError) as caught:
        ForeignWeights.open(folder)
    assert "decoder/extra/scale: unmatched" in str(caught.value)
    assert "decoder/decoder_norm/scale: missing" in str(caught.value)
    shutil.rmtree(folder / "target.token_embedder.embedding")
    with pytest.raises(UserError, match="token_embedder/embedding cannot be read"):
        ForeignWeights.open(folder)


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path):
    foreign.write_hugging_face(tmp_path, foreign.T5_1_0, {})
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04never read")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*save_pretrained"):
        ForeignWeights.open(tmp_path)


def _cut(folder: pathlib.Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def _garble(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def _no_config(folder: pathlib.Path) -> None:
    (folder / "config.json").unlink()


def _other_type(folder: pathlib.Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bart"}')


def _other_activation(folder: pathlib.Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"feed_forward_proj": "gated-silu"}))


def _no_size(folder: pathlib.Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content["d_ff"]
    (folder / "config.json").write_text(json.dumps(content))


def _no_weights(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").unlink()


def _lost_shard(folder: pathlib.Path) -> None:
    _no_weights(folder)
    content = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def _integers(folder: pathlib.Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"I32"', 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut, "cut short"),
        (_garble, "not a safetensors file"),
        (_no_config, "configuration of a Hugging Face model"),
        (_other_type, "'bart'; wanted 't5'"),
        (_other_activation, "'gated-silu'; wanted one of relu, gated-gelu"),
        (_no_size, "does not say d_ff"),
        (_no_weights, "holds no weights"),
        (_lost_shard, "model-00001-of-00002.safetensors. Download"),
        (_integers, "type I32"),
    ],
)
def test_a_broken_folder_says_what_is_wrong(tmp_path, spoil, message):
    values = foreign.arrays("hugging_face", foreign.T5_1_0)
    spoil(foreign.write_hugging_face(tmp_path, foreign.T5_1_0, values))
    with pytest.raises(UserError) as caught:
        import_weights.import_weights(tmp_path, tmp_path / "out")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_neither_folder_nor_checkpoint(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        ForeignWeights.open(tmp_path / "absent")
    (tmp_path / "checkpoint").write_bytes(b"\x81")
    with pytest.raises(UserError, match="`checkpoint` file of T5X"):
        ForeignWeights.open(tmp_path)


# The table itself


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


def test_published_sizes():
    """The names and shapes that the public FLAN-T5 XL and T5 small have."""
    xl = dataclasses.replace(
        foreign.T5_1_1,
        vocab_size=32128,
        embed_dim=2048,
        num_heads=32,
        head_dim=64,
        mlp_dim=5120,
        num_encoder_layers=24,
        num_decoder_layers=24,
    )
    shapes = weight_names.their_shapes("hugging_face", xl)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 2_849_757_184
    assert shapes["lm_head.weight"] == (32128, 2048)
    assert shapes["encoder.block.23.layer.1.DenseReluDense.wi_1.weight"] == (5120, 2048)
    assert shapes["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == (
        32,
        32,
    )


def test_t5x_config_lists_what_it_needs():
    with pytest.raises(UserError, match="token_embedder/embedding, encoder/layers_0/attention"):
        foreign_config.t5x_config({"embedding": (4, 4)}, file="here")


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
