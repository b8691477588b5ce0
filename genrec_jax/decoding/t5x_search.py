"""T5X's models decode through the trie: our search as a T5X `decode_fn`, without importing T5X.

T5X's beam search takes the log-softmax inside its loop, behind `tokens_to_logits`. Logits masked
before it come out normalised over what the mask left, and its scores are then no longer the model's.
The place that keeps them exact lies above the loop: a model's `decode_fn` gets `tokens_to_logits`
itself. Here the raw logits go through the log-softmax over T5X's whole vocabulary, and of its results
the search reads those of the trie's children.

    MODEL: models.EncoderDecoderModel.decode_fn = @t5x_search.from_index()     (gin_configs/t5x/trie.gin)
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genrec_jax.data import artefacts
from genrec_jax.decoding import search
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.search import BeamConfig, Network
from genrec_jax.decoding.trie import Trie
from genrec_jax.errors import UserError
from genrec_jax.indexing import item_ids
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.pipeline.token_runs import TokenRuns
from genrec_jax.prompts import templates as templates_lib

NOT_BY_ROW = ("cache_index", "cached_bias", "position_embedder_index")
"""Entries of T5X's cache that all rows share; `t5x.decoding.cache_map` leaves out the same."""

TokensToLogits = Callable[[Any], tuple[Array, Any]]


class DecodingState(NamedTuple):
    """What `tokens_to_logits` is given: T5X's class of this name, of which models read the last two.

    Attributes:
        cur_index: not kept; the cache has its own.
        sequences: not kept; a beam's tokens are its place in the trie.
        cur_token: the token fed to each beam, int32 of shape (batch * beams, 1).
        cache: the decoder's cache.
    """

    cur_index: None
    sequences: None
    cur_token: Int[Array, "BM 1"]
    cache: Any


@dataclasses.dataclass(frozen=True)
class TrieSearch:
    """A `decode_fn` for T5X's models that writes items of one catalogue only.

    Attributes:
        trie: the catalogue.
        targets_IT: every item's tokens, end-of-sequence included, zeros behind.
        length_penalty: a score is the log-probability over tokens ** length_penalty (`BeamConfig`).
        best_first: lists begin with the best. T5X's end with it, and without `return_all_decodes` T5X
            takes the last; SeqIO's metrics of ours want whole lists, the best first.
    """

    trie: Trie = dataclasses.field(repr=False)
    targets_IT: Int[np.ndarray, "I T"] = dataclasses.field(repr=False)
    length_penalty: float = 0.0
    best_first: bool = False

    def __call__(
        self,
        inputs: Int[Array, "B T"],
        cache: Any,
        tokens_to_logits: TokensToLogits,
        eos_id: int,
        num_decodes: int,
        decode_rng: Array | None = None,
        cache_offset: int = 0,
    ) -> tuple[Int[Array, "B M T"], Float[Array, "B M"]]:
        """Searches; the arguments are T5X's.

        Args:
            inputs: its shape says how many prompts there are and how long a target may get. A decoder's
                prompt is not looked at: every search begins at the trie's root.
            cache: the decoder's, empty, with one row a prompt.
            tokens_to_logits: feeds a token to each of batch * num_decodes rows.
            eos_id: end-of-sequence.
            num_decodes: beams, and items returned.
            decode_rng: not used.
            cache_offset: axes of the cache before its rows (1: T5X's scanned network).

        Returns:
            The items' tokens, and their log-probabilities under the softmax over the whole vocabulary;
            in empty places zeros, and minus infinity.

        Raises:
            UserError: a target may not get as long as the longest id, the ends of sequence differ, or
                the network has no row for a token of the trie.
        """
        del decode_rng
        batch, length = inputs.shape
        self._check(length, eos_id)
        network = t5x_network(
            tokens_to_logits, batch, num_decodes, cache_offset, int(self.targets_IT.max())
        )
        cache = _by_row(lambda leaf: jnp.repeat(leaf, num_decodes, axis=cache_offset), cache)
        found = search.beam_search(
            network,
            cache,
            jax.tree.map(jnp.asarray, self.trie),
            BeamConfig(num_decodes, num_decodes, length_penalty=self.length_penalty),
            jnp.ones(batch, bool),
        )
        room = ((0, 1), (0, length - self.targets_IT.shape[1]))
        rows_IT = jnp.asarray(np.pad(self.targets_IT, room), jnp.int32)  # the last is empty
        decodes_BMT = rows_IT[jnp.where(found.items_BR < 0, len(rows_IT) - 1, found.items_BR)]
        if self.best_first:
            return decodes_BMT, found.scores_BR
        return decodes_BMT[:, ::-1], found.scores_BR[:, ::-1]

    def _check(self, length: int, eos_id: int) -> None:
        if eos_id != self.trie.eos_id:
            raise UserError(
                f"the catalogue's end-of-sequence is {self.trie.eos_id}, T5X's {eos_id}; wanted the"
                " vocabulary of the index as T5X's output vocabulary (gin_configs/t5x/trie.gin sets it)"
            )
        longest = self.targets_IT.shape[1]
        if length < longest:
            raise UserError(
                f"T5X decodes up to {length} tokens; the longest item id has {longest}, end-of-sequence"
                f' included. Set TASK_FEATURE_LENGTHS["targets"] to {longest} or more'
            )


