"""A trained run as a Python object that recommends; behind `genrec_jax.load` and `genrec recommend`.

It needs the run dir alone. Requests are put into few shapes (`request_shapes`), each compiled once.
"""

import dataclasses
import logging
import pathlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genrec_jax import checks
from genrec_jax.checkpoint import restore
from genrec_jax.checkpoint.run_dir import RunDir
from genrec_jax.data import artefacts
from genrec_jax.data.splits import NO_TARGET
from genrec_jax.decoding import export, live, request_checks, request_shapes, request_templates
from genrec_jax.decoding.catalogue import Catalogue, Query, Unknown
from genrec_jax.decoding.programs import Programs, Shape
from genrec_jax.decoding.recommendations import Recommendations, found_items
from genrec_jax.decoding.request_checks import Constrained, History
from genrec_jax.decoding.search import BeamConfig
from genrec_jax.decoding.stock import Stock
from genrec_jax.model import stacks, t5
from genrec_jax.parallel import compilation_cache

logger = logging.getLogger(__name__)

BEAMS_MULTIPLE = 10
MAX_K = 100


def load(
    run_dir: artefacts.PathLike,
    *,
    checkpoint: restore.Which = "best",
    dataset: str | None = None,
    num_beams: int = 20,
    max_k: int = MAX_K,
    room: int = 0,
    unknown: Unknown = "skip",
) -> "Recommender":
    """Opens a run dir for recommending; compiled programs are kept (`parallel.compilation_cache`).

    Args:
        run_dir: what `genrec train` wrote; nothing else is needed.
        checkpoint: `best` on validation, `latest`, or a step.
        dataset: which of the run's datasets to recommend from; not needed if it has one.
        num_beams: beams of the search, more where more results are asked for.
        max_k: the most items that a request may ask for. Each is a beam; the logits of 64 requests of
            100 items take 0.8 GB with T5's vocabulary, and more items more.
        room: items that `Recommender.update` may add before anything is compiled again.
        unknown: what becomes of entries of a history that are not in the catalogue: `skip` leaves them
            out, `nearest` takes those that are no source ids for the nearest title, if one is like them
            (`catalogue.LEAST_SIMILARITY`), and leaves out the others, and `error` refuses the call.

    Raises:
        UserError: no run dir, no such checkpoint or dataset, a damaged file, or a number that cannot be.
    """
    checks.check_whole("num_beams", num_beams, 1)
    checks.check_whole("max_k", max_k, 1)
    checks.check_whole("room", room, 0)
    request_checks.check_unknown(unknown)
    compilation_cache.use()
    opened = RunDir.load(run_dir)
    step = restore.choose_step(opened, checkpoint)
    return Recommender(
        opened,
        step,
        dataset=dataset,
        num_beams=num_beams,
        max_k=max_k,
        room=room,
        unknown=unknown,
    )


class _Served(NamedTuple):
    """What requests are answered from; changed as a whole."""

    stock: Stock
    programs: Programs


