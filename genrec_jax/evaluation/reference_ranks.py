"""Reference systems beside the model: on exactly its users, and in ranking on the same candidates."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from genrec_jax.baselines import references as baselines
from genrec_jax.data.dataset import Dataset
from genrec_jax.data.splits import SplitName, Splits
from genrec_jax.errors import UserError
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation.alignment import AlignmentEvaluator, RankCandidates, Rate
from genrec_jax.evaluation.evaluator import Evaluator
from genrec_jax.evaluation.ranking import UserRanks
from genrec_jax.evaluation.results import FOOTINGS, RankTargets, SystemRanks

NAME = r"(?!(?:model|exact|oracle)$)\w[\w .+-]*"
"""What a reference system may be called; the model's own rows have a `/`."""


@dataclasses.dataclass(frozen=True)
class References:
    """Reference systems for each question that a run may be asked; None where there are none.

    Attributes:
        rank_targets: rank every user's target in the whole catalogue: (dataset, splits, split) -> by system
            a dict of `seen_kept` and `seen_excluded`, each with a rank from 1 for every user who has a
            target, in user order; 0 where the target is struck (docs/extending.md has an example).
        rank_candidates: rank the alignment system's targets among each example's candidates.
        rate: say how probable it is that users like what comes next.
    """

    rank_targets: RankTargets | None = None
    rank_candidates: RankCandidates | None = None
    rate: Rate | None = None


BASELINES = References(baselines.rank_targets, baselines.rank_candidates, baselines.rate)
"""Popularity, what followed the last item and the second-last, and what share of items a user liked."""
NONE = References()


@dataclasses.dataclass(frozen=True)
class ReferenceGroup:
    """Reference systems on the users of some of the model's rows.

    Attributes:
        models: names of those rows, all on the same users.
        systems: the references' ranks of these users, by name.
    """

    models: tuple[str, ...]
    systems: Mapping[str, SystemRanks]


def checked(references: Any) -> References:
    """The same systems; whatever they answer is checked before it is used.

    Raises:
        UserError: not `References`. So do the functions, for an answer that is not what `References` says.
    """
    if not isinstance(references, References):
        raise UserError(
            f"references is a {type(references).__name__}; wanted reference_ranks.References, such as"
            " References(rank_targets=function), or reference_ranks.NONE"
        )
    rank_targets, rank_candidates = references.rank_targets, references.rank_candidates
    rate = references.rate

    def targets(dataset: Dataset, splits: Splits, split: SplitName) -> dict[str, SystemRanks]:
        assert rank_targets is not None
        count = int((splits.targets_U(split) >= 0).sum())
        return {
            name: {
                footing: _ranks(f"{name}, {footing}", found[footing], count, dataset.num_items)
                for footing in FOOTINGS
            }
            for name, found in _systems(rank_targets(dataset, splits, split), footings=True)
        }

    def candidates(
        dataset: Dataset, splits: Splits, targets_E: np.ndarray, candidates_EC: np.ndarray
    ) -> dict[str, np.ndarray]:
        assert rank_candidates is not None
        found = rank_candidates(dataset, splits, targets_E, candidates_EC)
        count, most = candidates_EC.shape
        return {name: _ranks(name, given, count, most) for name, given in _systems(found)}

    def scores(
        dataset: Dataset, splits: Splits, users_E: np.ndarray, like_above: float
    ) -> dict[str, np.ndarray]:
        assert rate is not None
        found = rate(dataset, splits, users_E, like_above)
        return {name: _scores(name, given, len(users_E)) for name, given in _systems(found)}

    return References(
        rank_targets=None if rank_targets is None else targets,
        rank_candidates=None if rank_candidates is None else candidates,
        rate=None if rate is None else scores,
    )


def _systems(found: Any, *, footings: bool = False) -> list[tuple[str, Any]]:
    """The systems of an answer, once their names, and their footings where there are any, are checked."""
    if not isinstance(found, Mapping):
        raise UserError(
            f"a function of the references returned a {type(found).__name__}; wanted a dict, by system"
        )
    for name, given in found.items():
        if not isinstance(name, str) or re.fullmatch(NAME, name) is None:
            raise UserError(
                f"a reference system is called {name!r}; wanted a name of letters, digits, `_`, `-`, `.`,"
                " `+` and spaces, such as item_knn"
            )
        if footings and (not isinstance(given, Mapping) or set(given) != set(FOOTINGS)):
            got = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise UserError(
                f"the reference system {name} has {got}; wanted a dict of {' and '.join(FOOTINGS)}: ranks"
                " among all items, and among those that are not in the user's history"
            )
    return list(found.items())


