"""Opens the training inputs: datasets, item ids, vocabulary, prompts, and batches by step."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from genrec_jax import storage
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts
from genrec_jax.data import dataset as dataset_lib
from genrec_jax.data import splits as splits_lib
from genrec_jax.decoding import trie as trie_lib
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids as item_ids_lib
from genrec_jax.indexing.item_ids import ItemIds
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.parallel import rules
from genrec_jax.pipeline import mixtures, seqio_reader
from genrec_jax.pipeline.batch import Batch
from genrec_jax.pipeline.batches import TrainBatches
from genrec_jax.pipeline.mixtures import Mixture
from genrec_jax.pipeline.packing import Shape
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.progress import print_notice
from genrec_jax.prompts import templates as templates_lib
from genrec_jax.training.config import DataConfig
from genrec_jax.training.loop import Batches, Prepared, count_cells

ANY_LENGTH = 1 << 20  # tokens; more than any prompt has


@runtime_checkable
class HostBatches(Protocol):
    """Rows of one host, by step; `pipeline.batches.TrainBatches`, or the SeqIO reader."""

    @property
    def examples_per_step(self) -> int | None:
        """Examples of a step over all hosts; None where that varies with the packing."""
        ...

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape that a batch may have, over all hosts."""
        ...

    def batch(self, step: int) -> Batch:
        """Rows of a step that are this host's."""
        ...


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything opened, in the mixture's order of datasets.

    Attributes:
        datasets: the data.
        splits: what of it is trained on.
        index_dirs: where each one's item ids lie.
        item_ids: the ids.
        vocabulary: one for all.
        templates_text: the text of the templates file.
        templates: the same, parsed.
        tables: prompts compiled for each dataset.
        mixture: where examples come from; with a SeqIO mixture, it only says how items are written.
        tasks: what it trains.
        steps_per_epoch: steps until the largest source has been through once; 0: SeqIO does not say.
        shapes: every shape that a batch may have, over all hosts; each is one compilation of the step.
        batches: batches by step, on the device.
    """

    datasets: tuple[dataset_lib.Dataset, ...]
    splits: tuple[splits_lib.Splits, ...]
    index_dirs: tuple[pathlib.Path, ...]
    item_ids: tuple[ItemIds, ...]
    vocabulary: Vocabulary
    templates_text: str
    templates: tuple[templates_lib.Template, ...]
    tables: tuple[PromptTables, ...]
    mixture: Mixture
    tasks: tuple[str, ...]
    steps_per_epoch: int
    shapes: tuple[Shape, ...]
    batches: Batches

    def write_trie(self, number: int, path: pathlib.Path) -> None:
        """Writes the trie of dataset `number`'s catalogue."""
        trie_lib.save(self.trie(number), path)

    def mend_tries(self, run_dir: RunDir) -> None:
        """Writes anew each trie of a run on these inputs that cannot be read."""
        for number, entry in enumerate(run_dir.datasets):
            try:
                trie_lib.load(entry.trie)
            except UserError as error:
                print_notice(f"{error}. Building it now")
                self.write_trie(number, entry.trie)
                run_dir.publish(entry.trie.relative_to(run_dir.path).as_posix())

    def trie(self, number: int) -> trie_lib.Trie:
        """The trie of dataset `number`: every item's target."""
        runs = self.tables[number].target_runs()
        texts = self.item_ids[number].texts
        return trie_lib.build_trie(
            runs.values_P,
            runs.offsets_E1,
            vocab_size=self.vocabulary.size,
            eos_id=self.vocabulary.eos_id,
            name_of=lambda item: f"{texts[item]} (item {item})",
        )

    def fingerprints(self) -> dict[str, Any]:
        """What the artefacts are: a resumed run must have the same."""
        return {
            "datasets": {dataset.name: dataset.fingerprint for dataset in self.datasets},
            "item_ids": {
                dataset.name: artefacts.sha256_of_file(folder / item_ids_lib.TABLE)
                for dataset, folder in zip(self.datasets, self.index_dirs, strict=True)
            },
            "vocabulary": self.vocabulary.sha256,
            "templates": self.templates_text,
        }