def from_index(
    index_dir: artefacts.PathLike,
    *,
    templates_file: artefacts.PathLike | None = None,
    length_penalty: float = 0.0,
    best_first: bool = False,
) -> TrieSearch:
    """The `decode_fn` of the items of an index, written as its SeqIO tasks write targets.

    Args:
        index_dir: the folder that the tasks were registered with (`genrec index`), or a run dir.
        templates_file: the prompts that the tasks were registered with; None: OpenP5's.
        length_penalty: as in `TrieSearch`.
        best_first: as in `TrieSearch`.

    Raises:
        UserError: no item ids or vocabulary there.
    """
    ids = item_ids.load(index_dir)
    words = item_ids.load_vocabulary(index_dir)
    templates = templates_lib.load_templates(templates_file)
    tables = PromptTables(words, ids.dataset_name, ids.texts, templates, ids.titles)
    folder = pathlib.Path(index_dir).name
    return from_targets(
        tables.target_runs(),
        vocab_size=words.size,
        eos_id=words.eos_id,
        name_of=lambda item: f"{folder}: {ids.texts[item]} (item {item})",
        length_penalty=length_penalty,
        best_first=best_first,
    )


def from_targets(
    targets: TokenRuns,
    *,
    vocab_size: int,
    eos_id: int = 1,
    name_of: Callable[[int], str] = "item number {}".format,
    length_penalty: float = 0.0,
    best_first: bool = False,
) -> TrieSearch:
    """The `decode_fn` of items whose tokens are given.

    Args:
        targets: the tokens of each item, end-of-sequence included.
        vocab_size: tokens are below it.
        eos_id: end-of-sequence.
        name_of: what to call an item in an error.
        length_penalty: as in `TrieSearch`.
        best_first: as in `TrieSearch`.

    Raises:
        UserError: as `trie.build_trie`.
    """
    trie = tries.build_trie(
        targets.values_P,
        targets.offsets_E1,
        vocab_size=vocab_size,
        eos_id=eos_id,
        name_of=name_of,
    )
    padded_IT = targets.padded(int(targets.lengths_E.max()))
    return TrieSearch(trie, padded_IT, length_penalty=length_penalty, best_first=best_first)


def t5x_network(
    tokens_to_logits: TokensToLogits,
    batch: int,
    num_beams: int,
    cache_offset: int,
    largest_token: int,
) -> Network:
    """A T5X decoder as the search sees it.

    T5X binds the encoded prompts to `tokens_to_logits`, one copy for each of batch * num_beams rows, so
    that many are fed even where the search has one beam: the prefix goes to copies of one beam, a
    token at a time, and what comes of the first copy is read.

    Args:
        tokens_to_logits: as T5X gives it to a `decode_fn`.
        batch: prompts.
        num_beams: beams of each.
        cache_offset: axes of the cache before its rows.
        largest_token: of the trie.
    """

    def advance(tokens_BMQ: Array, slot: Array, cache: Any) -> tuple[Array, Array, Any]:
        del slot  # T5X's cache counts for itself
        beams = tokens_BMQ.shape[1]
        copied_BMQ = jnp.repeat(tokens_BMQ, num_beams // beams, axis=1)

        def feed(cache: Any, tokens_BM: Array) -> tuple[Any, Array]:
            state = DecodingState(None, None, tokens_BM.reshape(-1, 1), cache)
            logits_XV, cache = tokens_to_logits(state)
            if logits_XV.shape[1] <= largest_token:
                raise UserError(
                    f"T5X's network has {logits_XV.shape[1]} rows in its vocabulary, and the item ids"
                    f" have the token {largest_token}; set T5X's `network.T5Config.vocab_size` to the"
                    " vocabulary's size, rounded up to a multiple of 128"
                )
            logits_BMV = logits_XV.astype(jnp.float32).reshape(batch, num_beams, -1)
            return cache, logits_BMV[:, :beams]

        cache, logits_QBMV = jax.lax.scan(feed, cache, jnp.moveaxis(copied_BMQ, 2, 0))
        logits_BMQV = jnp.moveaxis(logits_QBMV, 0, 2)
        return logits_BMQV, jax.nn.logsumexp(logits_BMQV, axis=-1), cache

    def asked_logits(logits_BMV: Array, tokens_BMC: Array) -> Array:
        return jnp.take_along_axis(logits_BMV, tokens_BMC, axis=2)

    def reorder(cache: Any, parents_BM: Array) -> Any:
        def take(leaf: Array) -> Array:
            before, after = leaf.shape[:cache_offset], leaf.shape[cache_offset + 1 :]
            beams = leaf.reshape(*before, batch, num_beams, *after)
            places = parents_BM.reshape(
                *(1 for _ in before), *parents_BM.shape, *(1 for _ in after)
            )
            axis = cache_offset + 1
            return jnp.take_along_axis(beams, places, axis, mode="clip").reshape(leaf.shape)

        return _by_row(take, cache)

    return Network(advance, asked_logits, reorder)


def _by_row(function: Callable[[Array], Array], cache: Any) -> Any:
    """Applies a function to the entries of a cache that have a row a beam."""

    def applied(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf if getattr(path[-1], "key", None) in NOT_BY_ROW else function(leaf)

    return jax.tree_util.tree_map_with_path(applied, cache)
