"""Whether a configuration fits a cluster, what a step costs there, and which mesh is better."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from genrec_jax.decoding import network
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.errors import UserError
from genrec_jax.model import t5
from genrec_jax.parallel import collectives, rules
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel.mesh import Sizes
from genrec_jax.parallel.topology import Chip, Topology
from genrec_jax.pipeline import batches, seqio_reader
from genrec_jax.training import plan_memory, plan_programs
from genrec_jax.training import state as state_lib
from genrec_jax.training.config import MeshConfig, TrainConfig
from genrec_jax.training.plan_memory import Memory
from genrec_jax.training.plan_programs import Compiled, Shapes, TooLarge

# Share of a device's memory that a counted step may take: XLA keeps some for itself, and counting is
# not exact.
COUNTED_SHARE = 0.85
UTILISATIONS = (0.4, 0.5)
MICROBATCHES = (1, 2, 4, 8, 16, 32)
COMPILED_SUGGESTIONS = 3

# What a step costs relative to one without: rules of thumb that order the suggestions, not times.
_REMAT_COST = {"none": 1.0, "dots": 1.1, "full": 4 / 3}
_FSDP_COST, _TENSOR_COST, _MICROBATCH_COST = 0.01, 0.08, 0.03


@dataclasses.dataclass(frozen=True)
class Choice:
    """The settings that a plan may change: mesh and memory savings, never the results of a step."""

    mesh: Sizes
    remat: str
    microbatches: int

    def __str__(self) -> str:
        return f"mesh {self.mesh}; remat {self.remat!r}; microbatches {self.microbatches}"


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One step on one cluster.

    Attributes:
        rows: rows of its batch, rounded up to what the mesh divides.
        counted: memory of a device, counted.
        compiled: what XLA says, where it was asked.
        flops: operations over all devices, recomputation left out.
        memory: bytes of a device; None: not known.
        seconds: what it takes at 40% and 50% of the devices' peak; None where that is not known.
        wire_seconds: what its collectives take at the least, were all links of a chip used all the
            time; None where collectives or links are not known.
    """

    rows: int
    counted: Memory
    compiled: Compiled | TooLarge | None
    flops: int
    memory: int | None
    seconds: tuple[float, ...] | None
    wire_seconds: float | None

    @property
    def total(self) -> int:
        """Bytes that it needs on a device: XLA's figure if there is one."""
        return self.counted.total if self.compiled is None else self.compiled.total

    @property
    def limit(self) -> int | None:
        """Bytes that it may take; None where the device's memory is not known."""
        if isinstance(self.compiled, TooLarge):
            return self.compiled.limit
        if self.memory is None or self.compiled:
            return self.memory
        return int(self.memory * COUNTED_SHARE)

    @property
    def fits(self) -> bool | None:
        """Whether it fits on a device; None if the device's memory is not known."""
        if isinstance(self.compiled, TooLarge):
            return False  # whatever XLA's rounded figures say
        return None if self.limit is None else self.total <= self.limit


@dataclasses.dataclass(frozen=True)
class Plan:
    """A configuration on a cluster.

    Attributes:
        topology: the cluster.
        num_parameters: of the model.
        shapes: what the steps were planned for.
        choice: mesh, remat and microbatches.
        train: the training step.
        recommend: the recommend step on the same mesh.
    """

    topology: Topology
    num_parameters: int
    shapes: Shapes
    choice: Choice
    train: StepPlan
    recommend: StepPlan

    @property
    def fits(self) -> bool | None:
        """Whether training and recommending both do."""
        both = (self.train.fits, self.recommend.fits)
        return None if None in both else all(both)


