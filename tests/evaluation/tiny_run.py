"""A whole run dir with random parameters, made in seconds: what evaluating needs, minus the training."""

import pathlib

import jax
from flax import nnx

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.checkpoint.store import CheckpointStore
from genrec_jax.data import dataset as datasets
from genrec_jax.data import prepare, toystore
from genrec_jax.data.dataset import Dataset
from genrec_jax.decoding import trie as tries
from genrec_jax.indexing import build
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model.config import T5Config
from genrec_jax.model.t5 import T5
from genrec_jax.pipeline.prompt_batches import PromptAssembler
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.pytree import pytree_dataclass

HISTORY, MAX_INPUT_LENGTH = 5, 128


@pytree_dataclass
class State:
    """As much of a training state as a checkpoint needs."""

    params: nnx.State
    step: jax.Array


def make_dataset(folder: pathlib.Path, name: str = "toystore", num_users: int = 60) -> Dataset:
    """A small toy store."""
    log = toystore.generate(num_users=num_users)
    return prepare.prepare(log, folder / name, name=name, filters=prepare.Filters(3, 1))


def make_run(
    folder: pathlib.Path,
    dataset_dirs: list[pathlib.Path],
    *,
    tasks: tuple[str, ...] = ("sequential", "straightforward"),
    steps: tuple[int, ...] = (10,),
    seed: int = 0,
) -> RunDir:
    """A run dir with a checkpoint for each step, its parameters drawn from that number.

    Its settings name `seed`. The checkpoints' validation metric `hr@10` falls with the step, so the first
    is the best.
    """
    templates_text = templates_lib.OPENP5_TEMPLATES.read_text(encoding="utf-8")
    templates = templates_lib.load_templates()
    index = folder.with_name(f"{folder.name}-index")
    lines = [text for t in templates for text in (t.input, t.target)]
    built = build.build_index(
        dataset_dirs, build.IndexConfig("sequential"), output=index, prompt_lines=lines
    )
    vocabulary = Vocabulary(index / item_ids_lib.VOCABULARY)
    loaded = [datasets.load(path) for path in dataset_dirs]

    def write_trie(number: int, path: pathlib.Path) -> None:
        texts = built[number].item_ids.texts
        assembler = PromptAssembler(vocabulary, texts, templates, loaded[number].name)
        runs = assembler.target_runs()
        trie = tries.build_trie(runs.values_P, runs.offsets_E1, vocab_size=vocabulary.size)
        tries.save(trie, path)

    run_dir = RunDir.create(
        folder,
        model_config=model_config(vocabulary.size),
        mixture={
            "name": "openp5",
            "tasks": list(tasks),
            "history": HISTORY,
            "max_input_length": MAX_INPUT_LENGTH,
            "cut": "items",
        },
        datasets=loaded,
        index_dirs=[one.path for one in built],
        vocabulary=vocabulary,
        templates_text=templates_text,
        write_trie=write_trie,
        selection={"metric": "hr@10", "mode": "max"},
        settings={"seed": seed},
    )
    for step in steps:
        add_checkpoint(run_dir, step)
    return run_dir


def add_checkpoint(run_dir: RunDir, step: int) -> None:
    """Saves parameters drawn from `step`."""
    model = T5(run_dir.model_config, rngs=nnx.Rngs(step))
    state = State(nnx.state(model, nnx.Param), jax.numpy.asarray(step))
    store = CheckpointStore(run_dir.checkpoint_dir, keep_latest=99, best_metric="hr@10")
    store.save(step, state, metrics={"hr@10": 1 / step})
    store.close()


def model_config(vocab_size: int) -> T5Config:
    """A network small enough to compile in a few seconds."""
    return T5Config(
        vocab_size=vocab_size,
        embed_dim=16,
        num_heads=2,
        head_dim=8,
        mlp_dim=32,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dropout_rate=0.0,
    )
