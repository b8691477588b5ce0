"""The real training and recommend steps, traced for shapes only and compiled ahead of time for a mesh."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from genrec_jax.decoding import recommend
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.trie import Trie
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import collectives, rules
from genrec_jax.parallel.collectives import Collective
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.training import plan_flops, plan_memory
from genrec_jax.training import state as state_lib
from genrec_jax.training import step as step_lib
from genrec_jax.training.config import TrainConfig

# An id of the catalogue: tokens that all ids start with, and those after them.
PREFIX_TOKENS, ID_TOKENS = 4, 8
# XLA's words for a program that needs more memory than there is: a sum over all, or of temporaries alone.
_TOO_MUCH = re.compile(
    r"(?:Used|HLO temporaries \() ?([\d.]+)([KMGT]?)\)? (?:of|exceeds available HBM \() ?([\d.]+)([KMGT]?)"
)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The sizes that the steps are planned for.

    Attributes:
        rows: rows of a training batch, over all devices.
        input_length: tokens of an input row, and of a prompt.
        target_length: tokens of a target row.
        prompts: prompts of a recommend step, over all devices.
        items: items of the catalogue.
        beams: beams of the search.
    """

    rows: int
    input_length: int
    target_length: int
    prompts: int
    items: int
    beams: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """XLA's analysis of a compiled program.

    Attributes:
        arguments: bytes on a device of what is passed in: parameters, optimizer state, batch, trie.
        temporaries: bytes on a device of everything else at its highest, program included.
        total: of both; what is returned in place of an argument counts once.
        collectives: of one run; None where this jaxlib cannot read what the compiler returned.
    """

    arguments: int
    temporaries: int
    total: int
    collectives: tuple[Collective, ...] | None


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """XLA refused: the program needs more memory than a device has.

    Attributes:
        total: bytes that it needs on a device.
        limit: bytes that there are.
    """

    total: int
    limit: int


def lower_train_step(config: TrainConfig, shapes: Shapes, mesh: Mesh) -> jax.stages.Lowered:
    """Traces the training step of a configuration over a mesh, whose devices need not exist here."""
    state = state_lib.abstract_state(config.model, config.optimizer, mesh)
    step = step_lib.jit_train_step(
        config.model, config.optimizer, config.loss, mesh, microbatches=config.microbatches
    )
    return step.lower(state, _placed(_batch(shapes), rules.batch_sharding(mesh)), _key(mesh))


def lower_recommend_step(model: T5Config, shapes: Shapes, mesh: Mesh) -> jax.stages.Lowered:
    """Traces the recommend step over a mesh, whose devices need not exist here."""
    graphdef, params = t5.abstract_graph_and_params(model)
    step: Any = recommend.make_recommend_step(graphdef, _beams(shapes), mesh)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        params,
        rules.tree_shardings(params, mesh),
    )
    prompts = _placed(_prompts(shapes), rules.batch_sharding(mesh))
    trie = _placed(abstract_trie(model, shapes.items), rules.replicated(mesh))
    return step.lower(placed, prompts, trie)


def compile_program(lowered: Any, mesh: Mesh) -> Compiled | TooLarge:
    """Compiles a traced program (`jax.stages.Lowered`) and reads what XLA makes of it."""
    try:
        compiled = lowered.compile()
    except Exception as error:  # XLA's own error has no public type of its own
        found = _TOO_MUCH.search(str(error))
        if found is None:
            raise
        used, used_unit, limit, limit_unit = found.groups()
        return TooLarge(
            int(float(used) * _UNITS[used_unit]), int(float(limit) * _UNITS[limit_unit])
        )
    memory = compiled.memory_analysis()
    returned = memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes + returned
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        temporaries=temporaries,
        total=memory.argument_size_in_bytes + temporaries,
        collectives=_collectives_of(compiled, mesh),
    )


def _collectives_of(compiled: Any, mesh: Mesh) -> tuple[Collective, ...] | None:
    try:
        text = compiled.as_text()
    except Exception as error:  # XLA's own error has no public type of its own
        # libtpu 0.0.51's programs for v5p and v6e hold operations that jaxlib 0.10.2 does not know.
        if "RET_CHECK" not in str(error):
            raise
        return None
    return collectives.of_program(text, mesh)


def train_flops(config: TrainConfig, shapes: Shapes) -> int:
    """Operations of a training step over all devices, without what remat or the loss does twice."""
    model = dataclasses.replace(config.model, remat="none")
    graphdef, _ = t5.abstract_graph_and_params(model)
    step = functools.partial(
        step_lib.train_step,
        graphdef=graphdef,
        optimizer=config.optimizer,
        loss_config=dataclasses.replace(config.loss, positions_at_a_time=0),
    )
    return plan_flops.count(
        step, state_lib.state_shapes(model, config.optimizer), _batch(shapes), _key(None)
    )


def recommend_flops(model: T5Config, shapes: Shapes) -> int:
    """Operations of a recommend step over all devices, if no search ends early."""
    graphdef, params = t5.abstract_graph_and_params(model)
    step = recommend.make_recommend_step(graphdef, _beams(shapes))
    trie = abstract_trie(model, shapes.items)
    rounds = ID_TOKENS - 1
    return plan_flops.count(step, params, _prompts(shapes), trie, rounds=rounds)


def abstract_trie(model: T5Config, items: int) -> Trie:
    """The shapes of a catalogue's trie: one arc and some tail tokens an item, ids of 12 tokens at most."""
    size = tries.padded_size
    narrow = model.vocab_size <= tries.SMALL_VOCABULARY

    def make() -> Trie:
        arcs, nodes = jnp.zeros(size(items), jnp.int32), jnp.zeros(size(items), jnp.int32)
        tokens = jnp.uint16 if narrow else jnp.int32
        return Trie(
            prefix_Q=jnp.zeros(PREFIX_TOKENS, jnp.int32),
            tokens_Y=jnp.zeros(size(items) + size(2 * items), tokens),
            arc_nexts_A=arcs,
            starts_N=jnp.zeros(size(items) + size(items + 1), jnp.int32),
            node_items_J=nodes,
            node_ranks_J=nodes,
            node_counts_J=nodes,
            num_items=jnp.zeros((), jnp.int32),
            max_steps=ID_TOKENS,
            eos_id=1,
        )

    return jax.eval_shape(make)


def _beams(shapes: Shapes) -> BeamConfig:
    return BeamConfig(num_beams=shapes.beams, num_results=shapes.beams)


def _batch(shapes: Shapes) -> Any:
    return plan_memory.abstract_batch(shapes.rows, shapes.input_length, shapes.target_length)


def _prompts(shapes: Shapes) -> PromptBatch:
    def make() -> PromptBatch:
        tokens_BL = jnp.zeros((shapes.prompts, shapes.input_length), jnp.int32)
        nobody_B = jnp.zeros(shapes.prompts, jnp.int32)
        return PromptBatch(tokens_BL, tokens_BL, nobody_B, nobody_B)

    return jax.eval_shape(make)


def _key(mesh: Mesh | None) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return key if mesh is None else _placed(key, rules.replicated(mesh))


def _placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
