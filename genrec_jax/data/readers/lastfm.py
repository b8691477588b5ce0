"""Reads LastFM as HetRec 2011 ships it (Cantador et al. 2011; https://grouplens.org/datasets/hetrec-2011/).

`user_artists.dat` has listening counts and no times, so it cannot order anything. The order comes
from `user_taggedartists-timestamps.dat`: an artist enters a user's sequence when the user first tags
it, once. S3-Rec's public LastFM sequences look as if they were made that way (not verified); OpenP5
uses that file, which `sequences` reads.
"""

import dataclasses

import polars as pl

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import delimited, inputs, item_table, staging

FILE_NAMES = ("user_taggedartists-timestamps.dat",)
LAYOUT = delimited.Layout(
    separator="\t",
    columns=("user", "item", "tag", "timestamp"),
    header="userID\tartistID\ttagID\ttimestamp",
    time_unit=1000,
    earliest=-(2**31),  # a few tags are dated 1956: the source's own, and only their order counts
)
REPEATED = "artist tagged before by this user"


def read(path: artefacts.PathLike, options: staging.ReadOptions) -> rawlog.RawLog:
    """Reads the tagging log and the artists' names.

    Args:
        path: the folder or the .zip.
        options: see `ReadOptions`.

    Raises:
        UserError: no `user_taggedartists-timestamps.dat` there, or a bad line.
    """
    found = inputs.Inputs(path, reader="lastfm")
    member = found.require(*FILE_NAMES, what="the tags with their times, for the order")
    stage = staging.Stage(options)
    delimited.read(member, LAYOUT, stage)
    artists = found.beside("artists.dat")
    items = _artists(artists) if artists is not None else None
    log = stage.finish(sources=found.sources(member, artists), items=items)
    every = log.interactions.lazy().sort("timestamp", "row").collect()
    first = every.unique(["user", "item"], keep="first", maintain_order=True).sort("row")
    rejected = dict(log.rejected) | {REPEATED: len(every) - len(first)}
    return dataclasses.replace(log, interactions=first, rejected=rejected)


def _artists(member: inputs.Member) -> pl.DataFrame:
    lines = staging.read_all(member).split("\n")[1:]
    fields = [line.split("\t") for line in lines if "\t" in line]
    return item_table.frame({"item": parts[0], "title": parts[1]} for parts in fields)
