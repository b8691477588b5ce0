"""`genrec index` as a function: dataset dirs in, item ids and one vocabulary out."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from genrec_jax import storage
from genrec_jax.data import artefacts, audit, dataset, splits
from genrec_jax.errors import UserError
from genrec_jax.indexing import (
    collaborative_ids,
    foreign_ids,
    item_ids,
    numbered_ids,
    t5_vocabulary,
    token_checks,
    unigram_vocabulary,
)
from genrec_jax.indexing.vocabulary import Vocabulary
from genrec_jax.prompts import templates

Method = Literal["random", "sequential", "collaborative", "independent", "short", "file"]
METHODS: tuple[Method, ...] = ("random", "sequential", "collaborative", "independent", "short")
SHORT_PREFIX = "I"
SHORT_NAMES = (SHORT_PREFIX,)


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How ids are made.

    Attributes:
        method: one of `METHODS`, which make ids here, or `file` for ids that were made elsewhere.
        seed: of `random` and `short`, the methods that draw.
        cold_items: sequential only; `held-out-order` is a parity option that leaks (see
            `numbered_ids.sequential_order`).
        clusters: collaborative only; clusters of one split, by default from the catalogue's size
            (see `collaborative_ids.default_settings`).
        max_cluster: collaborative only; a cluster of more items is split again.
        max_user_items: collaborative only; users with more items are left out of the co-occurrence (see
            `collaborative_ids.cooccurrence`).
        number_digits_per_token: digits that share a token where the vocabulary is trained.
        ids: file only; for each dataset the file of its ids, see `file_ids.read`.
        id_columns: file only; its columns, where they have other names.
        add_tokens: file only; whether `<...>` in an id is one token; by default see `file_ids.read`.
    """

    method: Method
    seed: int = 0
    cold_items: numbered_ids.ColdItems = "shuffled"
    clusters: int | None = None
    max_cluster: int | None = None
    max_user_items: int | None = None
    number_digits_per_token: int = 2
    ids: Sequence[artefacts.PathLike] = ()
    id_columns: Mapping[str, str] | None = None
    add_tokens: bool | None = None

    def __post_init__(self):
        object.__setattr__(self, "ids", tuple(storage.listed(self.ids)))


@dataclasses.dataclass(frozen=True)
class BuiltIndex:
    """One dataset's part of what was written.

    Attributes:
        path: the folder of its `item_ids.parquet`, or its URL.
        item_ids: the ids.
        tokens: how many tokens they take.
        cold_items: items that no training sequence has.
        vocabulary: the vocabulary that all datasets of the call share.
        audit: results of the leakage audit.
        titles: of the items, for showing examples; the source id where there is no title.
        unknown_in_titles: share of unknown tokens in the titles, where prompts may show them: the
            vocabulary was trained with titles, or given. Else 0.
    """

    path: artefacts.PathLike
    item_ids: item_ids.ItemIds
    tokens: token_checks.TokenCounts
    cold_items: int
    vocabulary: Vocabulary
    audit: tuple[audit.AuditResult, ...]
    titles: list[str]
    unknown_in_titles: float


