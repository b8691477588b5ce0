"""The alignment tasks against examples written out by hand, and how many there are on real data."""

import collections
import re

import numpy as np
import pytest

from genrec_jax.data import splits as splits_lib
from genrec_jax.errors import UserError
from genrec_jax.pipeline import windows
from genrec_jax.prompts import templates
from tests.pipeline import alignment_data
from tests.pipeline.alignment_data import LEAD
from tests.pipeline.pipeline_data import read_sequences


@pytest.fixture(scope="module")
def tables(shop, words):
    return alignment_data.make_tables(shop, words)


@pytest.fixture(scope="module")
def tasks(tables, shop):
    """Every task, unshuffled."""
    return alignment_data.make_tasks(tables, shop, shuffle=False, num_candidates=30, seed=3)


def targets_by_protocol(dataset):
    """(user, place of the target) of each training example: max(1, L - 20) a user."""
    for user in range(dataset.num_users):
        trained = len(dataset.sequence(user)) - 2
        count = max(1, trained - 20)
        for place in range(trained - count, trained):
            yield user, place


@pytest.mark.parametrize(
    ("name", "examples", "mim_windows", "users"),
    [
        ("amazon_toys", 30_761, 31_506, 19_412),
        ("amazon_beauty", 36_582, 37_517, 22_363),
    ],
)
def test_counts_on_real_data(shared, make_dataset, name, examples, mim_windows, users):
    data = make_dataset(name, read_sequences(shared / "data" / name / "user_sequence.txt"))
    splits = splits_lib.leave_one_out(data)
    positions = windows.target_positions(data, splits, 20)
    begin, end = windows.item_windows(data, splits, 20)
    assert len(positions) == examples
    assert len(begin) == mim_windows
    assert (end <= splits.train_end_U[data.users_X[begin]]).all()
    assert (positions < splits.train_end_U[data.users_X[positions]]).all()
    assert set(data.users_X[positions].tolist()) == set(range(users))
    last = splits.train_end_U - 1
    assert set(last.tolist()) <= set(
        positions.tolist()
    )  # everybody's last training item is a target
    assert set((end - 1).tolist()) >= set(last.tolist())  # and MIM may mask it


@pytest.mark.parametrize(("name", "users"), [("amazon_toys", 19_412), ("amazon_beauty", 22_363)])
def test_validation_has_3000_seeded_users_and_test_all(shared, make_dataset, words, name, users):
    data = make_dataset(name, read_sequences(shared / "data" / name / "user_sequence.txt"))
    tables = alignment_data.make_tables(data, words)
    splits = splits_lib.leave_one_out(data)
    chosen = {}
    for seed in (0, 0, 1):
        task = alignment_data.make_tasks(tables, data, ("retrieval", "ranking"), seed=seed)
        for name in ("retrieval", "ranking"):
            (held,) = task[name].held_out(splits, "validation", max_examples=3000)
            assert held.num_examples == 3000
            asked = held.dataset.users_X[held.positions_N]
            assert (held.positions_N == splits.validation_U[asked]).all()
            chosen.setdefault(seed, []).append(tuple(asked.tolist()))
    assert len(set(chosen[0])) == 1  # the same users for every task, whenever asked
    assert chosen[1][0] != chosen[0][0]
    for name in ("retrieval", "ranking"):
        (every,) = task[name].held_out(splits, "test")
        assert every.num_examples == users
        assert (every.positions_N == splits.test_U).all()


def test_tasks_that_only_train_hold_nothing_out(shop, tasks):
    splits = splits_lib.leave_one_out(shop)
    for name, task in tasks.items():
        held = [one.task for one in task.held_out(splits, "validation", max_examples=3)]
        assert held == ([name] if name in templates.EVALUATED_TASKS else [])


def test_retrieval_is_the_protocols(shop, words, tasks, by_hand):
    task = tasks["retrieval"]
    wanted = list(targets_by_protocol(shop))
    assert task.num_examples == len(wanted)
    block = task.assemble(0, np.arange(task.num_examples))
    for e, (user, place) in enumerate(wanted):
        sequence = shop.sequence(user)
        text = f"{LEAD}{by_hand.listed(sequence[:place][-20:])} What would the user buy next?"
        assert block.inputs.row(e).tolist() == [*words.encode(text), 1]
        assert block.targets.row(e).tolist() == [*words.encode(by_hand.id(sequence[place])), 1]
        assert (block.users_E[e], block.items_E[e]) == (user, sequence[place])


