"""`genrec evaluate`: run dirs -> metrics with intervals, beside the baselines, and predictions."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import rich.console

from genrec_jax.cli import console as consoles
from genrec_jax.cli import evaluate_several, gin_flags, multihost, numeric_flags, run_flags
from genrec_jax.errors import UserError

if TYPE_CHECKING:  # what needs JAX is imported once there is work to do, so that --help is quick
    from genrec_jax.evaluation.checkpoints import Evaluation
    from genrec_jax.evaluation.evaluator import EvaluateConfig

HELP = """Searches the whole catalogue for every user of a trained run and measures HR, NDCG and MRR.

Every figure comes with an interval, with popularity and transitions (what followed the last item, and
what came after the second-last) beside it. A run of the alignment system is asked to rank each user's
candidates and to rate (AUC-ROC) too, if it learnt to. Writes metrics.json and predictions.parquet to
RUN_DIR/eval/<split>-<step>/, beside what was measured there before; another search than the usual one,
or a sample of users, goes to a folder of its own, such as <split>-<step>-sample<N>/."""
EPILOG = """\
examples:

  genrec evaluate runs/quickstart
  genrec evaluate runs/quickstart --split validation --templates A1 --num-beams 10
  genrec evaluate runs/seed0 runs/seed1 runs/seed2 --aggregate runs/seeds.json
  genrec evaluate runs/sequential runs/collaborative --compare
  genrec evaluate runs/sequential runs/collaborative --compare runs/pairs.json
  genrec evaluate runs/quickstart --exact --max-users 100
  genrec evaluate runs/quickstart --profile --max-users 640
  genrec evaluate runs/quickstart --watch
  genrec evaluate --gin_file=gin_configs/runs/evaluate.gin --gin.MODEL_DIR=\\"runs/quickstart\\" \\
    --gin.NUM_BEAMS=10