def build_index(
    datasets: artefacts.PathLike | Sequence[artefacts.PathLike],
    config: IndexConfig,
    *,
    output: artefacts.PathLike | None = None,
    vocabulary: artefacts.PathLike | None = None,
    prompt_lines: Iterable[str] | None = None,
    show_titles: bool = False,
    overwrite: bool = False,
) -> list[BuiltIndex]:
    """Makes item ids for one or several datasets, and the one vocabulary that they share.

    Ids depend on the interactions that train (`splits.of`) alone.

    Args:
        datasets: dataset dirs, or their URLs; one alone needs no list.
        config: the method and its settings.
        output: the folder to write, or its URL; by default `<dataset dir>/index/<method>`. Several datasets
            share `<output>/vocabulary.model` and each has `<output>/<dataset name>/`.
        vocabulary: T5's `spiece.model`, or one extended before, to add tokens to. Without it a small
            vocabulary is trained on `prompt_lines`.
        prompt_lines: the text of the prompts, for training a vocabulary. When not given, the words of the
            prompts that these ids are made for: the alignment system's with `short`, else OpenP5's.
            `prompts.templates.vocabulary_lines` has those of other templates.
        show_titles: whether these prompts show titles (`prompts.templates.show_titles`), so that a
            vocabulary is trained on the catalogue's too. Those of `short` always do.
        overwrite: replace an existing index.

    Raises:
        UserError: no output for several datasets, two of one name, a name that the vocabulary
            cannot write, ids that clash, or an output that exists (with `overwrite`: and is no index).
    """
    loaded = [dataset.load(path) for path in storage.listed(datasets)]
    if not loaded:
        raise UserError("no dataset given; wanted one or more dataset dirs")
    if config.method == foreign_ids.METHOD and len(config.ids) != len(loaded):
        raise UserError(
            f"--ids names {len(config.ids)} files and there are {len(loaded)} datasets; wanted a file of"
            " item ids for each, in their order. Pass --ids FILE"
        )
    names = [one.name for one in loaded]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"two datasets are called {repeated[0]!r}; wanted different names, because prompts tell"
            " datasets apart by them. Prepare one again with another --name"
        )
    if output is None:
        if len(loaded) > 1:
            raise UserError(
                "several datasets share one index, so it must be said where: pass --output DIR"
            )
        output = storage.join(loaded[0].url or loaded[0].path, "index", config.method)
    artefacts.check_output(
        output, overwrite=overwrite, ours=_is_index(output), kind="an index that was made here"
    )
    lines = _default_lines(config.method) if prompt_lines is None else list(prompt_lines)
    titles = sorted({title for one in loaded for title in one.item_titles if title})
    show_titles = show_titles or config.method == "short"

    def words(ids: Sequence[item_ids.ItemIds]) -> Vocabulary:
        return make_vocabulary(
            ids,
            base=vocabulary,
            prompt_lines=lines,
            digits=config.number_digits_per_token,
            titles=titles if show_titles else (),
        )

    partitions = [splits.of(one) for one in loaded]
    ids = [
        make_item_ids(one, part, config, place)
        for place, (one, part) in enumerate(zip(loaded, partitions, strict=True))
    ]
    made = words(ids)
    _check_names(names, made)
    audits = _audit(loaded, partitions, ids, made, config, words)
    built = []
    with artefacts.atomic_directory(
        output, overwrite=overwrite, manifests=(item_ids.MANIFEST,)
    ) as folder:
        made.save(folder / item_ids.VOCABULARY)
        for one, part, own, verdicts in zip(loaded, partitions, ids, audits, strict=True):
            alone = len(loaded) == 1
            tokens = token_checks.check_unambiguous(own.texts, made, describe=one.item_source_ids)
            cold = int((splits.training_counts_I(one, part) == 0).sum())
            (folder if alone else folder / one.name).mkdir(exist_ok=True)
            item_ids.write(
                folder if alone else folder / one.name,
                own,
                one,
                vocabulary=made,
                vocabulary_file=item_ids.VOCABULARY if alone else f"../{item_ids.VOCABULARY}",
                audit=[dataclasses.asdict(verdict) for verdict in verdicts],
                details={
                    "counts": {"items": own.num_items, "cold_items": cold},
                    "tokens_per_id": dataclasses.asdict(tokens),
                    "split": part.protocol,
                },
            )
            named = zip(one.item_titles, one.item_source_ids, strict=True)
            built.append(
                BuiltIndex(
                    path=storage.join(output) if alone else storage.join(output, one.name),
                    item_ids=own,
                    tokens=tokens,
                    cold_items=cold,
                    vocabulary=made,
                    audit=tuple(verdicts),
                    titles=[title or source for title, source in named],
                    unknown_in_titles=token_checks.unknown_share(
                        [title for title in one.item_titles if title], made
                    )
                    if show_titles or vocabulary is not None
                    else 0.0,
                )
            )
    return built


