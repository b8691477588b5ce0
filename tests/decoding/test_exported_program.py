"""The loader of an exported recommender: it takes what the programs can, and refuses the rest."""

import numpy as np
import pytest

import genrec_jax
from genrec_jax.decoding import exported_program
from tests.evaluation import tiny_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    dataset = tiny_run.make_dataset(folder)
    run = tiny_run.make_run(folder / "run", [dataset.path], steps=(10,))
    recommender = genrec_jax.load(str(run.path))
    made = recommender.export(folder / "out", rows=(1, 2), lengths=(16,), k=5)
    return exported_program.Recommender(made)


TOKENS = np.array([[7, 8, 9, 1], [10, 11, 1, 0]], np.int32)
WORDS = np.array([[1, 1, 2, 0], [1, 2, 0, 0]], np.int32)


def changed(array, place, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[place] = value
    return array


@pytest.mark.parametrize(
    "tokens, words, message",
    [
        (TOKENS, np.ones((1, 1), np.int32), r"of shape \(1, 1\) and tokens of \(2, 4\)"),
        (TOKENS, None, "has a whole-word embedding"),
        (TOKENS[0], WORDS[0], r"tokens are int32 of shape \(4,\); wanted whole numbers"),
        ([[7, 1], [7]], WORDS, "tokens are no array .*rows of one length"),
        (TOKENS.astype(float), WORDS, "tokens are float64"),
        (changed(TOKENS, (0, 0), np.nan, float), WORDS, "tokens are float64"),
        (TOKENS, WORDS.astype(float), "whole_words are float64"),
        (TOKENS > 0, WORDS, "tokens are bool"),
        (changed(TOKENS, (1, 2), -1), WORDS, r"tokens\[1, 2\] is -1; wanted 0 to"),
        (changed(TOKENS, (0, 1), 2**32 + 8, np.int64), WORDS, r"tokens\[0, 1\] is 4294967304"),
        (TOKENS, changed(WORDS, (0, 2), 4), r"whole_words\[0, 2\] is 4; wanted 0 to 3"),
        (TOKENS, changed(WORDS, (0, 2), -1), r"whole_words\[0, 2\] is -1"),
    ],
)
def test_wrong_prompts_are_refused(exported, tokens, words, message):
    with pytest.raises(ValueError, match=message):
        exported.recommend(tokens, words)


def test_tokens_end_where_the_vocabulary_does(exported):
    size = exported.manifest["vocab_size"]
    exported.recommend(changed(TOKENS, (0, 0), size - 1), WORDS)
    with pytest.raises(ValueError, match=rf"tokens\[0, 0\] is {size}; wanted 0 to {size - 1}"):
        exported.recommend(changed(TOKENS, (0, 0), size), WORDS)


def test_lists_and_other_integers_are_taken(exported):
    """A row of padding gets no item, and no error."""
    wanted = exported.recommend(TOKENS, WORDS)
    for dtype in (np.int64, np.uint16):
        found = exported.recommend(TOKENS.astype(dtype), WORDS.astype(dtype))
        assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    items, _ = exported.recommend([[7, 8, 9, 1], [0, 0, 0, 0]], [[1, 1, 2, 0], [0, 0, 0, 0]])
    assert items[0].tolist() == wanted[0][0].tolist()
    assert (items[1] == -1).all()


def test_every_shape_is_compiled_ahead(exported):
    seconds = exported.warm_up()
    assert list(seconds) == [(1, 16), (2, 16)] and min(seconds.values()) > 0
    exported.recommend(TOKENS[:1], WORDS[:1])
    exported.recommend(TOKENS, WORDS)
    assert [call._cache_size() for call in exported._call.values()] == [1, 1]


def test_scores_that_are_not_finite_are_an_error(exported, monkeypatch):
    damaged = {
        name: value if isinstance(value, list) else np.full_like(value, np.nan)
        for name, value in exported._params.items()
    }
    monkeypatch.setattr(exported, "_params", damaged)
    with pytest.raises(ValueError, match="its scores are not finite"):
        exported.recommend(TOKENS, WORDS)
