"""The whole of recommending as files that JAX alone can run: no genrec_jax, Flax, gin or TensorFlow.

Encoder, search and normaliser become one StableHLO program for each shape of batch (`jax.export`);
the parameters and the trie are its arguments and lie beside it, so that a new checkpoint, or a
catalogue of the same padded size, needs no new export. The parameters' file has the layers stacked, as
checkpoints have them, whatever machine exports. The trie lies in one file with the names of its items:
two processes may give one number to different items.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from flax import nnx

from genrec_jax.checkpoint import store
from genrec_jax.checkpoint.run_dir import VOCABULARY, RunDir
from genrec_jax.data import artefacts
from genrec_jax.decoding import exported_program, recommend
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.stock import Stock
from genrec_jax.decoding.trie import Trie
from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model import stacks
from genrec_jax.pipeline.batch import PromptBatch

MANIFEST = "manifest.json"
PARAMS = "params.npz"
CATALOGUE = "catalogue.npz"
LOADER = "load.py"
Arrays = dict[str, jax.Array]


def export_program(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    trie: Trie,
    config: BeamConfig,
    rows: int,
    length: int,
    platforms: Sequence[str],
    split: Collection[str] = (),
) -> bytes:
    """Serialises `(params, trie, tokens_BL, whole_words_BL) -> (items_BR, scores_BR)` for one shape.

    Parameters and trie are dictionaries of arrays by name (`named_arrays`), so that reading them
    back takes no class of ours.

    Args:
        graphdef: the model's structure.
        params: its parameters, layers stacked; only names, shapes and types are used.
        trie: the catalogue; likewise.
        config: how to search.
        rows: requests of a batch.
        length: tokens of a prompt, padding included.
        platforms: such as `("cpu", "cuda", "tpu")`.
        split: names of parameters that the program takes as a list of one array a layer.
    """
    params_form = jax.tree.structure(params)
    trie_form = jax.tree.structure(trie)
    params_names, trie_names = list(named_arrays(params)), list(named_arrays(trie))

    def run(named_params: dict[str, Any], named_trie: Arrays, tokens_BL, whole_words_BL):
        for name in split:
            named_params = named_params | {name: stacks.LayerTuple(named_params[name])}
        own_params = jax.tree.unflatten(params_form, [named_params[n] for n in params_names])
        own_trie = jax.tree.unflatten(trie_form, [named_trie[n] for n in trie_names])
        nobody_B = np.full(rows, -1, np.int32)
        batch = PromptBatch(tokens_BL, whole_words_BL, nobody_B, nobody_B)
        model = nnx.merge(graphdef, own_params)
        found = recommend.recommend(model, batch, own_trie, config)
        return found.items_BR, found.scores_BR

    def shape_of(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    prompt = jax.ShapeDtypeStruct((rows, length), np.int32)
    params_shapes: dict[str, Any] = jax.tree.map(shape_of, named_arrays(params))
    for name in split:
        layers, *shape = params_shapes[name].shape
        one = jax.ShapeDtypeStruct(shape, params_shapes[name].dtype)
        params_shapes[name] = [one] * layers
    trie_shapes = jax.tree.map(shape_of, named_arrays(trie))
    exported = jax.export.export(jax.jit(run), platforms=platforms)(
        params_shapes, trie_shapes, prompt, prompt
    )
    return bytes(exported.serialize())


def named_arrays(tree: Any) -> dict[str, Any]:
    """The arrays of parameters or of a trie by dotted name, in the tree's order."""
    return store.name_leaves(tree)


def write_catalogue(
    folder: artefacts.PathLike,
    stock: Stock,
    vocabulary: Vocabulary,
    path: artefacts.PathLike | None = None,
) -> pathlib.Path:
    """Writes the trie and its items' names, in one file, for the programs of an export.

    Args:
        folder: what `write` wrote. Where it has more room than the trie, the trie gets it, too.
        stock: the items of now.
        vocabulary: of the run that they belong to.
        path: the file; by default the export's own, which is replaced in one step.

    Returns:
        the file.

    Raises:
        UserError: no export, one with another vocabulary, or items that its programs cannot take.
    """
    folder = pathlib.Path(folder)
    remedy = "Write one with `genrec export --to jax`"
    manifest = artefacts.read_json(folder / MANIFEST, wanted="an export's manifest", remedy=remedy)
    version = manifest.get("format_version")
    artefacts.check_version(
        version, exported_program.FORMAT_VERSION, path=folder / MANIFEST, remedy=remedy
    )
    if artefacts.sha256_of_file(folder / VOCABULARY) != vocabulary.sha256:
        raise UserError(
            "is an export with another vocabulary, whose tokens mean something else; wanted an export of"
            " this run",
            file=str(folder),
        )
    arrays = _catalogue_arrays(stock)
    for name, form in manifest["trie"]["arrays"].items():
        array = arrays[name]
        if array.ndim == 1 and name != "prefix_Q":
            more = max(_length(form) - len(array), 0)
            # Padding repeats the last entry, as in `live.with_room`.
            arrays[name] = np.pad(array, (0, more), mode="edge")
    if problem := exported_program.misfit(arrays, manifest["trie"]):
        raise UserError(
            f"cannot take these items: the catalogue {problem}. Export the recommender anew; one that is"
            " loaded with `room` (`genrec export --room`) can take that many items more",
            file=str(folder),
        )
    target = folder / CATALOGUE if path is None else pathlib.Path(path)
    _write_arrays(target, arrays)
    return target


