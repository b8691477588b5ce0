"""Reads MovieLens as GroupLens ships it: 100K (`u.data`), 1M and 10M (`::`), 20M, 25M, 32M (CSV).

The release is known by its files. Harper and Konstan 2015; https://grouplens.org/datasets/movielens/
"""

import polars as pl

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import delimited, inputs, item_table, staging
from genrec_jax.errors import UserError

UNLISTED_USER = "user not listed in u.user"
FILE_NAMES = ("u.data", "ratings.dat", "ratings.csv")
NO_GENRES = "(no genres listed)"

LAYOUT_100K = delimited.Layout(
    separator=None, columns=("user", "item", "rating", "timestamp"), rating_range=(1.0, 5.0)
)
LAYOUT_COLONS = delimited.Layout(
    separator="::", columns=("user", "item", "rating", "timestamp"), rating_range=(0.5, 5.0)
)
LAYOUT_CSV = delimited.Layout(
    separator=",",
    columns=("user", "item", "rating", "timestamp"),
    header="userId,movieId,rating,timestamp",
    rating_range=(0.5, 5.0),
)


def read(path: artefacts.PathLike, options: staging.ReadOptions) -> rawlog.RawLog:
    """Reads any MovieLens release.

    In the 100K release, rows of users that `u.user` does not list are left out and counted: a
    public copy begins with three rows of a user 0.

    Args:
        path: the folder, the .zip, or the ratings file (titles are then looked for beside it).
        options: see `ReadOptions`.

    Raises:
        UserError: no ratings file there, or a bad line.
    """
    found = inputs.Inputs(path, reader="movielens")
    member = found.members[0] if found.is_one_file else None
    if member is None:
        member = found.require(*FILE_NAMES, what="MovieLens ratings")
    kind = member.base_name.lower()
    if kind == "u.data":
        return _read_100k(found, member, options)
    colons = kind.endswith(".dat")
    stage = staging.Stage(options)
    delimited.read(member, LAYOUT_COLONS if colons else LAYOUT_CSV, stage)
    movies = found.beside("movies.dat" if colons else "movies.csv")
    items = None
    if movies is not None:
        items = movies_with_colons(movies) if colons else _movies_csv(movies)
    return stage.finish(sources=found.sources(member, movies), items=items)


def movies_with_colons(member: inputs.Member) -> pl.DataFrame:
    """Reads `id::title::genre|genre` lines; MovieLens 1M is Latin-1, later files are UTF-8.

    Raises:
        UserError: a line without three columns.
    """
    try:
        text = staging.read_all(member)
    except UserError:
        text = staging.read_all(member, encoding="latin-1")
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.rstrip("\r").split("::")
        if len(fields) < 2:
            raise UserError(
                f"got {staging.shorten(line)}; wanted `id::title::genres`. Mend the line",
                file=member.name,
                line=number,
            )
        genres = fields[2] if len(fields) > 2 else ""
        rows.append({"item": fields[0], "title": fields[1], "categories": _genres(genres)})
    return item_table.frame(rows)


def _read_100k(
    found: inputs.Inputs, member: inputs.Member, options: staging.ReadOptions
) -> rawlog.RawLog:
    users_file, items_file = found.beside("u.user"), found.beside("u.item")
    genres_file = found.beside("u.genre")
    stage = staging.Stage(options, tolerated=(UNLISTED_USER,))
    if users_file is None:
        delimited.read(member, LAYOUT_100K, stage)
    else:
        lines = staging.read_all(users_file, encoding="latin-1").splitlines()
        listed = pl.Series([line.split("|", 1)[0].strip() for line in lines if line.strip()])

        def reject_unlisted(frame: pl.DataFrame) -> pl.DataFrame:
            unlisted = pl.col("problem").is_null() & ~pl.col("user").is_in(listed.implode())
            return frame.with_columns(
                pl.when(unlisted)
                .then(pl.lit(UNLISTED_USER))
                .otherwise(pl.col("problem"))
                .alias("problem")
            )

        delimited.read(member, LAYOUT_100K, stage, transform=reject_unlisted)
    items = _items_100k(items_file, genres_file) if items_file is not None else None
    return stage.finish(
        sources=found.sources(member, users_file, items_file, genres_file), items=items
    )


def _items_100k(member: inputs.Member, genres_file: inputs.Member | None) -> pl.DataFrame:
    names = []
    if genres_file is not None:
        lines = staging.read_all(genres_file, encoding="latin-1").splitlines()
        names = [line.split("|")[0] for line in lines if "|" in line]
    rows = []
    text = staging.read_all(member, encoding="latin-1")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.rstrip("\r").split("|")
        if len(fields) < 2:
            raise UserError(
                f"got {staging.shorten(line)}; wanted `id|title|...`. Mend the line",
                file=member.name,
                line=number,
            )
        flags = fields[5:]
        genres = [
            name
            for name, flag in zip(names, flags, strict=False)
            if flag.strip() == "1" and name != "unknown"
        ]
        rows.append({"item": fields[0], "title": fields[1], "categories": genres or None})
    return item_table.frame(rows)


def _movies_csv(member: inputs.Member) -> pl.DataFrame:
    rows = [row for _, row in item_table.delimited_rows(member, quoted=True)]
    if rows and not {"movieId", "title", "genres"} <= rows[0].keys():
        raise UserError(
            f"has the columns {staging.listed(rows[0])}; wanted movieId, title, genres. Download it again",
            file=member.name,
            line=1,
        )
    return item_table.frame(
        {"item": row["movieId"], "title": row["title"], "categories": _genres(row["genres"])}
        for row in rows
    )


def _genres(text: str) -> list[str] | None:
    return [name for name in text.split("|") if name and name != NO_GENRES] or None
