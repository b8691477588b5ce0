"""What a run says of itself before its first step."""

from collections.abc import Mapping

from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.training.config import TrainConfig
from genrec_jax.training.inputs import Inputs


def lines(
    config: TrainConfig,
    inputs: Inputs,
    run_dir: RunDir,
    *,
    step: int,
    steps: int,
    num_params: int,
    liked: Mapping[str, float],
) -> list[str]:
    """What is about to be trained, and from which step on.

    Args:
        config: the run's settings.
        inputs: what it is trained on.
        run_dir: the run.
        step: steps done.
        steps: steps in all.
        num_params: numbers in the parameters.
        liked: for each task with ratings the share of them that are likes.
    """
    told = [f"going on from step {step} of {steps}, in {run_dir.location}"] if step else []
    if not steps:
        told.append(f"{num_params:,} parameters, taken as they are")
    else:
        listed = ", ".join(map(str, inputs.shapes))
        told += [
            f"{num_params:,} parameters, {steps:,} steps of batch size {config.data.batch_size};"
            " the first step of each shape compiles, which takes some seconds",
            "batches have one of these shapes, in `genrec plan`'s words --rows x (--input-length +"
            f" --target-length): {listed}",
        ]
        if late := config.optimizer.learning_rate.notice(steps):
            told.append(late)
        told += _task_shares(config, inputs)
    if cut := {name: s for name, s in run_dir.mixture.get("cut_shares", {}).items() if s}:
        told.append(
            f"of these prompts some lose items to the limit of {config.data.max_input_length}"
            f" tokens: {_shares(cut)}"
        )
    if liked:
        told.append(f"ratings above {config.data.like_above:g} are likes: {_shares(liked)}")
    return told


def _task_shares(config: TrainConfig, inputs: Inputs) -> list[str]:
    """What each task is of the examples and of the loss; nothing with one task, or where SeqIO mixes."""
    if config.data.mixture_module is not None or len(inputs.tasks) < 2:
        return []
    listed = ", ".join(
        f"{task} {examples:.1%} / {tokens:.1%}"
        for task, (examples, tokens) in inputs.mixture.task_shares().items()
    )
    factor = config.loss.normalizing_factor
    alike = "example" if factor == "AVERAGE_PER_SEQUENCE" else "target token"
    return [
        f"share of the examples / of the target tokens: {listed}. Every {alike} weighs the same in the loss"
        f" (LOSS_NORMALIZING_FACTOR {factor})"
    ]


def _shares(by_name: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in by_name.items())
