"""SeqIO, which tests of its tasks need, and a small shop that is registered with it."""

import re

import pytest

from genrec_jax.indexing import build
from genrec_jax.prompts import templates
from tests.pipeline.pipeline_data import write_dataset


@pytest.fixture(scope="session")
def seqio():
    return pytest.importorskip("seqio", reason="needs the extra genrec-jax[seqio]")


@pytest.fixture(scope="session")
def indexed():
    """Writes a dataset with random ids: `indexed(path, name, sequences)` -> (dataset, index)."""

    def make(path, name, sequences, **options):
        data = write_dataset(path / name, name, sequences)
        lines = [re.sub(r"\S*\{\w+\}", "", t.input) for t in templates.load_templates()]
        config = build.IndexConfig("random")
        build.build_index([data.path], config, output=path / "index", prompt_lines=lines, **options)
        return data, path / "index"

    return make
