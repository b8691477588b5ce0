"""Tasks mixed within a batch: rates, epochs, and that numbers alone decide."""

import collections

import numpy as np
import pytest

from genrec_jax.data import splits as splits_lib
from genrec_jax.errors import UserError
from genrec_jax.pipeline.batches import TrainBatches
from genrec_jax.pipeline.blend import Blend
from genrec_jax.pipeline.mixtures import Mixture
from genrec_jax.pipeline.validation import ValidationBatches
from tests.pipeline import alignment_data


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return alignment_data.write_shop(tmp_path_factory.mktemp("blend") / "shop", users=40)


@pytest.fixture(scope="module")
def tasks(shop, shared):
    tables = alignment_data.make_tables(shop, alignment_data.t5_with_sentinels(shared))
    return alignment_data.make_tasks(tables, shop, num_candidates=20)


RATES = {"retrieval": 3, "mim": 1, "ie": 2}


@pytest.fixture(scope="module")
def blend(tasks):
    return Blend("mine", [tasks[name] for name in RATES], RATES)


def test_rates_hold_in_every_round_and_are_spread(blend):
    sources, _, _ = blend.locate(0, np.arange(60))
    for first in range(0, 60, 6):
        assert np.bincount(sources[first : first + 6]).tolist() == [3, 1, 2]
    assert (np.diff(np.flatnonzero(sources == 0)) <= 3).all()  # not three in a row and then none


def test_every_example_of_every_task_comes_once_an_epoch(blend):
    """Over several epochs of the blend, each task's running order has no gap and no repetition."""
    found = collections.defaultdict(list)
    for epoch in range(3):
        located = blend.locate(epoch, np.arange(blend.num_examples))
        for source, own_epoch, number in zip(*[a.tolist() for a in located], strict=True):
            found[source].append((own_epoch, number))
    for source, pairs in found.items():
        size = blend.sources[source].num_examples
        assert pairs == [divmod(running, size) for running in range(len(pairs))]
    slowest = max(
        -(-source.num_examples // rate)
        for source, rate in zip(blend.sources, (3, 1, 2), strict=True)
    )
    assert blend.num_examples == 6 * slowest


def test_a_mixture_tells_each_tasks_share_of_examples_and_of_target_tokens(blend):
    shares = Mixture("mine", (blend,)).task_shares(sample=60)
    targets = blend.assemble(0, np.arange(60)).targets.lengths_E
    sources, _, _ = blend.locate(0, np.arange(60))
    assert list(shares) == ["retrieval", "mim", "ie"]
    for place, (examples, tokens) in enumerate(shares.values()):
        assert examples == RATES[blend.sources[place].task] / 6
        assert tokens == targets[sources == place].sum() / targets.sum()


def test_a_blended_example_is_the_tasks_own(blend):
    numbers = np.array([0, 5, 17, 200, 3])
    block = blend.assemble(1, numbers)
    for e, located in enumerate(zip(*blend.locate(1, numbers), strict=True)):
        source, epoch, number = map(int, located)
        alone = blend.sources[source].assemble(epoch, np.array([number]))
        assert block.inputs.row(e).tolist() == alone.inputs.row(0).tolist()
        assert block.targets.row(e).tolist() == alone.targets.row(0).tolist()
        assert block.users_E[e] == alone.users_E[0]
        assert block.items_E[e] == alone.items_E[0]


@pytest.mark.parametrize("packing", [False, True])
def test_batches_hold_the_blend(blend, packing):
    """Any step on any number of hosts: the same rows, with every task's share in each."""
    mixture = Mixture("mine", (blend,))
    whole = TrainBatches(mixture, 24, packing=packing, row_length=1024)
    step = 7
    batch = whole.batch(step)
    _, epochs, numbers = mixture.at(step, 24)
    block = blend.assemble(epochs, numbers)
    assert (batch.encoder_segment_ids_BL > 0).sum() == len(block.inputs.values_P)
    assert batch.decoder_loss_weights_BT.sum() == len(block.targets.values_P)
    if not packing:
        parts = [
            TrainBatches(mixture, 24, host=host, num_hosts=2).batch(step).encoder_input_tokens_BL
            for host in range(2)
        ]
        assert np.array_equal(np.concatenate(parts), batch.encoder_input_tokens_BL)


def test_validation_reads_the_tasks_that_are_evaluated(shop, tasks):
    names = ("retrieval", "mlm", "rating", "mim", "ranking")
    blend = Blend("ut_at", [tasks[name] for name in names], dict.fromkeys(names, 1))
    held = ValidationBatches(
        Mixture("ut_at", (blend,)), [splits_lib.leave_one_out(shop)], 16, max_examples=30
    )
    assert [source.task for source in held.sources] == ["retrieval", "rating", "ranking"]
    assert held.num_examples == 90
    rows = sum(int((batch.decoder_loss_weights_BT.sum(axis=1) > 0).sum()) for batch in held)
    assert rows == 90


@pytest.mark.parametrize(
    "rates", [{"retrieval": 1}, {"retrieval": 1, "mim": 0}, {"retrieval": 1, "mim": 0.5}]
)
def test_mistaken_rates(tasks, rates):
    with pytest.raises(UserError, match="wanted a whole number of at least 1 for each of"):
        Blend("mine", [tasks["retrieval"], tasks["mim"]], rates)
