"""The generated dataset of `make quickstart`: a raw log whose true next-item distribution is known.

A toy shop sells twelve series (pirates, space, ...) of ten toys each (puzzle, kite, ...), every
series in an order of its own. A customer follows two series in turns. So what comes next depends on
the last TWO items: mostly it is the toy that follows the second-last one in its series, sometimes
the one after that or the one that follows the last item, and now and then anything. A table of
last-item transitions cannot hold this: it does not see which other series the customer follows.

The generator's own best possible hit ratio is exact, because every choice is drawn from integer
weights. It goes into the dataset's manifest, to be shown beside what a model reaches. Numbers come
from PCG64's raw output, whose stream NumPy guarantees, so the data are the same everywhere.
"""

import dataclasses

import numpy as np
import polars as pl
from jaxtyping import Int64

from genrec_jax.data import rawlog
from genrec_jax.errors import UserError

NAME = "toystore"
DEFAULT_SEED = 20240229
DEFAULT_NUM_USERS = 900
CUTOFFS = (1, 5, 10, 20)

KINDS = (
    ("Jigsaw Puzzle", "Puzzles"),
    ("Plush Friend", "Soft Toys"),
    ("Kite", "Outdoor Play"),
    ("Building Bricks", "Construction"),
    ("Card Game", "Games"),
    ("Wooden Train", "Vehicles"),
    ("Colouring Book", "Arts and Crafts"),
    ("Hand Puppet", "Pretend Play"),
    ("Night Light", "Room Decor"),
    ("Marble Run", "Science"),
)
THEMES = (
    "Pirate",
    "Space",
    "Dinosaur",
    "Ocean",
    "Castle",
    "Jungle",
    "Robot",
    "Farm",
    "Circus",
    "Dragon",
    "Polar",
    "Garden",
)
BRANDS = ("Alder & Finch", "Bright Acorn", "Cobble Lane", "Little Harbour", "Moonhill", "Tin Owl")
ADJECTIVES = ("Classic", "Cosy", "Deluxe", "Giant", "Merry", "Mini", "Painted", "Shiny", "Tiny")

# Parts in 1,000 of what the rule decides: the next of the second-last item's series, the one after
# it, the next of the last item's series. The rule itself decides 900 in 1,000 choices.
RULE_PARTS = (700, 240, 60)
RULE_SHARE = 900
FIRST_LENGTH, LAST_LENGTH = 6, 14
HOUR = 3600
OPENING = 1_420_099_200  # 2015-01-01 08:00 UTC
NUM_ITEMS = len(KINDS) * len(THEMES)


@dataclasses.dataclass(frozen=True)
class Shop:
    """The generator's true rules; item i is of kind `kinds_I[i]` in the series `themes_I[i]`.

    Attributes:
        source_ids: product codes, drawn at random, so that they tell nothing.
        titles: one title an item, all different.
        brands: one brand an item, unrelated to the rules.
        kinds_I: kind of each item, an index into KINDS.
        themes_I: series of each item, an index into THEMES.
        next_I: the item that follows each item in its series; the last is followed by the first.
        popularity_I: weights of an item taken outside the rule, as integers.
    """

    source_ids: tuple[str, ...]
    titles: tuple[str, ...]
    brands: tuple[str, ...]
    kinds_I: Int64[np.ndarray, " I"]
    themes_I: Int64[np.ndarray, " I"]
    next_I: Int64[np.ndarray, " I"]
    popularity_I: Int64[np.ndarray, " I"]

    def next_weights_I(self, history: list[int]) -> Int64[np.ndarray, " I"]:
        """The true distribution of the next item after `history`, as integer weights.

        Nobody takes an item twice: items of the history weigh nothing, so that the best possible
        ranking is the same whether seen items are kept or excluded.

        Args:
            history: item numbers in time order; with fewer than two, popularity alone decides.
        """
        outside_I = self.popularity_I.copy()
        outside_I[history] = 0
        rule_I = np.zeros(NUM_ITEMS, np.int64)
        if len(history) >= 2:
            following = self.next_I[history[-2]]
            candidates = (following, self.next_I[following], self.next_I[history[-1]])
            for item, parts in zip(candidates, RULE_PARTS, strict=True):
                rule_I[item] += parts
            rule_I[history] = 0
        if not rule_I.any():
            return outside_I
        # Both parts are brought to the common total before they are mixed, so that the shares hold.
        return rule_I * (RULE_SHARE * outside_I.sum()) + outside_I * (
            (1000 - RULE_SHARE) * rule_I.sum()
        )


