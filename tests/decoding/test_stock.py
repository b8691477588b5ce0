"""`Recommender.update`: what it may recommend afterwards, and what it refuses."""

import concurrent.futures

import jax
import numpy as np
import pytest

import genrec_jax
from genrec_jax.decoding import recommender as recommenders
from genrec_jax.errors import UserError
from tests.evaluation import tiny_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    dataset = tiny_run.make_dataset(folder)
    return tiny_run.make_run(folder / "run", [dataset.path], steps=(10,))


@pytest.fixture(scope="module")
def loaded(run_dir):
    return genrec_jax.load(str(run_dir.path), room=50)


@pytest.fixture
def recommender(loaded):
    """One for all tests, which compiles once; each begins with the catalogue trained on."""
    stock = loaded._stock
    yield loaded
    loaded._stock = stock


def found(recommender, k=10):
    history = [[recommender.catalogue.source_ids[3]]]
    return [one.source_id for one in recommender.recommend(history, k=k)[0]]


def test_items_come_and_go_on_one_compiled_search(recommender, monkeypatch):
    before = found(recommender)
    traces = []
    make = recommenders.make_recommend_step
    monkeypatch.setattr(
        recommenders, "make_recommend_step", lambda *a: traces.append(a) or make(*a)
    )
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(recommender._stock.trie)]
    (step,) = recommender._steps.values()
    compiled = step._cache_size()
    best = before[0]
    text = recommender._stock.texts[recommender.catalogue.number_of(best)]
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
    assert [np.shape(leaf) for leaf in jax.tree.leaves(recommender._stock.trie)] == shapes
    assert step._cache_size() == compiled and not traces


def test_exclusions_are_of_the_changed_catalogue(recommender):
    before = found(recommender)
    items = recommender.catalogue.items_of(before)
    history = [[recommender.catalogue.source_ids[3]]]
    recommender.update(retire=before[:2])
    results = recommender.recommend(history, k=5, exclude=[items[2:4]])
    assert [one.source_id for one in results[0]][:5] == before[4:9]
    allowed = recommender.recommend(history, k=5, allow=[items[:4]])
    assert [one.source_id for one in allowed[0]] == before[2:4]


def test_refusals_change_nothing(recommender):
    before = found(recommender)
    texts, source_ids = recommender._stock.texts, recommender.catalogue.source_ids
    refused = [
        ({"add": {"new": texts[4]}}, f"'{source_ids[4]}' and 'new' have the same id"),
        ({"add": {source_ids[4]: "item_9"}}, "is in the catalogue already"),
        ({"retire": ["nothing like it"]}, "neither source ids nor titles"),
        ({"retire": source_ids}, "no item would be left"),
        ({"add": {}, "titles": {"new": "A"}}, "a title is given for 'new'"),
    ]
    for change, message in refused:
        with pytest.raises(UserError, match=message):
            recommender.update(**change)
    assert found(recommender) == before
    recommender.update(retire=[before[0]])
    with pytest.raises(UserError, match="cannot be retired"):
        recommender.update(retire=[before[0]])


def test_no_request_sees_half_a_change(recommender):
    """The ten best and ten others take turns; a list holds items of one catalogue alone."""
    names = recommender.catalogue.source_ids
    best = found(recommender)
    texts = dict(zip(names, recommender._stock.texts, strict=True))
    recommender.update(retire=[name for name in names if name not in best])
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(found, recommender) for _ in range(12)]
        recommender.update(add={f"{n}'": texts[n] for n in best}, retire=best)
        asked += [pool.submit(found, recommender) for _ in range(12)]
    lists = [future.result() for future in asked]
    assert {tuple(one) for one in lists} <= {tuple(best), tuple(f"{n}'" for n in best)}
    assert lists[-1] == [f"{n}'" for n in best]
