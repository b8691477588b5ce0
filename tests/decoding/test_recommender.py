"""The recommender on a run dir with random parameters, against the recommend step called by hand."""

import concurrent.futures
import dataclasses
import inspect
import math
import shutil

import jax
import numpy as np
import pytest

import genrec_jax
from genrec_jax.checkpoint import restore
from genrec_jax.decoding import recommender as recommenders
from genrec_jax.decoding import request_checks, request_shapes
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.recommendations import Recommendation
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from tests.evaluation import tiny_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run dir alone: the dataset and the index it was made from are gone."""
    folder = tmp_path_factory.mktemp("recommender")
    dataset = tiny_run.make_dataset(folder)
    made = tiny_run.make_run(folder / "run", [dataset.path], steps=(10, 20))
    shutil.rmtree(dataset.path)
    shutil.rmtree(folder / "run-index")
    return made


@pytest.fixture(scope="module")
def recommender(run_dir):
    return genrec_jax.load(run_dir.path, max_k=200)


def test_load_has_the_parameters_of_what_it_stands_for():
    outer, inner = (inspect.signature(load) for load in (genrec_jax.load, recommenders.load))
    assert [(p.name, p.kind, p.default) for p in outer.parameters.values()] == [
        (p.name, p.kind, p.default) for p in inner.parameters.values()
    ]


def by_hand(run_dir, template, users, histories, beams=20):
    """Items and scores, without the recommender's buckets of shapes."""
    assembler = PromptAssembler(
        run_dir.vocabulary,
        run_dir.item_ids().texts,
        run_dir.templates,
        run_dir.datasets[0].name,
        run_dir.mixture["history"],
    )
    prompts = assembler.assemble(template, users, histories)
    batch = prompts.padded(
        len(prompts),
        int(prompts.inputs.lengths_E.max()),
        users_E=np.asarray(users),
        targets_E=np.full(len(users), -1),
    )
    graphdef, _ = t5.abstract_graph_and_params(run_dir.model_config)
    step = make_recommend_step(graphdef, BeamConfig(beams, beams))
    trie = tries.load(run_dir.datasets[0].trie)
    params = restore.restore_params(run_dir, 10)
    return jax.device_get(step(params, batch, trie))


def items_of(results):
    return [[one.item for one in result] for result in results]


def traces_of(recommender):
    """Programs, as JAX counts them."""
    return sum(step._cache_size() for step in recommender._served.programs._steps.values())


def test_equals_the_step_called_by_hand(run_dir, recommender):
    source_ids = recommender.catalogue.source_ids
    histories = [[3, 1, 4], [15, 9, 2, 6, 5, 3, 5, 8], [9]]
    wanted = by_hand(run_dir, "A1", np.asarray([-1, 7, -1]), [np.asarray(h) for h in histories])
    given = [[source_ids[item] for item in history] for history in histories]
    results = recommender.recommend(given, k=6, users=[None, 7, None])
    assert items_of(results) == wanted.items_BR[:, :6].tolist()
    for row, result in enumerate(results):
        np.testing.assert_allclose([r.score for r in result], wanted.scores_BR[row, :6], atol=2e-5)
        assert result.template == "A1"
        assert [match.item for match in result.matches] == histories[row]
        for one in result:
            assert one.source_id == source_ids[one.item]
            assert one.title == recommender.catalogue.titles[one.item]
            assert one.probability == pytest.approx(math.exp(one.score))
    # Alone, in another bucket of rows and lengths, each gets the same list.
    alone = recommender.recommend([given[2]], k=6)
    assert items_of(alone) == items_of(results[2:])


