"""The search as T5X's `decode_fn`, under a network given by tables; `test_t5x.py` has T5X itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from genrec_jax.decoding import t5x_search
from genrec_jax.errors import UserError
from genrec_jax.pipeline.token_runs import TokenRuns
from tests.decoding import oracles

VOCAB, STATES, LENGTH = 12, 97, 8
IDS = (
    *(
        (5, 9, 2),
        (5, 9, 2, 3),
        (5, 9, 3),
        (5, 9, 4, 4, 4),
        (5, 9, 4, 4, 6),
        (5, 9, 7, 2),
        (5, 9, 8),
    ),
    *((5, 9, 10, 10, 11), (5, 9, 11)),
)


def tables(seed, vocab=VOCAB):
    return np.random.default_rng(seed).normal(0, 2, (3, STATES, vocab)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def decoded(table_BKV, num_decodes, options=(), scanned=False, length=LENGTH, ids=IDS):
    """Calls a `decode_fn` as T5X does: a cache of one row a prompt, logits of batch * beams rows."""
    runs = TokenRuns.from_lists([(*tokens, oracles.EOS) for tokens in ids])
    decode_fn = t5x_search.from_targets(runs, vocab_size=VOCAB, **dict(options))
    batch = len(table_BKV)
    rows_X = np.repeat(np.arange(batch), num_decodes)

    def tokens_to_logits(state):
        own = state.cache["decoder"]["self_attention"]
        assert state.cur_token.shape == (batch * num_decodes, 1)
        token_X, seen_X = state.cur_token[:, 0], own["cached_key"]
        seen_X = oracles.next_state(seen_X[0] if scanned else seen_X, token_X, STATES)
        new = {
            "cached_key": jnp.stack([seen_X, seen_X]) if scanned else seen_X,
            "cache_index": own["cache_index"] + 1,
        }
        return table_BKV[rows_X, seen_X], {"decoder": {"self_attention": new}}

    cache = {
        "cached_key": jnp.zeros((2, batch) if scanned else (batch,), jnp.int32),
        "cache_index": jnp.zeros((2,) if scanned else (), jnp.int32),
    }
    return decode_fn(
        inputs=jnp.zeros((batch, length), jnp.int32),
        cache={"decoder": {"self_attention": cache}},
        tokens_to_logits=tokens_to_logits,
        eos_id=oracles.EOS,
        num_decodes=num_decodes,
        cache_offset=1 if scanned else 0,
        decode_rng=jax.random.PRNGKey(0),
    )


def items_of(decodes_MT):
    whole = [(*tokens, oracles.EOS) for tokens in IDS]
    return [whole.index(tuple(t for t in row if t)) for row in decodes_MT.tolist() if any(row)]


@pytest.mark.parametrize("scanned", [False, True])
def test_as_many_beams_as_items_give_every_item_its_exact_score(scanned):
    for seed in range(6):
        table_BKV = tables(seed)
        decodes, scores = map(np.asarray, decoded(table_BKV, len(IDS) + 3, (), scanned))
        assert decodes.shape == (3, len(IDS) + 3, LENGTH)
        # Three places more than items: empty, and where T5X has its worst, which is first.
        assert np.all(scores[:, :3] == -np.inf) and not decodes[:, :3].any()
        for row in range(3):
            wanted = oracles.brute_force(table_BKV[row], IDS)
            np.testing.assert_allclose(scores[row, 3:], np.sort(wanted), atol=3e-5)
            if oracles.smallest_gap(wanted) > 1e-4:
                assert items_of(decodes[row]) == np.argsort(wanted).tolist()


def test_few_beams_find_what_the_search_finds_in_plain_python():
    options = (("length_penalty", 1.0), ("best_first", True))
    config = t5x_search.BeamConfig(3, 3, length_penalty=1.0)
    for seed in range(6):
        table_BKV = tables(seed)
        decodes, scores = decoded(table_BKV, 3, options)
        for row in range(3):
            items, values = oracles.plain_search(table_BKV[row], IDS, config)
            assert items_of(np.asarray(decodes)[row]) == items
            np.testing.assert_allclose(np.asarray(scores)[row], values, atol=3e-5)


def test_a_mesh_of_t5xs_axes_changes_no_list():
    """T5X's partitioner sets its own mesh, of axes that our table does not know."""
    tables_BKV, beams = np.concatenate([tables(0), tables(1), tables(2)])[:8], 3
    alone = decoded(tables_BKV, beams)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    by_rows = jax.NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh):
        split = decoded(jax.device_put(tables_BKV, by_rows), beams)
    for left, right in zip(alone, split, strict=True):
        np.testing.assert_array_equal(left, right)


def test_no_item_scores_higher_for_what_the_trie_forbids():
    """Masking before the log-softmax would give the only item the whole probability of each step."""
    decodes, scores = decoded(tables(1), 1, (), False, LENGTH, ((5, 9, 2),))
    assert np.asarray(decodes)[0, 0].tolist() == [5, 9, 2, 1, 0, 0, 0, 0]
    wanted = [oracles.brute_force(table, [(5, 9, 2)])[0] for table in tables(1)]
    np.testing.assert_allclose(np.asarray(scores)[:, 0], wanted, atol=3e-5)
    assert max(wanted) < -1


def test_what_cannot_be_decoded_is_an_error_that_says_what_to_set():
    with pytest.raises(
        UserError, match=r'longest item id has 6.*TASK_FEATURE_LENGTHS\["targets"\]'
    ):
        decoded(tables(0), 2, (), False, 5)
    with pytest.raises(UserError, match=r"has 11 rows .* have the token 11; set .*vocab_size"):
        decoded(tables(0, vocab=11), 2)
    with pytest.raises(UserError, match=r"end-of-sequence is 3, T5X's 1"):
        decoded(tables(0), 2, (("eos_id", 3),), False, LENGTH, ((5, 9, 2, 2),))
