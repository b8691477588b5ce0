"""Embedding rows for tokens that pretrained weights do not know, or are not meant to know."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from genrec_jax.errors import UserError
from genrec_jax.indexing.vocabulary import EOS_ID, WORD_START, Vocabulary
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import rules

NUMBERS = 30_000
TABLES = ("token_embedding", "head")


@dataclasses.dataclass(frozen=True)
class NewTokens:
    """How tokens get rows in the embedding, and in the head where it is not tied.

    Attributes:
        rows: `mean_and_noise`: the mean of the rows known, plus normal noise; `random`: as a fresh
            network draws them (normal, standard deviation 1, of a head `embed_dim ** -0.5`).
        noise: `mean_and_noise`: standard deviation of the noise, as a share of that of the known rows
            around their mean, column by column.
        reinitialise: tokens known whose embedding is drawn anew all the same: `none`, or `numbers`,
            the tokens that write the numbers below 30,000. OpenP5 draws these from a standard normal
            distribution whatever the others' scale, for an id's digits mean nothing as digits
            (Xu et al. 2023; the public repository's `random_initialization`). A head of its own keeps
            its rows, as it does there.
    """

    rows: Literal["mean_and_noise", "random"] = "mean_and_noise"
    noise: float = 0.1
    reinitialise: Literal["none", "numbers"] = "none"

    def __post_init__(self):
        if self.rows not in ("mean_and_noise", "random"):
            raise UserError(f"rows is {self.rows!r}; wanted 'mean_and_noise' or 'random'")
        if self.reinitialise not in ("none", "numbers"):
            raise UserError(f"reinitialise is {self.reinitialise!r}; wanted 'none' or 'numbers'")
        if self.noise < 0:
            raise UserError(f"noise is {self.noise}; wanted 0 or more")


def number_tokens(vocabulary: Vocabulary) -> list[int]:
    """The tokens that write the numbers 0 to 29,999, but for the bare start of a word."""
    written = vocabulary.encode_batch([str(number) for number in range(NUMBERS)])
    tokens = {token for tokens in written for token in tokens} - {EOS_ID}
    return sorted(token for token in tokens if vocabulary.pieces([token]) != [WORD_START])


def grow(
    params: nnx.State,
    config: T5Config,
    *,
    known: int,
    vocabulary: Vocabulary,
    new_tokens: NewTokens,
    seed: int,
    mesh: Mesh,
) -> nnx.State:
    """The same parameters for a vocabulary of another size; only embedding and head change.

    Args:
        params: of a network that differs from `config` in `vocab_size` alone.
        config: the network wanted; `vocab_size` is that of `vocabulary`.
        known: tokens, from the first, whose rows are kept; rows beyond them are padding in `params`.
        vocabulary: the tokens.
        new_tokens: how the others get theirs. Rows that pad `config.vocab_size` to a multiple of 128
            are zero; the model masks them out of the softmax.
        seed: of the draws, which do not depend on the mesh.
        mesh: where the parameters live.
    """
    numbers = number_tokens(vocabulary) if new_tokens.reinitialise == "numbers" else []
    again_V = np.zeros(config.padded_vocab_size, bool)
    again_V[numbers] = True
    _, wanted = t5.abstract_graph_and_params(config)
    flat = dict(nnx.to_flat_state(params))
    for number, name in enumerate(TABLES):
        path = (name,)
        if path not in flat:
            continue
        abstract = dict(nnx.to_flat_state(wanted))[path]
        shape = tuple(abstract.get_value().shape)
        make = jax.jit(
            functools.partial(
                _grown,
                rows=config.padded_vocab_size,
                known=known,
                tokens=config.vocab_size,
                stddev=1.0 if name == "token_embedding" else config.embed_dim**-0.5,
                new_tokens=new_tokens,
            ),
            out_shardings=rules.sharding_of(mesh, rules.axes_of(abstract), shape),
        )
        key = jax.random.fold_in(jax.random.key(seed), number)
        redrawn_V = again_V if name == "token_embedding" else np.zeros_like(again_V)
        flat[path] = abstract.replace(make(flat[path].get_value(), jnp.asarray(redrawn_V), key))
    return nnx.from_flat_state(list(flat.items()))


def _grown(
    old_VD: Float[Array, "_ D"],
    again_V: Bool[Array, " rows"],
    key: jax.Array,
    *,
    rows: int,
    known: int,
    tokens: int,
    stddev: float,
    new_tokens: NewTokens,
) -> Float[Array, "rows D"]:
    """One table, with its known rows, drawn ones and zeros as padding."""
    normal_VD = jax.random.normal(key, (rows, old_VD.shape[1]), jnp.float32)
    known_VD = old_VD[:known]
    if new_tokens.rows == "random":
        drawn_VD = stddev * normal_VD
    else:
        mean_1D = jnp.mean(known_VD, axis=0, keepdims=True)
        drawn_VD = mean_1D + new_tokens.noise * jnp.std(known_VD, axis=0, keepdims=True) * normal_VD
    kept_VD = jnp.pad(known_VD[:rows], ((0, max(0, rows - known)), (0, 0)))
    number_V1 = jnp.arange(rows)[:, None]
    table_VD = jnp.where(number_V1 < known, kept_VD, drawn_VD)
    table_VD = jnp.where(again_V[:, None], normal_VD, table_VD)
    return jnp.where(number_V1 < tokens, table_VD, 0.0)
