"""Runs an exported recommender; `genrec_jax.decoding.export` puts a copy beside it as `load.py`.

It needs Python, NumPy and JAX, nothing else:

    import load

    recommender = load.Recommender("exported/")
    items, scores = recommender.recommend(tokens, whole_words)

Tokens are prompts by the SentencePiece model `vocabulary.model`, one row each, ending in
end-of-sequence and padded with 0; whole words number the words of a prompt from 1, 0 at padding.
`items.json` names the items.

The trie is an argument: `export.write_trie` of genrec_jax writes that of another catalogue.
"""

import json
import pathlib

import jax
import jax.export
import numpy as np

FORMAT_VERSION = 1
FIXED = ("max_steps", "eos_id")
"""What a trie's file says of it beside the program's arguments."""


class Recommender:
    """The exported programs, one for each shape of batch, with their arguments on the device.

    Attributes:
        manifest: `manifest.json`: shapes, beams, platforms, where the run came from.
        shapes: (rows, tokens) of the programs, smallest first.
    """

    def __init__(self, folder: str | pathlib.Path, trie: str | pathlib.Path | None = None):
        """Reads programs and arguments.

        Args:
            folder: what was exported.
            trie: another catalogue's `trie.npz`, of the same padded sizes; by default the exported one.

        Raises:
            ValueError: another format, or a trie whose ids the programs could not finish.
        """
        self.folder = pathlib.Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        if self.manifest["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{self.folder} has format version {self.manifest['format_version']}; this file reads"
                f" {FORMAT_VERSION}. Use the load.py that lies beside it"
            )
        self.shapes = [(rows, tokens) for rows, tokens in self.manifest["shapes"]]
        self._programs = {
            (rows, tokens): jax.export.deserialize(
                bytearray((self.folder / f"recommend_{rows}x{tokens}.jax").read_bytes())
            )
            for rows, tokens in self.shapes
        }
        self._call = {shape: jax.jit(program.call) for shape, program in self._programs.items()}
        self._params = _arrays(self.folder / "params.npz")
        path = pathlib.Path(trie) if trie else self.folder / "trie.npz"
        self._trie = _arrays(path)
        said = {name: self._trie.pop(name) for name in FIXED if name in self._trie}
        if len(said) < len(FIXED):
            raise ValueError(
                f"{path} is no trie of an export (it lacks {', '.join(FIXED)}); wanted one that"
                " genrec_jax.decoding.export.write_trie wrote, not a run dir's"
            )
        steps, ends = (int(said[name]) for name in FIXED)
        most, end = (self.manifest["trie"][name] for name in FIXED)
        if steps > most or ends != end:
            raise ValueError(
                f"{path} has ids of up to {steps} tokens that end with token {ends}; the programs make"
                f" {most} steps at most and end with {end}. Export the recommender anew"
            )

    def recommend(
        self, tokens: np.ndarray, whole_words: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best items of each prompt and their log-probabilities, best first.

        Args:
            tokens: int32 (rows, length), padded with 0; at most as large as the largest program.
            whole_words: int32 of the same shape, for a model that has the whole-word embedding.

        Returns:
            items (rows, results), -1 in empty places, and scores, -inf there.
        """
        rows, length = tokens.shape
        fitting = [(r, n) for r, n in self.shapes if r >= rows and n >= length]
        if not fitting:
            raise ValueError(
                f"got {rows} prompts of {length} tokens; the exported programs take {self.shapes}"
            )
        if whole_words is None:
            if self.manifest["whole_words"]:
                raise ValueError("the model has a whole-word embedding; give whole_words too")
            whole_words = np.zeros_like(tokens)
        shape = min(fitting, key=lambda fits: fits[0] * fits[1])
        batch = [np.zeros(shape, np.int32) for _ in range(2)]
        batch[0][:rows, :length], batch[1][:rows, :length] = tokens, whole_words
        items, scores = self._call[shape](self._params, self._trie, *batch)
        return np.asarray(items)[:rows], np.asarray(scores)[:rows]


def _arrays(path: pathlib.Path) -> dict[str, jax.Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: jax.device_put(archive[name]) for name in archive.files}