@dataclasses.dataclass(frozen=True)
class ToyLog:
    """The result of `simulate`: the shop and every user's items.

    Attributes:
        shop: the rules.
        sequences: item numbers of each user, in time order.
        timestamps: seconds since 1970, rising within a user.
        ratings: 1 to 5, unrelated to the rules.
    """

    shop: Shop
    sequences: list[list[int]]
    timestamps: list[list[int]]
    ratings: list[list[int]]


class _Draws:
    """Integers from PCG64's raw 64-bit output: the stream NumPy promises never to change."""

    def __init__(self, seed: int):
        self._bits = np.random.PCG64(seed)

    def below(self, bound: int) -> int:
        """An integer from 0 to bound - 1; the bias of the remainder is below bound / 2**64."""
        return int(self._bits.random_raw()) % bound

    def weighted(self, weights: Int64[np.ndarray, " choices"]) -> int:
        """A position, with probability proportional to its integer weight."""
        ends = np.cumsum(weights)
        return int(np.searchsorted(ends, self.below(int(ends[-1])), side="right"))

    def permutation(self, size: int) -> Int64[np.ndarray, " size"]:
        """A shuffle of 0 to size - 1 (Fisher and Yates)."""
        order = np.arange(size)
        for last in range(size - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


def generate(*, seed: int = DEFAULT_SEED, num_users: int = DEFAULT_NUM_USERS) -> rawlog.RawLog:
    """The toy store's log, rows in the order of time, as any reader would hand it over.

    Args:
        seed: fixes the shop and everything the users do.
        num_users: how many users, 6 to 14 interactions each.

    Returns:
        A log whose `manifest` holds the generator's settings and, under `oracle`, what the best
        possible ranker expects on the test targets (see `best_possible_metrics`).

    Raises:
        UserError: there are no users to generate.
    """
    log = simulate(seed=seed, num_users=num_users)
    shop = log.shop
    rows = sorted(
        (time, user, item, rating)
        for user, (items, times, ratings) in enumerate(
            zip(log.sequences, log.timestamps, log.ratings, strict=True)
        )
        for item, time, rating in zip(items, times, ratings, strict=True)
    )
    width = len(str(num_users))
    interactions = pl.DataFrame(
        {
            "user": [f"shopper_{user + 1:0{width}d}" for _, user, _, _ in rows],
            "item": [shop.source_ids[item] for _, _, item, _ in rows],
            "timestamp": [time for time, _, _, _ in rows],
            "rating": [float(rating) for _, _, _, rating in rows],
        },
        schema_overrides={"timestamp": pl.Int64, "rating": pl.Float32},
    )
    items = pl.DataFrame(
        {
            "item": shop.source_ids,
            "title": shop.titles,
            "brand": shop.brands,
            "categories": [
                ["Toys", KINDS[kind][1], f"{THEMES[theme]} Series"]
                for kind, theme in zip(shop.kinds_I, shop.themes_I, strict=True)
            ],
        }
    )
    return rawlog.RawLog(
        interactions,
        items,
        rows_read=len(rows),
        manifest={
            "generator": {"name": NAME, "seed": seed, "num_users": num_users},
            "oracle": best_possible_metrics(log),
        },
    )


def open_shop(seed: int = DEFAULT_SEED) -> Shop:
    """Draws the catalogue and the rules: the same seed gives the same shop everywhere."""
    draws = _Draws(seed)
    order = draws.permutation(NUM_ITEMS)
    kinds_I, themes_I = order // len(THEMES), order % len(THEMES)
    codes: dict[str, None] = {}
    while len(codes) < NUM_ITEMS:
        codes["T" + "".join("0123456789ABCDEF"[draws.below(16)] for _ in range(7))] = None
    titles = []
    for kind, theme in zip(kinds_I, themes_I, strict=True):
        adjective = ADJECTIVES[draws.below(len(ADJECTIVES))]
        titles.append(f"{adjective} {THEMES[theme]} {KINDS[kind][0]}")
    brands = [BRANDS[draws.below(len(BRANDS))] for _ in range(NUM_ITEMS)]
    next_I = np.empty(NUM_ITEMS, np.int64)
    for theme in range(len(THEMES)):
        series = np.flatnonzero(themes_I == theme)[draws.permutation(len(KINDS))]
        next_I[series] = np.roll(series, -1)
    ranks = draws.permutation(NUM_ITEMS)
    return Shop(
        source_ids=tuple(codes),
        titles=tuple(titles),
        brands=tuple(brands),
        kinds_I=kinds_I,
        themes_I=themes_I,
        next_I=next_I,
        popularity_I=(1000 // (ranks + 10)).astype(np.int64),
    )


def simulate(*, seed: int = DEFAULT_SEED, num_users: int = DEFAULT_NUM_USERS) -> ToyLog:
    """Lets `num_users` customers into the shop, 6 to 14 items each.

    Args:
        seed: fixes the shop and everything the users do.
        num_users: how many users; the rules stay the same.

    Raises:
        UserError: there are no users to generate.
    """
    if num_users < 1:
        raise UserError(f"got num_users={num_users}; wanted at least 1. Pass a larger number")
    shop = open_shop(seed)
    draws = _Draws(seed + 1)
    sequences, timestamps, ratings = [], [], []
    rating_weights = np.array([4, 6, 15, 35, 40])
    for _ in range(num_users):
        length = FIRST_LENGTH + draws.below(LAST_LENGTH - FIRST_LENGTH + 1)
        sequence: list[int] = []
        for _ in range(length):
            sequence.append(draws.weighted(shop.next_weights_I(sequence)))
        time = OPENING + HOUR * draws.below(24 * 365 * 2)
        times = []
        for _ in range(length):
            time += HOUR + draws.below(14 * 24 * HOUR)
            times.append(time)
        sequences.append(sequence)
        timestamps.append(times)
        ratings.append([1 + draws.weighted(rating_weights) for _ in range(length)])
    return ToyLog(shop, sequences, timestamps, ratings)


def best_possible_metrics(log: ToyLog, *, held_back: int = 0) -> dict[str, float]:
    """What the best possible ranker, one that knows the rules, expects on the users' targets.

    Given a user's true history, ranking by the true distribution is optimal for every metric that
    falls with the rank, and its expected hit ratio at k is the probability of the k likeliest items.

    Args:
        log: what `simulate` returned.
        held_back: 0 scores each user's last item (the test target), 1 the one before (validation).

    Returns:
        `hr@k`, `ndcg@k` and `mrr@k` for the CUTOFFS, each an exact expectation over the next item
        given the history, averaged over users.
    """
    gains = {"hr": np.ones(NUM_ITEMS), "ndcg": 1 / np.log2(np.arange(NUM_ITEMS) + 2.0)}
    gains["mrr"] = 1 / np.arange(1.0, NUM_ITEMS + 1)
    totals = {f"{name}@{k}": 0.0 for k in CUTOFFS for name in gains}
    for sequence in log.sequences:
        weights_I = log.shop.next_weights_I(sequence[: len(sequence) - 1 - held_back])
        ranked_I = np.sort(weights_I)[::-1] / weights_I.sum()
        for name, gain_I in gains.items():
            reached_I = np.cumsum(ranked_I * gain_I)
            for k in CUTOFFS:
                totals[f"{name}@{k}"] += float(reached_I[k - 1])
    return {name: total / len(log.sequences) for name, total in totals.items()}
