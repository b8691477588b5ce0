"""An evaluator from a run dir: datasets found and checked, prompts compiled, searches bound."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from genrec_jax import storage
from genrec_jax.checkpoint.run_dir import RunDataset, RunDir
from genrec_jax.data import artefacts
from genrec_jax.data import dataset as datasets
from genrec_jax.data import splits as splitting
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits
from genrec_jax.errors import UserError
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation import ranking
from genrec_jax.evaluation.alignment import AlignmentEvaluator, Question
from genrec_jax.evaluation.alignment_prompts import AskedExamples, choose_wordings
from genrec_jax.evaluation.evaluator import EvaluateConfig, Evaluator
from genrec_jax.evaluation.searches import Searches
from genrec_jax.evaluation.task_evaluator import ScoredTask, TaskEvaluator
from genrec_jax.parallel import rules
from genrec_jax.pipeline import alignment_eval, prompt_batches, seqio_examples
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.prompts.templates import Task, Template

USERS_AT_A_TIME = 32_768
"""Prompts are tokenised for this many users at a time, which bounds their memory."""

LENGTHS = tuple(width << power for power in range(3, 17) for width in (2, 3))
"""Prompts are padded to one of these lengths (16, 24, 32, 48, ...): a third of waste at most, and few
shapes to compile, the same ones for all templates."""

_ALONE = (
    "rating template {} has no place in a wording; wanted, all with the same `seen`, one template with"
    " {{likes}} and {{dislikes}}, one with {{likes}} alone and one with {{dislikes}} alone, for histories"
    " of all three kinds occur"
)

DataPaths = Mapping[str, artefacts.PathLike]
"""A dataset's name or fingerprint -> its folder, where it has moved since training."""

Ready = Callable[[Iterable[PromptBatch]], Iterator[PromptBatch]]
"""Pads batches to few shapes, and tells of each."""


def open_dataset(entry: RunDataset, data: DataPaths) -> Dataset:
    """The dataset that a run was trained on, checked to be just that.

    Args:
        entry: the run's record of it.
        data: its name or fingerprint -> folder, where it has moved since.

    Raises:
        UserError: it is not there, or is not the one trained on.
    """
    path = storage.join(data.get(entry.fingerprint, data.get(entry.name, entry.path)))
    if not storage.exists(path):
        raise UserError(
            f"is not there; wanted the dataset {entry.name!r} that this run was trained on. If it has"
            " moved, say where with --data FOLDER",
            file=str(path),
        )
    dataset = datasets.load(path)
    if dataset.fingerprint != entry.fingerprint:
        raise UserError(
            f"is not the data that this run was trained on: its fingerprint is {dataset.fingerprint},"
            f" the run's {entry.fingerprint}. Prepare it from the same sources with the same settings,"
            " or name the right folder with --data FOLDER",
            file=str(path),
        )
    return dataset


def trained_tasks(run_dir: RunDir) -> tuple[str, ...]:
    """The tasks a run was trained on; for a user's own mixture, all that its templates have."""
    tasks = tuple(run_dir.mixture["tasks"])
    return tasks or tuple(dict.fromkeys(template.task for template in run_dir.templates))