def test_ranking_is_the_protocols(shop, words, tasks, by_hand):
    task = tasks["ranking"]
    wanted = list(targets_by_protocol(shop))
    block = task.assemble(2, np.arange(task.num_examples))
    zeros, numbers = np.zeros(task.num_examples, int), np.arange(task.num_examples)
    items, places = task.choices(zeros, numbers)
    for e, (user, place) in enumerate(wanted):
        sequence = shop.sequence(user)
        assert len(set(items[e].tolist())) == 30
        assert items[e, places[e]] == sequence[place]
        assert not set(np.delete(items[e], places[e]).tolist()) & set(sequence[:-2].tolist())
        shown = ", ".join(by_hand.id(item) for item in items[e])
        text = (
            f"{LEAD}{by_hand.listed(sequence[:place][-20:])} Which of the following candidate items would"
            f" you recommend the user to buy next? Candidate items are: {shown}."
        )
        assert block.inputs.row(e).tolist() == [*words.encode(text), 1]
        assert block.targets.row(e).tolist() == [*words.encode(by_hand.id(sequence[place])), 1]


def test_ranking_keeps_its_negatives_and_bpr_draws_anew(tasks):
    numbers = np.arange(40)
    ranking, bpr = tasks["ranking"], tasks["bpr"]
    assert (
        ranking.assemble(0, numbers).inputs.to_lists()
        == ranking.assemble(5, numbers).inputs.to_lists()
    )
    drawn = [bpr.choices(np.full(40, epoch), numbers)[0].tolist() for epoch in (0, 1)]
    assert drawn[0] != drawn[1]


def test_bpr_is_the_protocols(shop, words, tasks, by_hand):
    task = tasks["bpr"]
    block = task.assemble(4, np.arange(task.num_examples))
    items, places = task.choices(np.full(task.num_examples, 4), np.arange(task.num_examples))
    for e, (user, place) in enumerate(targets_by_protocol(shop)):
        sequence = shop.sequence(user)
        chosen, other = items[e, places[e]], items[e, 1 - places[e]]
        assert chosen == sequence[place]
        assert other not in sequence[:-2]
        text = (
            f"{LEAD}{by_hand.listed(sequence[:place][-20:])} Which of the following two items would the"
            f" user buy next? {by_hand.listed(items[e])}"
        )
        assert block.inputs.row(e).tolist() == [*words.encode(text), 1]
        assert block.targets.row(e).tolist() == [*words.encode(by_hand.listed([chosen])), 1]


RATING_LEADS = {
    (
        True,
        True,
    ): "A user likes the following Amazon products: {} The user dislikes the following"
    " Amazon products: {} ",
    (True, False): "A user likes the following Amazon products: {}{} ",
    (False, True): "A user dislikes the following Amazon products: {}{} ",
}


def rating_prompt(shop, by_hand, user, place, before):
    """The prompt about a place that shows those before it, and which lists it has: likes, dislikes."""
    sequence, ratings = shop.sequence(user), shop.ratings_X[shop.offsets_U1[user] :]
    likes = [sequence[p] for p in before if ratings[p] > 3]
    dislikes = [sequence[p] for p in before if ratings[p] <= 3]
    kind = bool(likes), bool(dislikes)
    lists = RATING_LEADS[kind].format(by_hand.listed(likes), by_hand.listed(dislikes))
    question = "Predict whether the user would like the following item. Answer yes or no. "
    return lists + question + by_hand.item(sequence[place]), kind


def test_rating_is_the_protocols(shop, words, tasks, by_hand):
    task = tasks["rating"]
    block = task.assemble(0, np.arange(task.num_examples))
    kinds = collections.Counter()
    for e, (user, place) in enumerate(targets_by_protocol(shop)):
        text, kind = rating_prompt(shop, by_hand, user, place, range(max(0, place - 5), place))
        kinds[kind] += 1
        assert block.inputs.row(e).tolist() == [*words.encode(text), 1]
        answer = "yes" if shop.ratings_X[shop.offsets_U1[user] + place] > 3 else "no"
        assert block.targets.row(e).tolist() == [*words.encode(answer), 1]
    assert len(kinds) == 3
    assert min(kinds.values()) > 3


