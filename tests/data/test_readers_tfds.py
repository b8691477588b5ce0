import builtins
import importlib.util
import warnings

import pytest
import reading

from genrec_jax.data import prepare_run
from genrec_jax.errors import UserError

ROWS = [
    {
        "user_id": b"138",
        "movie_id": b"357",
        "user_rating": 4.0,
        "timestamp": 879024327,
        "movie_title": b"One",
    },
    {
        "user_id": b"92",
        "movie_id": b"709",
        "user_rating": 2.0,
        "timestamp": 875654590,
        "movie_title": b"Two",
    },
]


@pytest.fixture(scope="module")
def builder_dir(tmp_path_factory):
    """A builder named `genrec_toy_log`, prepared on disk."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        pytest.skip("needs tensorflow-datasets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own imports warn
        import numpy as np
        import tensorflow_datasets as tfds

        class GenrecToyLog(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        {
                            "user_id": tfds.features.Text(),
                            "movie_id": tfds.features.Text(),
                            "movie_title": tfds.features.Text(),
                            "user_rating": np.float32,
                            "timestamp": np.int64,
                        }
                    ),
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                yield from enumerate(ROWS)

        folder = tmp_path_factory.mktemp("tfds")
        GenrecToyLog(data_dir=str(folder)).download_and_prepare()
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_builder_by_name(builder_dir, tmp_path):
    log = reading.read("tfds", "genrec_toy_log", tmp_path, data_dir=builder_dir)
    assert sorted(reading.rows(log, "user", "item", "timestamp", "rating")) == [
        ("138", "357", 879024327, 4.0),
        ("92", "709", 875654590, 2.0),
    ]
    assert dict(log.items.select("item", "title").iter_rows()) == {"357": "One", "709": "Two"}
    assert log.manifest["tfds"]["builder"] == "genrec_toy_log/1.0.0"
    assert not log.order_trusted


@pytest.mark.filterwarnings("ignore")
def test_features_are_named(builder_dir, tmp_path):
    named = "user=movie_id,item=user_id"
    log = reading.read("tfds", "genrec_toy_log", tmp_path, data_dir=builder_dir, columns=named)
    assert sorted(reading.rows(log, "user", "item")) == [("357", "138"), ("709", "92")]
    assert log.order_trusted
    with pytest.raises(UserError, match=r"has the features .*wanted one for the item"):
        reading.read(
            "tfds", "genrec_toy_log", tmp_path, data_dir=builder_dir, columns="user=user_id,item=x"
        )


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_builder(builder_dir, tmp_path):
    with pytest.raises(
        UserError, match=r"no_such_log_at_all: TensorFlow Datasets cannot load it"
    ) as caught:
        reading.read("tfds", "no_such_log_at_all", tmp_path, data_dir=builder_dir)
    assert "\n" not in str(caught.value)


def test_without_tensorflow(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name.startswith("tensorflow"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'genrec-jax\[seqio\]'"):
        prepare_run.prepare_from("tfds", "movielens/1m-ratings", tmp_path / "out")