def _ranks(what: str, given: Any, count: int, most: int) -> np.ndarray:
    """Ranks (E) int64 of one system, given as an array or a list."""
    ranks_E = _column(what, given, count, kinds="iu", wanted="whole numbers")
    if count and not 0 <= ranks_E.min() <= ranks_E.max() <= most:
        raise UserError(
            f"the reference system {what} has ranks from {ranks_E.min()} to {ranks_E.max()}; wanted 1 to"
            f" {most}, the number of items that are ranked, or 0 for a target that is not among them"
        )
    return ranks_E.astype(np.int64)


def _scores(what: str, given: Any, count: int) -> np.ndarray:
    """Scores (E) float64 of one system, given as an array or a list."""
    scores_E = _column(what, given, count, kinds="iuf", wanted="numbers").astype(np.float64)
    if not np.isfinite(scores_E).all():
        raise UserError(
            f"the reference system {what} has scores that are not finite; wanted numbers"
        )
    return scores_E


def _column(what: str, given: Any, count: int, *, kinds: str, wanted: str) -> np.ndarray:
    """One number for each user, as an array (E)."""
    try:
        values_E = np.asarray(given)
    except ValueError:  # lists of several lengths
        values_E = np.asarray(None)
    if values_E.shape != (count,) or (count and values_E.dtype.kind not in kinds):
        raise UserError(
            f"the reference system {what} has values of shape {values_E.shape} and type {values_E.dtype};"
            f" wanted {count} {wanted}, one for each user who is asked about, in user order"
        )
    return values_E


def has_users(evaluator: Evaluator) -> bool:
    """Whether anything that is scored asks for the users' held-out items."""
    return any(
        evaluator.users_of(template) is not None and template.task != "ranking"
        for template in evaluator.templates
    )


def of_scored_users(evaluator: Evaluator, rank_targets: RankTargets) -> list[ReferenceGroup]:
    """The reference systems' ranks of exactly the users that the model is scored on.

    Where rows of the model are on different users, each such group has references of its own, named
    after its first row.
    """
    with_target_U = evaluator.splits.targets_U(evaluator.split) >= 0
    place_U = np.cumsum(with_target_U) - 1
    found = rank_targets(evaluator.dataset, evaluator.splits, evaluator.split)
    groups: dict[bytes, list[evaluators.Scored]] = {}
    for template in evaluator.templates:
        users_E = evaluator.users_of(template)
        if users_E is not None and template.task != "ranking":
            groups.setdefault(users_E.tobytes(), []).append(template)
    made = []
    for templates in groups.values():
        suffix = "" if len(groups) == 1 else f"/{templates[0].id}"
        places_E = place_U[evaluator.users_of(templates[0])]
        systems = {
            f"{name}{suffix}": {footing: ranks_E[places_E] for footing, ranks_E in footings.items()}
            for name, footings in found.items()
        }
        made.append(ReferenceGroup(tuple(map(evaluators.system_name, templates)), systems))
    return made


def rows(
    groups: Sequence[ReferenceGroup], ranks: Mapping[str, UserRanks]
) -> Iterator[tuple[str, str, np.ndarray, SystemRanks]]:
    """What `predictions.write_references` takes: each system beside each template of its group.

    Args:
        groups: the references.
        ranks: the model's rows, by name, for their users.
    """
    for group in groups:
        for model in group.models:
            for system, footings in group.systems.items():
                template = model.rpartition("/")[2]
                yield template, system.partition("/")[0], ranks[model].users_E, footings


def of_candidates(
    evaluator: Evaluator, rank_candidates: RankCandidates | None
) -> list[ReferenceGroup]:
    """The reference systems' ranks among ranking's candidates, once these are known."""
    if (
        not isinstance(evaluator, AlignmentEvaluator)
        or evaluator.choices is None
        or rank_candidates is None
    ):
        return []
    users_E = evaluator.choices.users_E
    targets_E = evaluator.dataset.items_X[evaluator.splits.targets_U(evaluator.split)[users_E]]
    found = rank_candidates(
        evaluator.dataset, evaluator.splits, targets_E, evaluator.choices.items_UC[users_E]
    )
    names = tuple(evaluators.system_name(t) for t in evaluator.templates if t.task == "ranking")
    systems = {f"{name}/ranking": {"seen_kept": ranks_E} for name, ranks_E in found.items()}
    return [ReferenceGroup(names, systems)]
