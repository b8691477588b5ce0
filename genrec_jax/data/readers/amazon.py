"""Reads Amazon reviews in the layouts of 2014, 2018 and 2023, and the metadata beside them.

    2014  reviews_Beauty_5.json, reviews_Beauty.json; meta_Beauty.json holds Python dicts
          (McAuley et al. 2015); ratings_Beauty.csv: user,item,rating,timestamp
    2018  Beauty_5.json, Beauty.json; meta_Beauty.json is JSON (Ni et al. 2019)
    2023  Beauty.jsonl, meta_Beauty.jsonl; times in milliseconds; items go by `parent_asin`
          (Hou et al. 2024); Beauty.csv: user_id,parent_asin,rating,timestamp

each plain, `.gz`, or in a `.zip`. Times of 2014 and 2018 are days, so that ties abound and the
file's order decides them.
"""

import fnmatch
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from genrec_jax.data import artefacts, rawlog
from genrec_jax.data.readers import delimited, inputs, item_table, jsonlines, staging
from genrec_jax.errors import UserError

FIELDS_2014_2018 = jsonlines.Fields(
    {
        "user": "reviewerID",
        "item": "asin",
        "timestamp": "unixReviewTime",
        "rating": "overall",
        "review": "reviewText",
        "summary": "summary",
    },
    rating_range=(1.0, 5.0),
)
FIELDS_2023 = jsonlines.Fields(
    {
        "user": "user_id",
        "item": "parent_asin",
        "timestamp": "timestamp",
        "rating": "rating",
        "review": "text",
        "summary": "title",
    },
    rating_range=(1.0, 5.0),
    time_unit=1000,
)
RATINGS_2014 = delimited.Layout(
    separator=",", columns=("user", "item", "rating", "timestamp"), rating_range=(1.0, 5.0)
)
RATINGS_2023 = delimited.Layout(
    separator=",",
    columns=("user", "item", "rating", "timestamp"),
    header="user_id,parent_asin,rating,timestamp",
    rating_range=(1.0, 5.0),
    time_unit=1000,
)
FILE_NAMES = ("*.json", "*.jsonl", "*.csv")
METADATA_NAMES = {
    "title": ("title",),
    "brand": ("brand", "store"),
    "categories": ("categories", "category"),
    "price": ("price",),
    "description": ("description",),
}


def read(
    path: artefacts.PathLike,
    options: staging.ReadOptions,
    *,
    metadata: artefacts.PathLike | None = None,
) -> rawlog.RawLog:
    """Reads reviews and, where it is found, metadata.

    Args:
        path: the review file, or a folder or .zip with one (and its `meta_*` file).
        options: see `ReadOptions`.
        metadata: the metadata file, where it is not beside the reviews under its own name.

    Raises:
        UserError: no review file or several, no such metadata, an unknown layout, or a bad line.
    """
    found = inputs.Inputs(path, reader="amazon")
    member = _reviews(found)
    stage = staging.Stage(options)
    kind = member.base_name.lower()
    if kind.endswith(".csv"):
        delimited.read(member, _csv_layout(member), stage)
    else:
        jsonlines.read(member, _fields(member), stage)
    described = _metadata_beside(found, member)
    if metadata is not None:
        described = inputs.Member(pathlib.Path(metadata))
        if not described.file.is_file():
            raise UserError(
                "not found; wanted the products' metadata. Check --metadata", file=described.name
            )
    items = None
    if described is not None:
        items = item_table.frame(_metadata(described, stage))
    return stage.finish(sources=found.sources(member, described), items=items)


def _reviews(found: inputs.Inputs) -> inputs.Member:
    candidates = [
        member
        for pattern in FILE_NAMES
        for member in found.matching(pattern)
        if not member.base_name.startswith("meta_")
    ]
    if len(candidates) != 1:
        names = ", ".join(member.base_name for member in candidates or found.members[:8])
        raise UserError(
            f"holds {names or 'nothing'}; wanted one file of reviews (.json, .jsonl or .csv, plain or"
            " .gz). Give that file itself as --input",
            file=str(found.path),
        )
    return candidates[0]


def _fields(member: inputs.Member) -> jsonlines.Fields:
    with inputs.open_member(member) as stream:
        head = stream.read(1 << 20)
    line = next((line for line in head.split(b"\n") if line.strip()), b"")
    for key, fields in ((b"reviewerID", FIELDS_2014_2018), (b"parent_asin", FIELDS_2023)):
        if key in line:
            return fields
    raise UserError(
        f"begins with {staging.shorten(line.decode('utf-8', 'replace'))}; wanted reviews with"
        " `reviewerID` (2014, 2018) or `parent_asin` (2023), one object a line. Use the reader"
        " `table` for other layouts",
        file=member.name,
        line=1,
    )


def _csv_layout(member: inputs.Member) -> delimited.Layout:
    with inputs.open_member(member) as stream:
        first = stream.read(4096).split(b"\n")[0].strip().decode("utf-8", "replace")
    if first == RATINGS_2023.header:
        return RATINGS_2023
    if member.base_name.startswith("ratings_"):
        return RATINGS_2014
    raise UserError(
        f"begins with {staging.shorten(first)}; wanted `ratings_*.csv` of 2014 (user, item, rating,"
        f" time) or the header {RATINGS_2023.header!r} of 2023. The files of 2018 put the item first:"
        " read those with `table --columns item,user,rating,timestamp`",
        file=member.name,
        line=1,
    )


def _metadata_beside(found: inputs.Inputs, reviews: inputs.Member) -> inputs.Member | None:
    """`meta_Beauty.json` for `reviews_Beauty_5.json`, `Beauty.json` and their like."""
    stem = reviews.base_name.removeprefix("reviews_").removeprefix("ratings_")
    category = re.sub(r"(_5)?\.(jsonl?|csv)$", "", stem)
    members = found.members
    if found.is_one_file:
        members = [inputs.Member(file) for file in sorted(found.path.parent.glob("meta_*"))]
    for member in members:
        if fnmatch.fnmatchcase(member.base_name, f"meta_{category}.json*"):
            return member
    return None


def _metadata(member: inputs.Member, stage: staging.Stage) -> Iterator[dict[str, Any]]:
    for first_line, text in delimited.text_blocks(member, stage, encoding="utf-8"):
        for number, line in enumerate(text.split("\n"), start=first_line):
            if not line.strip():
                continue
            try:
                row = jsonlines.parse_object(line)
                item = row.get("parent_asin") or row["asin"]
            except (ValueError, KeyError):
                stage.reject(
                    "broken line of metadata",
                    file=member.name,
                    line=number,
                    got=line,
                    wanted="a JSON object or Python dict with `asin`",
                )
                continue
            yield {"item": item} | {
                name: next((row[key] for key in keys if row.get(key)), None)
                for name, keys in METADATA_NAMES.items()
            }
