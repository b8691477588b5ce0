"""Reference systems beside the model: on exactly its users, and in ranking on the same candidates."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from genrec_jax.baselines import references as baselines
from genrec_jax.evaluation import evaluator as evaluators
from genrec_jax.evaluation.alignment import AlignmentEvaluator, RankCandidates, Rate
from genrec_jax.evaluation.evaluator import Evaluator
from genrec_jax.evaluation.ranking import UserRanks
from genrec_jax.evaluation.results import RankTargets, SystemRanks


@dataclasses.dataclass(frozen=True)
class References:
    """Reference systems for each question that a run may be asked; None where there are none.

    Attributes:
        rank_targets: rank every user's target in the whole catalogue.
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
