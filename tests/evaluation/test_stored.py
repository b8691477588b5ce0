"""Finding the evaluation that is meant among those of a run dir."""

import shutil

import pytest

from genrec_jax.errors import UserError
from genrec_jax.evaluation import stored
from tests.evaluation import report_run, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose best checkpoint is of step 400, with evaluations whose names come before and after."""
    folder = tmp_path_factory.mktemp("stored")
    made = report_run.make_reported_run(folder / "run", tiny_run.make_dataset(folder, num_users=30))
    tiny_run.add_checkpoint(made, 400)
    tiny_run.add_checkpoint(made, 1000)
    for name in ("test-1000", "test-400-beams10", "test-400-sample20-beams500"):
        shutil.copytree(made.eval_dir / "test-400", made.eval_dir / name)
    return made


def test_the_usual_search_of_everybody_by_the_best_checkpoint_is_meant(run):
    """Neither the first nor the last name is it."""
    found = stored.find(run.path)
    assert found.folder == run.eval_dir / "test-400"
    assert found.metrics["users"] == stored.load_predictions(run).num_rows == 30


def test_another_is_asked_for_by_its_name(run):
    assert stored.find(run, name="test-1000").folder.name == "test-1000"


def test_what_is_not_there_is_told_beside_what_is(run, tmp_path):
    with pytest.raises(
        UserError, match=r"validation-400; there are test-1000, test-400, .*sample20"
    ):
        stored.find(run, "validation")
    bare = shutil.copytree(run.path, tmp_path / "bare", ignore=shutil.ignore_patterns("eval"))
    with pytest.raises(UserError, match="there is none at all, or run `genrec evaluate"):
        stored.load_predictions(bare)
    (run.eval_dir / "test-1000" / "predictions.parquet").unlink()
    with pytest.raises(UserError, match=r"predictions.parquet: is missing"):
        stored.load_predictions(run, name="test-1000")
