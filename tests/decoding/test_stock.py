"""`Recommender.update`: what it may recommend afterwards, and what it refuses."""

import concurrent.futures

import jax
import numpy as np
import pytest

import genrec_jax
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.catalogue import Catalogue
from genrec_jax.decoding.stock import Stock
from genrec_jax.errors import UserError
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from tests.decoding.test_trie import walk
from tests.evaluation import tiny_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    dataset = tiny_run.make_dataset(folder)
    return tiny_run.make_run(folder / "run", [dataset.path], steps=(10,))


@pytest.fixture(scope="module")
def loaded(run_dir):
    """With as many beams as items, so that lists do not depend on what the search has no beam for."""
    return genrec_jax.load(str(run_dir.path), room=50, num_beams=150)


@pytest.fixture
def recommender(loaded):
    """One for all tests, which compiles once; each begins with the catalogue trained on."""
    served = loaded._served
    yield loaded
    loaded._served = served


@pytest.fixture(scope="module")
def texts(run_dir, loaded):
    """The id text of each item trained on, by source id."""
    return dict(zip(loaded.catalogue.source_ids, run_dir.item_ids().texts, strict=True))


def found(recommender, k=10):
    history = [[recommender.catalogue.source_ids[3]]]
    return [one.source_id for one in recommender.recommend(history, k=k)[0]]


def test_items_come_and_go_on_one_compiled_search(recommender, texts):
    before = found(recommender)
    programs = recommender._served.programs
    (step,) = programs._steps.values()
    compiled = step._cache_size()
    best = before[0]
    text = texts[best]
    recommender.update(retire=[best])
    assert found(recommender) == [*before[1:], *found(recommender)[9:]]
    # The best id goes to a new item, which takes the first place; its title is known at once.
    recommender.update(add={"new": text}, titles={"new": "A Brand New Thing"})
    assert found(recommender) == ["new", *before[1:]]
    (match,) = recommender.recommend([["a brand new thing"]])[0].matches
    assert match.exact and match.source_id == "new"
    # A history may hold what is retired, and what is retired may come back.
    assert recommender.recommend([[best]])[0].matches[0].exact
    recommender.update(add={best: text}, retire=["new"])
    assert found(recommender) == before
    assert recommender._served.programs is programs and [*programs._steps.values()] == [step]
    assert step._cache_size() == compiled


def test_exclusions_are_of_the_changed_catalogue(recommender):
    before = found(recommender)
    items = recommender.catalogue.items_of(before)
    history = [[recommender.catalogue.source_ids[3]]]
    recommender.update(retire=before[:2])
    results = recommender.recommend(history, k=5, exclude=[items[2:4]])
    assert [one.source_id for one in results[0]][:5] == before[4:9]
    allowed = recommender.recommend(history, k=5, allow=[items[:4]])
    assert [one.source_id for one in allowed[0]] == before[2:4]


def test_refusals_change_nothing(recommender, texts, untyped):
    before = found(recommender)
    source_ids = recommender.catalogue.source_ids
    refused = [
        ({"add": {"new": texts[source_ids[4]]}}, f"'{source_ids[4]}' and 'new' have the same id"),
        ({"add": {source_ids[4]: "item_9"}}, "is in the catalogue already"),
        ({"retire": ["nothing like it"]}, "neither source ids nor titles"),
        ({"retire": source_ids}, "no item would be left"),
        ({"add": {}, "titles": {"new": "A"}}, "a title is given for 'new'"),
        ({"add": [("new", "item_9")]}, r"add is \[\('new', 'item_9'\)\]; wanted a mapping"),
        ({"add": {"new": "item_9"}, "titles": {"new": 5}}, "titles has 'new': 5; wanted the title"),
        ({"add": {" new": "item_9"}}, "add has the source id ' new'; wanted one that is not empty"),
        ({"add": {"": "item_9"}}, "add has the source id ''; wanted"),
        ({"retire": 5}, "items are given as 5; wanted a list"),
        ({"retire": b"ab"}, "items are given as b'ab'; wanted"),
        ({"retire": [True]}, "an item is given as True; wanted"),
        ({"retire": [len(source_ids)]}, r"given as 120; wanted .* an item number from 0 to 119"),
    ]
    for change, message in refused:
        with pytest.raises(UserError, match=message):
            untyped(recommender.update)(**change)
    assert found(recommender) == before
    recommender.update(retire=[before[0]])
    with pytest.raises(UserError, match="cannot be retired"):
        recommender.update(retire=[before[0]])