def _default_lines(method: Method) -> list[str]:
    """The words of the prompts that ids of a method are made for."""
    short = method == "short"
    file = templates.ALIGNMENT_TEMPLATES if short else templates.OPENP5_TEMPLATES
    return templates.vocabulary_lines(templates.load_templates(file))


def make_item_ids(
    data: dataset.Dataset,
    part: splits.Splits,
    config: IndexConfig,
    place: int = 0,
) -> item_ids.ItemIds:
    """The ids of one dataset, number `place` of them, from its training interactions alone.

    Those of a file are as they are there.
    """
    parameters: dict[str, Any] = {}
    added: tuple[str, ...] = ()
    if config.method == "random":
        order_I = numbered_ids.random_order(data.num_items, seed=config.seed)
        texts = numbered_ids.numbered(order_I)
        parameters = {"first_number": numbered_ids.FIRST_NUMBER}
    elif config.method == "sequential":
        order_I = numbered_ids.sequential_order(data, part, cold_items=config.cold_items)
        texts = numbered_ids.numbered(order_I)
        parameters = {
            "first_number": numbered_ids.FIRST_NUMBER,
            "cold_items": config.cold_items,
        }
    elif config.method == "collaborative":
        clusters, max_cluster = collaborative_ids.default_settings(data.num_items)
        clusters = clusters if config.clusters is None else config.clusters
        max_cluster = max_cluster if config.max_cluster is None else config.max_cluster
        parameters = {"clusters": clusters, "max_cluster": max_cluster}
        if config.max_user_items is not None:
            parameters["max_user_items"] = config.max_user_items
        tree = collaborative_ids.build_tree(data, part, **parameters)
        texts, added = tree.texts, tree.added_tokens
    elif config.method == "independent":
        added = tuple(f"<I{item}>" for item in range(data.num_items))
        texts = tuple(item_ids.PREFIX + token for token in added)
    elif config.method == "short":
        order_I = numbered_ids.random_order(data.num_items, seed=config.seed)
        texts = numbered_ids.numbered(order_I, prefix=SHORT_PREFIX, first=1)
        parameters = {"first_number": 1, "prefix": SHORT_PREFIX}
    elif config.method == foreign_ids.METHOD:
        # It reads tables with Polars, which machines with accelerators may lack.
        from genrec_jax.indexing import file_ids

        found = file_ids.read(
            config.ids[place],
            data.item_source_ids,
            columns=config.id_columns,
            add_tokens=config.add_tokens,
        )
        texts, added, parameters = found.texts, found.added_tokens, found.parameters
    else:
        raise UserError(
            f"unknown method {config.method!r}; wanted one of {', '.join(METHODS)} or {foreign_ids.METHOD}"
        )
    return item_ids.ItemIds(
        texts=texts,
        method=config.method,
        parameters=parameters,
        seed=config.seed,
        added_tokens=added,
        dataset_name=data.name,
        dataset_fingerprint=data.fingerprint,
        titles=tuple(data.item_titles),
    )


