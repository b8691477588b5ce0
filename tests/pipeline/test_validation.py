"""Validation batches: every held-out target once, with the history before it."""

import jax
import numpy as np
import pytest

from genrec_jax.data import splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline.validation import ValidationBatches
from genrec_jax.prompts import templates
from tests.prompts import rendered


def _texts(batches, vocabulary):
    pairs = []
    for batch in batches:
        for inputs, targets, weights in zip(
            batch.encoder_input_tokens_BL,
            batch.decoder_target_tokens_BT,
            batch.decoder_loss_weights_BT,
            strict=True,
        ):
            assert weights.tolist() == (targets > 0).tolist()
            if inputs.any():
                pairs.append((inputs[inputs > 0].tolist(), targets[targets > 0].tolist()))
    return pairs


def test_every_users_held_out_item_in_a1_and_b1(
    make_mixture, shop, texts_of, small_vocabulary, openp5_templates
):
    mixture = make_mixture("openp5", shop, templates_per_example=3)
    batches = ValidationBatches(mixture, [splits.leave_one_out(shop)], 16)
    texts = texts_of(shop)
    wanted = []
    for name in ("A1", "B1"):
        for user in range(shop.num_users):
            items = [texts[item] for item in shop.sequence(user)]
            text, target = rendered.render(
                templates.find(openp5_templates, name),
                dataset="Shop",
                user_id=str(user + 1),
                history=items[:-2][-20:],
                target=items[-2],
            )
            wanted.append([[*small_vocabulary.encode(t), 1] for t in (text, target)])
    assert [list(pair) for pair in _texts(batches, small_vocabulary)] == wanted
    assert batches.num_examples == 2 * shop.num_users
    assert batches.num_batches == 8


def test_hosts(make_mixture, shop, market):
    mixture = make_mixture("openp5", shop, market)
    both = [splits.leave_one_out(dataset) for dataset in (shop, market)]
    alone = ValidationBatches(mixture, both, 16)
    hosts = [ValidationBatches(mixture, both, 16, host=h, num_hosts=4) for h in range(4)]
    for index in range(alone.num_batches):
        parts = [host.batch(index) for host in hosts]
        together = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        assert jax.tree.all(jax.tree.map(np.array_equal, together, alone.batch(index)))
    with pytest.raises(IndexError):
        alone.batch(alone.num_batches)


def test_a_sample(make_mixture, shop, small_vocabulary):
    mixture = make_mixture("openp5_sequential", shop)
    parts = [splits.leave_one_out(shop)]
    some = _texts(ValidationBatches(mixture, parts, 16, max_examples=10), small_vocabulary)
    everybody = _texts(ValidationBatches(mixture, parts, 16), small_vocabulary)
    assert len(some) == 10 < len(everybody)
    assert all(pair in everybody for pair in some)


def test_no_targets(make_mixture, shop):
    mixture = make_mixture("openp5", shop)
    none = np.full(shop.num_users, -1)
    empty = splits.Splits("temporal", shop.offsets_U1[1:], none, none)
    with pytest.raises(UserError, match="no user has a held-out target"):
        ValidationBatches(mixture, [empty], 16)
