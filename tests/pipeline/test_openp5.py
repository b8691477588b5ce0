"""OpenP5's examples: how many, which, in which templates, and that numbers alone decide them."""

import collections

import numpy as np
import pytest

from genrec_jax.data import splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import openp5
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.prompts import rendering
from tests.prompts import rendered


@pytest.fixture(scope="module")
def make_task(shop, texts_of, small_vocabulary, openp5_templates):
    tables = PromptTables(small_vocabulary, "Shop", texts_of(shop), openp5_templates)
    bound = openp5.bind_dataset(tables, shop)
    positions = openp5.training_positions(shop, splits.leave_one_out(shop))

    def make(task="sequential", ids=None, **options):
        letter = "A" if task == "sequential" else "B"
        ids = ids or [f"{letter}{n}" for n in range(1, 11)]
        return openp5.OpenP5Task(bound, shop, positions, task, ids, **options)

    return make


def _seen_by_hand(dataset):
    """(user, target, history) of each training example, as the protocol says it."""
    for user in range(dataset.num_users):
        sequence = dataset.sequence(user).tolist()
        for p in range(1, len(sequence) - 2):
            yield user, sequence[p], sequence[:p][-20:]


def test_counts_on_real_data(beauty, texts_of, t5, openp5_templates):
    """Beauty: 198,502 interactions less three a user (two held out, one that starts the history)."""
    positions = openp5.training_positions(beauty, splits.leave_one_out(beauty))
    assert len(positions) == 198_502 - 3 * 22_363
    bound = openp5.bind_dataset(
        PromptTables(t5, "Beauty", texts_of(beauty), openp5_templates), beauty
    )
    ids = [f"A{n}" for n in range(1, 11)]
    for draws, count in ((3, 3), (None, 10)):
        task = openp5.OpenP5Task(
            bound, beauty, positions, "sequential", ids, templates_per_example=draws
        )
        assert task.num_examples == 131_413 * count


@pytest.mark.parametrize("task_name", ["sequential", "straightforward"])
def test_an_epoch_is_every_example_in_each_draw(
    shop, texts_of, small_vocabulary, make_task, task_name
):
    task = make_task(task_name, templates_per_example=3, seed=5)
    block = task.assemble(2, np.arange(task.num_examples))
    texts = texts_of(shop)
    decoded = [small_vocabulary.decode(row) for row in block.inputs.to_lists()]
    found = collections.Counter()
    for e in range(task.num_examples):
        shown = tuple(word for word in decoded[e].split() if word.startswith("item_"))
        found[int(block.users_E[e]), int(block.items_E[e]), shown] += 1
        assert small_vocabulary.decode(block.targets.row(e).tolist()) == (
            f"Shop {texts[block.items_E[e]]}"
        )
    wanted = collections.Counter()
    for user, target, history in _seen_by_hand(shop):
        shown = tuple(texts[item] for item in history) if task_name == "sequential" else ()
        wanted[user, target, shown] += 3
    assert found == wanted


def test_templates_are_drawn_without_replacement_and_evenly(make_task):
    task = make_task(templates_per_example=3, shuffle=False)
    drawn = []
    for epoch in range(6):
        templates = task.plan(epoch, np.arange(task.num_examples)).templates_E.reshape(-1, 3)
        assert (np.diff(np.sort(templates, axis=1), axis=1) > 0).all()
        drawn.append(templates)
    counts = np.bincount(np.concatenate(drawn).ravel(), minlength=22)
    assert not counts[10:].any()  # neither A11 nor any B
    share = counts[:10] / counts.sum()
    assert np.abs(share - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / counts.sum())
    assert not np.array_equal(drawn[0], drawn[1])


def test_all_templates(make_task):
    task = make_task(shuffle=False)
    templates = task.plan(0, np.arange(task.num_examples)).templates_E.reshape(-1, 10)
    assert np.array_equal(np.sort(templates, axis=1), np.tile(np.arange(10), (len(templates), 1)))


