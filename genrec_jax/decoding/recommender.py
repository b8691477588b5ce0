"""A trained run as a Python object that recommends; behind `genrec_jax.load` and `genrec recommend`.

It needs the run dir alone. Requests are put into few shapes (`request_shapes`), each compiled once.
"""

import dataclasses
import pathlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts
from genrec_jax.data.splits import NO_TARGET
from genrec_jax.decoding import constraints, export, request_checks, request_shapes
from genrec_jax.decoding.catalogue import Catalogue, Unknown
from genrec_jax.decoding.constraints import ItemList
from genrec_jax.decoding.recommend import RecommendStep, make_recommend_step
from genrec_jax.decoding.recommendations import Recommendations, found_items, not_finite
from genrec_jax.decoding.request_checks import History
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.stock import Stock
from genrec_jax.errors import UserError
from genrec_jax.model import stacks, t5
from genrec_jax.parallel import compilation_cache
from genrec_jax.pipeline.batch import PromptBatch
from genrec_jax.prompts.templates import SEARCHED_TASKS

BEAMS_MULTIPLE = 10

_Constrained = tuple[Sequence[ItemList], Sequence[ItemList | None]]
"""For each request the items it must not get, and the only ones it may get (None for all)."""


def load(
    run_dir: artefacts.PathLike,
    *,
    checkpoint: restore.Which = "best",
    dataset: str | None = None,
    num_beams: int = 20,
    room: int = 0,
    unknown: Unknown = "skip",
) -> "Recommender":
    """Opens a run dir for recommending; compiled programs are kept (`parallel.compilation_cache`).

    Args:
        run_dir: what `genrec train` wrote; nothing else is needed.
        checkpoint: `best` on validation, `latest`, or a step.
        dataset: which of the run's datasets to recommend from; not needed if it has one.
        num_beams: beams of the search, more where more results are asked for.
        room: items that `Recommender.update` may add before anything is compiled again.
        unknown: what becomes of entries of a history that are not in the catalogue: `skip` leaves them
            out, `nearest` takes those that are no source ids for the nearest title, if one is like them
            (`catalogue.LEAST_SIMILARITY`), and leaves out the others, and `error` refuses the call.

    Raises:
        UserError: no run dir, no such checkpoint or dataset, or a damaged file.
    """
    compilation_cache.use()
    opened = RunDir.load(run_dir)
    step = restore.choose_step(opened, checkpoint)
    return Recommender(opened, step, dataset, num_beams, room, unknown)


