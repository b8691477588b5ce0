"""No token of any training example depends on a held-out interaction: the pipeline under the audit."""

import dataclasses

import numpy as np
import pytest

from genrec_jax.data import audit, splits
from genrec_jax.data.dataset import Dataset
from genrec_jax.indexing import unigram_vocabulary
from genrec_jax.pipeline import mixtures, openp5
from genrec_jax.prompts import templates as templates_lib
from tests.evaluation import tiny_run


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Dataset:
    return tiny_run.make_dataset(tmp_path_factory.mktemp("data"), num_users=60)


def make_examples(part: splits.Splits):
    """Every training example of both tasks, as token ids, built on any copy of the dataset."""
    templates = templates_lib.load_templates()
    vocabulary = unigram_vocabulary.train([t.input for t in templates], words=["toystore"])

    def build(dataset: Dataset) -> list[bytes]:
        texts = [f"item_{1001 + item}" for item in range(dataset.num_items)]
        mixture = mixtures.build_mixture(
            "openp5", [dataset], [texts], vocabulary, templates, splits=[part]
        )
        made = []
        for source in mixture.sources:
            block = source.assemble(0, np.arange(source.num_examples))
            for runs in (block.inputs, block.targets):
                parts = np.split(runs.values_P, runs.offsets_E1[1:-1])
                made += [tokens.tobytes() for tokens in parts]
        return made

    return build


def test_training_examples_stay_when_held_out_interactions_change(shop):
    part = splits.leave_one_out(shop)
    build = make_examples(part)
    examples = build(shop)
    positions = openp5.training_positions(shop, part)
    assert len(examples) > 2 * len(positions)
    result = audit.audit_rebuild("examples_rebuilt", shop, part, examples, build)
    assert result.status == "pass", result.detail


def test_a_split_that_trains_on_the_validation_item_is_caught(shop):
    part = splits.leave_one_out(shop)
    leaking = dataclasses.replace(part, train_end_U=part.train_end_U + 1)
    build = make_examples(leaking)
    result = audit.audit_rebuild("examples_rebuilt", shop, part, build(shop), build)
    assert result.status == "fail"


def test_the_positions_that_training_reads_pass_the_audit(shop):
    part = splits.leave_one_out(shop)
    leaking = dataclasses.replace(part, train_end_U=part.train_end_U + 1)
    for used, status in ((part, "pass"), (leaking, "fail")):
        positions_E = openp5.training_positions(shop, used)
        users_E = shop.users_X[positions_E]
        starts_E = np.maximum(positions_E - 20, shop.offsets_U1[users_E])
        result = audit.audit_examples(
            shop, part, "training", users_E, starts_E, positions_E, positions_E
        )
        assert result.status == status
