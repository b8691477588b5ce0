"""Batches: every example's tokens exactly, the same rows however they are read, few shapes."""

import jax
import numpy as np
import pytest

from genrec_jax.errors import UserError
from genrec_jax.pipeline.batches import TrainBatches

FIELDS = (
    "encoder_input_tokens_BL",
    "decoder_target_tokens_BT",
    "decoder_input_tokens_BT",
    "decoder_loss_weights_BT",
    "encoder_segment_ids_BL",
    "decoder_segment_ids_BT",
    "encoder_positions_BL",
    "decoder_positions_BT",
    "encoder_whole_word_ids_BL",
)


@pytest.fixture(scope="module")
def mixture(make_mixture, shop, market):
    return make_mixture("openp5", shop, market, templates_per_example=3, seed=4)


def _same(a, b):
    for field in FIELDS:
        assert np.array_equal(getattr(a, field), getattr(b, field)), field


def _examples_of(batch):
    """Each example of a batch, cut out by its segment: (input, words, target) as tuples."""
    examples = []
    for row in range(len(batch.encoder_input_tokens_BL)):
        segments = batch.encoder_segment_ids_BL[row]
        for segment in range(1, segments.max(initial=0) + 1):
            at, to = segments == segment, batch.decoder_segment_ids_BT[row] == segment
            target = batch.decoder_target_tokens_BT[row][to]
            shifted = batch.decoder_input_tokens_BT[row][to]
            assert shifted.tolist() == [0, *target[:-1]]
            assert (batch.decoder_loss_weights_BT[row][to] == 1).all()
            assert batch.encoder_positions_BL[row][at].tolist() == list(range(at.sum()))
            assert batch.decoder_positions_BT[row][to].tolist() == list(range(to.sum()))
            assert np.diff(np.flatnonzero(at)).max(initial=1) == 1
            examples.append(
                (
                    tuple(batch.encoder_input_tokens_BL[row][at]),
                    tuple(batch.encoder_whole_word_ids_BL[row][at]),
                    tuple(target),
                )
            )
    real, scored = batch.encoder_segment_ids_BL > 0, batch.decoder_segment_ids_BT > 0
    for field in FIELDS:
        values, cells = getattr(batch, field), real if field.endswith("BL") else scored
        assert not values[~cells].any(), field
    return examples


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_is_its_examples_token_for_token(mixture, packing):
    batches = TrainBatches(mixture, 24, packing=packing, row_length=256)
    for step in (0, 1, 2, 3, 40, 41):
        source, epochs, numbers = mixture.at(step, 24)
        block = source.assemble(epochs, numbers)
        wanted = [
            (
                tuple(block.inputs.row(e)),
                tuple(block.whole_words.row(e)),
                tuple(block.targets.row(e)),
            )
            for e in range(24)
        ]
        batch = batches.batch(step)
        assert sorted(_examples_of(batch)) == sorted(wanted)
        if not packing:
            assert _examples_of(batch) == wanted
        shape = batches.shape(step)
        assert batch.encoder_input_tokens_BL.shape == (shape.rows, shape.input_length)
        assert batch.decoder_target_tokens_BT.shape == (shape.rows, shape.target_length)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_together_read_what_one_reads(mixture, packing, num_hosts):
    options = {"packing": packing, "row_length": 256, "rows_multiple": 4}
    alone = TrainBatches(mixture, 24, **options)
    hosts = [
        TrainBatches(mixture, 24, host=host, num_hosts=num_hosts, **options)
        for host in range(num_hosts)
    ]
    assert {host.shapes for host in hosts} == {alone.shapes}
    for step in range(6):
        parts = [host.batch(step) for host in hosts]
        together = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        _same(together, alone.batch(step))


@pytest.mark.parametrize("packing", [False, True])
def test_any_step_at_any_time(mixture, packing):
    first = TrainBatches(mixture, 16, packing=packing)
    in_order = [first.batch(step) for step in range(12)]
    resumed = TrainBatches(mixture, 16, packing=packing)
    for step in (11, 3, 7, 7, 0):
        _same(resumed.batch(step), in_order[step])


