"""OpenP5's SeqIO tasks of a dataset dir on an object store."""

import re

import fsspec
import pytest

from genrec_jax.errors import UserError
from genrec_jax.indexing import build
from genrec_jax.pipeline import seqio_tasks
from genrec_jax.prompts import templates
from tests.pipeline.pipeline_data import random_sequences, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow and SeqIO warn of their dependencies


def test_a_dataset_dir_at_a_url_is_registered_and_read(tmp_path, monkeypatch):
    seqio = pytest.importorskip("seqio", reason="needs the extra genrec-jax[seqio]")
    monkeypatch.setenv("GENREC_STORAGE_CACHE", str(tmp_path / "cache"))
    data = write_dataset(tmp_path / "shop", "Far", random_sequences(6, 20, seed=1, longest=9))
    lines = [re.sub(r"\S*\{\w+\}", "", t.input) for t in templates.load_templates()]
    build.build_index(
        [data.path], build.IndexConfig("random"), output=tmp_path / "index", prompt_lines=lines
    )
    store = fsspec.filesystem("memory")
    try:
        for file in data.path.iterdir():
            if file.is_file():
                store.pipe_file(f"/seqio/far/{file.name}", file.read_bytes())
        names = seqio_tasks.register("memory://seqio/far", tmp_path / "index", name_prefix="url")
        assert names[-1] == "url_Far"
        task = seqio.get_mixture_or_task("url_Far_sequential")
        (example,) = task.get_dataset(split="test", shuffle=False).take(1).as_numpy_iterator()
        assert example["targets_pretokenized"].decode().startswith("Far item_")
        with pytest.raises(UserError, match=r"^memory://seqio/none/dataset.json: not found"):
            seqio_tasks.register("memory://seqio/none", tmp_path / "index", name_prefix="no")
    finally:
        store.rm("/seqio", recursive=True)