def _length(form: str) -> int:
    """The length of an array of one dimension, from what the manifest says of it: `uint16[128]`."""
    return int(form.partition("[")[2].rstrip("]"))


def _names_of_layers(params: nnx.State) -> list[str]:
    """The names of parameters that have a `layers` axis."""
    forms = jax.tree.leaves(
        jax.eval_shape(stacks.split_layers, params),
        is_leaf=lambda leaf: isinstance(leaf, stacks.LayerTuple),
    )
    named = zip(named_arrays(params), forms, strict=True)
    return [name for name, form in named if isinstance(form, stacks.LayerTuple)]


def _catalogue_arrays(stock: Stock) -> dict[str, np.ndarray]:
    source_ids, titles = stock.catalogue.source_ids, stock.catalogue.titles
    names = {
        "source_ids": [source_ids[number] for number in stock.numbers_I],
        "titles": [titles[number] for number in stock.numbers_I],
    }
    written = json.dumps(names, ensure_ascii=False).encode()
    fixed = {name: np.asarray(getattr(stock.trie, name)) for name in exported_program.FIXED}
    arrays = {name: np.asarray(array) for name, array in named_arrays(stock.trie).items()}
    return arrays | fixed | {exported_program.NAMES: np.frombuffer(written, np.uint8)}


def _write_arrays(path: artefacts.PathLike, arrays: dict[str, np.ndarray]) -> None:
    with artefacts.atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write(
    folder: artefacts.PathLike,
    graphdef: nnx.GraphDef,
    params: nnx.State,
    stock: Stock,
    run_dir: RunDir,
    config: BeamConfig,
    shapes: Sequence[tuple[int, int]],
    *,
    platforms: Sequence[str] | None = None,
    origin: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes programs, arguments and the few lines of Python that run them.

    Args:
        folder: to be written, whole or not at all.
        graphdef: the model's structure.
        params: its parameters, layers stacked or split. A program for CPUs alone gets them split
            (`stacks.split_layers`); their file has them stacked.
        stock: the items.
        run_dir: the run, whose vocabulary is copied beside.
        config: how to search.
        shapes: (rows, tokens) of the programs.
        platforms: what the programs will run on; this process's platform by default.
        origin: what the manifest says of the run.
        overwrite: replace an earlier export.

    Returns:
        the folder.

    Raises:
        UserError: a shape below one, an unknown platform, or a folder that stands in the way.
    """
    target = pathlib.Path(folder)
    ours = all((target / name).is_file() for name in (MANIFEST, LOADER))
    artefacts.check_output(target, overwrite=overwrite, ours=ours, kind="an exported recommender")
    if not shapes or min(min(shape) for shape in shapes) < 1:
        raise UserError(f"shapes are {list(shapes)}; wanted one or more pairs (requests, tokens)")
    platforms = list(platforms or [jax.export.default_export_platform()])
    known = ("cpu", "cuda", "rocm", "tpu")
    wrong = [platform for platform in platforms if platform not in known]
    if wrong:
        raise UserError(f"platform {wrong[0]!r} is unknown; wanted one of {', '.join(known)}")
    ordered = sorted({(int(rows), int(length)) for rows, length in shapes})
    params = stacks.stack_layers(params)
    split = _names_of_layers(params) if platforms == ["cpu"] else []
    named = named_arrays(params)
    catalogue = _catalogue_arrays(stock)
    with (
        artefacts.disk_errors(target),
        artefacts.atomic_directory(target, overwrite=overwrite) as temporary,
    ):
        for rows, length in ordered:
            program = export_program(
                graphdef, params, stock.trie, config, rows, length, platforms, split
            )
            (temporary / f"recommend_{rows}x{length}.jax").write_bytes(program)
        _write_arrays(temporary / PARAMS, named)
        _write_arrays(temporary / CATALOGUE, catalogue)
        run_dir.vocabulary.save(temporary / VOCABULARY)
        shutil.copyfile(exported_program.__file__, temporary / LOADER)
        described = exported_program.described
        manifest = {
            "format_version": exported_program.FORMAT_VERSION,
            "shapes": ordered,
            "whole_words": run_dir.model_config.whole_word_embedding,
            "vocab_size": run_dir.vocabulary.size,
            "platforms": platforms,
            "search": dataclasses.asdict(config),
            "trie": {
                **{name: int(getattr(stock.trie, name)) for name in exported_program.FIXED},
                "arrays": {n: described(catalogue[n]) for n in named_arrays(stock.trie)},
            },
            "params": {name: described(array) for name, array in named.items()},
            "split_layers": split,
            "jax": jax.__version__,
            **(origin or {}),
        }
        artefacts.write_json(temporary / MANIFEST, manifest)
    return target