def test_titles_and_unknown_ones(recommender):
    catalogue = recommender.catalogue
    exact = recommender.recommend([[catalogue.source_ids[5], catalogue.source_ids[8]]])
    misspelt = catalogue.titles[5].replace(" ", "  ").lower() + "x"
    history = [misspelt, catalogue.titles[8].upper(), "T000000", "zzzz"]
    near = recommender.recommend([history], unknown="nearest")
    assert items_of(near) == items_of(exact)
    assert [match.exact for match in near[0].matches] == [False, True]
    assert near[0].matches[0].query == misspelt
    assert near[0].skipped == ("T000000", "zzzz")
    # Unless asked to, nothing is guessed: neither the prompt nor the exclusion knows of the entry.
    (skipped,) = recommender.recommend([history], exclude_seen=True)
    (without,) = recommender.recommend([[catalogue.source_ids[8]]], exclude_seen=True)
    assert items_of([skipped]) == items_of([without])
    assert skipped.skipped == (misspelt, "T000000", "zzzz") and without.skipped == ()
    with pytest.raises(UserError, match="is neither a source id nor a title"):
        recommender.recommend([history], unknown="error")
    with pytest.raises(UserError, match="unknown is 'guess'; wanted one of nearest, skip, error"):
        request_checks.read_histories(catalogue, [history], "guess")


def test_the_log_says_what_was_replaced_and_skipped(recommender, caplog):
    misspelt = recommender.catalogue.titles[5] + "x"
    with caplog.at_level("INFO"):
        recommender.recommend([[recommender.catalogue.titles[5]]])
        assert not caplog.records
        recommender.recommend([["zzzz"], [misspelt]], unknown="nearest")
    (record,) = caplog.records
    assert record.getMessage() == (
        "2 entries of 2 histories are not in the catalogue: 1 skipped ('zzzz'), 1 taken for the nearest"
        f" title ({misspelt!r} for {recommender.catalogue.titles[5]!r})"
    )


def test_empty_history_asks_by_user_alone(run_dir, recommender):
    wanted = by_hand(run_dir, "B1", np.asarray([11]), [np.zeros(0, np.int32)])
    results = recommender.recommend([[], [recommender.catalogue.source_ids[0]]], users=[11, 11])
    assert results[0].template == "B1" and results[1].template == "A1"
    assert items_of(results)[0] == wanted.items_BR[0, :10].tolist()


def test_empty_history_where_no_prompt_does_without(run_dir, tmp_path):
    manifest = {**run_dir.manifest, "mixture": {**run_dir.mixture, "tasks": ["sequential"]}}
    sequential = dataclasses.replace(run_dir, manifest=manifest)
    alone = recommenders.Recommender(sequential, 10)
    with pytest.raises(UserError, match="history is empty"):
        alone.recommend([[]])
    # One request of which nothing is known does not fail the others.
    name = alone.catalogue.source_ids[3]
    for template in (None, "A1"):
        unknown, known = alone.recommend([["gone-1"], [name]], template=template)
        assert unknown == [] and unknown.skipped == ("gone-1",) and unknown.template is None
        assert items_of([known]) == items_of(alone.recommend([[name]]))
    (only,) = alone.recommend([["gone-1"]])
    assert only == []


def test_seen_items_are_left_out_exactly(recommender):
    everything = len(recommender.catalogue)
    whole = recommender.recommend([["Night Light"]], k=everything)[0]
    assert len(whole) == everything == len({one.item for one in whole})
    seen = [one.source_id for one in whole[:3]]
    kept = recommender.recommend([seen], k=everything)[0]
    left = recommender.recommend([seen], k=everything, exclude_seen=True)[0]
    assert [one.item for one in left] == [one.item for one in kept if one.source_id not in seen]