def test_numbers_and_answers_are_retired_as_they_were_given(recommender):
    """Also where a source id looks like another item's number."""
    history = [[recommender.catalogue.source_ids[3]]]
    recommender.update(add={"7": "item_4711"})
    answers = recommender.recommend(history, k=12)[0]
    recommender.update(retire=[answers[0], answers[1].item])
    assert found(recommender) == [one.source_id for one in answers[2:12]]
    seven = recommender.catalogue.source_ids[7]
    recommender.update(retire=[7])
    with pytest.raises(UserError, match=f"'{seven}' cannot be retired"):
        recommender.update(retire=[seven])
    recommender.update(retire=["7"])


def test_no_change_is_lost_among_threads(recommender):
    def add(thread):
        for change in range(5):
            number = 2000 + 10 * thread + change
            recommender.update(add={f"t{thread}-{change}": f"item_{number}"})

    live = recommender.stats()["live_items"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    names = [f"t{thread}-{change}" for thread in range(8) for change in range(5)]
    assert len(set(recommender.catalogue.items_of(names))) == 40
    assert recommender.stats()["live_items"] == live + 40


def test_no_request_sees_half_a_change(recommender, texts):
    """The ten best and ten others take turns; a list holds items of one catalogue alone."""
    names = recommender.catalogue.source_ids
    best = found(recommender)
    recommender.update(retire=[name for name in names if name not in best])
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(found, recommender) for _ in range(12)]
        recommender.update(add={f"{n}'": texts[n] for n in best}, retire=best)
        asked += [pool.submit(found, recommender) for _ in range(12)]
    lists = [future.result() for future in asked]
    assert {tuple(one) for one in lists} <= {tuple(best), tuple(f"{n}'" for n in best)}
    assert lists[-1] == [f"{n}'" for n in best]


def stock_of(run_dir, source_ids, texts, titles, room=0):
    assembler = PromptAssembler(
        run_dir.vocabulary, texts, run_dir.templates, "toystore", titles=titles
    )
    runs = assembler.target_runs()
    size = run_dir.vocabulary.size
    trie = tries.build_trie(runs.values_P, runs.offsets_E1, vocab_size=size)
    return Stock.of(Catalogue(source_ids, titles), assembler, trie, "toystore", room=room)


def state_of(stock, histories):
    """Everything that a request reads of it."""
    prompts = stock.assembler.assemble("A1", None, histories)
    return (
        list(stock.catalogue.source_ids),
        list(stock.catalogue.titles),
        stock.assembler.target_runs().to_lists(),
        prompts.inputs.to_lists(),
        prompts.whole_words.to_lists(),
        walk(jax.tree.map(np.asarray, stock.trie)),
        stock.ranks_I.tolist(),
        stock.numbers_I.tolist(),
        stock.places_N.tolist(),
    )