class PlacedBatches:
    """Batches by step, spread over the mesh: every host makes its own rows and holds them."""

    def __init__(self, batches: HostBatches, mesh: Mesh):
        self._batches = batches
        self._sharding = rules.batch_sharding(mesh)
        self._parts = mesh_lib.row_share(mesh).count

    def prepare(self, step: int) -> Prepared:
        """Makes a step's batch and moves it to the devices."""
        rows = self._batches.batch(step)
        cells, padding = count_cells(
            np.asarray(rows.encoder_segment_ids_BL), np.asarray(rows.decoder_segment_ids_BT)
        )
        examples = self._batches.examples_per_step
        if examples is None:  # the last segment of each row tells; other hosts' rows count alike
            examples = int(np.asarray(rows.decoder_segment_ids_BT).max(axis=1).sum()) * self._parts
        return Prepared(
            batch=place(rows, self._sharding),
            examples=examples,
            cells=cells * self._parts,
            padding=padding * self._parts,
        )

    def describe(self, step: int) -> str:
        """Epoch, task and example numbers of a step, to find its batch again."""
        mixture = getattr(self._batches, "mixture", None)
        examples = self._batches.examples_per_step
        if not isinstance(mixture, Mixture) or examples is None:
            return f"step {step} of the mixture"
        source, epochs_E, numbers_E = mixture.at(step, examples)
        return (
            f"epoch {int(epochs_E[0])}, task {source.name}, examples {int(numbers_E[0])} to"
            f" {int(numbers_E[-1])} of the epoch's order"
        )


def place(rows: Any, sharding: jax.sharding.Sharding) -> Any:
    """Makes one host's rows into arrays over all hosts."""
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), rows
    )


def open_inputs(config: DataConfig, seed: int, mesh: Mesh, microbatches: int = 1) -> Inputs:
    """Opens everything and checks that it belongs together.

    Args:
        config: what to train on.
        seed: of draws and order.
        mesh: where batches go.
        microbatches: parts that a step works on one after another; rows divide among them too.

    Raises:
        UserError: something is missing, item ids are of another dataset, or lengths do not allow it.
    """
    datasets = tuple(dataset_lib.load(path) for path in config.datasets)
    splits = tuple(splits_lib.of(dataset) for dataset in datasets)
    index_dirs = find_index_dirs(config, datasets)
    item_ids = tuple(item_ids_lib.load(folder) for folder in index_dirs)
    for dataset, ids in zip(datasets, item_ids, strict=True):
        ids.check_dataset(dataset)
    vocabulary = item_ids_lib.load_vocabulary(index_dirs[0])
    own = config.mixture_module is not None
    default = templates_lib.OPENP5_TEMPLATES if own else mixtures.default_templates(config.mixture)
    templates_file = config.templates_file or default
    templates = templates_lib.load_templates(templates_file)
    mixture_name = config.mixture
    if own:  # validation reads the prompts of the templates' system
        searched = templates_lib.select(templates, task="retrieval")
        mixture_name = "alignment_retrieval" if searched else "openp5"
    mixture = mixtures.build_mixture(
        mixture_name,
        datasets,
        [ids.texts for ids in item_ids],
        vocabulary,
        templates,
        splits=splits,
        history=config.history,
        templates_per_example=config.templates_per_example,
        seed=seed,
        max_input_length=ANY_LENGTH if own else config.max_input_length,
        cut=config.cut,
        titles=[ids.titles for ids in item_ids],
        rates=None if own else config.rates,
        num_candidates=config.num_candidates,
        like_above=config.like_above,
    )
    sources = {source.dataset.name: source.prompts.tables for source in mixture.sources}
    tables = tuple(sources[dataset.name] for dataset in datasets)
    if own:
        check_target_length(config, tables)
        batches = seqio_batches(vocabulary, config, seed, mesh, microbatches)
        steps_per_epoch = 0
    else:
        batches = host_batches(mixture, config, mesh, microbatches)
        steps_per_epoch = batches.steps_per_epoch
    return Inputs(
        datasets=datasets,
        splits=splits,
        index_dirs=index_dirs,
        item_ids=item_ids,
        vocabulary=vocabulary,
        templates_text=pathlib.Path(templates_file).read_text(encoding="utf-8"),
        templates=templates,
        tables=tables,
        mixture=mixture,
        tasks=mixtures.MIXTURE_TASKS[mixture_name],
        steps_per_epoch=steps_per_epoch,
        shapes=batches.shapes,
        batches=PlacedBatches(batches, mesh),
    )


