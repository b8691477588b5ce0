"""The share of likes among a run's ratings: told at the start, and refused where all are alike."""

import pathlib

import numpy as np
import pytest

from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import splits as splits_lib
from genrec_jax.errors import UserError
from genrec_jax.indexing import build
from genrec_jax.parallel import mesh as meshes
from genrec_jax.training import config, inputs, likes, run


@pytest.fixture(scope="module")
def index_dir(toy_dataset, tmp_path_factory) -> str:
    """Ids of a vocabulary that knows the alignment system's words."""
    folder = tmp_path_factory.mktemp("short") / "index"
    build.build_index([toy_dataset], build.IndexConfig("short"), output=folder)
    return str(folder)


@pytest.fixture
def rating(make_config, index_dir):
    """The configuration of a run on ratings, of 1 to 5, with changes of its data's."""

    def make(*, period=None, **data) -> config.TrainConfig:
        given = {
            "index_dir": index_dir,
            "mixture": "alignment_rating",
            "feature_lengths": {"inputs": 512, "targets": None},
            **data,
        }
        watched = config.ValidationConfig(period=period, metric="auc")
        return make_config(data=given, validation=watched, train_steps=1)

    return make


def train(settings):
    return run.train(settings, mesh=meshes.single_device_mesh(), show_progress=True)


def test_the_share_is_that_of_the_examples(rating, toy_dataset, capsys):
    settings = rating(like_above=4.0)
    data = dataset_lib.load(toy_dataset)
    splits = splits_lib.of(data)
    opened = inputs.open_inputs(settings.data, 0, meshes.single_device_mesh())
    (share,) = likes.trained_shares(opened.mixture).values()
    targets = []  # of n training items the last n - 5, for a history of 5 before each, or one
    for user, end in enumerate(splits.train_end_U.tolist()):
        count = max(1, end - int(data.offsets_U1[user]) - 5)
        targets += data.ratings_X[end - count : end].tolist()
    assert share == np.mean([value > 4 for value in targets])
    assert train(settings).step == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"ratings above 4 are likes: toystore/rating {share:.1%}" in told


@pytest.mark.parametrize(("like_above", "share"), [(5.0, "0%"), (0.5, "100%")])
def test_labels_that_are_all_alike_are_refused_before_there_is_a_run_dir(rating, like_above, share):
    settings = rating(like_above=like_above)
    said = rf"{share} of the \d+ ratings to train on are likes.* above {like_above:g}.* from 1 to 5"
    with pytest.raises(UserError, match=said):
        train(settings)
    assert not pathlib.Path(settings.model_dir).exists()


def test_answers_that_begin_alike_are_refused_before_there_is_a_run_dir(rating, toy_dataset):
    """A vocabulary made from OpenP5's prompts knows neither `yes` nor `no`."""
    settings = rating(index_dir=str(toy_dataset / "index/sequential"))
    with pytest.raises(UserError, match="'yes' and 'no' begin with the same token"):
        train(settings)
    assert not pathlib.Path(settings.model_dir).exists()


def test_validation_asks_for_both_kinds_too(toy_dataset):
    data = dataset_lib.load(toy_dataset)
    splits = splits_lib.of(data)
    likes.check_asked([data], [splits], 3.0, None, 0)
    with pytest.raises(UserError, match=r"100% of the 1 ratings to validate|0% of the 1 ratings"):
        likes.check_asked([data], [splits], 3.0, 1, 0)
