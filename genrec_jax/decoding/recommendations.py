"""What a recommender answers: items with titles and scores, and what the request was taken for."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.decoding.catalogue import Catalogue, Match
from genrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item: its number in the dataset.
        source_id: the source's own id.
        title: None where the source has none.
        score: log-probability of its id given the prompt.
    """

    item: int
    source_id: str
    title: str | None
    score: float

    @property
    def probability(self) -> float:
        """Probability of its id given the prompt, among all texts that the model could write."""
        return math.exp(self.score)


class Recommendations(list[Recommendation]):
    """A list of recommendations, best first, that also says what its history was taken for.

    Attributes:
        matches: one for each entry of the history that was read; those with `exact` false were
            replaced by the item of the nearest title.
        skipped: the entries that are not in the catalogue and were left out.
        template: id of the prompt's template; None where nothing of the history was known and the run
            has no prompt without one, so that nothing was asked and the list is empty.
    """

    def __init__(
        self,
        items: Sequence[Recommendation],
        matches: Sequence[Match],
        skipped: Sequence[str],
        template: str | None,
    ):
        super().__init__(items)
        self.matches = tuple(matches)
        self.skipped = tuple(skipped)
        self.template = template


def not_finite(model: str) -> UserError:
    """What is to be said where a search found nothing, although there was something to find."""
    return UserError(
        f"{model} found no item although there are some to recommend: its scores are not finite (NaN). The"
        " training diverged, or parameters are damaged; wanted another checkpoint, such as an earlier step"
    )


def found_items(
    catalogue: Catalogue, items_R: Int[np.ndarray, " R"], scores_R: Float[np.ndarray, " R"]
) -> list[Recommendation]:
    """One request's row of a search's result; its empty places (item -1) are left out."""
    return [
        Recommendation(
            item=int(item),
            source_id=catalogue.source_ids[item],
            title=catalogue.titles[item],
            score=float(score),
        )
        for item, score in zip(items_R, scores_R, strict=True)
        if item >= 0
    ]
