"""The compiled searches over one dataset's catalogue: all items, without histories, or candidates.

It also scores every item, and the two answers to whether a user likes an item. All take host
arrays of whole batches, and give whole arrays on every host: on a mesh each device works on its rows. What
searches give may still be being computed.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int64

from genrec_jax.checkpoint.run_dir import RunDataset, RunDir
from genrec_jax.data.dataset import Dataset
from genrec_jax.decoding import answers, constraints, exact
from genrec_jax.decoding import recommend as recommending
from genrec_jax.decoding import trie as tries
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.evaluation import metrics
from genrec_jax.evaluation.alignment import Choices
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.evaluation.exact import ExactComparison, HistoriesOf, Score
from genrec_jax.model import t5
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import rules
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.pipeline.token_runs import TokenRuns


class Searches:
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
        """Loads the catalogue's trie; what is searched with it is compiled at its first call.

        Args:
            run_dir: the run, for its network.
            entry: the dataset's place in it.
            config: beams, and what else is asked.
            mesh: the devices.
            dataset: the histories.
            ends_U: where each user's history ends.
        """
        trie = tries.load(entry.trie)
        self._step = _recommend_step(run_dir.model_config, config.beams, mesh)
        self._trie = jax.device_put(trie, rules.replicated(mesh))
        self._rows = rules.batch_sharding(mesh)
        self._gather = jax.jit(lambda array: array, out_shardings=rules.replicated(mesh))
        self._mesh, self._eos_id = mesh, trie.eos_id
        self._dataset, self._ends_U = dataset, ends_U
        self._item_ranks_I = tries.item_ranks(trie)
        if config.exact_exclusion or config.exact:
            longest = int((ends_U - dataset.offsets_U1[:-1]).max())
            self._width = 1 << longest.bit_length()

    def plain(self, params: Any, batch: PromptBatch) -> tuple[jax.Array, jax.Array]:
        """Over the whole catalogue."""
        return self._run(params, batch, None)

    def without_histories(self, params: Any, batch: PromptBatch) -> tuple[jax.Array, jax.Array]:
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
        *,
        exact_too: bool,
    ) -> Choices:
        """Searches of each user's own candidates; with `exact_too` all of them are scored beside it."""
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
            (lambda score: self._comparison(score, nothing, config)) if exact_too else None,
            scorer,
        )

    def odds(self, model_config: T5Config, like: int, dislike: int):
        """(params, batch) -> log-odds of the first token of an answer against the other's."""
        graphdef, _ = t5.abstract_graph_and_params(model_config)
        step = answers.make_answer_step(graphdef, like, dislike, self._mesh)

        def odds(params: Any, batch: PromptBatch) -> np.ndarray:
            placed = jax.tree.map(lambda array: _lay_out(array, self._rows), batch)
            return np.asarray(self._whole(step(params, placed)))

        return odds

    def _comparison(
        self, score: Score, histories_of: HistoriesOf, config: EvaluateConfig
    ) -> ExactComparison:
        return ExactComparison(
            score,
            histories_of,
            [k for k in metrics.CUTOFFS if k <= config.num_beams],
            place=lambda tree: jax.tree.map(lambda array: _lay_out(array, self._rows), tree),
            fetch=lambda array: np.asarray(self._whole(array)),
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
        return self._whole(result.items_BR), self._whole(result.scores_BR)

    def _whole(self, array: jax.Array) -> jax.Array:
        """An array of rows, on every host all of them."""
        return array if jax.process_count() == 1 else self._gather(array)


@functools.lru_cache(maxsize=8)
def _recommend_step(
    model_config: T5Config, beams: BeamConfig, mesh: Mesh
) -> recommending.RecommendStep:
    """Runs that differ in their seed alone share one compiled search."""
    graphdef, _ = t5.abstract_graph_and_params(model_config)
    return recommending.make_recommend_step(graphdef, beams, mesh)


def _lay_out(array: Any, sharding: Any) -> jax.Array:
    """Every host holds the whole batch and gives its devices their rows."""
    return jax.make_array_from_callback(array.shape, sharding, lambda rows: array[rows])
