"""An evaluator from a run dir: datasets found and checked, prompts compiled, the search jitted."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int64

from genrec_jax import storage
from genrec_jax.checkpoint.run_dir import RunDataset, RunDir
from genrec_jax.data import artefacts
from genrec_jax.data import dataset as datasets
from genrec_jax.data import splits as splitting
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import Splits
from genrec_jax.decoding import answers, constraints, exact
from genrec_jax.decoding import recommend as recommending
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.errors import UserError
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation import metrics, ranking
from genrec_jax.evaluation.alignment import AlignmentEvaluator, Choices, Question
from genrec_jax.evaluation.evaluator import EvaluateConfig, Evaluator
from genrec_jax.evaluation.exact import ExactComparison, HistoriesOf, Score
from genrec_jax.evaluation.task_evaluator import ScoredTask, TaskEvaluator
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import rules
from genrec_jax.pipeline import alignment_eval, prompt_batches, seqio_examples
from genrec_jax.pipeline.alignment_eval import EvaluationExamples
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.pipeline.token_runs import TokenRuns
from genrec_jax.prompts.templates import Task

USERS_AT_A_TIME = 32_768
"""Prompts are tokenised for this many users at a time, which bounds their memory."""

LENGTHS = tuple(width << power for power in range(3, 17) for width in (2, 3))
"""Prompts are padded to one of these lengths (16, 24, 32, 48, ...): a third of waste at most, and few
shapes to compile, the same ones for all templates."""

DataPaths = Mapping[str, artefacts.PathLike]


def open_dataset(entry: RunDataset, data: DataPaths) -> Dataset:
    """The dataset that a run was trained on, checked to be just that.

    Args:
        entry: the run's record of it.
        data: dataset name -> folder, where it has moved since.

    Raises:
        UserError: it is not there, or is not the one trained on.
    """
    path = storage.join(data.get(entry.name, entry.path))
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
        config: split, templates, beams, users.
        mesh: the devices; the batch is rounded up to divide among them.
        dataset_name: which dataset, where the run has several.
        data: dataset name -> folder, where a dataset has moved since training.
        keep_prompts: hold the prompts in memory, to score the same users many times.
        on_batch: told the number of users of each batch as it comes up.

    Raises:
        UserError: the dataset is not the trained one, a template is unknown, or the run's own SeqIO
            mixture cannot be evaluated.
    """
    entry = run_dir.dataset(dataset_name)
    dataset = open_dataset(entry, data or {})
    splits = splitting.leave_one_out(dataset)
    ways = math.prod(mesh.shape[axis] for axis in rules.MESH_AXES_OF["batch"])
    batch_size = -(-config.batch_size // ways) * ways
    searches = _Searches(run_dir, entry, config, mesh, dataset, splits.targets_U(config.split))
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

    def ready(batches: Iterable[PromptBatch]) -> Iterator[PromptBatch]:
        for batch in batches:
            yield _pad_to_ladder(batch)
            if on_batch is not None:
                on_batch(int((np.asarray(batch.users_B) >= 0).sum()))

    if run_dir.mixture.get("module") is not None:
        tasks, remarks = _scored_tasks(run_dir, entry, config, dataset, splits)
        by_name = {task.id: task for task in tasks}

        def prompts_of_task(name: str) -> Iterator[PromptBatch]:
            task = by_name[name]
            return ready(
                task.examples.batches(run_dir.vocabulary, task.chosen_E, task.rows_E, batch_size)
            )

        return TaskEvaluator(tasks=tasks, remarks=remarks, prompts_of=prompts_of_task, **common)

    templates = evaluators.choose_templates(
        run_dir.templates, trained_tasks(run_dir), config.templates
    )
    # Ranking and rating have prompts of their own; a rating prompt's template depends on the history.
    own: set[Task] = {t.task for t in templates if t.task in ("ranking", "rating")}
    templates = tuple(template for template in templates if template.task != "rating")
    assembler = _assembler(run_dir, entry)
    users = ranking.choose_users(dataset, splits, config.split, config.max_users, config.seed)

    if own:
        sources = {
            task: alignment_eval.EvaluationSource(
                assembler,
                dataset,
                splits,
                config.split,
                task,
                num_candidates=run_dir.mixture["num_candidates"],
                like_above=run_dir.mixture["like_above"],
                seed=run_dir.mixture["seed"],
            )
            for task in own
        }

        def batches_of(task: Task) -> Iterator[tuple[PromptBatch, EvaluationExamples]]:
            for start in range(0, len(users), USERS_AT_A_TIME):
                examples = sources[task].examples(users[start : start + USERS_AT_A_TIME])
                for batch in ready(_example_batches(examples, batch_size)):
                    yield batch, examples

    choices = question = None
    if "ranking" in own:
        choices = searches.choices(
            run_dir.model_config,
            assembler.target_runs(),
            config,
            np.intersect1d(users, sources["ranking"].users_E).astype(np.int32),
            run_dir.mixture["num_candidates"],
        )
    if "rating" in own:
        like, dislike = alignment_eval.answer_tokens(assembler)

        def asked() -> Iterator[tuple[PromptBatch, np.ndarray]]:
            for batch, examples in batches_of("rating"):
                places_B = np.searchsorted(examples.users_E, np.asarray(batch.users_B))
                labels_E = examples.labels_E
                assert labels_E is not None
                yield batch, labels_E[np.minimum(places_B, len(labels_E) - 1)]

        question = Question(
            np.intersect1d(users, sources["rating"].users_E).astype(np.int32),
            run_dir.mixture["like_above"],
            asked,
            searches.odds(run_dir.model_config, int(like[0]), int(dislike[0])),
        )

    def prompts_of(template_id: str) -> Iterator[PromptBatch]:
        if choices is not None and template_id in ranking_ids:
            for batch, examples in batches_of("ranking"):
                assert examples.candidates_EC is not None
                choices.learn(examples.users_E, examples.candidates_EC)
                yield batch
            return
        for start in range(0, len(users), USERS_AT_A_TIME):
            chosen = users[start : start + USERS_AT_A_TIME]
            yield from ready(
                prompt_batches.prompt_batches(
                    assembler, dataset, splits, config.split, template_id, batch_size, users=chosen
                )
            )

    ranking_ids = {template.id for template in templates if template.task == "ranking"}
    common |= {"users_E": users, "templates": templates, "prompts_of": prompts_of}
    if own:
        return AlignmentEvaluator(choices=choices, question=question, **common)
    return Evaluator(**common)


def _example_batches(examples: EvaluationExamples, batch_size: int) -> Iterator[PromptBatch]:
    """Batches of one size, longest prompts first."""
    prompts = examples.prompts
    order = np.argsort(-prompts.inputs.lengths_E, kind="stable")
    for start in range(0, len(order), batch_size):
        mine = order[start : start + batch_size]
        part = prompt_batches.Prompts(prompts.inputs.take(mine), prompts.whole_words.take(mine))
        yield part.padded(
            batch_size,
            int(part.inputs.lengths_E.max()),
            users_E=examples.users_E[mine],
            targets_E=examples.targets_E[mine],
        )


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


class _Searches:
    """The compiled searches over one dataset's catalogue."""

    def __init__(
        self,
        run_dir: RunDir,
        entry: RunDataset,
        config: EvaluateConfig,
        mesh: Mesh,
        dataset: Dataset,
        ends_U: Int64[np.ndarray, " U"],
    ):
        trie = tries.load(entry.trie)
        self._step = _recommend_step(run_dir.model_config, config.beams, mesh)
        self._trie = jax.device_put(trie, rules.replicated(mesh))
        self._rows = rules.batch_sharding(mesh)
        self._mesh, self._eos_id = mesh, trie.eos_id
        self._dataset, self._ends_U = dataset, ends_U
        self._item_ranks_I = tries.item_ranks(trie)
        if config.exact_exclusion or config.exact:
            longest = int((ends_U - dataset.offsets_U1[:-1]).max())
            self._width = 1 << longest.bit_length()

    def plain(self, params: Any, batch: PromptBatch) -> tuple[np.ndarray, np.ndarray]:
        """Over the whole catalogue."""
        return self._run(params, batch, None)

    def without_histories(self, params: Any, batch: PromptBatch) -> tuple[np.ndarray, np.ndarray]:
        """Over what each user has not taken before the target."""
        histories = self._histories(np.asarray(batch.users_B))
        left_out = constraints.constraints_of(self._item_ranks_I, histories, width=self._width)
        return self._run(params, batch, left_out)

    def exact(
        self, model_config: T5Config, targets: TokenRuns, config: EvaluateConfig
    ) -> ExactComparison:
        """What compares these searches with the scores of every item."""
        graphdef, _ = t5.abstract_graph_and_params(model_config)
        scorer = exact.CatalogueScorer(
            graphdef,
            targets,
            self._item_ranks_I,
            eos_id=self._eos_id,
            block_size=config.exact_block,
            mesh=self._mesh,
        )

        def padded_histories(users_B: np.ndarray) -> np.ndarray:
            items_BW = np.full((len(users_B), self._width), -1, np.int32)
            for row, listed in enumerate(self._histories(users_B)):
                distinct = np.unique(listed)
                items_BW[row, : len(distinct)] = distinct
            return items_BW

        return self._comparison(scorer, padded_histories, config)

    def choices(
        self,
        model_config: T5Config,
        targets: TokenRuns,
        config: EvaluateConfig,
        users_E: np.ndarray,
        num_candidates: int,
    ) -> Choices:
        """Searches of each user's own candidates."""
        graphdef, _ = t5.abstract_graph_and_params(model_config)
        scorer = exact.CandidateScorer(
            graphdef, targets, eos_id=self._eos_id, num_candidates=num_candidates, mesh=self._mesh
        )

        def search(params: Any, batch: PromptBatch, items_BC: np.ndarray):
            only = constraints.allowing_only(self._item_ranks_I, items_BC)
            return self._run(params, batch, only)

        nothing = lambda users_B: np.full((len(users_B), 1), -1, np.int32)  # noqa: E731
        return Choices(
            users_E,
            self._dataset.num_users,
            num_candidates,
            search,
            lambda score: self._comparison(score, nothing, config),
            scorer,
        )

    def odds(self, model_config: T5Config, like: int, dislike: int):
        """(params, batch) -> log-odds of the first token of an answer against the other's."""
        graphdef, _ = t5.abstract_graph_and_params(model_config)
        step = answers.make_answer_step(graphdef, like, dislike, self._mesh)

        def odds(params: Any, batch: PromptBatch) -> np.ndarray:
            placed = jax.tree.map(lambda array: _lay_out(array, self._rows), batch)
            return _fetch(step(params, placed))

        return odds

    def _comparison(
        self, score: Score, histories_of: HistoriesOf, config: EvaluateConfig
    ) -> ExactComparison:
        return ExactComparison(
            score,
            histories_of,
            [k for k in metrics.CUTOFFS if k <= config.num_beams],
            place=lambda tree: jax.tree.map(lambda array: _lay_out(array, self._rows), tree),
            fetch=_fetch,
        )

    def _histories(self, users_B: np.ndarray) -> list[np.ndarray]:
        """What each user had before the target; nothing for padding."""
        starts_U = self._dataset.offsets_U1
        return [
            self._dataset.items_X[starts_U[user] : self._ends_U[user]]
            if user >= 0
            else np.zeros(0, np.int32)
            for user in users_B.tolist()
        ]

    def _run(self, params: Any, batch: PromptBatch, left_out: constraints.Constraints | None):
        placed = jax.tree.map(lambda array: _lay_out(array, self._rows), (batch, left_out))
        result = self._step(params, placed[0], self._trie, placed[1])
        return _fetch(result.items_BR), _fetch(result.scores_BR)


@functools.lru_cache(maxsize=8)
def _recommend_step(
    model_config: T5Config, beams: BeamConfig, mesh: Mesh
) -> recommending.RecommendStep:
    """Runs that differ in their seed alone share one compiled search."""
    graphdef, _ = t5.abstract_graph_and_params(model_config)
    return recommending.make_recommend_step(graphdef, beams, mesh)


def _pad_to_ladder(batch: PromptBatch) -> PromptBatch:
    length = batch.encoder_input_tokens_BL.shape[1]
    missing = next(rung for rung in LENGTHS if rung >= length) - length
    return dataclasses.replace(
        batch,
        encoder_input_tokens_BL=np.pad(batch.encoder_input_tokens_BL, ((0, 0), (0, missing))),
        encoder_whole_word_ids_BL=np.pad(batch.encoder_whole_word_ids_BL, ((0, 0), (0, missing))),
    )


def _lay_out(array: Any, sharding: Any) -> jax.Array:
    """Every host holds the whole batch and gives its devices their rows."""
    return jax.make_array_from_callback(array.shape, sharding, lambda rows: array[rows])


def _fetch(array: jax.Array) -> np.ndarray:
    if jax.process_count() > 1:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
