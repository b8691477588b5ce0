"""What is compiled, when, and what becomes of it where a catalogue outgrows its shapes."""

import logging
import threading
import weakref

import pytest

import genrec_jax
from tests.evaluation import tiny_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    dataset = tiny_run.make_dataset(folder)
    return tiny_run.make_run(folder / "run", [dataset.path], steps=(10,))


def lines_of(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_the_log_tells_what_a_request_waited_for_and_each_change(run_dir, caplog):
    recommender = genrec_jax.load(run_dir.path, room=20)
    names = recommender.catalogue.source_ids
    with caplog.at_level(logging.INFO, "genrec_jax.decoding"):
        recommender.warm_up(lengths=(32,))
        recommender.recommend([names[:1]])
        assert not caplog.records
        recommender.recommend([names[:1]], exclude_seen=True, k=30)
        recommender.recommend([names[:1]], exclude=[[5]], k=30)
        recommender.update(add={"new": "item_4711"}, retire=names[:2])
    (first, waited), (second, changed) = lines_of(caplog)
    assert first == second == "INFO"
    assert waited.startswith("a request waited ")
    assert "for a program of 1 rows, 32 tokens, lists of 32 and 30 beams" in waited
    left = recommender.room_left
    assert changed == f"1 items added, 2 retired; 119 are live, with room for {left} more"
    assert left >= 20
    assert recommender.stats() == {"programs": 2, "live_items": 119, "room_left": left}


def test_a_steady_catalogue_is_never_compiled_for_again(run_dir, caplog):
    """Item numbers go on for ever; shapes depend on the items that are live."""
    recommender = genrec_jax.load(run_dir.path, room=20)
    history = [recommender.catalogue.source_ids[5:6]]
    recommender.recommend(history)
    newest = recommender.catalogue.source_ids[0]
    with caplog.at_level(logging.INFO, "genrec_jax.decoding.programs"):
        for change in range(300):
            recommender.update(add={f"new-{change}": f"item_{2000 + change}"}, retire=[newest])
            newest = f"new-{change}"
        everything = recommender.recommend(history, k=10, exclude=None)[0]
    assert not caplog.records and len(everything) == 10
    assert len(recommender.catalogue) == 420 and recommender.stats()["live_items"] == 120
    # What is found is named by its number in the catalogue, not by its place in the trie.
    (only,) = recommender.recommend(history, allow=[[newest]])[0]
    assert (only.item, only.source_id) == (419, newest)


def test_new_shapes_are_compiled_for_before_a_change(run_dir, caplog):
    """No request waits for a program, and old ones are freed."""
    recommender = genrec_jax.load(run_dir.path)
    history = [recommender.catalogue.source_ids[5:6]]
    recommender.recommend(history)
    recommender.recommend(history, exclude_seen=True, k=30)
    before = recommender._served.programs
    seen, freed = before.shapes(), threading.Event()
    weakref.finalize(before, freed.set)
    added = {f"new-{i}": f"item_{2000 + i}" for i in range(200)}
    with caplog.at_level(logging.INFO, "genrec_jax.decoding.programs"):
        recommender.update(add=added)
        after = recommender._served.programs
        assert after is not before and after.shapes() == seen
        recommender.recommend(history)
        recommender.recommend(history, exclude_seen=True, k=30)
    ((level, line),) = lines_of(caplog)
    assert level == "WARNING"
    assert line.startswith("the catalogue outgrew its shapes: 2 programs compiled again in ")
    del before
    assert freed.is_set()
    assert sum(step._cache_size() for step in after._steps.values()) == 2