def configured(config: TrainConfig, topology: Topology) -> Choice:
    """The choice that a configuration makes on a cluster.

    Raises:
        UserError: its mesh does not multiply to the cluster's devices, or does not divide the model, or
            the batch does not divide among its devices and microbatches where `genrec train` needs that.
    """
    count = topology.num_devices
    data, fsdp, tensor = dataclasses.astuple(config.mesh)
    sizes = Sizes(max(1, count // (fsdp * tensor)) if data == -1 else data, fsdp, tensor)
    _, params = t5.abstract_graph_and_params(config.model)
    divisions = rules.divisions(params)
    problems = meshes.does_not_fit(sizes, divisions)
    if math.prod(sizes) != count or problems:
        why = (
            f"has {math.prod(sizes)} devices"
            if math.prod(sizes) != count
            else f"does not divide {', '.join(str(number) for _, number in problems)}"
        )
        raise UserError(
            f"the mesh {sizes} {why}; {topology.name} has {count} devices. The nearest mesh that fits is"
            f" {meshes.nearest(sizes, count, divisions)}"
        )
    if config.data.mixture_module is not None:
        seqio_reader.check_batch_size(config.data.batch_size, ways(sizes, config.microbatches))
    elif not config.data.packing:
        batches.check_batch_size(config.data.batch_size, ways(sizes, config.microbatches))
    return Choice(sizes, config.model.remat, config.microbatches)


def ways(sizes: Sizes, microbatches: int = 1) -> int:
    """Into how many equal parts a batch's rows are divided."""
    return sizes.data * sizes.fsdp * microbatches


def rows_are_fixed(config: TrainConfig) -> bool:
    """Whether a batch has BATCH_SIZE rows, which must divide; packed ones are filled up with empty rows."""
    return config.data.mixture_module is not None or not config.data.packing


def suggestions(config: TrainConfig, topology: Topology, shapes: Shapes) -> Iterator[Choice]:
    """Choices that fit by count, the cheapest first: few recomputations, little communication.

    A packed batch that does not fill `data` x `fsdp` is padded with empty rows, which is paid for too;
    where rows are not packed, only what divides BATCH_SIZE is suggested.
    """
    fixed = config.data.batch_size if rows_are_fixed(config) else 0
    _, params = t5.abstract_graph_and_params(config.model)
    divisions = rules.divisions(params)
    choices = [
        Choice(sizes, remat, parts)
        for sizes in meshes.meshes_of(topology.num_devices)
        if not meshes.does_not_fit(sizes, divisions)
        for remat in _REMAT_COST
        for parts in MICROBATCHES
        if parts == 1 or shapes.rows % ways(sizes, parts) == 0
        if fixed % ways(sizes, parts) == 0
    ]

    def cost(choice: Choice) -> tuple[float, Sizes]:
        padded = _round_up(shapes.rows, ways(choice.mesh, choice.microbatches)) / shapes.rows
        price = _REMAT_COST[choice.remat] * padded
        price *= 1 + _FSDP_COST * math.log2(choice.mesh.fsdp)
        price *= 1 + _TENSOR_COST * math.log2(choice.mesh.tensor)
        return price * (1 + _MICROBATCH_COST * math.log2(choice.microbatches)), choice.mesh

    for choice in sorted(choices, key=cost):
        if topology.chip.memory is None:
            yield choice
            continue
        limit = topology.chip.memory * COUNTED_SHARE
        chosen = with_choice(config, choice)
        if _fixed(chosen, choice) > limit:
            continue  # before its loss is traced
        counts = (count_training, functools.partial(count_recommending, chip=topology.chip))
        if all(count(chosen, choice, shapes).total <= limit for count in counts):
            yield choice


def with_choice(config: TrainConfig, choice: Choice) -> TrainConfig:
    """The configuration with a choice written into it."""
    model = dataclasses.replace(config.model, remat=choice.remat)
    return dataclasses.replace(
        config, model=model, mesh=MeshConfig(*choice.mesh), microbatches=choice.microbatches
    )


def plan_choice(
    config: TrainConfig,
    topology: Topology,
    shapes: Shapes,
    choice: Choice,
    devices: Sequence[Any] | None,
) -> Plan:
    """Plans a training and a recommend step with one choice.

    Args:
        config: the configuration.
        topology: the cluster.
        shapes: of the batches; rows are rounded up to what the mesh divides.
        choice: mesh, remat and microbatches.
        devices: what to compile for (`topology.devices_of`); None counts only.
    """
    config = with_choice(config, choice)
    shapes = dataclasses.replace(
        shapes,
        rows=_round_up(shapes.rows, ways(choice.mesh, choice.microbatches)),
        prompts=_round_up(shapes.prompts, ways(choice.mesh)),
    )
    trained = searched = None
    if devices is not None:
        mesh = meshes.make_mesh(*choice.mesh, devices)
        lowered = plan_programs.lower_train_step(config, shapes, mesh)
        trained = plan_programs.compile_program(lowered, mesh)
        lowered = plan_programs.lower_recommend_step(config.model, shapes, mesh)
        searched = plan_programs.compile_program(lowered, mesh)
    state = state_lib.state_shapes(config.model, config.optimizer)
    return Plan(
        topology=topology,
        num_parameters=state_lib.number_of_parameters(state.params),
        shapes=shapes,
        choice=choice,
        train=_step_plan(
            topology,
            choice.mesh,
            shapes.rows,
            count_training(config, choice, shapes),
            trained,
            plan_programs.train_flops(config, shapes),
        ),
        recommend=_step_plan(
            topology,
            choice.mesh,
            shapes.prompts,
            count_recommending(config, choice, shapes, topology.chip),
            searched,
            plan_programs.recommend_flops(config.model, shapes),
        ),
    )


def best_suggestion(
    config: TrainConfig,
    topology: Topology,
    shapes: Shapes,
    devices: Sequence[Any] | None,
) -> Plan | None:
    """The first suggestion that XLA finds to fit too, or that fits by count where XLA is not asked.

    What XLA refuses shows how far the count is off: only suggestions that are smaller by as much are
    tried after it. After a few refusals the last one is returned, whose `fits` is false; None where
    nothing fits by count.
    """
    refused: Plan | None = None
    tried = 0
    for choice in suggestions(config, topology, shapes):
        if refused is not None and not _smaller(config, choice, shapes, refused):
            continue
        found = plan_choice(config, topology, shapes, choice, devices)
        tried += 1
        if found.fits is not False or tried == COMPILED_SUGGESTIONS:
            return found
        refused = found
    return refused


def _smaller(config: TrainConfig, choice: Choice, shapes: Shapes, refused: Plan) -> bool:
    """Whether both steps of a choice would fit if the count erred as it did with a refused plan."""
    config = with_choice(config, choice)
    recommending = functools.partial(count_recommending, chip=refused.topology.chip)
    counts = ((refused.train, count_training), (refused.recommend, recommending))
    for step, count in counts:
        if step.fits is False and step.limit is not None:
            counted = count(config, choice, shapes)
            if counted.total * step.total > step.counted.total * step.limit:
                return False
    return True


def count_training(config: TrainConfig, choice: Choice, shapes: Shapes) -> Memory:
    """Memory of a training step on a device, counted."""
    return plan_memory.of_training(
        config.model,
        config.optimizer,
        config.loss,
        choice.mesh,
        rows=_round_up(shapes.rows, ways(choice.mesh, choice.microbatches)),
        input_length=shapes.input_length,
        target_length=shapes.target_length,
        microbatches=choice.microbatches,
    )


def count_recommending(config: TrainConfig, choice: Choice, shapes: Shapes, chip: Chip) -> Memory:
    """Memory of a recommend step on a device, counted as if one process had all devices."""
    slots = plan_programs.PREFIX_TOKENS + 1 + shapes.beams * (plan_programs.ID_TOKENS - 1)
    return plan_memory.of_recommending(
        config.model,
        BeamConfig(num_beams=shapes.beams, num_results=shapes.beams),
        choice.mesh,
        rows=_round_up(shapes.prompts, ways(choice.mesh)),
        input_length=shapes.input_length,
        slots=slots,
        kept_logits=network.kept_logits_bytes(chip.kind, chip.memory, 1),
        trie=plan_programs.abstract_trie(config.model, shapes.items),
    )


def to_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain JSON values."""
    fields = dataclasses.asdict(plan)
    fields["topology"] = plan.topology.name
    fields["devices"] = plan.topology.num_devices
    for name, step in (("train", plan.train), ("recommend", plan.recommend)):
        fields[name] |= {"total": step.total, "fits": step.fits}
        fields[name]["source"] = "counted" if step.compiled is None else "compiled"
    fields["choice"]["mesh"] = plan.choice.mesh._asdict()
    return fields


def wire_seconds(chip: Chip, sizes: Sizes, compiled: Compiled | TooLarge | None) -> float | None:
    """What a step's collectives take at the least; see `StepPlan`."""
    if chip.wires is None or not isinstance(compiled, Compiled) or compiled.collectives is None:
        return None
    return collectives.sent_bytes(compiled.collectives, sizes._asdict()) / chip.wires


def _step_plan(
    topology: Topology,
    sizes: Sizes,
    rows: int,
    counted: Memory,
    compiled: Compiled | TooLarge | None,
    flops: int,
) -> StepPlan:
    peak = topology.chip.peak_flops
    seconds = None
    if peak is not None:
        seconds = tuple(flops / (topology.num_devices * peak * share) for share in UTILISATIONS)
    on_wires = wire_seconds(topology.chip, sizes, compiled)
    return StepPlan(rows, counted, compiled, flops, topology.chip.memory, seconds, on_wires)


def _fixed(config: TrainConfig, choice: Choice) -> int:
    """Bytes of parameters, their gradients and the optimizer's state on a device."""
    model = dataclasses.replace(config.model, remat="none")
    state = plan_memory.state_shapes(model, config.optimizer)
    params = rules.bytes_on_a_device(state.params, choice.mesh)
    return 2 * params + rules.bytes_on_a_device(state.opt_state, choice.mesh)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
