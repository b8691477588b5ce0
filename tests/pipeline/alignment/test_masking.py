"""MIM and MLM: what is masked, how much, and that nothing is lost."""

import re

import numpy as np
import pytest
from scipy import stats

from genrec_jax.errors import UserError
from genrec_jax.indexing import vocabulary
from genrec_jax.pipeline import span_corruption
from genrec_jax.pipeline.span_corruption import CorruptionConfig
from tests.pipeline import alignment_data
from tests.pipeline.alignment_data import LEAD, ByHand

LEVEL = 1e-4


@pytest.fixture(scope="module")
def tasks(shop, words):
    tables = alignment_data.make_tables(shop, words)
    return alignment_data.make_tasks(tables, shop, ("mim", "mlm"), shuffle=False)


def masked_places(shop, words, task, epoch):
    """For each example its window and which places are masked, read from the texts themselves."""
    by_hand = ByHand(shop)
    block = task.assemble(epoch, np.arange(task.num_examples))
    for e in range(task.num_examples):
        window = shop.items_X[task.begin_N[e] : task.end_N[e]]
        text = words.decode(block.inputs.row(e))
        ending = " What are the masked items, in chronological order?"
        shown = text.removeprefix(LEAD).removesuffix(ending)
        pieces = re.split(r"(?<=;) (?=Item ID: I|\[masked)", shown)
        assert len(pieces) == len(window)
        hidden = [place for place, piece in enumerate(pieces) if piece == "[masked item];"]
        wanted = [
            "[masked item];" if place in hidden else f"{by_hand.item(item)};"
            for place, item in enumerate(window)
        ]
        whole = f"{LEAD}{' '.join(wanted)}{ending}"
        assert block.inputs.row(e).tolist() == [*words.encode(whole), 1]
        answer = by_hand.listed(window[hidden])
        assert block.targets.row(e).tolist() == [*words.encode(answer), 1]
        yield window, hidden


def test_mim_masks_a_fifth_at_least_one_and_never_all(shop, words, tasks):
    task = tasks["mim"]
    counted = {}
    last_masked = 0
    for window, hidden in masked_places(shop, words, task, epoch=3):
        assert 1 <= len(hidden) < len(window)
        assert len(hidden) == max(1, round(len(window) * 0.2))
        counted.setdefault(len(window), []).append(hidden)
        last_masked += hidden[-1] == len(window) - 1
    assert last_masked  # the last training item may be masked
    windows, masked = zip(
        *[(size, len(h)) for size, hidden in counted.items() for h in hidden], strict=True
    )
    assert sum(masked) / sum(windows) == pytest.approx(0.2, abs=0.01)
    assert set(counted) >= {3, 20}


def test_mim_masks_every_place_alike_and_anew_in_each_epoch(tasks):
    """Which of 20 places, over epochs: chi-square against even."""
    task = tasks["mim"]
    full = np.flatnonzero(task.end_N - task.begin_N == 20)[:150]
    places = np.zeros(20)
    seen = []
    for epoch in range(30):
        plan = task.plan(epoch, full)
        mask_length = task.prompts.tables.vocabulary.encode("[masked item];")
        lengths = plan.inputs.lengths_EJ[:, 1:21]
        starts = plan.inputs.starts_EJ[:, 1:21]
        # A masked place is a slice of the one run that holds the mask.
        common = np.bincount(starts.ravel()).argmax()
        hidden = starts == common
        assert (lengths[hidden] == len(mask_length)).all()
        assert (hidden[:, :-1].sum(axis=1) >= 3).all()
        places += hidden.sum(axis=0)
        seen.append(hidden)
    assert places[:19].sum() > 15_000
    # The last place's mask is another run (of a list's last item), so it is counted by what is missing.
    places[19] = 4 * 30 * len(full) - places[:19].sum()
    assert stats.chisquare(places).pvalue > LEVEL
    assert not np.array_equal(seen[0], seen[1])


def test_windows_of_mlm(shop, tasks):
    """2 to w items, each length alike likely, each start too; never a held-out item."""
    task = tasks["mlm"]
    user = int(shop.lengths_U.argmax())
    mine = np.flatnonzero(shop.users_X[task.begin_N] == user)
    trained = int(shop.lengths_U[user]) - 2
    lengths, starts = [], []
    for epoch in range(400):
        begin, end = task.window(np.full(len(mine), epoch), mine)
        assert (begin >= shop.offsets_U1[user]).all()
        assert (end <= shop.offsets_U1[user] + trained).all()
        lengths += (end - begin).tolist()
        starts += (begin - shop.offsets_U1[user])[end - begin == 5].tolist()
    counts = np.bincount(lengths, minlength=21)
    assert not counts[:2].any()
    assert len(counts) == 21
    assert stats.chisquare(counts[2:]).pvalue > LEVEL
    assert stats.chisquare(np.bincount(starts, minlength=trained - 4)).pvalue > LEVEL


