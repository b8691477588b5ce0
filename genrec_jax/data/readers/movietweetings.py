"""Reads MovieTweetings (Dooms et al. 2013): `ratings.dat` and `movies.dat`, `::`-separated, UTF-8.

Ids keep their leading zeros (they are IMDb's).
"""

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import delimited, inputs, movielens, staging

LAYOUT = delimited.Layout(
    separator="::", columns=("user", "item", "rating", "timestamp"), rating_range=(0.0, 10.0)
)


def read(path: artefacts.PathLike, options: staging.ReadOptions) -> rawlog.RawLog:
    """Reads MovieTweetings.

    Args:
        path: the folder, a .zip of it, or `ratings.dat` (titles are looked for beside it).
        options: see `ReadOptions`.

    Raises:
        UserError: no `ratings.dat` there, or a bad line.
    """
    found = inputs.Inputs(path, reader="movietweetings")
    member = found.members[0] if found.is_one_file else None
    if member is None:
        member = found.require("ratings.dat", what="MovieTweetings ratings")
    stage = staging.Stage(options)
    delimited.read(member, LAYOUT, stage)
    movies = found.beside("movies.dat")
    items = movielens.movies_with_colons(movies) if movies is not None else None
    return stage.finish(sources=found.sources(member, movies), items=items)
