"""Turns, counts and repetition of mixtures, told from what the batches' numbers decode to."""

import collections

import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.pipeline import mixtures
from genrec_jax.prompts import templates as templates_lib

BATCH = 16


def _consumed(mixture, steps, batch_size=BATCH):
    """(source name, epoch, number) of every example of the first steps, in order."""
    consumed = []
    for step in range(steps):
        source, epochs, numbers = mixture.at(step, batch_size)
        consumed += [
            (source.name, *pair) for pair in zip(epochs.tolist(), numbers.tolist(), strict=True)
        ]
    return consumed


def test_names_and_tasks(make_mixture, shop):
    for name, tasks in (
        ("openp5_sequential", ["Shop/sequential"]),
        ("openp5_straightforward", ["Shop/straightforward"]),
        ("openp5", ["Shop/sequential", "Shop/straightforward"]),
    ):
        assert [source.name for source in make_mixture(name, shop).sources] == tasks


def test_batches_alternate(make_mixture, shop, market):
    mixture = make_mixture("openp5", shop, market)
    names = [mixture.at(step, BATCH)[0].name for step in range(8)]
    turns = [
        "Shop/sequential",
        "Shop/straightforward",
        "Market/sequential",
        "Market/straightforward",
    ]
    assert names == turns * 2


def test_every_number_of_an_epoch_comes_exactly_once(make_mixture, shop, market):
    mixture = make_mixture("openp5", shop, market, templates_per_example=1)
    counts = collections.Counter(_consumed(mixture, mixture.steps_per_epoch(BATCH)))
    assert set(counts.values()) == {1}
    for source in mixture.sources:
        for epoch in range(50):
            numbers = [number for name, e, number in counts if (name, e) == (source.name, epoch)]
            if epoch == 0:
                assert sorted(numbers) == list(range(source.num_examples))
    # The smaller sources have begun again, and the largest has been through once.
    epochs = {name: max(e for n, e, _ in counts if n == name) for name, _, _ in counts}
    assert epochs["Market/sequential"] >= 2
    largest = max(mixture.sources, key=lambda source: source.num_examples)
    assert (
        len([1 for name, e, _ in counts if name == largest.name and e == 0]) == largest.num_examples
    )
    assert mixture.steps_per_epoch(BATCH) == 4 * -(-largest.num_examples // BATCH)


def test_a_batch_runs_on_into_the_next_epoch(make_mixture, market):
    mixture = make_mixture("openp5_sequential", market, templates_per_example=1)
    size = mixture.sources[0].num_examples
    _, epochs, numbers = mixture.at(0, size + 5)
    assert epochs.tolist() == [0] * size + [1] * 5
    assert numbers.tolist() == [*range(size), *range(5)]
    assert mixture.at(1, size + 5)[2][0] == 5


def test_namespaces(make_mixture, shop, market, small_vocabulary):
    """User 1 and item_1001 of two datasets are told apart by the dataset's name."""
    mixture = make_mixture("openp5_sequential", shop, market, shuffle=False)
    for source, name in zip(mixture.sources, ("Shop", "Market"), strict=True):
        text = small_vocabulary.decode(source.assemble(0, np.array([0])).inputs.row(0).tolist())
        assert f"{name} user_1" in text
        assert f"{name} item" in text


def test_sp5_settings_reach_the_examples(make_mixture, shop, market):
    mixture = make_mixture("openp5", shop, market, history=10, templates_per_example=1)
    wide = make_mixture("openp5", shop, market, history=20, templates_per_example=1)
    assert mixture.sources[0].max_input_length < wide.sources[0].max_input_length
    assert [source.history for source in mixture.sources] == [10] * 4


def test_mistakes(make_mixture, shop, market, texts_of, small_vocabulary, openp5_templates):
    with pytest.raises(UserError, match="no mixture 'p5'; wanted one of openp5_sequential"):
        make_mixture("p5", shop)
    with pytest.raises(UserError, match="names that differ"):
        make_mixture("openp5", shop, shop)
    with pytest.raises(UserError, match="the ids are of another dataset"):
        mixtures.build_mixture(
            "openp5", [shop], [texts_of(market)], small_vocabulary, openp5_templates
        )
    only_a = templates_lib.select(openp5_templates, task="sequential")
    with pytest.raises(UserError, match="no straightforward template"):
        mixtures.build_mixture("openp5", [shop], [texts_of(shop)], small_vocabulary, only_a)
