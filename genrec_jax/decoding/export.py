"""The whole of recommending as files that JAX alone can run: no genrec_jax, Flax, gin or TensorFlow.

Encoder, search and normaliser become one StableHLO program for each shape of batch (`jax.export`);
the parameters and the trie are its arguments and lie beside it, so that a new checkpoint, or a
catalogue of the same padded size, needs no new export.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from flax import nnx

from genrec_jax.checkpoint import store
from genrec_jax.data import artefacts
from genrec_jax.decoding import exported_program, recommend
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import Trie
from genrec_jax.errors import UserError
from genrec_jax.pipeline.batch import PromptBatch

MANIFEST = "manifest.json"
PARAMS = "params.npz"
TRIE = "trie.npz"
LOADER = "load.py"
Arrays = dict[str, jax.Array]


def export_program(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    trie: Trie,
    config: BeamConfig,
    rows: int,
    length: int,
    platforms: Sequence[str] | None = None,
) -> bytes:
    """Serialises `(params, trie, tokens_BL, whole_words_BL) -> (items_BR, scores_BR)` for one shape.

    Parameters and trie are dictionaries of arrays by name (`named_arrays`), so that reading them
    back takes no class of ours.

    Args:
        graphdef: the model's structure.
        params: its parameters; only names, shapes and types are used.
        trie: the catalogue; likewise.
        config: how to search.
        rows: requests of a batch.
        length: tokens of a prompt, padding included.
        platforms: such as `("cpu", "cuda", "tpu")`; this process's by default.
    """
    params_form = jax.tree.structure(params)
    trie_form = jax.tree.structure(trie)
    params_names, trie_names = list(named_arrays(params)), list(named_arrays(trie))

    def run(named_params: Arrays, named_trie: Arrays, tokens_BL, whole_words_BL):
        own_params = jax.tree.unflatten(params_form, [named_params[n] for n in params_names])
        own_trie = jax.tree.unflatten(trie_form, [named_trie[n] for n in trie_names])
        nobody_B = np.full(rows, -1, np.int32)
        batch = PromptBatch(tokens_BL, whole_words_BL, nobody_B, nobody_B)
        model = nnx.merge(graphdef, own_params)
        found = recommend.recommend(model, batch, own_trie, config)
        return found.items_BR, found.scores_BR

    prompt = jax.ShapeDtypeStruct((rows, length), np.int32)
    shapes = [
        jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), named)
        for named in (named_arrays(params), named_arrays(trie))
    ]
    exported = jax.export.export(jax.jit(run), platforms=platforms)(*shapes, prompt, prompt)
    return bytes(exported.serialize())


def named_arrays(tree: Any) -> dict[str, Any]:
    """The arrays of parameters or of a trie by dotted name, in the tree's order."""
    return store.name_leaves(tree)


def write_trie(path: artefacts.PathLike, trie: Trie) -> None:
    """Writes a trie for exported programs to take, with what they must fit beside it; atomically."""
    fixed = {name: np.asarray(getattr(trie, name)) for name in exported_program.FIXED}
    _write_arrays(path, named_arrays(trie) | fixed)


def _write_arrays(path: artefacts.PathLike, named: dict[str, Any]) -> None:
    arrays = {name: np.asarray(array) for name, array in named.items()}
    with artefacts.atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write(
    folder: artefacts.PathLike,
    graphdef: nnx.GraphDef,
    params: nnx.State,
    trie: Trie,
    config: BeamConfig,
    shapes: Sequence[tuple[int, int]],
    *,
    whole_words: bool,
    platforms: Sequence[str] | None = None,
    items: Sequence[dict[str, Any]] = (),
    vocabulary: artefacts.PathLike | None = None,
    origin: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes programs, arguments and the few lines of Python that run them.

    Args:
        folder: to be written, whole or not at all.
        graphdef: the model's structure.
        params: its parameters.
        trie: the catalogue.
        config: how to search.
        shapes: (rows, tokens) of the programs.
        whole_words: whether the model has the whole-word embedding.
        platforms: what the programs will run on; this process's platform by default.
        items: what `items.json` says of each item number.
        vocabulary: SentencePiece model that makes prompts, copied beside.
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
    known = ("cpu", "cuda", "rocm", "tpu")
    wrong = [platform for platform in platforms or () if platform not in known]
    if wrong:
        raise UserError(f"platform {wrong[0]!r} is unknown; wanted one of {', '.join(known)}")
    ordered = sorted({(int(rows), int(length)) for rows, length in shapes})
    with (
        artefacts.disk_errors(target),
        artefacts.atomic_directory(target, overwrite=overwrite) as temporary,
    ):
        for rows, length in ordered:
            program = export_program(graphdef, params, trie, config, rows, length, platforms)
            (temporary / f"recommend_{rows}x{length}.jax").write_bytes(program)
        _write_arrays(temporary / PARAMS, named_arrays(params))
        write_trie(temporary / TRIE, trie)
        if vocabulary is not None:
            shutil.copyfile(vocabulary, temporary / "vocabulary.model")
        artefacts.write_json(temporary / "items.json", list(items))
        shutil.copyfile(exported_program.__file__, temporary / LOADER)
        manifest = {
            "format_version": exported_program.FORMAT_VERSION,
            "shapes": ordered,
            "whole_words": whole_words,
            "platforms": list(platforms or [jax.export.default_export_platform()]),
            "search": dataclasses.asdict(config),
            "trie": {name: int(getattr(trie, name)) for name in exported_program.FIXED},
            "jax": jax.__version__,
            **(origin or {}),
        }
        artefacts.write_json(temporary / MANIFEST, manifest)
    return target
