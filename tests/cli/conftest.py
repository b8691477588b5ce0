"""A tiny run that several subcommands' tests share."""

import pytest

from tests.evaluation import tiny_run


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The run and the dataset that it was trained on."""
    folder = tmp_path_factory.mktemp("made")
    dataset = tiny_run.make_dataset(folder)
    return tiny_run.make_run(folder / "run", [dataset.path]), dataset
