"""Generates the quickstart's toy shop; it needs no input (see `data/toystore.py`)."""

from genrec_jax.data import rawlog, toystore
from genrec_jax.data.readers import staging

NEEDS_INPUT = False


def read(
    path: None,
    options: staging.ReadOptions,
    *,
    seed: int = toystore.DEFAULT_SEED,
    num_users: int = toystore.DEFAULT_NUM_USERS,
) -> rawlog.RawLog:
    """Generates the log.

    Args:
        path: None.
        options: not needed: nothing is staged.
        seed: fixes the shop and its users.
        num_users: how many users.
    """
    del path, options
    return toystore.generate(seed=seed, num_users=num_users)
