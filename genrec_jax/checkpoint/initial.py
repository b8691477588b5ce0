"""The parameters that a run starts from: another run's, or imported weights fitted to its vocabulary."""

import dataclasses
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from genrec_jax import storage
from genrec_jax.checkpoint import foreign_config, imported, new_tokens, restore
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.checkpoint.new_tokens import NewTokens
from genrec_jax.checkpoint.run_dir import CHECKPOINTS, RunDir
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import rules
from genrec_jax.progress import print_notice

WHOLE_WORDS = ("whole_word_embedding",)


@dataclasses.dataclass(frozen=True)
class _Start:
    """The contents of a folder to start from.

    Attributes:
        path: the folder.
        config: its network.
        vocabulary: its vocabulary; None where weights were imported without one.
        restore: gives the parameters on a mesh.
        of_run: whether it is a run dir.
    """

    path: artefacts.PathLike
    config: T5Config
    vocabulary: Vocabulary | None
    restore: Callable[[Mesh], nnx.State]
    of_run: bool

    @property
    def vocabulary_file(self) -> artefacts.PathLike:
        """The path of its vocabulary."""
        return storage.join(self.path, imported.VOCABULARY)


def initial_params(
    path: artefacts.PathLike,
    step: restore.Which,
    config: T5Config,
    *,
    vocabulary: Vocabulary,
    options: NewTokens,
    seed: int,
    mesh: Mesh,
    trained: bool = True,
    notify: Callable[[str], None] = print_notice,
) -> nnx.State:
    """The parameters of a run dir or of a folder of imported weights, for the run's network.

    Args:
        path: a run dir, one of its checkpoints (`RUN/checkpoints/300`), or a folder that `genrec
            import-weights` wrote; the run's vocabulary begins with its vocabulary, so that every row of
            the embedding still means its token.
        step: which checkpoint of a run dir; `best` where the path is a checkpoint's.
        config: the run's network.
        vocabulary: the run's.
        options: how tokens that the folder does not know get their rows. Tokens that it does know are
            drawn anew (`reinitialise`) in imported weights only, not in what a run has learnt.
        seed: of these rows, and of whatever else the folder lacks: as a fresh run draws it.
        mesh: where the parameters go.
        trained: whether training follows; without it nothing may be left as drawn.
        notify: called with a line for the user.

    Raises:
        UserError: there is no such folder, its network or vocabulary does not fit the run's, or the run
            does not train and needs what the folder lacks.
    """
    start = _open(path, step)
    theirs = start.config
    problems = foreign_config.differences(config, theirs)
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"holds another network than the run's:{listed}\nInclude the gin file in gin_configs/models/"
            " that fits the weights",
            file=str(path),
        )
    known = _known_tokens(start, vocabulary)
    added = vocabulary.size - known
    if not trained:
        _check_complete(start, config, added)
    params = start.restore(mesh)
    if added or not start.of_run:
        again = "none" if start.of_run else options.reinitialise
        params = new_tokens.grow(
            params,
            config,
            known=known,
            vocabulary=vocabulary,
            new_tokens=dataclasses.replace(options, reinitialise=again),
            seed=seed,
            mesh=mesh,
        )
    if added:
        how = options.rows.replace("_", " ")
        notify(f"{path}: {added} tokens are new to the weights; their rows are drawn ({how})")
    flat = dict(nnx.to_flat_state(params))
    if config.whole_word_embedding:
        if not theirs.whole_word_embedding:
            notify(f"{path}: the weights have no whole-word embedding; it starts as drawn")
            flat[WHOLE_WORDS] = _drawn_whole_words(config, seed, mesh)
        elif theirs.max_whole_words != config.max_whole_words:
            raise UserError(
                f"has a whole-word embedding of {theirs.max_whole_words} rows; the run wants"
                f" {config.max_whole_words}. Set T5Config.max_whole_words to the former",
                file=str(path),
            )
    elif theirs.whole_word_embedding:
        notify(f"{path}: the run has no whole-word embedding; that of the weights is left out")
        del flat[WHOLE_WORDS]
    _, wanted = t5.abstract_graph_and_params(config)
    leaves = nnx.from_flat_state([(path, flat[path]) for path, _ in nnx.to_flat_state(wanted)])
    return jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(leaves))


