"""SeqIO tasks of a dataset with a temporal split: as many examples as users with targets, and ours."""

import pytest

from genrec_jax.data import dataset, prepare, splits, toystore
from genrec_jax.indexing import build
from genrec_jax.pipeline import openp5, seqio_alignment, seqio_tasks, windows

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("dated") / "dated"
    log = toystore.generate(num_users=60)
    return prepare.prepare(log, path, name="Dated", split=prepare.SplitBy("temporal"))


def check(seqio, name, sizes):
    task = seqio.get_mixture_or_task(name)
    for split, count in sizes.items():
        assert task.source.num_input_examples(split) == count
        found = list(task.get_dataset(split=split, shuffle=False).as_numpy_iterator())
        assert len(found) == count


def targets(data: dataset.Dataset) -> dict[str, int]:
    counts = splits.count_targets(data, splits.of(data))
    assert 0 < counts["test"].users < data.num_users
    return {split: count.users for split, count in counts.items()}


def test_openp5(seqio, shop, tmp_path):
    build.build_index([shop.path], build.IndexConfig("random"), output=tmp_path / "index")
    names = seqio_tasks.register(
        shop.path, tmp_path / "index", name_prefix="dated", templates_per_example=1
    )
    assert "dated_Dated_sequential" in names
    trained = len(openp5.training_positions(shop, splits.of(shop)))
    check(seqio, "dated_Dated_sequential", {"train": trained, **targets(shop)})
    check(seqio, "dated_Dated_straightforward_unseen", targets(shop))


def test_alignment(seqio, shop, tmp_path):
    build.build_index([shop.path], build.IndexConfig("short"), output=tmp_path / "index")
    seqio_alignment.register(
        shop.path, tmp_path / "index", name_prefix="dated_a", num_candidates=20, validation_users=3
    )
    trained = len(windows.target_positions(shop, splits.of(shop), 20))
    sizes = {"train": trained, **targets(shop), "validation": 3}
    for task in ("retrieval", "ranking", "rating"):
        check(seqio, f"dated_a_Dated_{task}", sizes)
