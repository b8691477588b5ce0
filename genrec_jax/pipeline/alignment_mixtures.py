"""The alignment system's mixtures by name: which data trains which model (Cao et al. 2024)."""

from collections.abc import Sequence

from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits
from genrec_jax.errors import UserError
from genrec_jax.pipeline import item_questions
from genrec_jax.pipeline.alignment import AlignmentSettings, AlignmentTask, NextItemTask
from genrec_jax.pipeline.alignment_choices import ChoiceTask
from genrec_jax.pipeline.alignment_masking import MaskedItemsTask, MaskedSpansTask
from genrec_jax.pipeline.alignment_rating import RatingTask
from genrec_jax.pipeline.item_questions import ItemQuestionsTask
from genrec_jax.pipeline.prompt_tables import PromptTables
from genrec_jax.prompts.templates import ALIGNMENT_TASKS, Task

MIXTURE_TASKS: dict[str, tuple[Task, ...]] = {
    "alignment_reat": ("retrieval", "mlm", "mim"),
    "alignment_raat": ("ranking", "mlm", "mim", "bpr"),
    "alignment_rpat": ("rating", "mlm", "mim"),
    "alignment_ut": ("retrieval", "ranking", "rating"),
    "alignment_ut_at": ("retrieval", "ranking", "rating", "mim", "mlm"),
    "alignment_ut_ie": ("retrieval", "ranking", "rating", "ie"),
    # The steps of the ablations (Tables 4 to 6) that are none of the above.
    "alignment_retrieval_mlm": ("retrieval", "mlm"),
    "alignment_ranking_mlm": ("ranking", "mlm"),
    "alignment_ranking_mlm_mim": ("ranking", "mlm", "mim"),
    "alignment_rating_mlm": ("rating", "mlm"),
    # Each task alone.
    **{f"alignment_{task}": (task,) for task in ALIGNMENT_TASKS},
    # P5-XL, the fine-tuned baseline: rating, sequential, explanation, review and direct prompts of P5.
    # They are not here yet, so the row is empty.
    "alignment_p5_xl": (),
}


def tasks_of(name: str) -> tuple[Task, ...]:
    """The tasks of a mixture.

    Raises:
        UserError: it is a row that is still empty.
    """
    tasks = MIXTURE_TASKS[name]
    if not tasks:
        filled = ", ".join(known for known, tasks in MIXTURE_TASKS.items() if tasks)
        raise UserError(
            f"{name} is P5's five task families, which are not implemented yet; wanted one of {filled}"
        )
    return tasks


def equal_rates(name: str) -> dict[str, int]:
    """The default: one example of each task in turn (the paper gives no rates)."""
    return dict.fromkeys(tasks_of(name), 1)


def build_tasks(
    tables: PromptTables,
    dataset: Dataset,
    splits: Splits,
    tasks: Sequence[Task],
    settings: AlignmentSettings,
) -> tuple[AlignmentTask, ...]:
    """The training examples of some tasks, on one pool of tokens.

    Args:
        tables: compiled for the dataset.
        dataset: the dataset.
        splits: what of it trains.
        tasks: which tasks.
        settings: the protocol.

    Raises:
        UserError: a task without examples or templates, or that needs what the dataset lacks.
    """
    asked = item_questions.questions(dataset, tables.templates) if "ie" in tasks else []
    prompts = tables.bind([], dataset.items_X, [answer for _, _, answer in asked])

    def build(task: Task) -> AlignmentTask:
        if task == "ie":
            return ItemQuestionsTask(prompts, dataset, splits, settings, asked)
        kind = {
            "retrieval": NextItemTask,
            "ranking": ChoiceTask,
            "bpr": ChoiceTask,
            "rating": RatingTask,
            "mim": MaskedItemsTask,
            "mlm": MaskedSpansTask,
        }[task]
        return kind(prompts, dataset, splits, task, settings)

    return tuple(build(task) for task in tasks)
