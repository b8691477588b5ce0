"""T5 as the search sees it: incremental decoding behind `search.Network`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding import reading
from genrec_jax.decoding.reading import KeptLogits
from genrec_jax.decoding.search import Network
from genrec_jax.model import incremental
from genrec_jax.model.attention import MASKED
from genrec_jax.model.t5 import T5
from genrec_jax.parallel import rules

MAX_LOGITS_BYTES = 1 << 28
"""Logits of one step are kept up to this size on a device; beyond, only the decoder's output is."""
MEMORY_SHARE, MOST_LOGITS_BYTES = 32, 1 << 32
"""A GPU keeps them up to a 32nd of its memory, where that is more, and up to the second in any case."""
VOCABULARY_CHUNK = 4096
LOGITS_AXES = ("batch", "beams", "length", "vocab")
HEAD_AXES = ("vocab", "activation_embed")
(VOCAB,) = rules.MESH_AXES_OF["vocab"]


def t5_network(
    model: T5,
    cross: incremental.CrossCache,
    encoder_valid_BL: Bool[Array, "B L"],
    num_beams: int,
    num_steps: int,
) -> Network:
    """The network, conditioned on encoded prompts; the search's first cache is None.

    Args:
        model: the network.
        cross: keys and values of the encoded prompts, one set per example whatever the beams.
        encoder_valid_BL: real prompt positions.
        num_beams: beams of the search, which decides whether a step's logits are kept.
        num_steps: times at most that the search feeds all beams (`search.beam_steps`).
    """
    rows = encoder_valid_BL.shape[0] * num_beams
    ways = rules.ways_of("batch") * rules.ways_of("vocab")
    whole = rows * model.config.padded_vocab_size * 4 <= _kept_here() * ways
    split = rules.ways_of("vocab") > 1

    def advance(tokens_BMQ: Array, slot: Array, cache: Any) -> tuple[Any, Array, Any]:
        if cache is None:
            with jax.named_scope("prefix"):
                hidden_BQD, cache = incremental.feed_shared(
                    model, tokens_BMQ[:, 0], cross, encoder_valid_BL
                )
            hidden_BMQD = hidden_BQD[:, None]
        else:
            with jax.named_scope("beam_step"):
                hidden_BMD, cache = incremental.feed_beams(
                    model, tokens_BMQ[:, :, 0], slot, cache, cross, encoder_valid_BL
                )
            hidden_BMQD = hidden_BMD[:, :, None]
        with jax.named_scope("head"):
            if not whole:
                return hidden_BMQD, normaliser(model, hidden_BMQD), cache
            logits_BMQV = rules.constrain(model.logits(hidden_BMQD), LOGITS_AXES)
            if split:
                return logits_BMQV, jax.nn.logsumexp(logits_BMQV, axis=-1), cache
            highest_BMQG = reading.highest_of_groups(logits_BMQV)
            view = KeptLogits(logits_BMQV, highest_BMQG)
            return view, _logsumexp(logits_BMQV, jnp.max(highest_BMQG, axis=-1)), cache

    def asked_logits(view: Any, tokens_BMC: Array, *beside: Array) -> Array:
        if not whole:
            (head_VD,) = beside
            return _own_products(view, tokens_BMC, head_VD)
        if not split:
            return jnp.take_along_axis(view.logits_BMV, tokens_BMC, axis=2)
        first = jax.lax.axis_index(VOCAB) * view.shape[2]
        is_own_BMC = (tokens_BMC >= first) & (tokens_BMC < first + view.shape[2])
        own_BMC = jnp.clip(tokens_BMC - first, 0, view.shape[2] - 1)
        own_BMC = jnp.take_along_axis(view, own_BMC, axis=2)
        return jax.lax.psum(jnp.where(is_own_BMC, own_BMC, 0.0), VOCAB)

    def reorder(cache: incremental.SelfCache, parents_BM: Array) -> incremental.SelfCache:
        with jax.named_scope("reorder"):
            if not cache.lineage_BMT.shape[2]:
                cache = incremental.make_room(cache, parents_BM.shape[1], num_steps)
            return incremental.continue_beams(cache, parents_BM)

    if not whole:
        head = (model.head_VD(),)
        return Network(advance, asked_logits, reorder, beside=head, beside_axes=(HEAD_AXES,))
    kept = None if split else lambda view: view
    return Network(advance, asked_logits, reorder, kept, view_axes=("batch", "beams", "vocab"))