@pytest.mark.parametrize("room", [0, 60])
def test_random_changes_are_those_of_a_stock_built_anew(run_dir, room):
    """What is retired is in no list, but in histories; every version stays as it was."""
    rng = np.random.default_rng(7)
    fresh_texts = [f"item_{n}" for n in 1000 + rng.permutation(1000)[:200]]
    first = [(f"s{i}", fresh_texts.pop(), f"Title {i}" if i % 3 else None) for i in range(20)]
    rows, alive = list(first), dict(enumerate(first))
    stock = stock_of(run_dir, *(list(column) for column in zip(*first, strict=True)), room)
    kept = []
    for step in range(6):
        histories = [rng.integers(0, len(rows), size) for size in (1, 4, 20)]
        kept.append((stock, histories, state_of(stock, histories)))
        gone = [int(i) for i in rng.permutation(list(alive))[: rng.integers(0, 6)]]
        names = [alive.pop(i)[0] for i in gone]
        added = [(f"n{step}-{i}", fresh_texts.pop(), f"New {i}") for i in range(rng.integers(0, 6))]
        if step % 2 and gone:  # what is retired comes back, under a new number
            added.append((names[0], rows[gone[0]][1], "Back again"))
        alive |= dict(enumerate(added, len(rows)))
        rows += added
        stock = stock.updated(
            {source_id: text for source_id, text, _ in added},
            names,
            {source_id: title for source_id, _, title in added},
        )
        assert list(stock.catalogue.source_ids) == [row[0] for row in rows]
        assert list(stock.catalogue.titles) == [row[2] for row in rows]
        columns = zip(*rows, strict=True)
        source_ids, texts, titles = (list(column) for column in columns)
        assembler = PromptAssembler(
            run_dir.vocabulary, texts, run_dir.templates, "toystore", titles=titles
        )
        runs = assembler.target_runs().to_lists()
        assert stock.assembler.target_runs().to_lists() == runs
        histories = [rng.integers(0, len(rows), size) for size in (1, 4, 20)]
        for template in ("A1", "A11"):
            wanted = assembler.assemble(template, None, histories)
            own = stock.assembler.assemble(template, None, histories)
            assert own.inputs.to_lists() == wanted.inputs.to_lists()
        trie = jax.tree.map(np.asarray, stock.trie)
        prefix = tuple(trie.prefix_Q.tolist())
        numbers = stock.numbers_I.tolist()
        walked = {numbers[place]: [*prefix, *tokens, 1] for tokens, place in walk(trie).items()}
        assert stock.places_N[numbers].tolist() == list(range(len(alive)))
        assert (stock.places_N >= 0).sum() == len(alive)
        assert walked == {item: runs[item] for item in alive}
        assert stock.catalogue.find(source_ids[-1]).item == len(rows) - 1
    for earlier, histories, state in kept:
        assert state_of(earlier, histories) == state


def test_a_refused_change_leaves_a_stock_that_can_be_changed(run_dir):
    stock = stock_of(run_dir, ["a", "b"], ["item_1", "item_2"], [None, "B"], room=8)
    state = state_of(stock, [np.asarray([0, 1])])
    changed = stock.updated({"c": "item_3"}, ["a"], {})
    for add, retire, titles, message in (
        ({"d": "item_3"}, [], {}, "'c' and 'd' have the same id"),
        ({"d": "item_4", "e": "item_4"}, [], {}, "'d' and 'e' have the same id"),
        ({"c": "item_5"}, [], {}, "'c' is in the catalogue already"),
        ({}, ["a"], {}, "'a' cannot be retired"),
        ({}, ["x"], {}, "'x': neither source ids nor titles"),
        ({"d": "item_4"}, [], {"e": "E"}, "a title is given for 'e'"),
        ({}, "b", {}, "items are given as 'b'; wanted a list"),
        ({4711: "item_4"}, [], {}, "add has 4711: 'item_4'; wanted the id text of each source id"),
        ({"d": 4}, [], {}, "add has 'd': 4; wanted"),
        (
            {"d": "item_\u2603"},
            [],
            {},
            "the id 'item_\u2603' of 'd' holds what the vocabulary has no",
        ),
        ({"d": ""}, [], {}, "the id '' of 'd' holds"),
    ):
        with pytest.raises(UserError, match=message):
            changed.updated(add, retire, titles)
    twice = changed.updated({"d": "item_4", "e": "item_6"}, [], {"d": "b", "e": "New"})
    with pytest.raises(
        UserError, match="'B' is the title of 2 items, 'b', 'd'; wanted the source ids"
    ):
        twice.updated({}, ["B"], {})
    # Once one of them is gone, the title means the other, and so it does where a retired one comes back.
    last = (
        twice.updated({}, ["b"], {}).updated({}, ["B"], {}).updated({"d": "item_4"}, [], {"d": "B"})
    )
    assert last.catalogue.items_of(["b", "B"]) == [1, 5]
    again = changed.updated({"a": "item_1"}, [], {})
    assert list(again.catalogue.source_ids) == ["a", "b", "c", "a"]
    assert again.ids is not None and again.ids.numbers_I.tolist() == [1, 2, 3]
    assert state_of(stock, [np.asarray([0, 1])]) == state
