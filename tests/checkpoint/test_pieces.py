"""Parameters in pieces: bit for bit from any mesh onto any other, in no more memory than they take."""

import dataclasses
import tracemalloc

import jax
import numpy as np
import pytest
from flax import nnx

from genrec_jax.checkpoint import filling, imported, pieces
from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.parallel import mesh as mesh_lib
from tests.checkpoint import foreign

CONFIG = dataclasses.replace(foreign.T5_1_1, num_heads=8)
MESHES = [(1, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]


def numbers(shape, name, index):
    """Another number for every place of every parameter, the same whoever asks for which part."""
    places = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)[index]
    return places + len(name) / 64


def mesh_of(sizes):
    return mesh_lib.single_device_mesh() if sizes == (1, 1, 1) else mesh_lib.make_mesh(*sizes)


def params_on(sizes, config=CONFIG):
    _, abstract = t5.abstract_graph_and_params(config)
    shapes = {"/".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(abstract)}

    def fill(name, index, out):
        out[...] = numbers(shapes[name], name, index)

    return filling.make_params(config, mesh_of(sizes), fill)


def written(folder, params, config=CONFIG):
    imported.write(folder, params, config, vocabulary=None, source={})
    return imported.ImportedWeights.load(folder)


@pytest.mark.parametrize("sizes", MESHES)
def test_every_mesh_writes_what_every_mesh_reads(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 600)  # so that arrays fall into several pieces
    weights = written(tmp_path, params_on(sizes))
    expected = foreign.flat(params_on((1, 1, 1)))
    for other in MESHES:
        params = weights.restore_params(mesh_of(other))
        foreign.assert_same(foreign.flat(params), expected)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, nnx.to_pure_dict(params))
        assert shardings == jax.tree.map(
            lambda leaf: leaf.sharding, nnx.to_pure_dict(params_on(other))
        )


def test_what_several_devices_hold_alike_is_written_once(tmp_path):
    params = params_on((8, 1, 1))
    weights = written(tmp_path, params)
    (file,) = (weights.path / "parameters").glob("*.safetensors")
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert held < file.stat().st_size < held + 20_000


def test_a_lost_file_is_noticed_even_with_its_manifest(tmp_path):
    weights = written(tmp_path, params_on((1, 1, 1)))
    (file,) = (weights.path / "parameters").glob("*.safetensors")
    file.rename(file.with_name("other"))
    out = np.empty((8, 4), np.float32)
    with pytest.raises(UserError, match=r"holds 0 of the 32 numbers asked for of token_embedding"):
        pieces.Pieces(weights.path / "parameters").fill(
            "token_embedding", (slice(0, 8), slice(0, 4)), out
        )
    with pytest.raises(UserError, match=r"is damaged: part-00000\.safetensors is missing"):
        weights.restore_params()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 8, 1)])
def test_neither_way_takes_memory_beyond_the_parameters(tmp_path, sizes):
    if jax.default_backend() != "cpu":
        pytest.skip("only a CPU's memory is counted here")
    config = dataclasses.replace(CONFIG, embed_dim=256, mlp_dim=1024, num_encoder_layers=6)
    params = params_on(sizes, config)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    one_layer = 4 * 256 * 1024
    assert held > 20 * one_layer
    tracemalloc.start()
    try:
        weights = written(tmp_path, params, config)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * one_layer
        tracemalloc.reset_peak()
        restored = weights.restore_params(mesh_of(sizes))
        assert tracemalloc.get_traced_memory()[1] < held + 1.1 * one_layer
    finally:
        tracemalloc.stop()
    foreign.assert_same(foreign.flat(restored), foreign.flat(params))