class Recommender:
    """Recommends from one checkpoint of one run. Methods may be called from several threads.

    Attributes:
        run_dir: the run.
        step: the checkpoint's training step.
        dataset: name of the dataset recommended from.
        num_beams: beams of the search.
        max_k: the most items that a request may ask for.
        max_history: items that a prompt shows at most, the newest.
        unknown: what becomes of entries that are not in the catalogue, where a call does not say.
    """

    def __init__(
        self,
        run_dir: RunDir,
        step: int,
        *,
        dataset: str | None = None,
        num_beams: int = 20,
        max_k: int = MAX_K,
        room: int = 0,
        unknown: Unknown = "skip",
    ):
        self.unknown: Unknown = unknown
        stock = Stock.load(run_dir, dataset, room)
        self.run_dir = run_dir
        self.step = step
        self.dataset = stock.dataset
        self._num_users = run_dir.dataset(self.dataset).num_users
        self.num_beams = num_beams
        self.max_k = max_k
        self.max_history: int = run_dir.mixture["history"]
        self._graphdef, _ = t5.abstract_graph_and_params(run_dir.model_config)
        params = restore.restore_chosen(run_dir, step)
        # A CPU copies a layer out of its stack before using it; elsewhere a short program counts.
        self._params = stacks.split_layers(params) if jax.default_backend() == "cpu" else params
        model = f"step {step} of {run_dir.location}"
        self._served = _Served(stock, Programs(self._graphdef, self._params, model))
        self._lock = threading.Lock()
        self._updating = threading.Lock()

    @property
    def _stock(self) -> Stock:
        return self._served.stock

    @property
    def catalogue(self) -> Catalogue:
        """The items of the dataset and those added since, retired ones too."""
        return self._stock.catalogue

    @property
    def room_left(self) -> int:
        """Items that `update` may add before anything is compiled again, whatever their ids."""
        return self._stock.room_left

    def stats(self) -> dict[str, int]:
        """For a service's gauges: `programs` compiled, `live_items` and `room_left`."""
        stock, compiled = self._served
        live_items, room_left = len(stock.numbers_I), stock.room_left
        return {"programs": len(compiled), "live_items": live_items, "room_left": room_left}

    def update(
        self,
        add: Mapping[str, str] | None = None,
        retire: Iterable[Query] = (),
        *,
        titles: Mapping[str, str] | None = None,
    ) -> None:
        """Adds and retires items while other threads recommend; whole or not at all.

        A call of `recommend` that began before goes on with the catalogue it began with; one that
        begins after sees all of the change. Retired items give their room back. Nothing is compiled again
        as long as there is room (`room_left`), and ids begin as all others do and are no longer. Otherwise
        everything compiled so far is compiled for the new shapes before the change takes place, which a
        line of the log tells (WARNING): requests go on meanwhile, this call waits.

        Args:
            add: from source id to id text of each new item, the text written as those of
                `genrec index` are (column `item_id` of `item_ids.parquet`). New items get the next numbers;
                numbers of retired ones are not given out again.
            retire: items to be recommended no more: source ids or titles (text), item numbers, or
                recommendations; a title is that of an item that is recommended now. Histories may still
                hold them, and their ids may be given to others.
            titles: titles of new items, by source id.

        Raises:
            UserError: an id that another item has (both are named) or that the vocabulary cannot
                write, a source id that is empty or has spaces around it, an item retired that is not in
                the catalogue, a title of several, an item added that is there, none left, or what is no
                mapping or list of such. Nothing is changed then.
        """
        add = {} if add is None else add
        with self._updating:
            before, compiled = self._served
            stock = before.updated(add, retire, {} if titles is None else titles)
            if self.unknown == "nearest":
                stock.catalogue.index_titles()
            if live.form_of(stock.trie) != live.form_of(before.trie):
                compiled = compiled.anew(stock)
            self._served = _Served(stock, compiled)
            retired = len(before.numbers_I) + len(add) - len(stock.numbers_I)
            counts = (len(add), retired, len(stock.numbers_I), stock.room_left)
            logger.info("%d items added, %d retired; %d are live, with room for %d more", *counts)

    def recommend(
        self,
        histories: Iterable[Iterable[Query]],
        k: int = 10,
        *,
        users: Sequence[int | None] | None = None,
        exclude_seen: bool = False,
        template: str | None = None,
        exclude: Iterable[Iterable[Query] | None] | None = None,
        allow: Iterable[Iterable[Query] | None] | None = None,
        unknown: Unknown | None = None,
    ) -> list[Recommendations]:
        """The items most likely to come next.

        Args:
            histories: for each request what its user had, oldest first: source ids or titles (text, also
                where the source numbers its items), item numbers (whole numbers), or recommendations
                of this recommender. A text that is not in the catalogue is treated as `unknown` says;
                the result's `matches` and `skipped` tell. The prompt shows the newest items only, as
                many as in training. An empty history asks by user alone.
            k: items wanted, `max_k` at most.
            users: for each request the user's number in the dataset trained on (the place of the source
                id in `Dataset.user_source_ids`), None for a new user; all new by default. A new user is
                written as one that training never saw. Give None, too, for a user of whom training saw
                nothing (`Splits.trained_U`; in a split by date there are some): the run dir knows how
                many users there are, not which of them, and cannot refuse the number.
            exclude_seen: leave out the items of the whole history. The search is then exactly that
                of a catalogue without them.
            template: id of the prompt's template; by default the first that training saw, of the
                sequential task, or the straightforward one for an empty history.
            exclude: for each request the items that it must not get, such as what is out of stock, named
                as in histories, but all of them known; None for none. Long lists are read fastest as
                arrays of item numbers (`catalogue.items_of` finds them).
            allow: for each request the only items it may get, None for all. With either, and with
                `exclude_seen`, the search is exactly that of a catalogue of what is left; all three
                share one compiled search for lists of like lengths.
            unknown: what becomes of unknown entries, as in `load`; by default what that was told.

        Returns:
            for each request at most k items, all different, best first; fewer only where the search
            finds no more (a catalogue, or what constraints leave of it, of fewer than k items). None
            where nothing of a history is known and the model knows only prompts that show one.

        Raises:
            UserError: an entry that names no item, an unknown one where `unknown` is `error`, a text in
                place of a history, an unknown template, an empty history where the model knows only
                prompts that show one, k that is no whole number from 1 to `max_k`, as many lists as
                requests not given, a number beyond the catalogue, a user number that the dataset trained
                on does not have, or `exclude_seen` that is no bool.
        """
        self._check_k(k)
        request_checks.check_template(template)
        request_checks.check_flag("exclude_seen", exclude_seen)
        served = self._served
        catalogue = served.stock.catalogue
        policy = self.unknown if unknown is None else unknown
        read = request_checks.read_histories(catalogue, histories, policy)
        lists = request_checks.constrained(exclude, allow, read, catalogue, exclude_seen)
        return self._recommend(served, read, k, users, template, lists)

    def warm_up(
        self,
        rows: Sequence[int] = (1,),
        lengths: Sequence[int] | None = None,
        *,
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
        self._check_k(k)
        checks.check_whole("longest_list", longest_list, 0)
        request_checks.check_flag("exclude_seen", exclude_seen)
        request_checks.check_counts("rows", rows)
        if lengths is None:
            lengths = request_shapes.lengths_up_to(self.run_dir.mixture["max_input_length"])
        request_checks.check_counts("lengths", lengths)
        listed = exclude_seen or longest_list > 0
        widths = request_shapes.widths_up_to(longest_list) if listed else [None]
        seconds = {}
        with self._updating:  # a change compiles for what there is when it begins
            if self.unknown == "nearest":
                self.catalogue.index_titles()
            stock, compiled = self._served
            beams = self._beams_for(min(k, stock.capacity))
            for count in sorted(set(map(request_shapes.rows_for, rows))):
                for length in sorted(set(map(request_shapes.length_for, lengths))):
                    started = time.perf_counter()
                    for width in widths:
                        compiled.compile(stock, Shape(count, length, width, beams))
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
            UserError: a shape below one, k that is no whole number from 1 to `max_k`, an unknown platform,
                or a folder in the way.
        """
        self._check_k(k)
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
            origin={
                "dataset": self.dataset,
                "step": self.step,
                "prompt": request_templates.described(self.run_dir),
            },
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

    def template_for(self, has_history: bool) -> str:
        """The template a request gets by default: the first that training saw of a fitting task.

        Raises:
            UserError: there is no history, and the run has no template without one; or it was not
                trained to find items in the whole catalogue.
        """
        return request_templates.default_for(self.run_dir, has_history)

    def _recommend(
        self,
        served: _Served,
        read: Sequence[History],
        k: int,
        users: Any,
        template: str | None,
        constrained: Constrained | None,
    ) -> list[Recommendations]:
        stock, compiled = served
        k = min(k, stock.capacity)
        beams = self._beams_for(k)
        users_E = request_checks.user_numbers(users, len(read), self._num_users)
        chosen = [request_templates.of(self.run_dir, history, template) for history in read]
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
                items_BR, scores_BR = compiled.search(stock, batch, lists, beams)
                for row, e in enumerate(asked_E[part]):
                    found = found_items(stock.catalogue, items_BR[row, :k], scores_BR[row, :k])
                    results[e] = Recommendations(found, read[e].matches, read[e].skipped, name)
        return results

    def _check_k(self, k: Any) -> None:
        more = ". A service that needs more sets `load(max_k=...)`"
        checks.check_whole("k", k, 1, self.max_k, do=more)

    def _beams_for(self, k: int) -> int:
        return max(self.num_beams, -(-k // BEAMS_MULTIPLE) * BEAMS_MULTIPLE)