The templates of a run: A1 to A11 show the history, B1 to B11 the user alone; training never saw the
wording of A11 and B11. Without --templates the first seen and the first unseen one of each task that
the run was trained on are scored. A run on a SeqIO mixture of one's own is scored on its tasks, which
--templates names. docs/protocols.md says what the numbers mean.
"""


DEFAULT_GIN_FILE = "gin_configs/runs/evaluate.gin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags; those left out keep gin's value, or that of EvaluateConfig."""
    parser.add_argument(
        "run_dirs",
        nargs="*",
        metavar="RUN_DIR",
        help="what `genrec train` wrote, or its URL; with gin, MODEL_DIR says it too",
    )
    run_flags.add_checkpoint(parser)
    parser.set_defaults(checkpoint=None)  # so that --watch can tell whether it was given
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        help="whose targets (default: test; validation with --watch, for choosing on test is cheating)",
    )
    parser.add_argument(
        "--templates", metavar="ID,ID", type=_names, help="such as A1,A11,B1, or SeqIO tasks"
    )
    parser.add_argument(
        "--num-beams", type=numeric_flags.COUNT, metavar="N", help="beams and list length (20)"
    )
    parser.add_argument(
        "--length-penalty",
        type=numeric_flags.Finite(least=0.0),
        metavar="P",
        help="0; OpenP5 has 1.0",
    )
    parser.add_argument(
        "--finish-within-beams",
        action="store_true",
        default=None,
        help="Hugging Face's finishing rule, as in OpenP5's published numbers",
    )
    parser.add_argument(
        "--exact-exclusion",
        action="store_true",
        default=None,
        help="search twice: the seen-excluded figures get full lists too",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        default=None,
        help="score the whole catalogue too: true ranks, full MRR, and what the beams missed",
    )
    parser.add_argument(
        "--exact-block",
        type=numeric_flags.COUNT,
        metavar="N",
        help="with --exact: id prefixes scored at once for each user; memory is in proportion (128)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the activations (the run's own); float32 for lists that no batch or mesh changes",
    )
    parser.add_argument(
        "--batch-size", type=numeric_flags.COUNT, metavar="N", help="users searched at once (64)"
    )
    parser.add_argument(
        "--max-users",
        type=numeric_flags.COUNT,
        metavar="N",
        help="score a seeded sample only, kept apart",
    )
    parser.add_argument("--seed", type=numeric_flags.SEED, metavar="N", help="of that sample (0)")
    run_flags.add_data(parser)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="also write a trace of the first batches, for TensorBoard or Perfetto",
    )
    parser.add_argument("--no-baselines", action="store_true", help="leave the baselines out")
    evaluate_several.add_arguments(parser)
    parser.add_argument(
        "--watch", action="store_true", help="evaluate each new checkpoint until the run is done"
    )
    parser.add_argument(
        "--watch-poll",
        type=numeric_flags.Finite(above=0.0),
        default=30.0,
        metavar="SECONDS",
        help="how often to look (30)",
    )
    parser.add_argument(
        "--watch-timeout",
        type=numeric_flags.Finite(above=0.0),
        default=6 * 3600.0,
        metavar="SECONDS",
        help="give up after this long without a new checkpoint (6 hours)",
    )
    parser.add_argument(
        "--fsdp",
        type=numeric_flags.COUNT,
        default=1,
        metavar="N",
        help="ways to split parameters and users (1)",
    )
    parser.add_argument(
        "--tensor",
        type=numeric_flags.COUNT,
        default=1,
        metavar="N",
        help="ways to split heads and vocabulary (1)",
    )
    multihost.add_argument(parser)
    gin_flags.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates and prints."""
    import jax

    from genrec_jax.checkpoint.run_dir import RunDir
    from genrec_jax.evaluation import checkpoints, reference_ranks, watch
    from genrec_jax.parallel import compilation_cache, hosts
    from genrec_jax.parallel import mesh as meshes

    compilation_cache.use()
    config, run_dirs = _configure(arguments)
    if arguments.multihost:
        multihost.join()
    options: dict[str, Any] = {
        "references": reference_ranks.NONE if arguments.no_baselines else reference_ranks.BASELINES,
        "show_progress": True,
        "profile": _tell if arguments.profile else None,
        "mesh": meshes.make_mesh(fsdp=arguments.fsdp, tensor=arguments.tensor),
    }
    first_host = jax.process_index() == 0
    console = consoles.make(quiet=not first_host, width_elsewhere=132)
    if arguments.watch:
        if len(run_dirs) > 1 or arguments.aggregate is not None or arguments.compare:
            raise UserError(
                "--watch takes one run dir, no --aggregate and no --compare; leave the others out"
            )
        if arguments.checkpoint is not None:
            raise UserError(
                "--watch evaluates every checkpoint as it comes, and --checkpoint names one; leave one of"
                " them out"
            )
        for written in watch.watch_run(
            run_dirs[0],
            lambda run_dir: checkpoints.RunEvaluation(
                run_dir, config, data=run_flags.data_paths(arguments, [run_dir]), **options
            ),
            poll_seconds=arguments.watch_poll,
            timeout_seconds=arguments.watch_timeout,
            notify=_tell,
        ):
            _show(written, console)
        return
    hosts.from_first(lambda: evaluate_several.check_files(arguments))
    evaluations, loaded = [], [RunDir.load(run_dir) for run_dir in run_dirs]
    evaluate_several.check(arguments, loaded, config)
    which = "best" if arguments.checkpoint is None else arguments.checkpoint
    data = run_flags.data_paths(arguments, loaded)
    for one in loaded:
        written = checkpoints.evaluate_checkpoint(one, which, config, data=data, **options)
        _show(written, console)
        evaluations.append(written)
    if first_host:
        evaluate_several.finish(arguments, loaded, evaluations, console)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _configure(arguments: argparse.Namespace) -> "tuple[EvaluateConfig, list[str]]":
    """Settings from gin, where it is used, and from flags, which win; and the run dirs."""
    from genrec_jax.evaluation.evaluator import EvaluateConfig

    config = EvaluateConfig()
    run_dirs = list(dict.fromkeys(arguments.run_dirs))
    if arguments.gin_file or arguments.gin_bindings:
        from genrec_jax.cli import gin_setup

        files = arguments.gin_file or [DEFAULT_GIN_FILE]
        gin_setup.parse(files, arguments.gin_bindings, arguments.gin_search_paths)
        config = gin_setup.configure(EvaluateConfig)
        if not run_dirs:
            run_dirs = [_model_dir(gin_setup.macro("MODEL_DIR"))]
    if not run_dirs:
        raise UserError("got no run dir; wanted one, such as `genrec evaluate runs/quickstart`")
    fields = {
        "split": arguments.split or ("validation" if arguments.watch else None),
        "templates": arguments.templates,
        "num_beams": arguments.num_beams,
        "length_penalty": arguments.length_penalty,
        "finish_within_beams": arguments.finish_within_beams,
        "exact_exclusion": arguments.exact_exclusion,
        "exact": arguments.exact,
        "exact_block": arguments.exact_block,
        "dtype": arguments.dtype,
        "batch_size": arguments.batch_size,
        "max_users": arguments.max_users,
        "seed": arguments.seed,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return dataclasses.replace(config, **given), run_dirs


def _model_dir(model_dir: Any) -> str:
    if not isinstance(model_dir, str):
        raise UserError(
            f"MODEL_DIR is {model_dir!r} and no run dir was named; wanted one of them, such as"
            ' --gin.MODEL_DIR=\\"runs/quickstart\\"'
        )
    return model_dir


def _show(written: "Sequence[Evaluation]", console: rich.console.Console) -> None:
    from genrec_jax import storage
    from genrec_jax.evaluation import predictions, results, table

    for evaluation in written:
        for title, made in table.tables(evaluation.metrics, console.width):
            console.print(title, soft_wrap=True)
            console.print(made)
        for line in [
            *evaluation.metrics["remarks"],
            *table.comparison_lines(evaluation.metrics),
            *table.rating_lines(evaluation.metrics),
            *table.exact_lines(evaluation.metrics),
            *table.tie_lines(evaluation.metrics),
        ]:
            console.print(line, soft_wrap=True)
        for entry in evaluation.metrics["audit"]:
            if entry["status"] != "pass":
                text = f"audit, {entry['status']}: {entry['check']}: {entry['detail']}"
                console.print(text, soft_wrap=True)
        for file in (results.METRICS_FILE, predictions.PREDICTIONS_FILE):
            console.print(f"wrote {storage.join(evaluation.folder, file)}", soft_wrap=True)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
