"""Random and sequential ids: hand examples and OpenP5's public files."""

import numpy as np

from genrec_jax.data import splits
from genrec_jax.indexing import numbered_ids

# Training parts: `d a`, `a c`; held out: `x b` and `b x`.
SEQUENCES = [["d", "a", "x", "b"], ["a", "c", "b", "x"]]


def _sources(data, order_I):
    return [data.item_source_ids[item] for item in order_I]


def _by_source(data, texts):
    return dict(zip(data.item_source_ids, texts, strict=True))


def _golden(path):
    with path.open(encoding="utf-8") as file:
        rows = [line.split() for line in file]
    return {source: f"item_{number}" for source, number in rows}


def test_sequential_walks_training_items_then_the_others(make_dataset):
    data = make_dataset(SEQUENCES)
    order_I = numbered_ids.sequential_order(data, splits.leave_one_out(data))
    assert _sources(data, order_I[:3]) == ["d", "a", "c"]
    assert sorted(_sources(data, order_I[3:])) == ["b", "x"]


def test_cold_items_stand_in_no_order_of_the_catalogue(make_dataset):
    cold = [f"c{number:03d}" for number in range(400)]
    data = make_dataset([["a", "b", *cold[place : place + 2]] for place in range(0, 400, 2)])
    order_I = numbered_ids.sequential_order(data, splits.leave_one_out(data))
    assert _sources(data, order_I[:2]) == ["a", "b"]
    # Of a random order neither ranks nor neighbours correlate; 4 standard deviations are .2.
    assert abs(np.corrcoef(order_I[2:], np.arange(400))[0, 1]) < 0.2
    assert abs(np.corrcoef(order_I[3:], order_I[2:-1])[0, 1]) < 0.2


def test_sequential_parity_takes_cold_items_as_they_are_held_out(make_dataset):
    data = make_dataset(SEQUENCES)
    order_I = numbered_ids.sequential_order(
        data, splits.leave_one_out(data), cold_items="held-out-order"
    )
    assert _sources(data, order_I) == ["d", "a", "c", "x", "b"]


def test_sequential_does_not_depend_on_held_out_interactions(make_dataset):
    data = make_dataset(SEQUENCES)
    swapped = make_dataset([["d", "a", "b", "x"], ["a", "c", "x", "b"]], name="Swapped")
    orders = [
        numbered_ids.sequential_order(one, splits.leave_one_out(one)).tolist()
        for one in (data, swapped)
    ]
    assert orders[0] == orders[1]


def test_sequential_equals_the_public_file(beauty, shared):
    golden = _golden(shared / "data/openp5_beauty_golden/item_sequential_indexing_original.txt")
    part = splits.leave_one_out(beauty)
    ours = _by_source(beauty, numbered_ids.numbered(numbered_ids.sequential_order(beauty, part)))
    warm_I = splits.training_counts_I(beauty, part) > 0
    warm = [source for source, seen in zip(ours, warm_I, strict=True) if seen]
    assert len(warm) == 12_068
    assert {source: ours[source] for source in warm} == {source: golden[source] for source in warm}
    cold = [source for source, seen in zip(ours, warm_I, strict=True) if not seen]
    assert {ours[source] for source in cold} == {
        f"item_{number}" for number in range(1001 + 12_068, 1001 + 12_101)
    }


def test_sequential_parity_equals_the_whole_public_file(beauty, shared):
    golden = _golden(shared / "data/openp5_beauty_golden/item_sequential_indexing_original.txt")
    order_I = numbered_ids.sequential_order(
        beauty, splits.leave_one_out(beauty), cold_items="held-out-order"
    )
    assert len(golden) == 12_101
    assert _by_source(beauty, numbered_ids.numbered(order_I)) == golden


def test_random_is_a_seeded_permutation():
    order_I = numbered_ids.random_order(1000, seed=0)
    assert sorted(order_I.tolist()) == list(range(1000))
    assert numbered_ids.random_order(1000, seed=0).tolist() == order_I.tolist()
    other_I = numbered_ids.random_order(1000, seed=1)
    assert np.mean(other_I == order_I) < 0.02
    # Far from the catalogue's order: rank correlation of a random permutation is near 0.
    assert abs(np.corrcoef(order_I, np.arange(1000))[0, 1]) < 0.15


def test_random_order_is_pinned():
    assert numbered_ids.random_order(8, seed=3).tolist() == [7, 1, 5, 4, 6, 0, 2, 3]


def test_numbers_begin_at_1001():
    assert numbered_ids.numbered(np.array([2, 0, 1])) == ("item_1002", "item_1003", "item_1001")
