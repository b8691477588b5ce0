"""`genrec plan` as a function: a configuration and a cluster's name -> a plan, or why nothing fits."""

from genrec_jax.errors import UserError
from genrec_jax.parallel import topology as topologies
from genrec_jax.training import plan as plans
from genrec_jax.training import plan_text
from genrec_jax.training.config import TrainConfig
from genrec_jax.training.plan import Plan
from genrec_jax.training.plan_programs import Shapes

TARGET_LENGTH = 32
"""Tokens of a target row where the configuration sets no limit."""


def plan(
    config: TrainConfig,
    topology: str,
    *,
    shapes: Shapes | None = None,
    suggest: bool = False,
    compile: bool = True,
) -> Plan:
    """Says whether training and recommending fit a cluster, and what a step costs there.

    Neither the cluster nor data is needed: what `config` names is not opened.

    Args:
        config: the configuration; its mesh, remat and microbatches are planned.
        topology: the cluster, such as `v5e-16`, `h100-8` or `cpu-8` (see `parallel.topology.CHIPS`).
        shapes: sizes of the batches, of the catalogue and of the search; by default `default_shapes`. For
            others change a plan's: `dataclasses.replace(first.shapes, rows=24, target_length=96)`.
        suggest: plan the cheapest mesh, remat and microbatches that fit instead of the configured ones.
        compile: compile both steps ahead of time: for TPUs with libtpu, for `cpu-N` on N fake devices (set
            XLA_FLAGS=--xla_force_host_platform_device_count=N before JAX starts). Otherwise, and always
            for GPUs, memory is counted.

    Returns:
        the plan; its `fits` says whether both steps fit, `train` and `recommend` what each takes. Rows and
        prompts of its `shapes` are rounded up to what the mesh divides.

    Raises:
        UserError: an unknown topology, a mesh or batch that does not divide, devices to compile for that
            are missing, or, with `suggest`, nothing that fits.
    """
    cluster = topologies.parse(topology)
    shapes = default_shapes(config) if shapes is None else shapes
    devices = topologies.devices_of(cluster) if compile else None
    if not suggest:
        choice = plans.configured(config, cluster)
        return plans.plan_choice(config, cluster, shapes, choice, devices)
    planned = plans.best_suggestion(config, cluster, shapes, devices)
    if planned is None:
        raise UserError(nothing_fits(config, topology, shapes))
    if planned.fits is False:
        raise UserError(_refused(planned))
    return planned


def default_shapes(config: TrainConfig) -> Shapes:
    """Full batches of full rows, and a recommend step of 64 prompts and 20 beams for Beauty's catalogue."""
    return Shapes(
        rows=config.data.batch_size,
        input_length=config.data.row_length or config.data.max_input_length,
        target_length=config.data.max_target_length or TARGET_LENGTH,
        prompts=64,
        items=12_101,
        beams=20,
    )


def nothing_fits(config: TrainConfig, topology: str, shapes: Shapes) -> str:
    """What to do where no choice fits a cluster by count."""
    told = (
        f"no mesh, remat policy and number of microbatches fit {shapes.rows} rows on {topology}; take more"
        " or larger devices, fewer --rows, or shorter ones"
    )
    if plans.rows_are_fixed(config):
        told += (
            ". Rows that `genrec train` does not pack must divide among devices: take a BATCH_SIZE that is"
            " a multiple of their number"
        )
    return told


def _refused(planned: Plan) -> str:
    told = [
        f"{name} needs {plan_text.size(step.total)} of {plan_text.size(step.limit)}"
        for name, step in (("training", planned.train), ("recommending", planned.recommend))
        if step.fits is False and step.limit is not None
    ]
    return (
        f"what fits {planned.topology.name} by count does not fit as XLA compiles it. The last that was"
        f" tried, {planned.choice}: {' and '.join(told)} a device. Take more or larger devices, fewer"
        " --rows or --prompts, or shorter ones"
    )