def test_unshuffled_is_in_the_order_of_the_dataset(shop, make_task):
    task = make_task(templates_per_example=1, shuffle=False)
    plan = task.plan(0, np.arange(task.num_examples))
    by_hand = [(user, target) for user, target, _ in _seen_by_hand(shop)]
    assert list(zip(plan.users_E.tolist(), plan.items_E.tolist(), strict=True)) == by_hand


def test_a_number_decides_an_example_whatever_the_block(make_task):
    task = make_task("straightforward", templates_per_example=2, seed=3)
    numbers = np.array([17, 4, 4, 300])
    epochs = np.array([1, 0, 1, 1])
    together = task.assemble(epochs, numbers)
    for e in range(4):
        alone = task.assemble(int(epochs[e]), numbers[e : e + 1])
        assert alone.inputs.row(0).tolist() == together.inputs.row(e).tolist()
        assert alone.targets.row(0).tolist() == together.targets.row(e).tolist()
    lengths, target_lengths = task.lengths(epochs, numbers)
    assert lengths.tolist() == together.inputs.lengths_E.tolist()
    assert target_lengths.tolist() == together.targets.lengths_E.tolist()


def test_epochs_tasks_and_seeds_differ_in_order(make_task):
    numbers = np.arange(200)
    orders = [
        task.plan(epoch, numbers).items_E.tolist()
        for task, epoch in (
            (make_task(seed=0), 0),
            (make_task(seed=0), 1),
            (make_task(seed=1), 0),
            (make_task("straightforward", seed=0), 0),
        )
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_tokens_are_those_of_the_rendered_text(shop, texts_of, small_vocabulary, make_task):
    texts, by_hand = texts_of(shop), list(_seen_by_hand(shop))
    task = make_task(templates_per_example=3, shuffle=False)
    for number in (0, 50, 99):
        user, item, history = by_hand[number // 3]
        template = task.plan(1, np.array([number])).templates_E[0]
        text, target = rendered.render(
            task.prompts.tables.templates[int(template)],
            dataset="Shop",
            user_id=rendering.user_id_text(user),
            history=[texts[taken] for taken in history],
            target=texts[item],
        )
        block = task.assemble(1, np.array([number]))
        assert block.inputs.row(0).tolist() == [*small_vocabulary.encode(text), 1]
        assert block.targets.row(0).tolist() == [*small_vocabulary.encode(target), 1]


def test_the_bounds_hold(make_task):
    for task in (make_task(), make_task("straightforward"), make_task(max_input_length=80)):
        lengths, target_lengths = task.lengths(0, np.arange(task.num_examples))
        assert lengths.max() <= task.max_input_length
        assert target_lengths.max() == task.max_target_length


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates_per_example": 11}, "wanted 1 to 10"),
        ({"ids": ["A1", "B1"]}, "B1 is not a sequential template"),
        ({"ids": ["A1", "C1"]}, "no template 'C1'"),
        ({"history": 0}, "wanted at least 1"),
        ({"max_input_length": 0, "cut": "tokens"}, "wanted at least 1"),
        ({"max_input_length": 20}, "Raise max_input_length"),
    ],
)
def test_mistakes(make_task, options, message):
    with pytest.raises(UserError, match=message):
        make_task(**options)


def test_no_examples(make_dataset, small_vocabulary, texts_of, openp5_templates):
    tiny = make_dataset("Tiny", [[0, 1, 2], [2, 1, 0]])
    bound = openp5.bind_dataset(
        PromptTables(small_vocabulary, "Tiny", texts_of(tiny), openp5_templates), tiny
    )
    positions = openp5.training_positions(tiny, splits.leave_one_out(tiny))
    with pytest.raises(UserError, match="has no example"):
        openp5.OpenP5Task(bound, tiny, positions, "sequential", ["A1"])
