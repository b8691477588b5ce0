"""A plan as lines for a person."""

from collections.abc import Iterator

from genrec_jax.parallel.collectives import total_bytes
from genrec_jax.progress import duration
from genrec_jax.training.plan import UTILISATIONS, Plan, StepPlan
from genrec_jax.training.plan_programs import Compiled, TooLarge


def lines(plan: Plan) -> Iterator[str]:
    """The whole plan."""
    topology, shapes = plan.topology, plan.shapes
    shape = "" if topology.shape is None else f" ({'x'.join(map(str, topology.shape))})"
    yield f"{topology.name}: {topology.num_devices} devices{shape}; {_memory_of(plan)}"
    yield f"{plan.num_parameters:,} parameters; {plan.choice}"
    batch = f"{shapes.rows} rows of {shapes.input_length} + {shapes.target_length} tokens"
    yield from _step(f"training step, {batch}", plan.train)
    search = f"{shapes.prompts} prompts of {shapes.input_length} tokens, {shapes.beams} beams"
    yield from _step(f"recommend step, {search}, {shapes.items:,} items", plan.recommend)


def _step(title: str, step: StepPlan) -> Iterator[str]:
    yield ""
    yield f"{title}:"
    verdict = {True: "fits", False: "does not fit", None: "the host's memory decides"}[step.fits]
    counted = step.counted
    parts = f"parameters {size(counted.params)}"
    if counted.optimizer:
        parts += f", optimizer {size(counted.optimizer)}"
    if isinstance(step.compiled, Compiled):
        yield (
            f"  memory a device, compiled by XLA: {size(step.total)}, {verdict}: {parts}, arguments in all"
            f" {size(step.compiled.arguments)}, activations and the rest {size(step.compiled.temporaries)}"
        )
        yield f"  counted: {size(counted.total)} ({counted.total / step.total:.2f} times XLA's)"
    elif isinstance(step.compiled, TooLarge):
        yield (
            f"  memory a device, compiled by XLA: {size(step.total)} of {size(step.compiled.limit)},"
            f" {verdict}: {parts}"
        )
        yield f"  counted: {size(counted.total)} ({counted.total / step.total:.2f} times XLA's)"
    else:
        yield (
            f"  memory a device, counted, not compiled: {size(step.total)}, {verdict}: {parts},"
            f" activations and the rest {size(counted.activations)}"
        )
    yield f"  {step.flops / 1e12:,.3g} TFLOP over all devices, recomputation left out"
    if step.seconds is not None:
        times = " or ".join(
            f"{duration(seconds)} at {share:.0%}"
            for seconds, share in zip(step.seconds, UTILISATIONS, strict=True)
        )
        yield f"  expected time: {times} of bfloat16 peak, input and waiting aside"
    if isinstance(step.compiled, Compiled):
        found = step.compiled.collectives
        if found is None:
            yield "  collectives: not known; this jaxlib cannot read the program that libtpu made"
        elif not found:
            yield "  collectives: none"
        else:
            wires = step.wire_seconds
            least = "" if wires is None else f"; at least {duration(wires)} on a chip's links"
            yield f"  collectives: {size(total_bytes(found))} a device{least}"
        for one in found or ():
            yield f"    {one.kind} over {' x '.join(one.axes)}: {one.count} times, {size(one.bytes)}"
    elif step.compiled is None:
        yield "  collectives: not counted; `--topology cpu-N` compiles the same mesh and shows them"


def _memory_of(plan: Plan) -> str:
    memory = plan.topology.chip.memory
    return "memory shared with the host" if memory is None else f"{size(memory)} of memory each"


def size(count: int | float) -> str:
    """Bytes for reading, such as `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit returns")
