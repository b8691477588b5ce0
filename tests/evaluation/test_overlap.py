"""How alike lists are: by hand, and bfloat16 against float32 on one network."""

import dataclasses

import numpy as np

from genrec_jax.decoding.recommend import make_recommend_step
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.evaluation import overlap
from genrec_jax.evaluation.overlap import Overlap
from genrec_jax.model import t5
from tests.decoding import test_recommend_step as searches
from tests.model import fixture_params


def test_by_hand():
    one = np.array([[1, 2, 3], [4, 5, 6], [7, -1, -1], [-1, -1, -1]])
    other = np.array([[1, 2, 3], [4, 6, 9], [8, 7, -1], [-1, -1, -1]])
    found = overlap.compare(one, other, 3)
    assert found == Overlap(4, shared=(1 + 2 / 3 + 1 / 2 + 1) / 4, identical=0.5, first=0.75)
    assert overlap.compare(one, other, 1) == Overlap(4, shared=0.75, identical=0.75, first=0.75)


def test_bfloat16_finds_nearly_the_same_items(shared, record_property):
    """Random weights give near ties, which rounding breaks; most of each list is the same still."""
    folder = shared / "fixtures" / "hf_t511"
    config, _, params = fixture_params.load(folder)
    stored = dict(np.load(folder / "beams.npz"))
    beams = BeamConfig(num_beams=10, num_results=10)
    lists = {}
    for dtype in ("float32", "bfloat16"):
        graphdef, _ = t5.abstract_graph_and_params(dataclasses.replace(config, dtype=dtype))
        step = make_recommend_step(graphdef, beams)
        result = step(params, searches.prompts(stored), searches.trie_of(stored))
        lists[dtype] = np.asarray(result.items_BR)
    found = overlap.compare(lists["float32"], lists["bfloat16"], 10)
    record_property("shared", found.shared)
    assert 0.6 < found.shared <= 1
    assert (np.sort(lists["bfloat16"], axis=1)[:, 0] >= 0).all()
