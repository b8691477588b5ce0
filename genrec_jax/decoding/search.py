"""Constrained beam search: a network and a trie go in, the best distinct items per example come out.

The network is seen only through `Network`, so that the search is tested without one. k running beams
carry unfinished ids; a finished id leaves them for a separate pool. A cut keeps the highest scores
and, among equal scores, the smallest item numbers: a finished id has its item's number, an unfinished
one the smallest number of the items it may still become. So equal scores give the same list everywhere,
and lists of a float32 network do not depend on batch, chunk width or layout. A bfloat16 network's scores
do, and with them its lists.

On a mesh each device selects among the beams of its own rows (`shard_map`), with the whole trie at hand:
the compiler's own partitioning of gathers and selections would bring candidates together. What crosses
devices is what the network does, and whether any row goes on.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from genrec_jax import checks
from genrec_jax.decoding import candidates, children, reading, selection
from genrec_jax.decoding.children import Beams
from genrec_jax.decoding.constraints import Constraints
from genrec_jax.decoding.reading import KeptLogits
from genrec_jax.decoding.trie import Trie
from genrec_jax.parallel import rules
from genrec_jax.pytree import pytree_dataclass

DECODER_START = 0
ROOT_WIDTHS = 16
"""Chunks that the root reads at a time, at most."""


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """How to search.

    Attributes:
        num_beams: unfinished ids kept at each step (k).
        num_results: length of the returned list.
        length_penalty: a finished score is its log-probability over tokens ** length_penalty (tokens
            with end-of-sequence, without the start). 0 is none; Hugging Face's default is 1.
        finish_within_beams: Hugging Face's rule, for parity: an id may finish only from among its
            step's first k candidates, and under a length penalty the search stops on a bound at the
            present length, which may be too soon.
        renormalise: score each token under the softmax over the trie's children instead of the whole
            vocabulary.
        chunk_width: children of a beam read at a time; a float32 network's lists do not depend on it.
    """

    num_beams: int = 20
    num_results: int = 20
    length_penalty: float = 0.0
    finish_within_beams: bool = False
    renormalise: bool = False
    chunk_width: int = 128

    def __post_init__(self):
        checks.whole_fields(self, "num_beams", "num_results", "chunk_width")
        checks.number_fields(self, "length_penalty", least=0)
        checks.flag_fields(self, "finish_within_beams", "renormalise")


@pytree_dataclass
class BeamResult:
    """The best items of each example, best first.

    Attributes:
        items_BR: item numbers, all different; -1 in empty places.
        scores_BR: their scores, -inf in empty places.
    """

    items_BR: Int[Array, "B R"]
    scores_BR: Float[Array, "B R"]


class Network(NamedTuple):
    """All that the search knows of a network. Caches and views are pytrees the network chooses.

    Attributes:
        advance: (tokens_BMQ, slot, cache) -> (view, log_normaliser_BMQ, cache). Feeds new tokens to
            each beam, the first of them at position `slot`: first Q tokens to one beam, then one to
            each of k. `log_normaliser` is the logsumexp of the next token's logits over the whole
            vocabulary; the view's leaves lead with B, M, Q.
        asked_logits: (view, tokens_BMC, *beside) -> logits_BMC, of a view whose leaves lead with B, M.
            On a mesh it is called where each device has its own part of the view and of `beside`.
        reorder: (cache, parents_BM) -> cache, whose beam m continues what was beam parents[b, m]; the
            number of beams may change.
        kept: view -> all its logits, where the network keeps them; None where it does not. Wide nodes
            are then read by bounds (`reading`); lists are the same.
        view_axes: logical axes of the view's leaves, the query axis left out.
        beside: arrays that `asked_logits` reads beside the view.
        beside_axes: their logical axes.
    """

    advance: Callable[..., tuple[Any, Float[Array, "B M Q"], Any]]
    asked_logits: Callable[..., Float[Array, "B M C"]]
    reorder: Callable[[Any, Int[Array, "B M"]], Any]
    kept: Callable[[Any], KeptLogits] | None = None
    view_axes: rules.Axes = ("batch",)
    beside: tuple[Array, ...] = ()
    beside_axes: tuple[rules.Axes, ...] = ()


@pytree_dataclass
class SearchState:
    """What the search carries from step to step.

    Attributes:
        step: tokens chosen so far beyond the ids' common prefix, scalar.
        tokens_BM: the last token of each running beam, not yet fed to the network.
        places_BM: where it stands in the trie: a node's number, or `-1 - item` inside a tail.
        spans_BM2: of the trie's tokens, the first that may follow, and the end: of a node's arcs or, where
            only one may follow, of the tail.
        ahead_BMC: the first of these tokens (`children.read_ahead`).
        scores_BM: log-probability of each running beam, best first; -inf for none.
        finished_BR: scores of the pool of finished ids, best first; -inf for none.
        items_BR: their items; -1 for none.
        active_B: whether a running beam may still enter the pool.
        cache: the network's own; its beam m is this state's.
    """

    step: Int[Array, ""]
    tokens_BM: Int[Array, "B M"]
    places_BM: Int[Array, "B M"]
    spans_BM2: Int[Array, "B M 2"]
    ahead_BMC: Int[Array, "B M C"]
    scores_BM: Float[Array, "B M"]
    finished_BR: Float[Array, "B R"]
    items_BR: Int[Array, "B R"]
    active_B: Bool[Array, " B"]
    cache: Any


ROW_FIELDS = tuple(
    field.name for field in dataclasses.fields(SearchState) if field.name not in ("step", "cache")
)


def beam_steps(trie: Trie) -> int:
    """How often at most all beams are fed a token: the first step is taken from the prefix alone."""
    return trie.max_steps - 1


def beam_search(
    network: Network,
    cache: Any,
    trie: Trie,
    config: BeamConfig,
    wanted_B: Bool[Array, " B"],
    constraints: Constraints | None = None,
) -> BeamResult:
    """Finds the items whose ids the network thinks most likely.

    Args:
        network: the network, already conditioned on each example's prompt.
        cache: the network's, for one beam of each example that was fed nothing yet.
        trie: the catalogue.
        config: how to search.
        wanted_B: which examples to search for; the others get an empty list.
        constraints: items that an example may get; the search is then exactly that of a catalogue of
            these. None allows everything and costs nothing.

    Returns:
        the best `num_results` finished ids of each example; fewer when the search found fewer.
    """
    state = _start(network, cache, trie, config, wanted_B, constraints)

    def may_go_on(state: SearchState) -> Bool[Array, ""]:
        return jnp.any(state.active_B) & (state.step < trie.max_steps)

    def take_step(state: SearchState) -> SearchState:
        slot = trie.prefix_Q.shape[0] + state.step
        view, normaliser_BMQ, cache = network.advance(
            state.tokens_BM[:, :, None], slot, state.cache
        )
        view_BM = jax.tree.map(lambda leaf: leaf[:, :, -1], view)
        return _extend(
            state, cache, network, view_BM, normaliser_BMQ[:, :, -1], trie, config, constraints
        )

    state = jax.lax.while_loop(may_go_on, take_step, state)
    return BeamResult(items_BR=state.items_BR, scores_BR=state.finished_BR)


def _start(
    network: Network,
    cache: Any,
    trie: Trie,
    config: BeamConfig,
    wanted_B: Bool[Array, " B"],
    constraints: Constraints | None,
) -> SearchState:
    """Feeds the common prefix to one beam in one pass and takes the first step from the root."""
    batch = wanted_B.shape[0]
    start = jnp.full((1,), DECODER_START, jnp.int32)
    tokens_Q = jnp.concatenate([start, jnp.asarray(trie.prefix_Q, jnp.int32)])
    tokens_BMQ = jnp.broadcast_to(tokens_Q, (batch, 1, tokens_Q.shape[0]))
    view, normaliser_BMQ, cache = network.advance(tokens_BMQ, jnp.zeros((), jnp.int32), cache)
    scores_BM = jnp.zeros((batch, 1), jnp.float32)
    if tokens_Q.shape[0] > 1 and not config.renormalise:
        # Positions take the place of beams here: each is asked for the one token that follows it.
        view_BQ = jax.tree.map(lambda leaf: leaf[:, 0, :-1], view)
        logits_BQC = _on_each_device(
            lambda view, beside, tokens, _: network.asked_logits(view, tokens, *beside),
            network,
            view_BQ,
            tokens_BMQ[:, 0, 1:, None],
            (),
        )
        scores_BM = jnp.sum(logits_BQC[:, :, 0] - normaliser_BMQ[:, 0, :-1], axis=1)[:, None]
    scores_BM = jnp.where(wanted_B[:, None], scores_BM, -jnp.inf)
    zeros_BM = jnp.zeros((batch, 1), jnp.int32)
    spans_BM2 = jnp.broadcast_to(jnp.asarray(trie.starts_N[:2], jnp.int32), (batch, 1, 2))
    state = SearchState(
        step=jnp.zeros((), jnp.int32),
        tokens_BM=zeros_BM,
        places_BM=zeros_BM,
        spans_BM2=spans_BM2,
        ahead_BMC=children.read_ahead(zeros_BM, spans_BM2, trie),
        scores_BM=scores_BM,
        finished_BR=jnp.full((batch, config.num_results), -jnp.inf, jnp.float32),
        items_BR=jnp.full((batch, config.num_results), -1, jnp.int32),
        active_B=wanted_B,
        cache=None,
    )
    view_BM = jax.tree.map(lambda leaf: leaf[:, :, -1], view)
    return _extend(
        state, cache, network, view_BM, normaliser_BMQ[:, :, -1], trie, config, constraints
    )


@jax.named_scope("trie")
def _extend(
    state: SearchState,
    cache: Any,
    network: Network,
    view_BM: Any,
    normaliser_BM: Float[Array, "B M"],
    trie: Trie,
    config: BeamConfig,
    constraints: Constraints | None,
) -> SearchState:
    """Replaces the running beams by their best children, and lets finished children into the pool."""
    fields = {name: getattr(state, name) for name in ROW_FIELDS}

    def extend(view_BM: Any, beside: Any, rows: Any, whole: Any) -> tuple[dict[str, Array], Array]:
        fields, normaliser_BM, constraints = rows
        step, trie = whole
        front = reading.frontier_of(
            Beams(*(fields[name] for name in Beams._fields)),
            trie,
            lambda tokens_BMC: network.asked_logits(view_BM, tokens_BMC, *beside),
            None if network.kept is None else network.kept(view_BM),
            normaliser_BM,
            constraints,
        )
        state = SearchState(step=step, cache=None, **fields)
        state, parents_BM = _extend_rows(state, front, config)
        return {name: getattr(state, name) for name in ROW_FIELDS}, parents_BM

    rows = (fields, normaliser_BM, constraints)
    fields, parents_BM = _on_each_device(extend, network, view_BM, rows, (state.step, trie))
    return SearchState(step=state.step + 1, cache=network.reorder(cache, parents_BM), **fields)


def _on_each_device(
    function: Callable[..., Any], network: Network, view: Any, rows: Any, whole: Any
) -> Any:
    """`function(view, beside, rows, whole)`, on a mesh by each device for its own rows.

    Args:
        function: its results lead with rows.
        network: says how the view and `beside` are split.
        view: the network's, of beams.
        rows: a pytree of what leads with rows.
        whole: a pytree of what every device has.
    """
    if not rules.mesh_is_set():
        return function(view, network.beside, rows, whole)
    by_rows = rules.spec_of(("batch",))
    beside = tuple(map(rules.spec_of, network.beside_axes))
    in_specs = (rules.spec_of(network.view_axes), beside, by_rows, PartitionSpec())
    split = jax.shard_map(function, in_specs=in_specs, out_specs=by_rows, check_vma=False)
    return split(view, network.beside, rows, whole)


def _extend_rows(
    state: SearchState, front: reading.Frontier, config: BeamConfig
) -> tuple[SearchState, Int[Array, "B M"]]:
    """The next state, without the network's cache, and which beam each beam continues."""
    trie = front.trie
    # One beam, at the root, reads more children at a time; as many fit in memory.
    alone = state.scores_BM.shape[1] == 1
    width = config.chunk_width * (min(config.num_beams, ROOT_WIDTHS) if alone else 1)
    if config.renormalise:
        normaliser_BM = candidates.normaliser_of_children(front, width)
        front = front._replace(normaliser_BM=normaliser_BM)
    best = candidates.best_children(front, config.num_beams, width)
    step = state.step + 1
    length = (trie.prefix_Q.shape[0] + step).astype(jnp.float32)
    finished_BM = best.finished_BM
    if config.finish_within_beams:
        items_BM = candidates.finished_items(front, finished_BM)
        finished_BM = _only_first_candidates(best, items_BM, config.num_beams)
    # Once its bound is met, an example's pool is closed.
    finished_BM = jnp.where(state.active_B[:, None], finished_BM, -jnp.inf)

    def let_in() -> tuple[Array, Array]:
        items_BM = candidates.finished_items(front, finished_BM)
        pool_scores, pool_items = selection.best_pairs(
            jnp.concatenate([state.finished_BR, _penalised(finished_BM, length, config)], axis=1),
            jnp.concatenate([state.items_BR, items_BM], axis=1),
            config.num_results,
        )
        return pool_scores, jnp.where(pool_scores > -jnp.inf, pool_items, -1)

    pool_scores, pool_items = jax.lax.cond(
        jnp.any(finished_BM > -jnp.inf), let_in, lambda: (state.finished_BR, state.items_BR)
    )
    best_B, worst_B = best.scores_BM[:, 0], pool_scores[:, -1]
    if config.finish_within_beams:
        going_B = _penalised(best_B, length, config) > worst_B
    else:
        # The longest id dilutes a log-probability most; equal scores may still win by item number.
        longest = jnp.float32(trie.prefix_Q.shape[0] + trie.max_steps)
        going_B = _penalised(best_B, longest, config) >= worst_B
    active_B = state.active_B & going_B & (best_B > -jnp.inf)
    extended = SearchState(
        step=step,
        tokens_BM=best.tokens_BM,
        places_BM=best.places_BM,
        spans_BM2=best.spans_BM2,
        ahead_BMC=best.ahead_BMC,
        scores_BM=jnp.where(active_B[:, None], best.scores_BM, -jnp.inf),
        finished_BR=pool_scores,
        items_BR=pool_items,
        active_B=active_B,
        cache=None,
    )
    return extended, best.parents_BM