def test_questions_about_items(shop, words, tasks, by_hand):
    block = tasks["ie"].assemble(0, np.arange(tasks["ie"].num_examples))
    found = {
        (words.decode(asked), words.decode(answer))
        for asked, answer in zip(block.inputs.to_lists(), block.targets.to_lists(), strict=True)
    }
    assert len(found) == tasks["ie"].num_examples == 128 + 86 + 1 + 130
    item = by_hand.id(14)
    assert (f"What's the price of {item}?", "$31.8") in found
    assert (f"What's the title of {item}?", shop.item_titles[14]) in found
    assert (f"What's the brand of {item}?", "Brand 0") in found
    assert (f"What's the categories of {item}?", "Toys, Sort 2") in found
    assert not any("description" in asked for asked, _ in found)


def test_a_number_decides_an_example_whatever_the_block(tables, shop):
    for task in alignment_data.make_tasks(tables, shop, num_candidates=30).values():
        numbers = np.array([17, 4, 4, 60])
        epochs = np.array([1, 0, 1, 1])
        together = task.assemble(epochs, numbers)
        for e in range(4):
            alone = task.assemble(int(epochs[e]), numbers[e : e + 1])
            assert alone.inputs.row(0).tolist() == together.inputs.row(e).tolist()
            assert alone.targets.row(0).tolist() == together.targets.row(e).tolist()
        everything = np.arange(task.num_examples)
        lengths, target_lengths = task.lengths(0, everything)
        assert lengths.max() <= task.max_input_length <= task.limit
        assert target_lengths.max() <= task.max_target_length


def test_a_cut_drops_whole_oldest_items(tables, shop, words, by_hand):
    """Under a tight limit what is shown is a suffix of what was, as long as fits; the question stays."""
    limit = 330
    short = alignment_data.make_tasks(
        tables, shop, shuffle=False, num_candidates=30, seed=3, max_input_length=limit
    )
    whole = alignment_data.make_tasks(tables, shop, shuffle=False, num_candidates=30, seed=3)
    for name in ("retrieval", "ranking", "bpr"):
        numbers = np.arange(whole[name].num_examples)
        plan = short[name].plan(0, numbers)
        assert plan.cut_E.any()
        assert not plan.cut_E.all()
        assert abs(short[name].cut_share() - plan.cut_E.mean()) < 1e-12
        assert whole[name].cut_share() == 0
        cut, full = short[name].gather(plan), whole[name].assemble(0, numbers)
        assert cut.targets.to_lists() == full.targets.to_lists()
        for e in numbers.tolist():
            row, all_of_it = words.decode(cut.inputs.row(e)), words.decode(full.inputs.row(e))
            shown, rest = row.removeprefix(LEAD), all_of_it.removeprefix(LEAD)
            assert row.startswith(LEAD)
            assert rest.endswith(shown)
            dropped = rest.removesuffix(shown)
            assert plan.cut_E[e] == bool(dropped)
            if dropped:
                assert dropped.endswith("; ")
                assert shown.startswith("Item ID: ")
                last = dropped.removesuffix("; ").split("; ")[-1]
                more = [*words.encode(f"{LEAD}{last}; {shown}"), 1]
                assert len(more) > limit  # one item more would not fit


def cut_task(tables, shop, name, limit):
    """The task under a limit that cuts some prompts and spares others, its block, and which are cut."""
    task = alignment_data.make_tasks(
        tables, shop, (name,), shuffle=False, seed=3, max_input_length=limit
    )[name]
    plan = task.plan(0, np.arange(task.num_examples))
    block = task.gather(plan)
    assert plan.cut_E.any()
    assert not plan.cut_E.all()
    assert max(map(len, block.inputs.to_lists())) <= limit
    return task, block, plan.cut_E


def test_a_cut_drops_whole_oldest_items_of_mim(tables, shop, words, by_hand):
    """The items left and masked are a window's newest, as many as fit; the question stays."""
    task, block, cut = cut_task(tables, shop, "mim", 330)
    ending = " What are the masked items, in chronological order?"
    for e in range(task.num_examples):
        window = shop.items_X[task.begin_N[e] : task.end_N[e]]
        row = words.decode(block.inputs.row(e))
        assert row.startswith(LEAD)
        assert row.endswith(f";{ending}")
        shown = re.split(r"(?<=;) (?=Item ID: I|\[masked)", row[len(LEAD) : -len(ending)])
        left = window[len(window) - len(shown) :]
        hidden = [piece == "[masked item];" for piece in shown]
        assert sum(hidden) == max(1, round(len(shown) * 0.2))
        for piece, masked, item in zip(shown, hidden, left, strict=True):
            assert masked or piece == f"{by_hand.item(item)};"
        assert words.decode(block.targets.row(e)) == by_hand.listed(left[hidden])
        assert cut[e] == (len(left) < len(window))
        if cut[e]:
            more = f"{LEAD}{by_hand.listed(window[-len(left) - 1 :])}{ending}"
            assert len(words.encode(more)) + 1 > 330