def test_exclude_and_allow_leave_exactly_the_rest_in_its_order(recommender):
    everything = len(recommender.catalogue)
    source_ids = recommender.catalogue.source_ids
    histories = [[source_ids[3]], [source_ids[5], source_ids[6]], [source_ids[9]]]
    whole = items_of(recommender.recommend(histories, k=everything))
    exclude = [[0, 1, 2], np.arange(10), []]
    allow = [None, np.arange(5, 15), [4, 7, 9]]
    left = recommender.recommend(
        histories, k=everything, exclude=exclude, allow=allow, exclude_seen=True
    )
    for row, found in enumerate(items_of(left)):
        banned = {*exclude[row], *recommender.catalogue.items_of(histories[row])}
        only = range(everything) if allow[row] is None else allow[row]
        assert found == [item for item in whole[row] if item not in banned and item in only]
    assert len(left[1]) == 5 and len(left[2]) == 2
    # One of the two suffices, and nothing else was compiled for other lists of like lengths.
    before = traces_of(recommender)
    only = recommender.recommend(histories, k=everything, allow=[[1], None, [1, 2]])
    assert [len(found) for found in only] == [1, everything, 2]
    assert traces_of(recommender) == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"exclude": [[0], [1]]}, "exclude has 2 lists for 1 requests"),
        ({"allow": [[0, 10**6]]}, r"allow: an item is given as 1000000; wanted .* from 0 to 119"),
        ({"exclude": [[-1]]}, "exclude: an item is given as -1; wanted"),
        ({"exclude": 5}, "exclude is 5; wanted a list of items, or None, for each request"),
        ({"allow": b"a"}, "allow is b'a'; wanted a list"),
        ({"exclude": [{"s1": 1}]}, r"exclude has \{'s1': 1\}; wanted for each request a list"),
        ({"exclude_seen": [False]}, r"exclude_seen is \[False\]; wanted True or False, for all"),
        ({"exclude_seen": 0}, "exclude_seen is 0; wanted True or False"),
    ],
)
def test_lists_that_cannot_be_meant(recommender, untyped, options, message):
    with pytest.raises(UserError, match=message):
        untyped(recommender.recommend)([[recommender.catalogue.source_ids[0]]], **options)


def test_histories_may_be_generators(recommender):
    ids = recommender.catalogue.source_ids[:3]
    found = recommender.recommend((name for name in [one]) for one in ids)
    assert items_of(found) == items_of(recommender.recommend([[one] for one in ids]))
    assert recommender.recommend(iter(ids[:0])) == []
    for wrong in (None, 5, b"a", [None], [["a"], 5], (one for one in ["a"])):
        with pytest.raises(
            UserError, match=r"a history is .*; wanted a list of source ids or titles"
        ):
            request_checks.read_histories(recommender.catalogue, wrong, "skip")


def test_scores_that_are_not_finite_are_an_error(recommender, monkeypatch):
    """Lists that exclusions leave nothing of stay empty."""
    history, everything = [["Night Light"]] * 2, range(len(recommender.catalogue))
    assert recommender.recommend(history, exclude=[everything, []])[0] == []
    programs = recommender._served.programs
    broken = jax.tree.map(lambda array: array * np.nan, programs._params)
    monkeypatch.setattr(programs, "_params", broken)
    assert recommender.recommend(history[:1], exclude=[everything]) == [[]]
    assert recommender.recommend(history[:1], allow=[[]]) == [[]]
    for lists in ({}, {"exclude": [everything, [2]]}, {"allow": [[], [2]]}):
        with pytest.raises(UserError, match=r"step 10 of .* its scores are not finite"):
            recommender.recommend(history, **lists)