def build(
    run_dir: RunDir,
    config: EvaluateConfig,
    mesh: Mesh,
    *,
    dataset_name: str | None = None,
    data: DataPaths | None = None,
    keep_prompts: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluator:
    """An evaluator for one dataset of a run: of prompt templates, or of its own SeqIO mixture's tasks.

    Args:
        run_dir: the run; its checkpoints are not looked at.
        config: split, templates, beams, users, type of the activations.
        mesh: the devices; the batch is rounded up to divide among them.
        dataset_name: which dataset, where the run has several.
        data: dataset name or fingerprint -> folder, where a dataset has moved since training.
        keep_prompts: hold the prompts in memory, to score the same users many times, as training does;
            a ranking's candidates are then searched and not scored one by one beside it.
        on_batch: told the number of users of each batch as it comes up.

    Raises:
        UserError: the dataset is not the trained one, a template is unknown, or the run's own SeqIO
            mixture cannot be evaluated.
    """
    run_dir = _in_dtype(run_dir, config.dtype)
    entry = run_dir.dataset(dataset_name)
    dataset = open_dataset(entry, data or {})
    splits = splitting.of(dataset)
    ways = math.prod(mesh.shape[axis] for axis in rules.MESH_AXES_OF["batch"])
    batch_size = -(-config.batch_size // ways) * ways
    searches = Searches(run_dir, entry, config, mesh, dataset, splits.targets_U(config.split))
    common: dict[str, Any] = {
        "dataset": dataset,
        "splits": splits,
        "split": config.split,
        "search": searches.plain,
        "search_unseen": searches.without_histories if config.exact_exclusion else None,
        "max_rank": config.num_beams,
        "keep_prompts": keep_prompts,
        "exact": None,
    }
    if config.exact:
        targets = _assembler(run_dir, entry).target_runs()
        common["exact"] = searches.exact(run_dir.model_config, targets, config)
    ready = functools.partial(_ready, on_batch=on_batch)
    if run_dir.mixture.get("module") is not None:
        return _of_tasks(run_dir, entry, config, batch_size, ready, common)
    return _of_templates(run_dir, entry, config, batch_size, ready, searches, common)


def _in_dtype(run_dir: RunDir, dtype: str | None) -> RunDir:
    """The run with activations of another type; its parameters are float32 in any case."""
    if dtype is None:
        return run_dir
    model = run_dir.manifest["model"] | {"dtype": dtype}
    if dtype != "bfloat16" and model.get("attention") == "cudnn":  # a kernel of bfloat16 alone
        model["attention"] = "own"
    return dataclasses.replace(run_dir, manifest=run_dir.manifest | {"model": model})


def _of_tasks(
    run_dir: RunDir,
    entry: RunDataset,
    config: EvaluateConfig,
    batch_size: int,
    ready: Ready,
    common: dict[str, Any],
) -> TaskEvaluator:
    """Of a SeqIO mixture's tasks."""
    tasks, remarks = _scored_tasks(run_dir, entry, config, common["dataset"], common["splits"])
    by_name = {task.id: task for task in tasks}

    def prompts_of(name: str) -> Iterator[PromptBatch]:
        task = by_name[name]
        return ready(
            task.examples.batches(run_dir.vocabulary, task.chosen_E, task.rows_E, batch_size)
        )

    return TaskEvaluator(tasks=tasks, remarks=remarks, prompts_of=prompts_of, **common)


def _of_templates(
    run_dir: RunDir,
    entry: RunDataset,
    config: EvaluateConfig,
    batch_size: int,
    ready: Ready,
    searches: Searches,
    common: dict[str, Any],
) -> Evaluator:
    """Of prompt templates; ranking and rating, where these are among them, have prompts of their own."""
    dataset, splits, split = common["dataset"], common["splits"], config.split
    templates = evaluators.choose_templates(
        run_dir.templates, trained_tasks(run_dir), config.templates
    )
    wordings, alone = choose_wordings(run_dir.templates, templates)
    if alone and config.templates is not None:
        raise UserError(f"the templates asked for: {_ALONE.format(', '.join(alone))}")
    users = ranking.choose_users(dataset, splits, split, config.max_users, config.seed)
    assembler = _assembler(run_dir, entry)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(users), USERS_AT_A_TIME):
            yield users[start : start + USERS_AT_A_TIME]

    def asked(task: Task, of_task: Mapping[str, Sequence[str]]) -> AskedExamples | None:
        if not of_task:
            return None
        bound = (assembler, dataset, splits, split, blocks, batch_size)
        return AskedExamples(run_dir, task, of_task, *bound)

    choices = question = None
    ranked = asked("ranking", {t.id: [t.id] for t in templates if t.task == "ranking"})
    rated = asked("rating", {group[0].id: [t.id for t in group] for group in wordings})
    if ranked is not None:
        choices = searches.choices(
            run_dir.model_config,
            assembler.target_runs(),
            config,
            ranked.users_E,
            run_dir.mixture["num_candidates"],
            exact_too=not common["keep_prompts"],
        )
    if rated is not None:

        def questions(template: Template) -> Iterator[tuple[PromptBatch, np.ndarray]]:
            for batch, labels_B in rated.with_labels(template.id):
                yield from ((made, labels_B) for made in ready([batch]))

        like, dislike = alignment_eval.answer_tokens(assembler)
        question = Question(
            rated.users_E,
            run_dir.mixture["like_above"],
            wordings,
            questions,
            searches.odds(run_dir.model_config, int(like[0]), int(dislike[0])),
        )

    def prompts_of(template_id: str) -> Iterator[PromptBatch]:
        if template_id in ranking_ids:
            assert ranked is not None and choices is not None
            yield from ready(ranked.with_candidates(template_id, choices))
            return
        for chosen in blocks():
            yield from ready(
                prompt_batches.prompt_batches(
                    assembler, dataset, splits, split, template_id, batch_size, users=chosen
                )
            )

    # What a rating prompt looks like depends on the history, so it is no template to be scored with.
    templates = tuple(template for template in templates if template.task != "rating")
    ranking_ids = {template.id for template in templates if template.task == "ranking"}
    common |= {"users_E": users, "templates": templates, "prompts_of": prompts_of}
    if ranked is None and rated is None:
        evaluator = Evaluator(**common)
    else:
        evaluator = AlignmentEvaluator(choices=choices, question=question, **common)
    if alone:
        evaluator.remarks = (f"Not scored: {_ALONE.format(', '.join(alone))}.",)
    return evaluator


def _ready(
    batches: Iterable[PromptBatch], on_batch: Callable[[int], None] | None
) -> Iterator[PromptBatch]:
    """Batches of few shapes, each announced once it has been worked on."""
    for batch in batches:
        yield _pad_to_ladder(batch)
        if on_batch is not None:
            on_batch(int((np.asarray(batch.users_B) >= 0).sum()))


def _assembler(run_dir: RunDir, entry: RunDataset) -> prompt_batches.PromptAssembler:
    ids = run_dir.item_ids(entry.name)
    return prompt_batches.PromptAssembler(
        run_dir.vocabulary,
        ids.texts,
        run_dir.templates,
        entry.name,
        run_dir.mixture["history"],
        max_input_length=run_dir.mixture["max_input_length"],
        cut=run_dir.mixture["cut"],
        titles=ids.titles,
    )


def _scored_tasks(
    run_dir: RunDir, entry: RunDataset, config: EvaluateConfig, dataset: Dataset, splits: Splits
) -> tuple[list[ScoredTask], tuple[str, ...]]:
    """The tasks of a run's own SeqIO mixture, and what could not be read of it."""
    catalogues = {
        one.name: seqio_examples.Catalogue(
            run_dir.vocabulary, _assembler(run_dir, one).target_runs()
        )
        for one in run_dir.datasets
    }
    found = seqio_examples.read(
        run_dir.mixture["name"],
        run_dir.mixture["module"],
        config.split,
        vocabulary=run_dir.vocabulary,
        catalogues=catalogues,
        dataset=entry.name,
        max_input_length=run_dir.mixture["max_input_length"],
        names=config.templates,
    )
    tasks = [
        ScoredTask(task, dataset, splits, config.split, config.max_users, config.seed)
        for task in found.tasks
    ]
    return tasks, found.remarks


def _pad_to_ladder(batch: PromptBatch) -> PromptBatch:
    length = batch.encoder_input_tokens_BL.shape[1]
    missing = next(rung for rung in LENGTHS if rung >= length) - length
    return dataclasses.replace(
        batch,
        encoder_input_tokens_BL=np.pad(batch.encoder_input_tokens_BL, ((0, 0), (0, missing))),
        encoder_whole_word_ids_BL=np.pad(batch.encoder_whole_word_ids_BL, ((0, 0), (0, missing))),
    )
