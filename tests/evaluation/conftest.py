"""A small dataset with known sequences, and prompts for its users."""

import numpy as np
import pyarrow as pa
import pytest

from genrec_jax.data import dataset as datasets
from genrec_jax.data import splits as splitting
from genrec_jax.pipeline.batch import PromptBatch

NUM_USERS, NUM_ITEMS = 600, 50


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """600 users with 4 to 12 distinct items of 50."""
    generator = np.random.default_rng(7)
    users, items = [], []
    for user in range(NUM_USERS):
        length = int(generator.integers(4, 13))
        users += [user] * length
        items += generator.choice(NUM_ITEMS, length, replace=False).tolist()
    return datasets.write(
        tmp_path_factory.mktemp("evaluation") / "small",
        name="small",
        interactions=pa.table({"user": users, "item": items}),
        items=pa.table(
            {"item": range(NUM_ITEMS), "source_id": [f"i{i:02}" for i in range(NUM_ITEMS)]}
        ),
        users=pa.table(
            {"user": range(NUM_USERS), "source_id": [f"u{u}" for u in range(NUM_USERS)]}
        ),
    )


@pytest.fixture(scope="session")
def splits(dataset):
    return splitting.leave_one_out(dataset)


@pytest.fixture(scope="session")
def make_prompts(dataset, splits):
    """Prompt batches (their tokens mean nothing) in a shuffled order, the last one padded."""

    def make(split, users=None, batch_size=64):
        users = np.arange(dataset.num_users, dtype=np.int32) if users is None else users
        users = np.random.default_rng(1).permutation(users)
        for start in range(0, len(users), batch_size):
            chunk = users[start : start + batch_size]
            users_B = np.full(batch_size, -1, np.int32)
            users_B[: len(chunk)] = chunk
            targets_B = np.full(batch_size, -1, np.int32)
            targets_B[: len(chunk)] = dataset.items_X[splits.targets_U(split)[chunk]]
            tokens = np.zeros((batch_size, 8), np.int32)
            yield PromptBatch(tokens, tokens, users_B, targets_B)

    return make


@pytest.fixture(scope="session")
def fakes(dataset, splits):
    """Recommenders whose metrics are known without running them."""
    size = 20

    def scores(batch):
        row = -np.arange(1, size + 1, dtype=np.float32)
        return np.tile(row, (len(batch.users_B), 1))

    def perfect(batch):
        others = np.stack([np.roll(np.arange(NUM_ITEMS), 3)] * len(batch.users_B))
        items = np.full((len(others), size), -1, np.int32)
        for row, target in enumerate(batch.targets_B):
            items[row] = [target, *[i for i in others[row] if i != target][: size - 1]]
        return items, scores(batch)

    def random(batch):
        rows = [
            np.random.default_rng(int(user) + 1).permutation(NUM_ITEMS)[:size]
            for user in batch.users_B
        ]
        return np.stack(rows).astype(np.int32), scores(batch)

    def nothing(batch):
        shape = (len(batch.users_B), size)
        return np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32)

    def wrong(batch):
        """Lists one item, which is not the target, and then nothing."""
        items, scores = nothing(batch)
        items[:, 0] = (np.asarray(batch.targets_B) + 1) % dataset.num_items
        return items, scores

    def oblivious(batch):
        """Lists the last history items first, then the target."""
        items = np.full((len(batch.users_B), size), -1, np.int32)
        for row, (user, target) in enumerate(zip(batch.users_B, batch.targets_B, strict=True)):
            if user >= 0:
                end = splits.test_U[user] - dataset.offsets_U1[user]
                items[row, :4] = [*dataset.sequence(int(user))[:end][-3:][::-1], target]
        return items, scores(batch)

    return {
        "perfect": perfect,
        "random": random,
        "nothing": nothing,
        "wrong": wrong,
        "oblivious": oblivious,
    }