def test_step_template_and_beams_can_be_chosen(run_dir):
    latest = recommenders.load(run_dir.path, checkpoint="latest", num_beams=5)
    assert latest.step == 20 and recommenders.load(run_dir.path, checkpoint=10).step == 10
    results = latest.recommend([[latest.catalogue.source_ids[0]]], k=3, template="A11")
    assert results[0].template == "A11" and len(results[0]) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 0}, "k is 0; wanted a whole number, 1 to 200"),
        ({"k": 2.5}, "k is 2.5; wanted a whole"),
        ({"k": "5"}, "k is '5'; wanted a whole"),
        ({"k": True}, "k is True; wanted a whole"),
        ({"k": 201}, r"k is 201; .* 1 to 200. A service that needs more sets `load\(max_k=...\)`"),
        ({"template": "Z9"}, "Z9"),
        ({"template": ["A1"]}, r"template is \['A1'\]; wanted the id of a template"),
        ({"unknown": []}, r"unknown is \[\]; wanted one of"),
        ({"users": 3}, r"users is 3; wanted a user number or None for each request, such as"),
        ({"users": "3"}, "users is '3'; wanted"),
        ({"users": [1, 2]}, "2 users and 1 histories"),
        ({"users": [60]}, "users has 60; wanted user numbers .* from 0 to 59, or None"),
        ({"users": [-1]}, "users has -1; wanted"),
    ],
)
def test_mistakes(recommender, untyped, options, message):
    with pytest.raises(UserError, match=message):
        untyped(recommender.recommend)([[recommender.catalogue.source_ids[0]]], **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_beams": 0}, "num_beams is 0; wanted a whole number, 1 or more"),
        ({"num_beams": -4}, "num_beams is -4; wanted"),
        ({"num_beams": 2.5}, "num_beams is 2.5; wanted"),
        ({"max_k": 0}, "max_k is 0; wanted"),
        ({"room": 2.5}, "room is 2.5; wanted a whole number, 0 or more"),
        ({"room": -1}, "room is -1; wanted"),
        ({"unknown": "guess"}, "unknown is 'guess'"),
    ],
)
def test_mistakes_in_loading_are_told_before_anything_is_read(untyped, options, message):
    with pytest.raises(UserError, match=message):
        untyped(recommenders.load)("no/such/run", **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": (0,)}, "one of rows is 0; wanted a whole number, 1 or more"),
        ({"rows": 8}, "rows is 8; wanted a list of whole numbers"),
        ({"lengths": (32, 0)}, "one of lengths is 0; wanted"),
        ({"lengths": (2.5,)}, "one of lengths is 2.5; wanted"),
        ({"k": 0}, "k is 0; wanted"),
        ({"longest_list": -1}, "longest_list is -1; wanted"),
        ({"exclude_seen": "no"}, "exclude_seen is 'no'; wanted True or False"),
    ],
)
def test_mistakes_in_warming_up_compile_nothing(recommender, untyped, options, message):
    before = traces_of(recommender)
    with pytest.raises(UserError, match=message):
        untyped(recommender.warm_up)(**{"rows": (64,), "lengths": (32,)} | options)
    assert traces_of(recommender) == before


def test_numbers_texts_and_answers_mean_the_same_items_everywhere(recommender):
    """Sources may number their items: a number is never read as a source id, nor a text as a number."""
    catalogue = recommender.catalogue
    texts = list(catalogue.source_ids[:3])
    answers = [Recommendation(i, texts[i], catalogue.titles[i], -1.0) for i in range(3)]
    (wanted,) = recommender.recommend([texts], exclude_seen=True)
    for named in ([0, 1, 2], np.arange(3), answers, [0, texts[1], answers[2]], wanted.matches):
        (found,) = recommender.recommend([named], exclude=[named])
        assert items_of([found]) == items_of([wanted])
        assert [match.item for match in found.matches] == [0, 1, 2] and not found.skipped
        allowed = recommender.recommend([texts], allow=[named])
        assert sorted(items_of(allowed)[0]) == [0, 1, 2]
    best = wanted[0]
    (again,) = recommender.recommend([[best]])
    assert again.matches[0].item == best.item and again.matches[0].source_id == best.source_id
    stranger = dataclasses.replace(best, source_id="of another recommender")
    for given in ({"histories": [[stranger]]}, {"histories": [[0]], "exclude": [[stranger]]}):
        with pytest.raises(UserError, match="of another recommender' is not of this catalogue"):
            recommender.recommend(**given)
    with pytest.raises(UserError, match=r"an item is given as 120; wanted .* from 0 to 119"):
        recommender.recommend([[120]])


def test_more_items_than_there_are(recommender):
    """No search of a million beams, also where a service allows it."""
    fresh = recommenders.load(recommender.run_dir.path, max_k=10**6)
    whole = fresh.recommend([["Night Light"]], k=10**6)[0]
    assert len(whole) == len(fresh.catalogue)