def host_batches(
    mixture: Mixture, config: DataConfig, mesh: Mesh, microbatches: int = 1
) -> TrainBatches:
    """Makes the batches of a mixture, this host's rows of them."""
    share = mesh_lib.row_share(mesh)
    return TrainBatches(
        mixture,
        config.batch_size,
        packing=config.packing,
        row_length=config.row_length or config.max_input_length,
        max_target_length=config.max_target_length,
        host=share.index,
        num_hosts=share.count,
        rows_multiple=mesh.shape["data"] * mesh.shape["fsdp"] * microbatches,
        max_shapes=config.max_shapes,
    )


def check_target_length(config: DataConfig, tables: Sequence[PromptTables]) -> None:
    """Checks, before a SeqIO mixture is read, that its targets may be as long as any item.

    Raises:
        UserError: they may not.
    """
    longest = max(int(own.target_runs().lengths_E.max()) for own in tables)
    limit = config.max_target_length
    if limit is not None and limit < longest:
        raise UserError(
            f"the longest item of the catalogue has {longest} tokens as a target, end-of-sequence"
            f" included; the limit is {limit}. Targets are never cut: set"
            f' TASK_FEATURE_LENGTHS["targets"] to {longest} or more'
        )


def seqio_batches(
    vocabulary: Vocabulary,
    config: DataConfig,
    seed: int,
    mesh: Mesh,
    microbatches: int = 1,
    *,
    split: str = "train",
) -> seqio_reader.SeqIOBatches:
    """Makes the batches of a user's own SeqIO mixture, this host's rows of them.

    Raises:
        UserError: its vocabulary is not the one of the item ids, or it cannot be opened.
    """
    share = mesh_lib.row_share(mesh)
    batches = seqio_reader.SeqIOBatches(
        config.mixture,
        config.batch_size,
        module=config.mixture_module,
        feature_lengths=config.feature_lengths,
        split=split,
        shuffle=split == "train",
        packing=config.packing,
        seed=seed,
        host=share.index,
        num_hosts=share.count,
        rows_multiple=mesh.shape["data"] * mesh.shape["fsdp"] * microbatches,
    )
    if batches.vocabulary.sha256 != vocabulary.sha256:
        raise UserError(
            f"the SeqIO mixture {config.mixture!r} tokenises with another vocabulary than the item ids;"
            f" wanted {vocabulary.path}. Build its features on that file"
        )
    return batches


def find_index_dirs(
    config: DataConfig, datasets: Sequence[dataset_lib.Dataset]
) -> tuple[pathlib.Path, ...]:
    """The index dir of each dataset.

    Raises:
        UserError: nowhere; it says which command makes them.
    """
    root = None if config.index_dir is None else storage.local_copy(config.index_dir)
    if root is None and len(datasets) > 1:
        raise UserError(
            "several datasets share one vocabulary, so INDEX_DIR must name the folder that `genrec index"
            " ... --output DIR` wrote for all of them"
        )
    folders = []
    for path, dataset in zip(config.datasets, datasets, strict=True):
        place = config.index_dir or storage.join(path, "index", config.index_method)
        own = storage.local_copy(place) if root is None else root
        folder = own if (own / item_ids_lib.MANIFEST).is_file() else own / dataset.name
        if not (folder / item_ids_lib.MANIFEST).is_file():
            raise UserError(
                f"holds no item ids for {dataset.name}. Make them with `genrec index {path} --method"
                f" {config.index_method}`, or set INDEX_DIR to where they are",
                file=str(place),
            )
        folders.append(folder)
    return tuple(folders)
