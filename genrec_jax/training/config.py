"""Every setting of a training run, as frozen dataclasses: what gin fills in and `run.json` records.

Names of T5X's macros that set a field stand in brackets.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from genrec_jax import checks, storage
from genrec_jax.checkpoint.new_tokens import NewTokens
from genrec_jax.errors import UserError
from genrec_jax.model.config import T5Config
from genrec_jax.pipeline.prompt_tables import Cut
from genrec_jax.training.losses import LossConfig
from genrec_jax.training.optimizers import Optimizer

# What a resumed run may change: where it runs, how long, and what it keeps; not what a step computes,
# apart from the draws of dropout, of which each microbatch has its own.
# A learning rate that depends on the number of steps has it as `optimizer.learning_rate.total_steps`, and
# a warm-up that is a share of them its length as `optimizer.learning_rate.warmup_steps`, which it keeps.
FREE_ON_RESUME = (
    "train_steps",
    "train_epochs",
    "mesh",
    "microbatches",
    "model.remat",
    "model.scan_layers",  # checkpoints have the layers stacked either way
    "loss.positions_at_a_time",
    "log_period",
    "checkpoints",
    "data.datasets",
    "data.index_dir",
    "data.templates_file",
    "initial_checkpoint",
    "new_tokens",
    "validation.batch_size",
)
# Of these, what is not looked at once a run has a checkpoint.
ONLY_AT_THE_START = ("initial_checkpoint", "new_tokens")
WHY_NOT_FREE = {
    "optimizer.learning_rate.total_steps": (
        "the learning rate follows TRAIN_STEPS: keep it, or start a new run from this one with"
        " INITIAL_CHECKPOINT_PATH"
    ),
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The training data: datasets, mixture, prompts and batches.

    Attributes:
        datasets: dataset dirs [DATA_DIR]; several for SP5, their batches taking turns.
        index_dir: folder that `genrec index` wrote [INDEX_DIR]. None: `<dataset>/index/<method>`.
        index_method: the method in that path [INDEX_METHOD].
        mixture: `openp5` (both tasks, alternating), `openp5_sequential`, `openp5_straightforward`, or
            one of the alignment system's, such as `alignment_reat` (`alignment_mixtures.MIXTURE_TASKS`)
            [MIXTURE_OR_TASK_NAME]; with `mixture_module`, any SeqIO mixture or task.
        mixture_module: a module to import, whose SeqIO mixture is trained [MIXTURE_OR_TASK_MODULE].
        batch_size: examples of one step, over all devices; rows, of a SeqIO mixture [BATCH_SIZE].
        feature_lengths: tokens at most of `inputs` (a prompt; see `cut`) and of `targets` (never cut;
            None: no limit) [TASK_FEATURE_LENGTHS].
        packing: put several examples in a row, kept apart by segment ids [PACKING].
        row_length: tokens of a packed row; None: that of `inputs`.
        max_shapes: batches of each task come in so many shapes at most, each compiled once when it first
            occurs; packed ones in 2 at least, of which the largest is for the worst case and seldom occurs.
        history: items that a prompt shows at most, the newest.
        templates_per_example: templates drawn for each example, task and epoch; None: every seen one.
        templates_file: a TOML file of prompt templates; None: those of the mixture's paper.
        cut: what a prompt over its length loses: its oldest `items`, or `tokens` at its end.
        rates: alignment: for each task of the mixture its examples in one round [MIXTURE_RATES]; None:
            one of each.
        num_candidates: alignment: candidates of a ranking prompt, the right one among them.
        like_above: alignment: a rating above it is a like; 3 on a scale to 5.
    """

    datasets: Sequence[storage.PathLike]
    mixture: str
    batch_size: int
    index_dir: str | None = None
    index_method: str = "sequential"
    mixture_module: str | None = None
    feature_lengths: Mapping[str, int | None] = dataclasses.field(
        default_factory=lambda: {"inputs": 512, "targets": None}
    )
    packing: bool = True
    row_length: int | None = None
    max_shapes: int = 4
    history: int = 20
    templates_per_example: int | None = 3
    templates_file: str | None = None
    cut: Cut = "items"
    rates: Mapping[str, int] | None = None
    num_candidates: int = 100
    like_above: float = 3.0

    def __post_init__(self):
        datasets = tuple(map(os.fspath, storage.listed(self.datasets)))
        object.__setattr__(self, "datasets", datasets)
        if not datasets:
            raise UserError("DataConfig.datasets names none; wanted at least 1. Set DATA_DIR")
        checks.whole_fields(self, "batch_size", "history", "max_shapes")
        checks.whole_fields(self, "row_length", otherwise="that of `inputs`")
        checks.whole_fields(self, "templates_per_example", otherwise="every seen one")
        checks.whole_fields(self, "num_candidates", least=2)
        checks.number_fields(self, "like_above")
        checks.flag_fields(self, "packing")
        checks.check_choice("DataConfig.cut", self.cut, get_args(Cut))
        lengths = dict(self.feature_lengths)
        if set(lengths) != {"inputs", "targets"} or lengths["inputs"] is None:
            raise UserError(
                f"TASK_FEATURE_LENGTHS is {lengths}; wanted 'inputs' and 'targets', such as"
                ' {"inputs": 512, "targets": 32}'
            )
        for feature, length in lengths.items():
            if length is not None:
                checks.check_whole(f"TASK_FEATURE_LENGTHS[{feature!r}]", length, 1)
        object.__setattr__(self, "feature_lengths", lengths)
        if self.rates is not None:
            object.__setattr__(self, "rates", dict(self.rates))

    @property
    def max_input_length(self) -> int:
        """Tokens of a prompt at most."""
        return self.feature_lengths["inputs"] or 0

    @property
    def max_target_length(self) -> int | None:
        """Tokens of a target at most."""
        return self.feature_lengths["targets"]


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Validation during training, and how the best checkpoint is chosen.

    Attributes:
        period: steps between validations [EVAL_PERIOD]; None: never.
        loss_batches: batches of validation examples of each task for the loss, always the same ones.
        users: users of each dataset to search for and to ask for ratings, always the same ones; None: all;
            0: neither.
        num_beams: beams of the search.
        batch_size: users searched at once.
        templates: template ids; None: the first seen one of each task.
        metric: decides which checkpoint is best: `hr@10`, `ndcg@10` (of the searches over the whole
            catalogue; of rankings where there are none), `auc` of ratings, or `loss`.
        patience: validations without improvement before training stops early; None: never.
    """

    period: int | None = 1000
    loss_batches: int = 16
    users: int | None = 1000
    num_beams: int = 20
    batch_size: int = 64
    templates: Sequence[str] | None = None
    metric: str = "hr@10"
    patience: int | None = None

    def __post_init__(self):
        checks.whole_fields(self, "loss_batches", "num_beams", "batch_size")
        checks.whole_fields(self, "period", "patience", otherwise="never")
        checks.whole_fields(self, "users", least=0, otherwise="all")
        if isinstance(self.templates, str):
            object.__setattr__(self, "templates", (self.templates,))
        elif self.templates is not None:
            object.__setattr__(self, "templates", tuple(self.templates))
        cutoff = self.metric.split("/")[0].partition("@")[2]
        searches = self.period is not None and self.users != 0
        if searches and cutoff.isdecimal() and int(cutoff) > self.num_beams:
            raise UserError(
                f"the best checkpoint is chosen by {self.metric}, but {self.num_beams} beams give lists of"
                f" {self.num_beams}; wanted num_beams of {cutoff} or more"
            )

    @property
    def mode(self) -> Literal["max", "min"]:
        """Whether the metric is better larger or smaller."""
        return "min" if self.metric.split("/")[0] == "loss" else "max"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept; the best and the last one always are.

    Attributes:
        period: steps between checkpoints [CHECKPOINT_PERIOD]; None: only the best and the last.
        keep_latest: how many of the newest are kept.
        keep_every: checkpoints at multiples of this step are kept for good; None: none.
    """

    period: int | None = 1000
    keep_latest: int = 2
    keep_every: int | None = None

    def __post_init__(self):
        checks.whole_fields(self, "keep_latest")
        checks.whole_fields(self, "period", "keep_every", otherwise="never")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices are shared out; `data` -1 takes what the others leave.

    Attributes:
        data: copies of the parameters.
        fsdp: ways to split parameters and rows.
        tensor: ways to split heads, feed-forward and vocabulary.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        checks.whole_fields(self, "fsdp", "tensor")
        if self.data != -1:
            checks.whole_fields(self, "data")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole run. Exactly one of `train_steps` and `train_epochs` is given.

    Attributes:
        model_dir: the run dir [MODEL_DIR].
        model: the network; its `vocab_size` is replaced by that of the index's vocabulary.
        data: what is trained on.
        optimizer: how; a schedule with `total_steps` 0 takes the run's steps.
        train_steps: steps in all [TRAIN_STEPS]; 0 makes a run of `initial_checkpoint` as it is.
        train_epochs: passes over the largest source, instead [TRAIN_EPOCHS].
        seed: of every draw: parameters, dropout, templates, order [RANDOM_SEED].
        loss: what is minimised [LOSS_NORMALIZING_FACTOR].
        microbatches: the rows of a step, and of the validation loss, are worked on in so many parts, to
            save memory.
        validation: what is measured meanwhile.
        checkpoints: what is saved.
        mesh: how devices are shared out.
        log_period: steps between lines of `metrics.jsonl`.
        initial_checkpoint: another run dir, or what `genrec import-weights` wrote, whose parameters are
            the start; step and optimizer begin anew [INITIAL_CHECKPOINT_PATH].
        initial_step: which of a run dir's checkpoints: `best`, `latest` or a step; it may stand in the
            path instead, `RUN/checkpoints/300`.
        new_tokens: how tokens that imported weights do not know get their embeddings.
    """

    model_dir: str
    model: T5Config
    data: DataConfig
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train_steps: int | None = None
    train_epochs: int | float | None = None
    seed: int = 0
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    microbatches: int = 1
    validation: ValidationConfig = dataclasses.field(default_factory=ValidationConfig)
    checkpoints: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    log_period: int = 100
    initial_checkpoint: str | None = None
    initial_step: int | Literal["best", "latest"] = "best"
    new_tokens: NewTokens = dataclasses.field(default_factory=NewTokens)

    def __post_init__(self):
        if (self.train_steps is None) == (self.train_epochs is None):
            raise UserError(
                f"train_steps is {self.train_steps} and train_epochs is {self.train_epochs}; wanted"
                " exactly one of them. Set TRAIN_STEPS or TRAIN_EPOCHS, and the other to None:"
                " --gin.TRAIN_STEPS=None"
            )
        checks.check_whole("RANDOM_SEED", self.seed, 0, (1 << 32) - 1)
        checks.whole_fields(self, "log_period", "microbatches")
        if self.train_epochs is not None:
            checks.check_number("train_epochs", self.train_epochs, above=0)
        else:
            checks.check_whole("train_steps", self.train_steps, 0)
        if self.train_steps == 0:
            self._check_as_it_is()

    def _check_as_it_is(self) -> None:
        """Checks a run of 0 steps, which keeps the parameters it starts from."""
        if self.initial_checkpoint is None:
            raise UserError(
                "train_steps is 0; wanted at least 1, or 0 with INITIAL_CHECKPOINT_PATH: a run of those"
                " parameters as they are, for evaluating them"
            )
        if self.new_tokens.reinitialise != "none":
            raise UserError(
                f"train_steps is 0 and REINITIALISED_TOKENS is {self.new_tokens.reinitialise!r}: embeddings"
                " would be drawn and never trained. Set it to 'none', or train"
            )

    def steps(self, steps_per_epoch: int) -> int:
        """Training steps in all.

        Raises:
            UserError: epochs are asked for of a SeqIO mixture, which has none (0 steps an epoch).
        """
        if self.train_steps is not None:
            return self.train_steps
        assert self.train_epochs is not None
        if steps_per_epoch < 1:
            raise UserError(
                "a SeqIO mixture does not say how many examples it has; set TRAIN_STEPS, not TRAIN_EPOCHS"
            )
        return max(1, round(self.train_epochs * steps_per_epoch))

    def resolved(
        self, *, steps: int, vocab_size: int, warmup_begun: int | None = None
    ) -> "TrainConfig":
        """The same with steps and warm-up written into the schedule, the vocabulary into the model.

        Args:
            steps: of the whole run.
            vocab_size: tokens of the vocabulary.
            warmup_begun: of the run that goes on, which keeps a warm-up that began as a share of its steps.
        """
        rate = self.optimizer.learning_rate
        rate = dataclasses.replace(rate, total_steps=rate.total_steps or steps)
        own = {"warmup_steps": warmup_begun} if rate.warms_up_by_share else {"warmup_share": None}
        rate = dataclasses.replace(rate, **own)
        rate = dataclasses.replace(rate, warmup_steps=rate.warmup())
        if not rate.depends_on_total:
            rate = dataclasses.replace(rate, total_steps=None)
        optimizer = dataclasses.replace(self.optimizer, learning_rate=rate)
        model = dataclasses.replace(self.model, vocab_size=vocab_size)
        return dataclasses.replace(self, optimizer=optimizer, model=model)

    def to_json(self) -> dict[str, Any]:
        """Every setting but `model_dir`, as plain JSON values."""
        fields = dataclasses.asdict(self)
        del fields["model_dir"]
        return json.loads(json.dumps(fields, default=lambda number: number.item()))