def test_a_cut_drops_whole_oldest_items_of_mlm(tables, shop, words, by_hand):
    """With the target's spans put back, the text is that of a window's newest items, as many as fit."""
    task, block, cut = cut_task(tables, shop, "mlm", 200)
    numbers = np.arange(task.num_examples)
    sentinels = {words.id_of(f"<extra_id_{n}>") for n in range(100)}
    windows_ = np.stack(task.window(np.zeros_like(numbers), numbers), axis=1)
    for e, (begin, end) in enumerate(windows_.tolist()):
        spans: list[list[int]] = []
        for token in block.targets.row(e).tolist()[:-1]:
            if token in sentinels:
                spans.append([])
            else:
                spans[-1].append(token)
        missing = iter(spans)
        asked = block.inputs.row(e).tolist()[:-1]
        text = [t for token in asked for t in (next(missing) if token in sentinels else [token])]
        assert not list(missing)
        count = words.decode(text).count("Item ID: ")
        assert text == words.encode(by_hand.listed(shop.items_X[end - count : end]))
        assert cut[e] == (count < end - begin)
        if cut[e]:
            more = words.encode(by_hand.listed(shop.items_X[end - count - 1 : end]))
            assert len(more) + 1 > 200


def test_a_cut_drops_whole_oldest_items_of_rating(tables, shop, words, by_hand):
    """The newest items, as many as the wording with both lists leaves room for, decide the wording."""
    limit = 130
    _, block, cut = cut_task(tables, shop, "rating", limit)
    longest = RATING_LEADS[True, True].format("", "")
    kinds = set()
    for e, (user, place) in enumerate(targets_by_protocol(shop)):
        row = block.inputs.row(e).tolist()
        first = max(0, place - 5)
        begin = place - words.decode(row).count("Item ID: ") + 1
        text, kind = rating_prompt(shop, by_hand, user, place, range(begin, place))
        assert row == [*words.encode(text), 1]
        assert cut[e] == (begin > first)
        if cut[e]:
            kinds.add(kind)
            sequence = shop.sequence(user)
            question = text[text.index("Predict whether") :]
            listed = by_hand.listed(sequence[begin - 1 : place])
            assert len(words.encode(f"{longest}{listed} {question}")) + 1 > limit
    assert len(kinds) == 3


def test_a_limit_that_cannot_hold_the_question_is_refused_at_once(tables, shop):
    with pytest.raises(UserError, match="with the fewest items of its history one may take"):
        alignment_data.make_tasks(
            tables, shop, ("ranking",), num_candidates=30, max_input_length=150
        )


def test_ratings_are_needed(shop, make_dataset, words):
    bare = make_dataset("Bare", [[0, 1, 2, 3, 1], [1, 2, 0, 3, 2]])
    tables = alignment_data.make_tables(bare, words)
    with pytest.raises(UserError, match="has no ratings"):
        alignment_data.make_tasks(tables, bare, ("rating",))
    with pytest.raises(UserError, match="no titles, brands"):
        alignment_data.make_tasks(tables, bare, ("ie",))
    with pytest.raises(UserError, match="Set num_candidates to"):
        alignment_data.make_tasks(tables, bare, ("ranking",))


def test_without_titles_prompts_show_ids_alone(make_dataset, words):
    bare = make_dataset("Bare", [[0, 1, 2, 3, 1], [1, 2, 0, 3, 2]])
    task = alignment_data.make_tasks(alignment_data.make_tables(bare, words), bare, ("retrieval",))
    ids = alignment_data.item_ids(bare)
    text = words.decode(task["retrieval"].assemble(0, np.arange(1)).inputs.row(0))
    assert "Title" not in text
    assert f"Item ID: {ids[0]}; Item ID: {ids[1]};" in text or f"Item ID: {ids[1]};" in text
