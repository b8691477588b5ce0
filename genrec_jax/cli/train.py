"""`genrec train`: dataset and item IDs -> run dir with checkpoints."""

import argparse
import os

from genrec_jax.cli import gin_flags, gin_setup, multihost, numeric_flags

HELP = f"""Trains a T5 on a prepared and indexed dataset, with the configuration in .gin files.

Started again with the same MODEL_DIR it resumes from the last complete checkpoint, bit for bit; SIGTERM
or Ctrl-C makes it save and exit 0, or with --stopped-code. Macros, set with --gin.NAME=VALUE (strings
need quotes that survive the shell):

{gin_flags.macro_help()}

Compiled steps are cached in $GENREC_COMPILATION_CACHE (default ~/.cache/genrec_jax/compiled; set it to
an empty string to turn the cache off)."""

EPILOG = """
examples:
  genrec train --gin_file=gin_configs/quickstart.gin --gin.MODEL_DIR=\\"runs/quickstart\\"
  genrec train --gin_file=gin_configs/models/t5_tiny.gin --gin_file=gin_configs/runs/train.gin \\
    --gin.DATA_DIR=\\"data/toystore\\" --gin.MODEL_DIR=\\"runs/tiny\\" --gin.TRAIN_STEPS=200 \\
    --gin.BATCH_SIZE=64 --gin.MIXTURE_OR_TASK_NAME=\\"openp5\\"
"""

STOPPED_CODE = "GENREC_STOPPED_CODE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `genrec train`."""
    parser.add_argument(
        "--profile",
        action="store_true",
        help="write a trace of 5 steps to MODEL_DIR/tensorboard, for TensorBoard or Perfetto",
    )
    parser.add_argument(
        "--stopped-code",
        type=numeric_flags.Whole(0, 255),
        default=os.environ.get(STOPPED_CODE, "0"),
        metavar="N",
        help="exit code when SIGTERM or Ctrl-C stopped the run before its end, so that a scheduler can"
        f" tell and start it again (default: ${STOPPED_CODE}, which the scripts of launch/ set, else 0)",
    )
    multihost.add_argument(parser)
    gin_flags.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Parses the configuration, then trains; the summary goes to stdout, on the first host."""
    import jax

    from genrec_jax.errors import UserError
    from genrec_jax.parallel import compilation_cache
    from genrec_jax.training import config, run

    if not arguments.gin_file:
        raise UserError(
            "no configuration; wanted --gin_file. Start with --gin_file=gin_configs/quickstart.gin, or see"
            " `genrec train --help`"
        )
    gin_setup.parse(arguments.gin_file, arguments.gin_bindings, arguments.gin_search_paths)
    settings = gin_setup.configure(config.TrainConfig)
    compilation_cache.use()
    if arguments.multihost:
        multihost.join()
    summary = run.train(
        settings, operative_config=gin_setup.operative_config(), profile=arguments.profile
    )
    if jax.process_index() == 0:
        print(summary.text(), flush=True)
    if summary.stopped == "preempted" and arguments.stopped_code:
        raise SystemExit(arguments.stopped_code)