def _penalised(
    scores: Float[Array, "..."], length: Float[Array, ""], config: BeamConfig
) -> Float[Array, "..."]:
    return scores / length**config.length_penalty if config.length_penalty else scores


def _only_first_candidates(
    best: candidates.Children, items_BM: Int[Array, "B M"], num_beams: int
) -> Float[Array, "B M"]:
    """Finished scores, -inf unless among the k best of all children, finished and not."""
    finished_BM = best.finished_BM
    # A running child above counts, and so does a finished one: (score, then item) decides.
    above_running = _above(best.scores_BM, best.items_BM, finished_BM, items_BM)
    above_finished = _above(finished_BM, items_BM, finished_BM, items_BM)
    return jnp.where(above_running + above_finished < num_beams, finished_BM, -jnp.inf)


def _above(
    scores_BC: Float[Array, "B C"],
    items_BC: Int[Array, "B C"],
    than_BM: Float[Array, "B M"],
    than_items_BM: Int[Array, "B M"],
) -> Int[Array, "B M"]:
    """How many of the first pairs (score, item) rank above each of the second."""
    higher = scores_BC[:, None, :] > than_BM[:, :, None]
    tied = (scores_BC[:, None, :] == than_BM[:, :, None]) & (
        items_BC[:, None, :] < than_items_BM[:, :, None]
    )
    return jnp.sum(higher | tied, axis=2, dtype=jnp.int32)