@pytest.mark.parametrize("histories", ["Night Light", ["Night Light"]])
def test_a_text_is_not_taken_for_a_list_of_letters(recommender, histories):
    with pytest.raises(UserError, match=r"a list of source ids or titles for each request"):
        recommender.recommend(histories)


def test_no_requests(recommender):
    assert recommender.recommend([]) == []


def test_many_requests_come_back_in_their_order(recommender):
    rng = np.random.default_rng(0)
    source_ids = recommender.catalogue.source_ids
    histories = [
        [source_ids[i] for i in rng.integers(0, len(source_ids), rng.integers(1, 9))]
        for _ in range(70)
    ]
    results = recommender.recommend(histories, k=5)
    assert len(results) == 70
    for row in (0, 33, 69):
        assert items_of(results[row : row + 1]) == items_of(
            recommender.recommend([histories[row]], k=5)
        )


def test_one_compilation_per_bucket_and_warm_up_makes_it_ahead(run_dir):
    fresh = recommenders.load(run_dir.path)
    seconds = fresh.warm_up(rows=(1, 5, 8), lengths=(20, 32))
    assert list(seconds) == [(1, 32), (8, 32)] and min(seconds.values()) > 0
    assert traces_of(fresh) == fresh.stats()["programs"] == 2
    prompts = fresh._stock.assembler.assemble("A1", None, [np.asarray([1, 2])])
    assert prompts.inputs.lengths_E[0] <= request_shapes.LENGTHS[0]
    source_ids = fresh.catalogue.source_ids
    for count in (1, 2, 5, 8, 17):
        fresh.recommend([[source_ids[i], source_ids[i + 1]] for i in range(count)])
    assert traces_of(fresh) == fresh.stats()["programs"] == 2


def test_warm_up_is_ready_for_every_prompt_of_training(run_dir):
    """The tiny run's prompts have 128 tokens at most."""
    fresh = recommenders.load(run_dir.path, num_beams=10)
    assert list(fresh.warm_up()) == [(1, 32), (1, 64), (1, 128)]
    fresh.recommend([[fresh.catalogue.source_ids[0]] * tiny_run.HISTORY])
    assert traces_of(fresh) == 3


def test_warm_up_is_ready_for_every_list_up_to_the_longest(run_dir):
    """One program for each width; 33 seen items need the second."""
    fresh = recommenders.load(run_dir.path)
    source_ids = fresh.catalogue.source_ids
    assert len(source_ids) > 33
    fresh.warm_up(lengths=(32,), exclude_seen=True)
    assert traces_of(fresh) == 1
    assert list(fresh.warm_up(lengths=(32,), longest_list=33)) == [(1, 32)]
    assert traces_of(fresh) == 2
    history = [[source_ids[1]]]
    for count in (1, 31, 32, 33):
        fresh.recommend(history, exclude=[range(count)])
        fresh.recommend(history, exclude_seen=True, allow=[range(count)])
    assert traces_of(fresh) == 2


def test_threads_get_what_one_thread_gets(run_dir):
    """Also the first calls, which compile and build the index of titles, may come at once."""
    fresh = recommenders.load(run_dir.path, unknown="nearest")
    catalogue = fresh.catalogue
    requests = [[catalogue.titles[i] + "y", catalogue.source_ids[i + 1]] for i in range(16)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda history: fresh.recommend([history], k=4)[0], requests))
    one_by_one = [fresh.recommend([history], k=4)[0] for history in requests]
    assert together == one_by_one
    assert not any(match.exact for match in [found.matches[0] for found in together])


def test_the_index_of_titles_is_made_ahead_where_it_is_needed(run_dir):
    for unknown, made in (("nearest", True), ("skip", False)):
        fresh = recommenders.load(run_dir.path, unknown=unknown)
        fresh.warm_up(lengths=(32,))
        assert bool(len(fresh.catalogue._grams)) == made
        fresh.update(add={"new": "item_4711"}, titles={"new": "Quiet Wooden Train"})
        assert len(fresh.catalogue._grams) == (len(fresh.catalogue) if made else 0)
