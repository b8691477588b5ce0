"""New rows of a vocabulary: drawn as asked, known rows untouched, padding zero, whatever the mesh."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.checkpoint import imported, new_tokens
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.checkpoint.initial import initial_params
from genrec_jax.checkpoint.new_tokens import NewTokens
from genrec_jax.errors import UserError
from genrec_jax.indexing import unigram_vocabulary
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model import t5
from genrec_jax.parallel import mesh as mesh_lib
from tests.checkpoint import foreign
from tests.model import fixture_params

ADDED = [f"<CI{number}>" for number in range(400)]
CONFIGS = {"tied": foreign.T5_1_0, "untied": foreign.T5_1_1}


@pytest.fixture(scope="module")
def base() -> Vocabulary:
    return unigram_vocabulary.train(["choose the next item for a user in the shop"] * 3)


@pytest.fixture(scope="module")
def grown(base) -> Vocabulary:
    return foreign.add_tokens(base, ADDED)


def weights(config, vocabulary: Vocabulary, unused: int = 5):
    """Weights with a few rows more than the vocabulary has tokens; embeddings with mean 2, deviation 5."""
    config = dataclasses.replace(config, embed_dim=64, vocab_size=vocabulary.size + unused)
    arrays = foreign.arrays("t5x", config)
    for name in ("token_embedder/embedding", "decoder/logits_dense/kernel"):
        if name in arrays:
            arrays[name] = arrays[name] * 5 + 2
            rows = arrays[name] if name.startswith("token") else arrays[name].T
            rows[vocabulary.size :] = 1e6  # nothing may read the unused rows
    return fixture_params.in_memory(fixture_params.Arrays(arrays), "t5x", config)


def grow(made, vocabulary, known, mesh=None, seed=1, **options):
    config = dataclasses.replace(made.config, vocab_size=vocabulary.size)
    mesh = mesh or mesh_lib.single_device_mesh()
    params = new_tokens.grow(
        made.params(mesh),
        config,
        known=known.size,
        vocabulary=vocabulary,
        new_tokens=NewTokens(**options),
        seed=seed,
        mesh=mesh,
    )
    return config, params


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("rows", ["mean_and_noise", "random"])
def test_rows_of_added_tokens(base, grown, kind, rows):
    made = weights(CONFIGS[kind], base)
    before = foreign.flat(made.params())
    config, params = grow(made, grown, base, rows=rows)
    after = foreign.flat(params)
    tables = ["token_embedding"] if kind == "tied" else ["token_embedding", "head"]
    for name in before.keys() - set(tables):
        np.testing.assert_array_equal(after[name], before[name])
    for name in tables:
        table, known = after[name], before[name][: base.size]
        assert table.shape == (config.padded_vocab_size, 64)
        np.testing.assert_array_equal(table[: base.size], known)
        new = table[base.size : grown.size]
        assert len(new) == len(ADDED) and len(np.unique(new, axis=0)) == len(ADDED)
        if rows == "mean_and_noise":
            noise = (new - known.mean(axis=0)) / (0.1 * known.std(axis=0))
        else:
            noise = new / (1 if name == "token_embedding" else 64**-0.5)
        # 25,600 draws: mean within 5 standard errors of 0, deviation of 1.
        assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
        assert abs(noise.std() - 1) < 5 / np.sqrt(2 * noise.size)
        assert not table[grown.size :].any()
    if kind == "untied":
        drawn = after["head"][base.size : grown.size] - after["token_embedding"][base.size :][:400]
        assert np.abs(drawn).min() > 0  # two tables, two draws


def test_draws_are_seeded_and_do_not_depend_on_the_mesh(base, grown):
    made = weights(foreign.T5_1_1, base)
    _, one = grow(made, grown, base)
    _, again = grow(made, grown, base)
    _, other = grow(made, grown, base, seed=2)
    _, spread = grow(made, grown, base, mesh=mesh_lib.make_mesh(2, 2, 2))
    foreign.assert_same(foreign.flat(again), foreign.flat(one))
    first, second = foreign.flat(one)["head"], foreign.flat(other)["head"]
    new = slice(base.size, grown.size)
    assert not np.array_equal(first[new], second[new])
    np.testing.assert_allclose(foreign.flat(spread)["head"], first, rtol=0, atol=1e-5)
    assert spread["head"].get_value().sharding.shard_shape(first.shape) == (len(first) // 2, 32)


def test_padding_rows_are_masked_out_of_the_softmax(base, grown):
    config, params = grow(weights(foreign.T5_1_1, base), grown, base)
    assert config.padded_vocab_size > config.vocab_size
    graphdef, _ = t5.abstract_graph_and_params(config)
    hidden = jnp.ones((1, 64))
    logits = fixture_params.run(graphdef, params, lambda model, h: model.logits(h), hidden)
    probabilities = jax.nn.softmax(logits)[0]
    assert not probabilities[config.vocab_size :].any()
    np.testing.assert_allclose(probabilities[: config.vocab_size].sum(), 1, rtol=1e-5)


def test_number_tokens_are_those_that_write_numbers(shared):
    vocabulary = Vocabulary(shared / "data/t5_vocabulary/spiece.model")
    tokens = new_tokens.number_tokens(vocabulary)
    pieces = vocabulary.pieces(tokens)
    assert all(piece.removeprefix("▁").isdecimal() for piece in pieces)
    assert {"▁1", "▁10", "7", "99"} <= set(pieces)
    assert "▁" not in pieces and 1 not in tokens
    written = {token for n in (0, 1001, 29_999) for token in vocabulary.encode(str(n))}
    assert {t for t in written if vocabulary.pieces([t]) != ["▁"]} <= set(tokens)


@pytest.mark.parametrize("kind", CONFIGS)
def test_number_tokens_are_drawn_anew(base, grown, kind):
    made = weights(CONFIGS[kind], base)
    before = foreign.flat(made.params())
    _, params = grow(made, grown, base, reinitialise="numbers")
    after = foreign.flat(params)
    numbers = new_tokens.number_tokens(grown)
    assert numbers
    rest = np.setdiff1d(np.arange(base.size), numbers)
    embedding = after["token_embedding"]
    np.testing.assert_array_equal(embedding[rest], before["token_embedding"][rest])
    drawn = embedding[numbers]
    assert abs(drawn.mean()) < 5 / np.sqrt(drawn.size)
    assert abs(drawn.std() - 1) < 5 / np.sqrt(2 * drawn.size)
    if kind == "untied":
        np.testing.assert_array_equal(after["head"][: base.size], before["head"][: base.size])


def test_noise_below_0_is_refused():
    with pytest.raises(UserError, match=r"noise is -1\.0; wanted 0 or more"):
        NewTokens(noise=-1.0)


# From an imported folder to a run's start


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory) -> pathlib.Path:
    """Imported weights that know `base`."""
    made = weights(foreign.T5_1_1, base)
    path = tmp_path_factory.mktemp("weights")
    imported.write(path, made.params(), made.config, vocabulary=base, source={})
    return path


def start(path, config, vocabulary, notices, **options):
    fresh = nnx.state(t5.T5(config, rngs=nnx.Rngs(params=0)), nnx.Param)
    params = initial_params(
        path,
        "best",
        config,
        vocabulary=vocabulary,
        options=NewTokens(**options),
        seed=0,
        mesh=mesh_lib.single_device_mesh(),
        notify=notices.append,
    )
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    return foreign.flat(fresh), foreign.flat(params)


def test_a_run_starts_from_imported_weights(folder, base, grown):
    theirs = ImportedWeights.load(folder)
    config = dataclasses.replace(
        theirs.model_config,
        vocab_size=grown.size,
        whole_word_embedding=True,
        max_whole_words=8,
        dtype="bfloat16",
        dropout_rate=0.3,
    )
    notices: list[str] = []
    fresh, params = start(folder, config, grown, notices)
    before = foreign.flat(theirs.restore_params())
    np.testing.assert_array_equal(params["whole_word_embedding"], fresh["whole_word_embedding"])
    np.testing.assert_array_equal(
        params["token_embedding"][: base.size], before["token_embedding"][: base.size]
    )
    for name in before.keys() - {"token_embedding", "head"}:
        np.testing.assert_array_equal(params[name], before[name])
    assert "400 tokens are new to the weights" in notices[0]
    assert "no whole-word embedding; it starts as drawn" in notices[1]


def test_a_network_of_other_sizes_is_refused(folder, grown):
    theirs = ImportedWeights.load(folder).model_config
    config = dataclasses.replace(theirs, vocab_size=grown.size, mlp_dim=32, num_decoder_layers=1)
    with pytest.raises(UserError) as caught:
        start(folder, config, grown, [])
    assert "mlp_dim is 32, the weights have 16" in str(caught.value)
    assert "num_decoder_layers is 1, the weights have 3" in str(caught.value)


def test_a_vocabulary_of_other_pieces_is_refused(folder):
    other = unigram_vocabulary.train(["something else altogether, for another house"] * 3)
    config = dataclasses.replace(ImportedWeights.load(folder).model_config, vocab_size=other.size)
    with pytest.raises(UserError, match=r"other tokens than the run's vocabulary: number \d+ is"):
        start(folder, config, other, [])


def test_weights_without_a_vocabulary_start_no_run(tmp_path, base):
    made = weights(foreign.T5_1_1, base)
    imported.write(tmp_path, made.params(), made.config, vocabulary=None, source={})
    config = dataclasses.replace(made.config, vocab_size=base.size)
    with pytest.raises(UserError, match=r"import.*again with --vocabulary|Import.*--vocabulary"):
        start(tmp_path, config, base, [])


def test_a_folder_that_is_neither(tmp_path, base):
    config = dataclasses.replace(foreign.T5_1_1, vocab_size=base.size)
    with pytest.raises(UserError, match="neither a run dir nor imported weights"):
        start(tmp_path, config, base, [])