def _drawn_whole_words(config: T5Config, seed: int, mesh: Mesh) -> nnx.Variable:
    """The whole-word embedding that a fresh run has; nothing else is made."""
    _, abstract = t5.abstract_graph_and_params(config)
    variable = dict(nnx.to_flat_state(abstract))[WHOLE_WORDS]
    shape = tuple(variable.get_value().shape)
    draw = jax.jit(
        lambda seed: dict(nnx.to_flat_state(t5.drawn_params(config, seed)))[
            WHOLE_WORDS
        ].get_value(),
        out_shardings=rules.sharding_of(mesh, rules.axes_of(variable), shape),
    )
    return variable.replace(draw(jnp.asarray(seed, jnp.uint32)))


def _open(path: artefacts.PathLike, step: restore.Which) -> _Start:
    if ImportedWeights.exists(path):
        weights = ImportedWeights.load(path)
        return _Start(
            path, weights.model_config, weights.vocabulary, weights.restore_params, of_run=False
        )
    if not RunDir.exists(path):
        run, _, number = os.fspath(path).rstrip("/").rpartition(f"/{CHECKPOINTS}/")
        if number.isdecimal() and RunDir.exists(run):
            if step not in ("best", int(number)):
                raise UserError(
                    f"is the checkpoint of step {number}, but initial_step is {step!r}; wanted one of them."
                    f" Leave initial_step out, or name the run dir, {run}",
                    file=str(path),
                )
            return _open(run, int(number))
        raise UserError(
            "is neither a run dir nor imported weights; wanted the MODEL_DIR of another run (its best"
            " checkpoint is taken, or MODEL_DIR/checkpoints/STEP), or what `genrec import-weights` wrote."
            " It also turns a Hugging Face folder or a T5X checkpoint into one",
            file=str(path),
        )
    run_dir = RunDir.load(path)

    def restored(mesh: Mesh) -> nnx.State:
        return restore.restore_params(run_dir, step, mesh=mesh)

    return _Start(path, run_dir.model_config, run_dir.vocabulary, restored, of_run=True)


def _check_complete(start: _Start, config: T5Config, added: int) -> None:
    """Checks that a run of 0 steps has no parameters that would be initialised at random."""
    if added:
        raise UserError(
            f"lacks {added} tokens of the run's vocabulary, and without training their embeddings would be"
            " noise; wanted item ids of plain text, which the weights can read: `genrec index ... --method"
            f" short --vocabulary {start.vocabulary_file}`",
            file=str(start.path),
        )
    if config.whole_word_embedding and not start.config.whole_word_embedding:
        raise UserError(
            "has no whole-word embedding, and without training the run's would be noise. Set"
            " --gin.model_config.T5Config.whole_word_embedding=False",
            file=str(start.path),
        )


def _known_tokens(start: _Start, vocabulary: Vocabulary) -> int:
    """How many of the run's tokens, from the first, the folder knows."""
    if start.vocabulary is None:
        raise UserError(
            "was imported without a vocabulary, so nothing says which token a row of the embedding is for."
            " Import it again with --vocabulary spiece.model",
            file=str(start.path),
        )
    theirs = start.vocabulary
    ours, known = vocabulary.pieces(range(vocabulary.size)), theirs.pieces(range(theirs.size))
    if ours[: len(known)] != known:
        at = next(
            (n for n, pair in enumerate(zip(ours, known, strict=False)) if pair[0] != pair[1]),
            len(ours),
        )
        there = ours[at] if at < len(ours) else "no token"
        remedy = (
            "Train on the item ids of that run (INDEX_DIR may name the run dir), or index both datasets"
            " together"
            if start.of_run
            else "Make the item ids on the weights' own pieces: `genrec index ... --vocabulary"
            f" {start.vocabulary_file}`"
        )
        raise UserError(
            f"has other tokens than the run's vocabulary: number {at} is {known[at]!r} here and {there!r}"
            f" there. {remedy}",
            file=str(start.path),
        )
    return len(known)
