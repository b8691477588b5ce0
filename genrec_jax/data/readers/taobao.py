"""Reads Taobao's `UserBehavior.csv` (user,item,category,behaviour,time), purchases only, as OpenP5 does.

The other behaviours (views, carts, favourites) are read past and not counted as rejected.
"""

import polars as pl

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import delimited, inputs, staging

FILE_NAMES = ("UserBehavior.csv", "*.csv")
LAYOUT = delimited.Layout(
    separator=",", columns=("user", "item", "category", "behaviour", "timestamp")
)


def read(path: artefacts.PathLike, options: staging.ReadOptions) -> rawlog.RawLog:
    """Reads the purchases.

    Args:
        path: the file, plain or .gz, or the folder or .zip with it.
        options: see `ReadOptions`.

    Raises:
        UserError: no such file there, a bad line, or not one purchase.
    """
    found = inputs.Inputs(path, reader="taobao")
    member = found.members[0] if found.is_one_file else None
    if member is None:
        member = found.require(*FILE_NAMES, what="Taobao's behaviours")
    stage = staging.Stage(options)
    delimited.read(member, LAYOUT, stage, keep=pl.col("behaviour") == "buy")
    return stage.finish(sources=found.sources(member))