class Recommender:
    """Recommends from one checkpoint of one run. Methods may be called from several threads.

    Attributes:
        run_dir: the run.
        step: the checkpoint's training step.
        dataset: name of the dataset recommended from.
        num_beams: beams of the search.
        history: items that a prompt shows at most, the newest.
        unknown: what becomes of entries that are not in the catalogue, where a call does not say.
    """

    def __init__(
        self,
        run_dir: RunDir,
        step: int,
        dataset: str | None,
        num_beams: int,
        room: int = 0,
        unknown: Unknown = "skip",
    ):
        request_checks.check_unknown(unknown)
        self.unknown: Unknown = unknown
        self._stock = Stock.load(run_dir, dataset, room)
        self.run_dir = run_dir
        self.step = step
        self.dataset = self._stock.dataset
        self._num_users = run_dir.dataset(self.dataset).num_users
        self.num_beams = num_beams
        self.history: int = run_dir.mixture["history"]
        self._graphdef, _ = t5.abstract_graph_and_params(run_dir.model_config)
        params = restore.restore_chosen(run_dir, step)
        # A CPU copies a layer out of its stack before using it; elsewhere a short program counts.
        self._params = stacks.split_layers(params) if jax.default_backend() == "cpu" else params
        self._steps: dict[int, RecommendStep] = {}
        self._lock = threading.Lock()
        self._updating = threading.Lock()

    @property
    def catalogue(self) -> Catalogue:
        """The items of the dataset and those added since, retired ones too."""
        return self._stock.catalogue

    def update(
        self,
        add: Mapping[str, str] | None = None,
        retire: Iterable[str | int] = (),
        titles: Mapping[str, str] | None = None,
    ) -> None:
        """Adds and retires items while other threads recommend; whole or not at all.

        A call of `recommend` that began before goes on with the catalogue it began with; one that
        begins after sees all of the change. Nothing is compiled again as long as no more items were
        added than `load` was given `room` for, and their ids begin as all others do and are no longer.

        Args:
            add: from source id to id text of each new item, the text written as those of
                `genrec index` are (column `item_id` of `item_ids.parquet`). New items get the next numbers.
            retire: source ids or titles of items to be recommended no more; a title is that of an item
                that is recommended now. Histories may still hold them, and their ids may be given to
                others.
            titles: titles of new items, by source id.

        Raises:
            UserError: an id that another item has (both are named) or that the vocabulary cannot
                write, an item retired that is not in the catalogue, a title of several, an item added
                that is there, or none left. Nothing is changed then.
        """
        with self._updating:
            stock = self._stock.updated(add or {}, retire, titles or {})
            if self.unknown == "nearest":
                stock.catalogue.index_titles()
            self._stock = stock

    def recommend(
        self,
        histories: Iterable[Iterable[str | int | np.integer]],
        k: int = 10,
        users: Sequence[int | None] | None = None,
        exclude_seen: bool = False,
        template: str | None = None,
        exclude: Sequence[ItemList | None] | None = None,
        allow: Sequence[ItemList | None] | None = None,
        unknown: Unknown | None = None,
    ) -> list[Recommendations]:
        """The items most likely to come next.

        Args:
            histories: for each request what its user had, oldest first: source ids (text, or numbers
                for sources that number their items) or titles. What is not in the catalogue is
                treated as `unknown` says; the result's `matches` and `skipped` tell. The prompt shows
                the newest items only, as many as in training. An empty history asks by user alone.
            k: items wanted.
            users: for each request the user's number in the dataset trained on (the place of the source
                id in `Dataset.user_source_ids`), None for a new user; all new by default. A new user is
                written as one that training never saw. Give None, too, for a user of whom training saw
                nothing (`Splits.trained_U`; in a split by date there are some): the run dir knows how
                many users there are, not which of them, and cannot refuse the number.
            exclude_seen: leave out the items of the whole history. The search is then exactly that
                of a catalogue without them.
            template: id of the prompt's template; by default the first that training saw, of the
                sequential task, or the straightforward one for an empty history.
            exclude: for each request item numbers (`Recommendation.item`; `catalogue.items_of` finds
                them) that it must not get, such as what is out of stock; None for none.
            allow: for each request the only item numbers it may get, None for all. With either, and
                with `exclude_seen`, the search is exactly that of a catalogue of what is left; all
                three share one compiled search for lists of like lengths.
            unknown: what becomes of unknown entries, as in `load`; by default what that was told.

        Returns:
            for each request at most k items, all different, best first; fewer only where the search
            finds no more (a catalogue, or what constraints leave of it, of fewer than k items). None
            where nothing of a history is known and the model knows only prompts that show one.

        Raises:
            UserError: an entry that is neither text nor whole number, an unknown one where `unknown`
                is `error`, a text in place of a history, an unknown template, an empty history where the
                model knows only prompts that show one, k below 1, as many lists as requests not given,
                a number beyond the catalogue, or a user number that the dataset trained on does not have.
        """
        stock = self._stock
        read = request_checks.read_histories(stock.catalogue, histories, unknown or self.unknown)
        known = len(stock.catalogue)
        left_out = request_checks.item_lists("exclude", exclude, len(read), known)
        allowed = request_checks.item_lists("allow", allow, len(read), known)
        if exclude_seen:
            seen = [np.asarray([match.item for match in one.matches], np.int64) for one in read]
            more = seen if left_out is None else left_out
            left_out = [np.union1d(*pair) for pair in zip(more, seen, strict=True)]
        constrained = None
        if left_out is not None or allowed is not None:
            constrained = left_out or [[]] * len(read), allowed or [None] * len(read)
        return self._recommend(stock, read, k, users, template, constrained)

    def warm_up(
        self,
        rows: Sequence[int] = (1,),
        lengths: Sequence[int] | None = None,
        k: int = 10,
        exclude_seen: bool = False,
        longest_list: int = 0,
    ) -> dict[tuple[int, int], float]:
        """Compiles for batches of these shapes ahead of the first request.

        Where unknown entries are taken for the nearest title, the index of titles is made, too.

        Args:
            rows: requests a call; each is rounded up to one of `request_shapes.ROWS`, of which the last is
                for more, too.
            lengths: tokens of a prompt; each is rounded up to one of `request_shapes.LENGTHS`, beyond them
                to a power of two. By default every one up to the longest prompt of training: five for
                512 tokens. Each is a program, for each of `rows` and each width of lists, which takes
                seconds to compile on a CPU, with a large model tens of seconds; later processes read it
                (`parallel.compilation_cache`). Name fewer where histories are known to be short.
            k: items that will be asked for.
            exclude_seen: whether seen items will be left out, or `exclude` or `allow` given (compiled
                apart from requests without lists).
            longest_list: items of the longest list to be ready for, seen and excluded ones together;
                by default 32. A program is compiled for each width up to it: 32, 64, 128 and so on.
                More than 0 has the meaning of `exclude_seen`, too.

        Returns:
            seconds that each (rows, length) took, all widths together: compiling, or loading what an
            earlier process compiled (`parallel.compilation_cache`), and one run.
        """
        if self.unknown == "nearest":
            self.catalogue.index_titles()
        seconds = {}
        listed = exclude_seen or longest_list > 0
        widths = request_shapes.widths_up_to(longest_list) if listed else [None]
        if lengths is None:
            lengths = request_shapes.lengths_up_to(self.run_dir.mixture["max_input_length"])
        for count in sorted(set(map(request_shapes.rows_for, rows))):
            for length in sorted(set(map(request_shapes.length_for, lengths))):
                started = time.perf_counter()
                tokens_BL = np.zeros((count, length), np.int32)
                tokens_BL[:, 0] = self._stock.trie.eos_id
                nobody_B = np.full(count, -1, np.int32)
                batch = PromptBatch(tokens_BL, np.zeros_like(tokens_BL), nobody_B, nobody_B)
                nothing = ([[]] * count, [None] * count)
                for width in widths:
                    self._search(self._stock, batch, nothing if listed else None, k, width)
                seconds[count, length] = time.perf_counter() - started
        return seconds

    def export(
        self,
        folder: artefacts.PathLike,
        *,
        rows: Sequence[int] = (1,),
        lengths: Sequence[int] = (128,),
        k: int = 10,
        platforms: Sequence[str] | None = None,
        overwrite: bool = False,
    ) -> pathlib.Path:
        """Writes the whole of recommending as files that run where JAX alone is installed.

        Args:
            folder: to be written; its `load.py` says how to use it.
            rows: requests of a batch; one program for each, with each length.
            lengths: tokens of a prompt, padding included.
            k: items of a list at most; more are searched for where `num_beams` is larger.
            platforms: such as `("cpu", "cuda", "tpu")`; this process's by default.
            overwrite: replace an earlier export.

        Returns:
            the folder.

        Raises:
            UserError: a shape or k below one, an unknown platform, or a folder in the way.
        """
        if k < 1:
            raise UserError(f"k is {k}; wanted at least 1")
        beams = self._beams_for(k)
        return export.write(
            folder,
            self._graphdef,
            self._params,
            self._stock,
            self.run_dir,
            BeamConfig(num_beams=beams, num_results=beams),
            [(count, length) for count in rows for length in lengths],
            platforms=platforms,
            origin={"dataset": self.dataset, "step": self.step, "prompt": self._prompt()},
            overwrite=overwrite,
        )

    def export_catalogue(
        self, folder: artefacts.PathLike, path: artefacts.PathLike | None = None
    ) -> pathlib.Path:
        """Writes the items of now, trie and names in one file, for an exported recommender.

        Args:
            folder: what `export` wrote.
            path: the file; by default the export's own, which is replaced in one step.

        Raises:
            UserError: no export of this run's vocabulary, or items that it has no room for.
        """
        return export.write_catalogue(folder, self._stock, self.run_dir.vocabulary, path)

    def _prompt(self) -> dict[str, Any] | None:
        """What whoever writes prompts without this library must know; None: no list was trained."""
        name = self._first_template(SEARCHED_TASKS)
        if name is None:
            return None
        (template,) = (one for one in self.run_dir.templates if one.id == name)
        return {
            "template": name,
            "input": template.input,
            "texts": dataclasses.asdict(template.texts),
            "history": self.run_dir.mixture["history"],
            "max_input_length": self.run_dir.mixture["max_input_length"],
        }

    def template_for(self, has_history: bool) -> str:
        """The template a request gets by default: the first that training saw of a fitting task.

        Raises:
            UserError: there is no history, and the run has no template without one; or it was not
                trained to find items in the whole catalogue.
        """
        found = self._first_template(SEARCHED_TASKS if has_history else ("straightforward",))
        if found is not None:
            return found
        if has_history:
            trained = ", ".join(self.run_dir.mixture["tasks"])
            raise UserError(
                f"this run was trained on {trained}, none of which asks for an item of the whole"
                f" catalogue; wanted a run of one of {', '.join(SEARCHED_TASKS)}",
                file=self.run_dir.location,
            )
        raise UserError(
            "the history is empty, and this run was trained on prompts that show one; wanted at least"
            " one item. (A run of the mixture `openp5` also knows prompts of the user alone)"
        )

    def _first_template(self, tasks: Sequence[str]) -> str | None:
        trained = self.run_dir.mixture["tasks"]
        for task in tasks:
            for template in self.run_dir.templates:
                if template.task == task and template.seen and (task in trained or not trained):
                    return template.id
        return None

    def _template_of(self, history: History, template: str | None) -> str | None:
        """The template of one request; None where all of its history was skipped and none does without."""
        if history.matches or not history.skipped:
            return template or self.template_for(bool(history.matches))
        if template is None:
            return self._first_template(("straightforward",))
        shows = [one.id for one in self.run_dir.templates if "{history}" in one.input]
        return None if template in shows else template

    def _recommend(
        self,
        stock: Stock,
        read: Sequence[History],
        k: int,
        users: Sequence[int | None] | None,
        template: str | None,
        constrained: _Constrained | None,
    ) -> list[Recommendations]:
        if k < 1:
            raise UserError(f"k is {k}; wanted at least 1")
        k = min(k, len(stock.catalogue))
        users_E = request_checks.user_numbers(users, len(read), self._num_users)
        chosen = [self._template_of(history, template) for history in read]
        results = [Recommendations([], one.matches, one.skipped, None) for one in read]
        for name in dict.fromkeys(name for name in chosen if name is not None):
            asked_E = np.asarray([e for e, own in enumerate(chosen) if own == name])
            histories = [
                np.asarray([match.item for match in read[e].matches], np.int32) for e in asked_E
            ]
            with self._lock:
                prompts = stock.assembler.assemble(name, users_E[asked_E], histories)
            # Prompts of like lengths go together.
            order = np.argsort(prompts.inputs.lengths_E, kind="stable")
            for part in np.split(order, np.cumsum(request_shapes.batch_sizes(len(order)))[:-1]):
                batch = dataclasses.replace(
                    prompts,
                    inputs=prompts.inputs.take(part),
                    whole_words=prompts.whole_words.take(part),
                ).padded(
                    request_shapes.rows_for(len(part)),
                    request_shapes.length_for(int(prompts.inputs.lengths_E[part].max())),
                    users_E=users_E[asked_E[part]],
                    targets_E=np.full(len(part), NO_TARGET, np.int32),
                )
                lists = None
                if constrained is not None:
                    exclude, allow = constrained
                    own_E = asked_E[part]
                    lists = [exclude[e] for e in own_E], [allow[e] for e in own_E]
                items_BR, scores_BR = self._search(stock, batch, lists, k)
                for row, e in enumerate(asked_E[part]):
                    found = found_items(stock.catalogue, items_BR[row, :k], scores_BR[row, :k])
                    results[e] = Recommendations(found, read[e].matches, read[e].skipped, name)
        return results

    def _search(
        self,
        stock: Stock,
        batch: PromptBatch,
        constrained: _Constrained | None,
        k: int,
        width: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items and scores of a padded batch; `constrained` may be shorter, `width` is its lists'."""
        which = None
        if constrained is not None:
            missing = len(batch.users_B) - len(constrained[0])
            exclude = [*constrained[0], *[[]] * missing]
            allow = [*constrained[1], *[None] * missing]
            which = constraints.constraints_of(stock.ranks_I, exclude, allow, width)
        result = self._step_for(k)(self._params, batch, stock.trie, which)
        items_BR = np.asarray(result.items_BR)
        empty_B = (items_BR[:, 0] < 0) & (batch.encoder_input_tokens_BL > 0).any(axis=1)
        if empty_B.any() and which is not None:
            empty_B &= constraints.leaves_any(which, stock.ranks_I)
        if empty_B.any():
            raise not_finite(f"step {self.step} of {self.run_dir.location}")
        return items_BR, np.asarray(result.scores_BR)

    def _beams_for(self, k: int) -> int:
        return max(self.num_beams, -(-k // BEAMS_MULTIPLE) * BEAMS_MULTIPLE)

    def _step_for(self, k: int) -> RecommendStep:
        beams = self._beams_for(k)
        with self._lock:
            if beams not in self._steps:
                config = BeamConfig(num_beams=beams, num_results=beams)
                self._steps[beams] = make_recommend_step(self._graphdef, config)
            return self._steps[beams]
