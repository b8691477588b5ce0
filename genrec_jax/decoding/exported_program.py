"""Runs an exported recommender; `genrec_jax.decoding.export` puts a copy beside it as `load.py`.

It needs Python, NumPy and JAX, nothing else:

    import load

    recommender = load.Recommender("exported/")
    recommender.warm_up()
    items, scores = recommender.recommend(tokens, whole_words)
    best = [recommender.source_ids[item] for item in items[0] if item >= 0]

Tokens are prompts by the SentencePiece model `vocabulary.model`, one row each, ending in
end-of-sequence and padded with 0; whole words number the words of a prompt from 1, 0 at padding.

The catalogue is an argument: `export_catalogue` of genrec_jax's recommender writes that of now, the
trie and the names of its items in one file.
"""

import json
import pathlib
import time

import jax
import jax.export
import numpy as np
from numpy.typing import ArrayLike

FORMAT_VERSION = 2
FIXED = ("max_steps", "eos_id")
"""What a catalogue's file says of its trie beside the programs' arguments."""
NAMES = "names"
"""JSON of `source_ids` and `titles` by item number, as bytes, in the catalogue's file."""


class Recommender:
    """The exported programs, one for each shape of batch, with their arguments on the device.

    Attributes:
        manifest: `manifest.json`: shapes, beams, platforms, where the run came from.
        shapes: (rows, tokens) of the programs, smallest first.
        source_ids: the source id of each item number, retired items too.
        titles: the title of each, None where it has none.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        catalogue: str | pathlib.Path | None = None,
        cache: str | pathlib.Path | None = None,
    ):
        """Reads programs and arguments.

        Args:
            folder: what was exported.
            catalogue: another `catalogue.npz`, of the same padded sizes; by default the exported one.
            cache: folder for compiled programs, which later processes read instead of compiling. It is
                JAX's setting for the whole process, and does nothing where JAX has compiled into another
                folder before; by default what JAX was told (`JAX_COMPILATION_CACHE_DIR`), or none.

        Raises:
            ValueError: another format, or parameters or a catalogue that the programs cannot take.
        """
        self.folder = pathlib.Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        if self.manifest["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{self.folder} has format version {self.manifest['format_version']}; this file reads"
                f" {FORMAT_VERSION}. Use the load.py that lies beside it"
            )
        if cache is not None:
            jax.config.update("jax_compilation_cache_dir", str(cache))
        self.shapes = [(rows, tokens) for rows, tokens in self.manifest["shapes"]]
        self._programs = {
            (rows, tokens): jax.export.deserialize(
                bytearray((self.folder / f"recommend_{rows}x{tokens}.jax").read_bytes())
            )
            for rows, tokens in self.shapes
        }
        self._call = {shape: jax.jit(program.call) for shape, program in self._programs.items()}
        path = self.folder / "params.npz"
        params = _arrays(path)
        if problem := _other_arrays(params, self.manifest["params"]):
            raise ValueError(
                f"{path} {problem}; wanted the parameters of a network of the same sizes. Export the"
                " recommender anew"
            )
        split = self.manifest["split_layers"]
        self._params = jax.device_put(
            {name: [*array] if name in split else array for name, array in params.items()}
        )
        path = pathlib.Path(catalogue or self.folder / "catalogue.npz")
        arrays = _arrays(path)
        wanted = self.manifest["trie"]
        if problem := misfit(arrays, wanted):
            raise ValueError(
                f"{path} {problem}; wanted what `export_catalogue` of genrec_jax's recommender wrote for"
                " this export. Where it cannot, export the recommender anew, with more room"
            )
        names = json.loads(arrays[NAMES].tobytes())
        self.source_ids: list[str] = names["source_ids"]
        self.titles: list[str | None] = names["titles"]
        self._trie = jax.device_put({name: arrays[name] for name in wanted["arrays"]})

    def warm_up(self) -> dict[tuple[int, int], float]:
        """Compiles every program, or reads it from the cache, before the first request comes.

        Returns:
            seconds that each shape took, one run included.
        """
        seconds = {}
        for shape in self.shapes:
            started = time.perf_counter()
            tokens = np.zeros(shape, np.int32)
            tokens[:, 0] = self.manifest["trie"]["eos_id"]
            self._run(shape, tokens, np.zeros_like(tokens))
            seconds[shape] = time.perf_counter() - started
        return seconds

    def recommend(
        self, tokens: ArrayLike, whole_words: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best items of each prompt and their log-probabilities, best first.

        Args:
            tokens: whole numbers (rows, length), padded with 0; at most as large as the largest program.
            whole_words: the same, for a model that has the whole-word embedding.

        Returns:
            items (rows, results), -1 in empty places, and scores, -inf there. A row of padding gets no
            item.

        Raises:
            ValueError: not such arrays, a token that the vocabulary does not have, a word numbered
                higher than there are tokens up to it, or scores that are not finite (NaN parameters).
        """
        tokens = _whole_numbers("tokens", tokens)
        rows, length = tokens.shape
        fitting = [(r, n) for r, n in self.shapes if r >= rows and n >= length]
        if not fitting:
            raise ValueError(
                f"got {rows} prompts of {length} tokens; the exported programs take {self.shapes}"
            )
        _check_range("tokens", tokens, self.manifest["vocab_size"] - 1)
        if whole_words is None:
            if self.manifest["whole_words"]:
                raise ValueError("the model has a whole-word embedding; give whole_words too")
            whole_words = np.zeros_like(tokens)
        whole_words = _whole_numbers("whole_words", whole_words)
        if whole_words.shape != tokens.shape:
            raise ValueError(
                f"whole_words are of shape {whole_words.shape} and tokens of {tokens.shape}; wanted one"
                " word number for each token"
            )
        _check_range("whole_words", whole_words, np.arange(1, length + 1))
        shape = min(fitting, key=lambda fits: fits[0] * fits[1])
        batch = [np.zeros(shape, np.int32) for _ in range(2)]
        batch[0][:rows, :length], batch[1][:rows, :length] = tokens, whole_words
        items, scores = (array[:rows] for array in self._run(shape, *batch))
        if ((items[:, 0] < 0) & (tokens > 0).any(axis=1)).any():
            raise ValueError(
                f"{self.folder} found no item although there are some to recommend: its scores are not"
                " finite (NaN). Parameters are damaged; wanted another checkpoint, exported anew"
            )
        return items, scores

    def _run(
        self, shape: tuple[int, int], tokens: np.ndarray, whole_words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        items, scores = self._call[shape](self._params, self._trie, tokens, whole_words)
        return np.asarray(items), np.asarray(scores)


def described(array: np.ndarray) -> str:
    """Type and shape as the manifest has them, such as `float32[2,64]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def misfit(arrays: dict[str, np.ndarray], wanted: dict) -> str | None:
    """Why programs cannot take a catalogue, to follow its name; None where they can.

    Args:
        arrays: of the catalogue's file.
        wanted: what the programs' manifest says of their `trie`.
    """
    own = (*FIXED, NAMES)
    if not all(name in arrays for name in own):
        return f"is no catalogue of an export: it lacks one of {', '.join(own)}"
    steps, end = (int(arrays[name]) for name in FIXED)
    most, known_end = (wanted[name] for name in FIXED)
    if steps > most or end != known_end:
        return (
            f"has ids of up to {steps} tokens that end with token {end}, and the programs make {most}"
            f" steps at most and end with {known_end}"
        )
    trie = {name: array for name, array in arrays.items() if name not in own}
    return _other_arrays(trie, wanted["arrays"])


def _other_arrays(arrays: dict[str, np.ndarray], wanted: dict[str, str]) -> str | None:
    found = {name: described(array) for name, array in arrays.items()}
    for name in {**wanted, **found}:
        own, known = found.get(name, "absent"), wanted.get(name, "absent")
        if own != known:
            return f"has other arrays than the programs take: {name} is {own}, and {known} there"
    return None


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _whole_numbers(name: str, given: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(
            f"{name} are no array ({error}); wanted rows of one length, padded with 0"
        ) from error
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} are {array.dtype} of shape {array.shape}; wanted whole numbers (int32) of shape"
            " (prompts, tokens)"
        )
    return array


def _check_range(name: str, array: np.ndarray, most: int | np.ndarray) -> None:
    wrong = np.argwhere((array < 0) | (array > most))
    if len(wrong):
        row, place = wrong[0]
        limit = np.broadcast_to(most, array.shape)[row, place]
        raise ValueError(f"{name}[{row}, {place}] is {array[row, place]}; wanted 0 to {limit}")
