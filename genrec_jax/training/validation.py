"""What the loop measures while training: loss on fixed batches, hit ratio by constrained search."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.errors import UserError
from genrec_jax.evaluation import in_training
from genrec_jax.evaluation.evaluator import SCORED_TASKS
from genrec_jax.evaluation.in_training import ValidationEvaluator
from genrec_jax.parallel import mesh as mesh_lib
from genrec_jax.parallel import rules
from genrec_jax.pipeline.validation import ValidationBatches
from genrec_jax.prompts.templates import Template
from genrec_jax.training import inputs as inputs_lib
from genrec_jax.training import likes
from genrec_jax.training import step as step_lib
from genrec_jax.training.config import TrainConfig, ValidationConfig
from genrec_jax.training.inputs import Inputs

Validate = Callable[[nnx.State], dict[str, float]]


def make_validate(
    config: TrainConfig,
    inputs: Inputs,
    run_dir: RunDir,
    mesh: Mesh,
    *,
    before_batch: Callable[[], None] = lambda: None,
) -> Validate:
    """Makes `parameters -> metrics`: always the same batches and the same users.

    Args:
        config: the run's settings.
        inputs: what it is trained on.
        run_dir: the run.
        mesh: the devices.
        before_batch: called before each batch of the loss, of searches and of ratings, on all hosts
            alike; what it raises ends the validation.

    Returns:
        A function that gives `loss` (cross entropy a target token, in nats, in the first seen template
        of each task), `hr@10`, `ndcg@10` and each template's own, and `auc` of rating prediction; every
        host calls it. A user's own SeqIO mixture is measured on its tasks' validation splits.

    Raises:
        UserError: a user's own SeqIO mixture has no validation split, or targets that are no items, or
            its tasks do not give the metric that chooses the best checkpoint.
    """
    settings = config.validation
    measure_loss = make_loss(config, inputs, mesh, before_batch=before_batch)
    evaluator = None
    if settings.users != 0:
        evaluator = ValidationEvaluator(
            run_dir,
            mesh,
            max_users=settings.users,
            num_beams=settings.num_beams,
            batch_size=settings.batch_size,
            templates=settings.templates,
            seed=config.seed,
            data={
                dataset.name: path
                for dataset, path in zip(inputs.datasets, config.data.datasets, strict=True)
            },
            before_batch=before_batch,
        )
    if config.data.mixture_module is not None:
        found = {} if evaluator is None else evaluator.evaluators
        tasks = {name: one.templates for name, one in found.items()}
        _check_among(settings, in_training.metric_names(tasks, settings.num_beams))

    def validate(params: nnx.State) -> dict[str, float]:
        measured = {"loss": measure_loss(params)}
        return measured if evaluator is None else measured | evaluator.metrics(params)

    return validate


def check(config: TrainConfig, inputs: Inputs) -> None:
    """Checks, before there is a run dir, that what validation is to measure can be measured.

    Args:
        config: the run's settings.
        inputs: of one of the library's own mixtures; `make_validate` looks at a user's own.

    Raises:
        UserError: `check_metric` refuses the metric, or it is the AUC of ratings and those asked for
            are all likes, or none is.
    """
    settings, datasets = config.validation, inputs.datasets
    chosen = check_metric(settings, inputs.tasks, inputs.templates, [d.name for d in datasets])
    by_area = settings.metric.partition("/")[0] == "auc"
    if by_area and any(template.task == "rating" for template in chosen):
        likes.check_asked(
            datasets, inputs.splits, config.data.like_above, settings.users, config.seed
        )


def check_metric(
    settings: ValidationConfig,
    tasks: Sequence[str],
    templates: Sequence[Template],
    datasets: Sequence[str],
) -> tuple[Template, ...]:
    """Checks that the metric that chooses the best checkpoint is measured.

    Args:
        settings: what is measured, and what chooses.
        tasks: of the mixture.
        templates: all of the run's.
        datasets: their names.

    Returns:
        The templates that users are asked with; none where no users are.

    Raises:
        UserError: the metric is none of those that `make_validate` gives, or there are none.
    """
    if not any(task in SCORED_TASKS for task in tasks):
        raise UserError(
            f"{', '.join(tasks)} only train and hold nothing out, so there is nothing to validate; set"
            " EVAL_PERIOD=None"
        )
    if settings.users == 0:
        _check_among(settings, [])
        return ()
    chosen = in_training.choose_templates(templates, tasks, settings.templates)
    names = in_training.metric_names(dict.fromkeys(datasets, chosen), settings.num_beams)
    _check_among(settings, names)
    return chosen


def _check_among(settings: ValidationConfig, names: Sequence[str]) -> None:
    """Checks that the metric that chooses is the loss, or among the names of what is measured beside it."""
    if settings.metric not in ("loss", *names):
        wanted = f"{', '.join(names)} or loss" if names else "loss (no users are searched for)"
        raise UserError(
            f"the best checkpoint is chosen by {settings.metric!r}, which is not measured; wanted"
            f" {wanted}. Set --gin.config.ValidationConfig.metric"
        )


def make_loss(
    config: TrainConfig,
    inputs: Inputs,
    mesh: Mesh,
    *,
    before_batch: Callable[[], None] = lambda: None,
) -> Callable[[nnx.State], float]:
    """Makes `parameters -> validation loss` over `validation.loss_batches` batches, spread over all.

    Each is worked on in as many parts as a training step (`microbatches`): what fits there fits here.
    """
    count, parts = config.validation.loss_batches, config.microbatches
    rows = -(-config.data.batch_size // parts)
    if config.data.mixture_module is not None:
        data = dataclasses.replace(config.data, batch_size=rows)
        held_out = inputs_lib.seqio_batches(
            inputs.vocabulary, data, config.seed, mesh, split="validation"
        )
        batches = map(held_out.batch, range(count * parts))
    else:
        share = mesh_lib.row_share(mesh)
        batches = ValidationBatches(
            inputs.mixture,
            inputs.splits,
            rows,
            max_examples=count * config.data.batch_size,
            host=share.index,
            num_hosts=share.count,
            rows_multiple=mesh.shape["data"] * mesh.shape["fsdp"],
        )
    eval_step = step_lib.jit_eval_step(config.model, config.loss, mesh)
    sharding = rules.batch_sharding(mesh)
    placed: list[Any] = []  # made at the first validation, kept on the devices

    def loss(params: nnx.State) -> float:
        if not placed:
            placed.extend(inputs_lib.place(batch, sharding) for batch in batches)
        found = []
        for batch in placed:
            before_batch()
            jax.block_until_ready(found[-2:-1])  # one batch ahead of the devices, no more
            found.append(eval_step(params, batch))
        sums = jax.device_get(found)
        tokens = sum(float(each["target_tokens"]) for each in sums)
        return sum(float(each["loss_sum"]) for each in sums) / max(1.0, tokens)

    return loss