def make_vocabulary(
    ids: Sequence[item_ids.ItemIds],
    *,
    base: artefacts.PathLike | None,
    prompt_lines: Iterable[str],
    digits: int = 2,
    titles: Sequence[str] = (),
) -> Vocabulary:
    """One vocabulary for the ids of all datasets: T5's with tokens added, or a small trained one.

    With `titles` the trained one has pieces for prompts that show them. Ids made of words have pieces too,
    and their frequent words a token each.
    """
    if base is not None:
        added = {token for own in ids for token in own.added_tokens}
        return t5_vocabulary.extend(Vocabulary(base), sorted(added, key=_natural))
    short = any(own.method == "short" for own in ids)
    openings: set[str] = set()
    later: set[str] = set()
    written: list[str] = []
    for own in ids:
        if own.method == foreign_ids.METHOD and not own.added_tokens:
            written += own.texts
        for text in own.texts if own.added_tokens else ():
            found = list(foreign_ids.TOKEN.finditer(text))
            openings.update(text[: token.end()].split()[-1] for token in found[:1])
            later.update(token[0] for token in found[1:])
    return unigram_vocabulary.train(
        prompt_lines,
        words=[*(own.dataset_name for own in ids), *foreign_ids.frequent_words(written)],
        added_tokens=sorted(later, key=_natural),
        openings=sorted(openings, key=_natural),
        digits_per_token=digits,
        texts=[*titles, *written],
        numbered_names=SHORT_NAMES if short else unigram_vocabulary.NUMBERED_NAMES,
    )


def _audit(
    loaded: Sequence[dataset.Dataset],
    partitions: Sequence[splits.Splits],
    ids: Sequence[item_ids.ItemIds],
    made: Vocabulary,
    config: IndexConfig,
    words: Callable[[Sequence[item_ids.ItemIds]], Vocabulary],
) -> list[list[audit.AuditResult]]:
    """Puts every dataset's ids, and the vocabulary, to the leakage audit.

    Both are made anew with the held-out interactions exchanged, and must not change.
    """
    rebuilt: list[item_ids.ItemIds] = []

    def texts(other: dataset.Dataset) -> Sequence[str]:
        rebuilt.append(make_item_ids(other, splits.of(other), config))
        return rebuilt[-1].texts

    if config.method == foreign_ids.METHOD:
        rebuilt += ids
        verdicts = [
            [*audit.audit_item_ids(one, part, own.texts), _taken_on_trust(own)]
            for one, part, own in zip(loaded, partitions, ids, strict=True)
        ]
    else:
        verdicts = [
            audit.audit_item_ids(one, part, own.texts, rebuild=texts, ordered=own.ordered)
            for one, part, own in zip(loaded, partitions, ids, strict=True)
        ]
    for one, part, own_verdicts in zip(loaded, partitions, verdicts, strict=True):
        own_verdicts.append(
            audit.audit_rebuild(
                "vocabulary_rebuilt", one, part, made.sha256, lambda _: words(rebuilt).sha256
            )
        )
    return verdicts


def _taken_on_trust(own: item_ids.ItemIds) -> audit.AuditResult:
    return audit.AuditResult(
        "item_ids_made_elsewhere",
        "warn",
        f"the ids of {own.parameters['file']} were made elsewhere, taken on trust: whether held-out"
        " interactions had a part in them cannot be seen here",
    )


def _is_index(path: artefacts.PathLike) -> bool:
    """Whether a folder is an index, of one dataset or of several."""
    folder = storage.local_copy(path)
    several = (folder / item_ids.VOCABULARY).exists() and any(folder.glob(f"*/{item_ids.MANIFEST}"))
    return several or (folder / item_ids.MANIFEST).exists()


def _check_names(names: Sequence[str], made: Vocabulary) -> None:
    """Prompts tell datasets apart by their names, so each must have tokens, and tokens of its own."""
    owners: dict[tuple[int, ...], str] = {}
    for name in names:
        tokens = tuple(made.encode(name))
        if made.unk_id in tokens or owners.setdefault(tokens, name) != name:
            raise UserError(
                f"the dataset's name {name!r} becomes {made.pieces(tokens)} in this vocabulary; wanted"
                " known tokens that no other dataset's name becomes. Prepare it again with another"
                " --name, such as one of plain letters"
            )


def _natural(token: str) -> tuple[str, int]:
    """Sorts `<CI9>` before `<CI10>`."""
    number = re.search(r"\d+", token)
    return (re.sub(r"\d+", "", token), int(number.group()) if number else -1)
