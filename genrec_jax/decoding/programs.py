"""The compiled searches of a recommender: one for each shape of requests, on tries of one form.

A catalogue whose trie has another form gets programs of its own. Whoever searches the old one still has the
old programs, which are freed with the last of them.
"""

import logging
import threading
import time
from typing import NamedTuple

import numpy as np
from flax import nnx

from genrec_jax.decoding import constraints
from genrec_jax.decoding.recommend import RecommendStep, make_recommend_step
from genrec_jax.decoding.recommendations import not_finite
from genrec_jax.decoding.request_checks import Constrained
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.stock import Stock
from genrec_jax.pipeline.batch import PromptBatch

logger = logging.getLogger(__name__)


class Shape(NamedTuple):
    """What a program is compiled for.

    Attributes:
        rows: requests of a batch, padding included.
        length: tokens of a prompt, padding included.
        width: items of a list, padding included; None for requests without lists.
        beams: beams of the search, and results.
    """

    rows: int
    length: int
    width: int | None
    beams: int


class Programs:
    """The searches of one model compiled so far; may be run from several threads."""

    def __init__(self, graphdef: nnx.GraphDef, params: nnx.State, model: str):
        """Has no program yet.

        Args:
            graphdef: the model's structure.
            params: its parameters.
            model: what to call it in an error.
        """
        self._graphdef = graphdef
        self._params = params
        self._model = model
        self._steps: dict[int, RecommendStep] = {}
        self._shapes: set[Shape] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._shapes)

    def shapes(self) -> set[Shape]:
        """What there are programs for, or will be as soon as they are compiled."""
        with self._lock:
            return set(self._shapes)

    def search(
        self,
        stock: Stock,
        batch: PromptBatch,
        constrained: Constrained | None,
        beams: int,
        width: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items, by their numbers in the catalogue, and scores of a padded batch.

        A program is compiled where nothing of the batch's shape came before, which a line of the log tells.

        Args:
            stock: whose trie has the form that all searches of this object have.
            batch: prompts.
            constrained: what each request may get, for as many or fewer than there are rows.
            beams: beams of the search.
            width: the padded length of lists; by default what holds the longest.

        Raises:
            UserError: scores are not finite.
        """
        return self._run(stock, batch, constrained, beams, width, ahead=False)

    def compile(self, stock: Stock, shape: Shape) -> None:
        """Compiles for a shape, or reads what was compiled earlier, and runs it once."""
        rows, length, width, beams = shape
        tokens_BL = np.zeros((rows, length), np.int32)
        tokens_BL[:, 0] = stock.trie.eos_id
        nobody_B = np.full(rows, -1, np.int32)
        batch = PromptBatch(tokens_BL, np.zeros_like(tokens_BL), nobody_B, nobody_B)
        nothing = None if width is None else ([], [])
        self._run(stock, batch, nothing, beams, width, ahead=True)

    def anew(self, stock: Stock) -> "Programs":
        """All programs that there are, for a stock whose trie has another form."""
        compiled = Programs(self._graphdef, self._params, self._model)
        started = time.perf_counter()
        while missing := self.shapes() - compiled.shapes():  # requests may add some meanwhile
            for shape in missing:
                compiled.compile(stock, shape)
        if len(compiled):
            logger.warning(
                "the catalogue outgrew its shapes: %d programs compiled again in %.1f s before the change;"
                " more `room` in `load` avoids it",
                len(compiled),
                time.perf_counter() - started,
            )
        return compiled

    def _run(
        self,
        stock: Stock,
        batch: PromptBatch,
        constrained: Constrained | None,
        beams: int,
        width: int | None,
        ahead: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        which = None
        if constrained is not None:
            missing = len(batch.users_B) - len(constrained[0])
            exclude = [*constrained[0], *[[]] * missing]
            allow = [*constrained[1], *[None] * missing]
            which = stock.constraints_of(exclude, allow, width)
            width = which.items_BX.shape[1]
        rows, length = batch.encoder_input_tokens_BL.shape
        shape = Shape(rows, length, width, beams)
        step, first = self._step_for(shape)
        started = time.perf_counter()
        try:
            result = step(self._params, batch, stock.trie, which)
            places_BR, scores_BR = np.asarray(result.items_BR), np.asarray(result.scores_BR)
        except BaseException:
            if first:  # such as out of memory: nothing to compile for the next catalogue
                with self._lock:
                    self._shapes.discard(shape)
            raise
        if first and not ahead:
            logger.info(
                "a request waited %.1f s for a program of %d rows, %d tokens, %s and %d beams; `warm_up`"
                " compiles ahead",
                time.perf_counter() - started,
                rows,
                length,
                "no lists" if width is None else f"lists of {width}",
                beams,
            )
        empty_B = (places_BR[:, 0] < 0) & (batch.encoder_input_tokens_BL > 0).any(axis=1)
        if empty_B.any() and which is not None:
            empty_B &= constraints.leaves_any(which, stock.ranks_I)
        if empty_B.any():
            raise not_finite(self._model)
        return np.where(places_BR < 0, -1, stock.numbers_I[places_BR]), scores_BR

    def _step_for(self, shape: Shape) -> tuple[RecommendStep, bool]:
        """The jitted search, and whether nothing of the shape was asked of it before."""
        with self._lock:
            if shape.beams not in self._steps:
                config = BeamConfig(num_beams=shape.beams, num_results=shape.beams)
                self._steps[shape.beams] = make_recommend_step(self._graphdef, config)
            first = shape not in self._shapes
            self._shapes.add(shape)
            return self._steps[shape.beams], first
