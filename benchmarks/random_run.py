"""A run dir as `genrec train` leaves it, but for its parameters, which are random.

What it recommends means nothing; how long that takes does.
"""

import pathlib
from collections.abc import Callable

import jax
from flax import nnx

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.checkpoint.store import CheckpointStore
from genrec_jax.data import artefacts
from genrec_jax.data.dataset import Dataset
from genrec_jax.decoding import trie as tries
from genrec_jax.indexing import build, item_ids
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.pytree import pytree_dataclass

STEP = 1
SELECTION = {"metric": "hr@10", "mode": "max"}
MIXTURE = {
    "name": "openp5",
    "tasks": ["sequential"],
    "history": 20,
    "max_input_length": 512,
    "cut": "items",
}


@pytree_dataclass
class State:
    """As much of a training state as a checkpoint needs."""

    params: nnx.State
    step: jax.Array


def make_index(
    dataset: Dataset, output: pathlib.Path, vocabulary: artefacts.PathLike | None = None
) -> artefacts.PathLike:
    """Sequential item ids.

    Args:
        dataset: whose items.
        output: the folder to be made.
        vocabulary: T5's; without it a small one is trained on the prompts.
    """
    lines = [text for t in templates_lib.load_templates() for text in (t.input, t.target)]
    (built,) = build.build_index(
        [dataset.path],
        build.IndexConfig("sequential"),
        output=output,
        vocabulary=vocabulary,
        prompt_lines=lines,
    )
    return built.path


def make_run(
    folder: pathlib.Path,
    dataset: Dataset,
    index: artefacts.PathLike,
    config_of: Callable[[int], T5Config],
) -> RunDir:
    """A run dir without a checkpoint.

    Args:
        folder: to be made.
        dataset: what it was "trained" on.
        index: the folder of its item ids.
        config_of: makes the model's configuration from the size of the vocabulary.
    """
    vocabulary, ids = item_ids.load_vocabulary(index), item_ids.load(index)
    templates = templates_lib.load_templates()
    assembler = PromptAssembler(vocabulary, ids.texts, templates, dataset.name)

    def write_trie(_: int, path: pathlib.Path) -> None:
        runs = assembler.target_runs()
        trie = tries.build_trie(runs.values_P, runs.offsets_E1, vocab_size=vocabulary.size)
        tries.save(trie, path)

    return RunDir.create(
        folder,
        model_config=config_of(vocabulary.size),
        mixture=MIXTURE,
        datasets=[dataset],
        index_dirs=[index],
        vocabulary=vocabulary,
        templates_text=templates_lib.OPENP5_TEMPLATES.read_text(encoding="utf-8"),
        write_trie=write_trie,
        selection=SELECTION,
        settings={},
    )


def random_params(config: T5Config) -> nnx.State:
    """Parameters as training begins with them."""
    return t5.graph_and_params(t5.T5(config, rngs=nnx.Rngs(0)))[1]


def add_checkpoint(run_dir: RunDir) -> None:
    """Saves random parameters as the best checkpoint."""
    store = CheckpointStore(run_dir.checkpoint_dir, best_metric=SELECTION["metric"])
    params = random_params(run_dir.model_config)
    store.save(STEP, State(params, jax.numpy.asarray(STEP)), metrics={SELECTION["metric"]: 0.0})
    store.close()
