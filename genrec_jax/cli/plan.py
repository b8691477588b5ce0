"""`genrec plan`: a configuration and a cluster -> memory, operations, collectives, and a mesh that fits."""

import argparse
import dataclasses
import os
import pathlib

from genrec_jax.cli import gin_flags, gin_setup, numeric_flags
from genrec_jax.data import artefacts
from genrec_jax.errors import UserError

HELP = """Says, before anything is rented, whether a configuration fits a cluster and what a step costs.

For TPUs the real training and recommend steps are compiled ahead of time with libtpu, no TPU needed
(pip install 'genrec-jax[tpu-plan]'), and XLA's own memory analysis and collectives are printed; so they
are on fake CPU devices. For GPUs memory is counted, and the output says so. No data is read: a training
batch is taken to be BATCH_SIZE rows of full length unless --rows and the lengths say otherwise."""

EPILOG = """
examples:
  genrec plan --topology v5e-16 --gin_file=gin_configs/models/flan_t5_xl.gin \\
    --gin_file=gin_configs/runs/train.gin --gin.BATCH_SIZE=64
  genrec plan --topology h100-8 --suggest --gin_file=gin_configs/models/flan_t5_xxl.gin \\
    --gin_file=gin_configs/runs/train.gin --gin.BATCH_SIZE=64
  genrec plan --topology cpu-8 --gin_file=gin_configs/quickstart.gin --gin.config.MeshConfig.fsdp=2

Topologies: v4-N and v5p-N (N cores, two a chip), v5e-N and v6e-N (N chips), a100-N, h100-N, h200-N, cpu-N.
docs/tpu.md shows what comes out.
"""

# Macros that a plan does not need; they are filled in where a file requires them.
UNUSED = {
    "MODEL_DIR": '"unused"',
    "DATA_DIR": '"unused"',
    "MIXTURE_OR_TASK_NAME": '"openp5"',
    "TRAIN_STEPS": "1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `genrec plan`."""
    parser.add_argument(
        "--topology", required=True, metavar="NAME", help="such as v5e-16 or h100-8"
    )
    parser.add_argument(
        "--suggest",
        action="store_true",
        help="plan (and compile) the suggested mesh, remat and microbatches instead of the configured ones",
    )
    parser.add_argument(
        "--count-only", action="store_true", help="compile nothing; memory is counted"
    )
    parser.add_argument(
        "--rows",
        type=numeric_flags.COUNT,
        metavar="N",
        help="rows of a training batch; packed, they are fewer",
    )
    parser.add_argument(
        "--input-length", type=numeric_flags.COUNT, metavar="N", help="tokens of an input row"
    )
    parser.add_argument(
        "--target-length",
        type=numeric_flags.COUNT,
        metavar="N",
        help="tokens of a target row (32 where the configuration sets no limit; packed rows"
        " may have room for more: `genrec train` says how much)",
    )
    parser.add_argument(
        "--prompts",
        type=numeric_flags.COUNT,
        metavar="N",
        help="prompts of a recommend step (64)",
    )
    parser.add_argument(
        "--items",
        type=numeric_flags.COUNT,
        metavar="N",
        help="items of the catalogue (12101: Beauty)",
    )
    parser.add_argument("--num-beams", type=numeric_flags.COUNT, metavar="N", help="beams (20)")
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="write the plan to a file too"
    )
    gin_flags.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Plans and prints."""
    # Plans are made on a CPU, whatever else the machine has; JAX reads this when it is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from genrec_jax.parallel import topology as topologies

    topology = topologies.parse(arguments.topology)
    if not arguments.gin_file:
        raise UserError(
            "no configuration; wanted --gin_file, such as --gin_file=gin_configs/models/flan_t5_xl.gin"
            " --gin_file=gin_configs/runs/train.gin"
        )
    if topology.chip.kind == "cpu":
        flag = f"--xla_force_host_platform_device_count={topology.num_devices}"
        given = os.environ.get("XLA_FLAGS", "")
        if "xla_force_host_platform_device_count" not in given:
            os.environ["XLA_FLAGS"] = f"{given} {flag}".strip()
    gin_setup.parse(
        arguments.gin_file, arguments.gin_bindings, arguments.gin_search_paths, fill=UNUSED
    )
    from genrec_jax.training import config as config_lib
    from genrec_jax.training import plan as plans
    from genrec_jax.training import plan_request, plan_text

    config = gin_setup.configure(config_lib.TrainConfig)
    given = {
        "rows": arguments.rows,
        "input_length": arguments.input_length,
        "target_length": arguments.target_length,
        "prompts": arguments.prompts,
        "items": arguments.items,
        "beams": arguments.num_beams,
    }
    shapes = dataclasses.replace(
        plan_request.default_shapes(config),
        **{name: size for name, size in given.items() if size is not None},
    )
    planned = plan_request.plan(
        config,
        arguments.topology,
        shapes=shapes,
        suggest=arguments.suggest,
        compile=not arguments.count_only,
    )
    for line in plan_text.lines(planned):
        print(line)
    if arguments.target_length is None and config.data.max_target_length is None:
        print()
        print(_assumed(shapes.target_length, config.data.packing))
    if not arguments.suggest:
        better = next(plans.suggestions(config, topology, shapes), None)
        print()
        if better is None:
            print(f"suggestion: {plan_request.nothing_fits(config, topology.name, shapes)}")
        elif better == planned.choice:
            print("suggestion: stay with it")
        else:
            print(f"suggestion, by count: {better} (--suggest plans it)")
    if arguments.json is not None:
        artefacts.write_json(arguments.json, plans.to_json(planned))


def _assumed(length: int, packing: bool) -> str:
    more = "; packed rows may have room for more" if packing else ""
    return (
        f"assumed: targets of {length} tokens, since TASK_FEATURE_LENGTHS sets them no limit{more}."
        " `genrec train` says the shapes of its batches when it starts; give one as --rows,"
        " --input-length and --target-length"
    )