def test_mlm_gives_back_the_text(shop, words, tasks):
    """Put into the input where the sentinels stand, the target's spans make the text again."""
    task = tasks["mlm"]
    by_hand = ByHand(shop)
    numbers = np.arange(task.num_examples)
    block = task.assemble(2, numbers)
    begin, end = task.window(np.full(len(numbers), 2), numbers)
    sentinels = {words.id_of(f"<extra_id_{n}>"): n for n in range(100)}
    masked_tokens = tokens = spans = 0
    for e in numbers.tolist():
        text = words.encode(by_hand.listed(shop.items_X[begin[e] : end[e]]))
        found: dict[int, list[int]] = {}
        *target, eos = block.targets.row(e).tolist()
        assert eos == 1
        for token in target:
            if token in sentinels:
                assert sentinels[token] == len(found)  # <extra_id_0>, <extra_id_1>, ... in order
                found[token] = []
            else:
                found[list(found)[-1]].append(token)
        *asked, eos = block.inputs.row(e).tolist()
        assert eos == 1
        assert [token for token in asked if token in sentinels] == list(found)
        assert asked[0] not in sentinels  # as T5: the text begins with kept tokens
        assert asked[-1] in sentinels  # and ends with a masked span
        back = [t for token in asked for t in found.get(token, [token])]
        assert back == text
        assert all(found.values())
        count = sum(map(len, found.values()))
        assert count == max(1, round(0.2 * len(text)))
        assert len(found) == max(1, round(count / 3))
        masked_tokens, tokens = masked_tokens + count, tokens + len(text)
        spans += len(found)
    assert masked_tokens / tokens == pytest.approx(0.2, abs=0.005)
    assert masked_tokens / spans == pytest.approx(3, abs=0.1)


def test_divisions_are_all_alike_likely():
    """9 tokens, 3 spans of 5 masked: the 6 divisions of 5 and the 3 of 4 into 3, chi-square."""
    rows = 18_000
    config = CorruptionConfig(density=5 / 9, mean_span_length=5 / 3)
    inputs, targets = span_corruption.corrupt(
        np.zeros(rows, np.int64), np.full(rows, 9), np.arange(100, 103), config, 1, np.arange(rows)
    )
    kept, masked = inputs.lengths_EJ[:, ::2], targets.lengths_EJ[:, 1::2]
    for lengths, total, ways in ((kept, 4, 3), (masked, 5, 6)):
        assert (lengths.sum(axis=1) == total).all()
        _, counts = np.unique(lengths, axis=0, return_counts=True)
        assert len(counts) == ways
        assert stats.chisquare(counts).pvalue > LEVEL


def test_worked_example():
    """The docstring's layout, by positions in the pool."""
    inputs, targets = span_corruption.corrupt(
        np.array([40]), np.array([10]), np.array([7, 8, 9]), CorruptionConfig(0.3, 1.5), 4
    )
    kept, masked = inputs.lengths_EJ[0, ::2], targets.lengths_EJ[0, 1::2]
    assert (kept.sum(), masked.sum(), len(kept)) == (7, 3, 2)
    assert inputs.starts_EJ[0].tolist() == [40, 7, 40 + kept[0] + masked[0], 8]
    assert targets.starts_EJ[0].tolist() == [7, 40 + kept[0], 8, 50 - masked[1]]


@pytest.mark.parametrize("length", [2, 3, 4, 7, 2000])
def test_short_and_long_texts(length):
    inputs, targets = span_corruption.corrupt(
        np.array([0]), np.array([length]), np.arange(100), CorruptionConfig(), 4
    )
    kept, masked = inputs.lengths_EJ[:, ::2].sum(), targets.lengths_EJ[:, 1::2].sum()
    assert kept + masked == length
    assert kept >= 1
    assert masked >= 1
    assert inputs.lengths_EJ[:, 1::2].sum() <= 100  # no more spans than sentinels


def test_a_vocabulary_without_sentinels_is_refused(shop, shared):
    bare = vocabulary.Vocabulary(shared / "data" / "t5_vocabulary" / "spiece.model")
    tables = alignment_data.make_tables(shop, bare)
    with pytest.raises(UserError, match="has no <extra_id_0>"):
        alignment_data.make_tasks(tables, shop, ("mlm",))
