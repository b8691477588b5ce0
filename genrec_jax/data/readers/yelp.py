"""Reads Yelp's open dataset: the review and business files, JSON lines, any yearly edition.

S3-Rec and IDGenRec keep the reviews of 2019 (`--from-date 2019-01-01 --to-date 2019-12-31`); OpenP5
takes all.
"""

import datetime
from collections.abc import Iterator
from typing import Any

import polars as pl

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import delimited, inputs, item_table, jsonlines, staging
from genrec_jax.errors import UserError

FILE_NAMES = ("*review*.json",)
FIELDS = jsonlines.Fields(
    {
        "user": "user_id",
        "item": "business_id",
        "timestamp": "date",
        "rating": "stars",
        "review": "text",
    },
    rating_range=(1.0, 5.0),
    time_formats=("%Y-%m-%d %H:%M:%S", "%Y-%m-%d"),
)


def read(
    path: artefacts.PathLike,
    options: staging.ReadOptions,
    *,
    from_date: str | None = None,
    to_date: str | None = None,
) -> rawlog.RawLog:
    """Reads reviews and the names and categories of businesses.

    Args:
        path: the folder or .zip with `*review.json` and `*business.json`, or the review file.
        options: see `ReadOptions`.
        from_date: first day counted, `YYYY-MM-DD` (UTC).
        to_date: last day counted.

    Raises:
        UserError: no review file, a date that is none, or a bad line.
    """
    keep = None
    if from_date is not None:
        keep = pl.col("timestamp") >= _epoch(from_date, "--from-date")
    if to_date is not None:
        before = pl.col("timestamp") < _epoch(to_date, "--to-date") + 86_400
        keep = before if keep is None else keep & before
    found = inputs.Inputs(path, reader="yelp")
    member = found.members[0] if found.is_one_file else None
    if member is None:
        member = found.require(*FILE_NAMES, what="Yelp's reviews")
    stage = staging.Stage(options)
    jsonlines.read(member, FIELDS, stage, keep=keep)
    businesses = found.beside(
        "yelp_academic_dataset_business.json", "business.json", "*business*.json"
    )
    items = item_table.frame(_businesses(businesses, stage)) if businesses is not None else None
    return stage.finish(sources=found.sources(member, businesses), items=items)


def _businesses(member: inputs.Member, stage: staging.Stage) -> Iterator[dict[str, Any]]:
    for first_line, text in delimited.text_blocks(member, stage, encoding="utf-8"):
        for number, line in enumerate(text.split("\n"), start=first_line):
            if not line.strip():
                continue
            try:
                row = jsonlines.parse_object(line)
                item = row["business_id"]
            except (ValueError, KeyError):
                stage.reject(
                    "broken line of businesses",
                    file=member.name,
                    line=number,
                    got=line,
                    wanted="a JSON object with `business_id`",
                )
                continue
            categories = row.get("categories")
            if isinstance(categories, str):
                categories = categories.split(",")
            yield {"item": item, "title": row.get("name"), "categories": categories}


def _epoch(text: str, flag: str) -> int:
    try:
        day = datetime.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=datetime.UTC)
    except ValueError as error:
        raise UserError(f"{flag} {text!r} is no date; wanted YYYY-MM-DD") from error
    return int(day.timestamp())