def kept_logits_bytes(platform: str, memory_bytes: int | None, processes: int) -> int:
    """How large the logits of one step may be on a device for the search to keep them.

    TPUs hold to the size that `genrec plan` counts with. So do several processes: each would ask its own
    device, and all must compile the same program.

    Args:
        platform: of the device, as JAX calls it.
        memory_bytes: that JAX may take of it; None where it does not say.
        processes: that compute together.
    """
    if platform != "gpu" or processes > 1 or memory_bytes is None:
        return MAX_LOGITS_BYTES
    return max(MAX_LOGITS_BYTES, min(memory_bytes // MEMORY_SHARE, MOST_LOGITS_BYTES))


def _kept_here() -> int:
    """`kept_logits_bytes` of this process's first device; a constant while it runs."""
    device = jax.local_devices()[0]
    memory = device.memory_stats() or {}
    return kept_logits_bytes(device.platform, memory.get("bytes_limit"), jax.process_count())


def normaliser(model: T5, hidden_BMQD: Float[Array, "B M Q D"]) -> Float[Array, "B M Q"]:
    """Logsumexp of the logits over the vocabulary, a chunk of it at a time.

    Where the mesh splits the vocabulary, each device adds up its own part, and a `psum` joins them.
    """
    size = model.config.vocab_size

    def joined(first: Array, hidden_BMQD: Array, head_VD: Array) -> Array:
        part_BMQ = normaliser_in_chunks(hidden_BMQD, head_VD, size - first)
        highest_BMQ = jax.lax.pmax(part_BMQ, VOCAB)
        return highest_BMQ + jnp.log(jax.lax.psum(jnp.exp(part_BMQ - highest_BMQ), VOCAB))

    if rules.ways_of("vocab") == 1:
        return normaliser_in_chunks(hidden_BMQD, model.head_VD(), size)
    return _over_parts(joined, model.head_VD(), hidden_BMQD)


def logits_of_tokens(
    model: T5, hidden_BMD: Float[Array, "B M D"], tokens_BMC: Int[Array, "B M C"]
) -> Float[Array, "B M C"]:
    """The logits of asked-for tokens only; where the vocabulary is split, from whoever has their rows."""

    def joined(_: Array, hidden_BMD: Array, tokens_BMC: Array, head_VD: Array) -> Array:
        return _own_products(hidden_BMD, tokens_BMC, head_VD)

    if rules.ways_of("vocab") == 1:
        return _own_products(hidden_BMD, tokens_BMC, model.head_VD(), ways=rules.ways_of("batch"))
    return _over_parts(joined, model.head_VD(), hidden_BMD, tokens_BMC)


def _own_products(
    hidden_BMD: Float[Array, "B M D"],
    tokens_BMC: Int[Array, "B M C"],
    head_VD: Float[Array, "V D"],
    ways: int = 1,
) -> Float[Array, "B M C"]:
    """Products with the head's rows of the tokens; under `shard_map`, of each device's own rows.

    Args:
        hidden_BMD: what the head takes.
        tokens_BMC: the tokens.
        head_VD: its rows; the device's own, where the vocabulary is split.
        ways: parts that the compiler splits the batch into.
    """

    def logits_of(tokens_BMC: Array) -> Array:
        if rules.ways_of("vocab") == 1:
            return jnp.einsum("bmd,bmcd->bmc", hidden_BMD, head_VD[tokens_BMC])
        rows_BMC = tokens_BMC - jax.lax.axis_index(VOCAB) * head_VD.shape[0]
        mine_BMC = (rows_BMC >= 0) & (rows_BMC < head_VD.shape[0])
        own_BMC = jnp.einsum("bmd,bmcd->bmc", hidden_BMD, head_VD.at[rows_BMC].get(mode="clip"))
        return jax.lax.psum(jnp.where(mine_BMC, own_BMC, 0.0), VOCAB)

    # A row of the head for each token asked for: in parts, where together they take too much memory.
    count, parts = tokens_BMC.shape[2], 1
    bytes_each = hidden_BMD.size * 4 // ways
    while bytes_each * count // parts > MAX_LOGITS_BYTES and count % (2 * parts) == 0:
        parts *= 2
    if parts == 1:
        return logits_of(tokens_BMC)
    batch, beams = tokens_BMC.shape[:2]
    tokens_BMPC = tokens_BMC.reshape(batch, beams, parts, count // parts)
    logits_PBMC = jax.lax.map(logits_of, jnp.moveaxis(tokens_BMPC, 2, 0))
    return jnp.moveaxis(logits_PBMC, 0, 2).reshape(tokens_BMC.shape)


def _logsumexp(
    logits: Float[Array, "*rows V"], highest: Float[Array, "*rows"]
) -> Float[Array, "*rows"]:
    """Logsumexp over the last axis, whose maximum is known and finite."""
    return highest + jnp.log(jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1))


def normaliser_in_chunks(
    hidden_BMQD: Float[Array, "B M Q D"], head_VD: Float[Array, "V D"], size: Int[Array, ""] | int
) -> Float[Array, "B M Q"]:
    """Logsumexp of the products with the first `size` rows of `head_VD`, a chunk of rows at a time."""
    chunks = -(-head_VD.shape[0] // VOCABULARY_CHUNK)

    def add(total_BMQ: Array, chunk: Array) -> tuple[Array, None]:
        # The last chunk reaches back over tokens that were counted; they are left out.
        wanted = chunk * VOCABULARY_CHUNK
        start = jnp.minimum(wanted, head_VD.shape[0] - width)
        part_VD = jax.lax.dynamic_slice_in_dim(head_VD, start, width, axis=0)
        logits_BMQV = jnp.einsum("bmqd,vd->bmqv", hidden_BMQD, part_VD)
        tokens_V = start + jnp.arange(width)
        counts_V = (tokens_V >= wanted) & (tokens_V < size)
        logits_BMQV = jnp.where(counts_V[None, None, None], logits_BMQV, MASKED)
        return jnp.logaddexp(total_BMQ, jax.nn.logsumexp(logits_BMQV, axis=-1)), None

    width = min(VOCABULARY_CHUNK, head_VD.shape[0])
    nothing_BMQ = jnp.full(hidden_BMQD.shape[:-1], -jnp.inf, jnp.float32)
    total_BMQ, _ = jax.lax.scan(add, nothing_BMQ, jnp.arange(chunks))
    return total_BMQ


def _over_parts(joined: Callable[..., Array], head_VD: Array, *arrays: Array) -> Array:
    """Runs `joined(first row, *arrays, rows)` on every device with its own rows of the head.

    Written out by `shard_map`, since the compiler's own partitioning of a gather and of a sliced scan
    over a split dimension would bring the whole head together.
    """
    batch = rules.spec_of(("batch",))

    def own(head_VD: Array, *arrays: Array) -> Array:
        first = jax.lax.axis_index(VOCAB) * head_VD.shape[0]
        return joined(first, *arrays, head_VD)

    specs = (rules.spec_of(HEAD_AXES), *(batch for _ in arrays))
    return jax.shard_map(own, in_specs=specs, out_specs=batch, check_vma=False)(head_VD, *arrays)