@pytest.mark.parametrize(
    ("packing", "max_shapes", "most"),
    [(False, 1, 1), (False, 3, 3), (True, 1, 2), (True, 2, 2), (True, 3, 3)],
)
def test_shapes_are_few_and_known_beforehand(mixture, packing, max_shapes, most):
    """Packed rows have one shape that fits nearly always, and one for the worst case."""
    batches = TrainBatches(mixture, 16, packing=packing, rows_multiple=4, max_shapes=max_shapes)
    seen = {batches.shape(step) for step in range(400)}
    assert seen <= set(batches.shapes)
    assert len(batches.shapes) <= most * len(mixture.sources)
    assert max(shape.rows for shape in batches.shapes) == 16
    assert all(shape.rows % 4 == 0 for shape in batches.shapes)


def _padding_share(batch) -> float:
    tokens = (batch.encoder_input_tokens_BL, batch.decoder_target_tokens_BT)
    return 1 - sum(map(np.count_nonzero, tokens)) / sum(array.size for array in tokens)


def test_packing_wastes_less(make_mixture, shop):
    mixture = make_mixture("openp5", shop)
    both = [TrainBatches(mixture, 64, packing=packing) for packing in (False, True)]
    shares = [
        np.mean([_padding_share(batches.batch(step)) for step in range(12)]) for batches in both
    ]
    assert shares[1] < 0.25 < shares[0]


def test_packing_changes_nothing_but_the_places(mixture):
    packed, plain = TrainBatches(mixture, 24, packing=True), TrainBatches(mixture, 24)
    for step in range(4):
        assert sorted(_examples_of(packed.batch(step))) == sorted(_examples_of(plain.batch(step)))


@pytest.mark.parametrize("batch_size", [12, 32])
def test_examples_lie_in_the_same_rows_on_every_mesh(mixture, batch_size):
    """A larger mesh adds empty rows at the end alone, so that a run may go on with another one."""
    alone = TrainBatches(mixture, batch_size, packing=True, row_length=512)
    for multiple in (2, 4, 8):
        spread = TrainBatches(
            mixture, batch_size, packing=True, row_length=512, rows_multiple=multiple
        )
        for step in range(5):
            few, many = alone.batch(step), spread.batch(step)
            rows = min(len(few.encoder_input_tokens_BL), len(many.encoder_input_tokens_BL))
            for field in FIELDS:
                one, other = getattr(few, field), getattr(many, field)
                assert np.array_equal(one[:rows], other[:rows]), field
                assert not one[rows:].any() and not other[rows:].any(), field


def test_the_worst_case_fits(make_mixture, make_dataset):
    """Steps unlike all the sampled ones: a dataset of which one late user has long histories."""
    sequences = [[0, 1, 2, 3]] * 400 + [list(range(40)) * 2]
    lopsided = make_dataset("Shop", sequences)
    mixture = make_mixture("openp5_sequential", lopsided, shuffle=False, templates_per_example=1)
    batches = TrainBatches(mixture, 4, packing=True, row_length=128)
    for step in range(batches.steps_per_epoch):
        assert batches.shape(step) in batches.shapes
    assert len(_examples_of(batches.batch(batches.steps_per_epoch - 2))) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "wanted a batch of at least 1"),
        ({"batch_size": 10, "rows_multiple": 4}, "must be a multiple of 4"),
        ({"batch_size": 8, "max_target_length": 2}, "never cut"),
        ({"batch_size": 8, "packing": True, "row_length": 16}, "Raise row_length"),
        ({"batch_size": 8, "host": 2, "num_hosts": 2}, "a host below"),
    ],
)
def test_mistakes(mixture, options, message):
    with pytest.raises(UserError, match=message):
        TrainBatches(mixture, **options)
