"""Ids that were made elsewhere: semantic ids of a quantiser, texts of a language model, published files.

    ids.csv: item, text | codes | one column a code -> every item's text, and the tokens it may need

Codes become tokens whose letter says the level: `12 7 255` is `<a_12><b_7><c_255>`, as in papers on
semantic ids (TIGER, LC-Rec).
"""

import dataclasses
import json
import pathlib
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genrec_jax import progress
from genrec_jax.data import artefacts
from genrec_jax.data.readers import inputs, item_table, jsonlines, staging
from genrec_jax.errors import UserError
from genrec_jax.indexing import foreign_ids, item_ids

ITEM_NAMES = ("source_id", "item", "asin", "parent_asin", "item_id", "id")
TEXT_NAMES = ("text", "item_id")
CODES_NAMES = ("codes", "semantic_id", "semantic_ids")
OF_TOKENS = re.compile(rf"(?:{item_ids.PREFIX})?(?:{foreign_ids.TOKEN.pattern}\s*)+")
ARRAYS = (".npy", ".npz", ".pt", ".pth", ".pkl")
NUMBERED = re.compile(r"(?:code|codes|c|sid)_?(\d+)")
LAYOUT = (
    "Name them with --id-columns item=COLUMN,text=COLUMN, or with codes=COLUMN or codes=FIRST+SECOND+..."
    " for text=COLUMN"
)


@dataclasses.dataclass(frozen=True)
class FileIds:
    """What a file says.

    Attributes:
        texts: the id of item i.
        added_tokens: tokens that the ids are made of, where they are to be whole.
        parameters: the file's name, its SHA-256, how many of its rows name no item of the dataset.
    """

    texts: tuple[str, ...]
    added_tokens: tuple[str, ...]
    parameters: dict[str, Any]


def read(
    path: artefacts.PathLike,
    source_ids: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    add_tokens: bool | None = None,
) -> FileIds:
    """Reads the ids of a dataset's items; rows of other items, which k-core dropped say, are counted.

    Args:
        path: Parquet, CSV, TSV or JSON lines with a row an item, or one JSON object of lists of codes,
            `{"B00X": ["<a_12>", "<b_7>"]}`.
        source_ids: of the dataset's items.
        columns: which column is `item`, and which `text` or `codes` (several joined by `+`); by default
            they go by `ITEM_NAMES`, `TEXT_NAMES`, `CODES_NAMES` and `NUMBERED`.
        add_tokens: whether `<...>` in the ids is a token of its own. By default it is in codes, and in
            texts where each is made of `<...>` alone, such as `<a_12><b_7>` and `item_<CI3><CI21>`; of
            these a notice is printed.

    Raises:
        UserError: no such file or columns, a row that cannot be read, an item twice, two items of one id,
            or items without one.
    """
    member = inputs.Member(pathlib.Path(path))
    if not member.file.is_file():
        raise UserError("not found; wanted a file of item ids. Check --ids", file=member.name)
    item_of = {source: item for item, source in enumerate(source_ids)}
    named: tuple[str, list[str], bool] | None = None
    texts: dict[int, str] = {}
    lines: dict[int, int] = {}
    unknown: list[str] = []
    for line, row in _rows(member):
        item_column, id_columns, are_codes = named = named or _columns(list(row), columns, member)
        source = (jsonlines.as_text(row.get(item_column)) or "").strip()
        item = item_of.get(source)
        if item is None:
            unknown.append(source)
            continue
        if item in lines:
            raise UserError(
                f"has item {source!r} a second time, first on line {lines[item]}; wanted one id an item."
                " Remove one of the rows",
                file=member.name,
                line=line,
            )
        values = [row.get(column) for column in id_columns]
        empty = [name for name, value in zip(id_columns, values, strict=True) if not _parts(value)]
        if empty and len(values) > 1:
            raise UserError(
                f"has no code in {empty[0]} for item {source!r}; wanted one in each of"
                f" {', '.join(id_columns)}. Mend the row; ids of several lengths are lists in one column"
                " (codes)",
                file=member.name,
                line=line,
            )
        text = _codes_text(values) if are_codes else _text(values[0])
        if not text:
            wanted = "codes, whole numbers from 0" if are_codes else "a text"
            raise UserError(
                f"has {staging.shorten(str(values))} for item {source!r}; wanted {wanted}. Mend the row",
                file=member.name,
                line=line,
            )
        texts[item], lines[item] = text, line
    _check_coverage(source_ids, lines, unknown, member)
    ordered = tuple(texts[item] for item in range(len(source_ids)))
    _check_distinct(ordered, source_ids, lines, member)
    made_of_tokens = not (named and named[2]) and all(map(OF_TOKENS.fullmatch, ordered))
    whole = bool(named and named[2]) or made_of_tokens if add_tokens is None else add_tokens
    added: set[str] = (
        {token for text in ordered for token in foreign_ids.TOKEN.findall(text)} if whole else set()
    )
    if made_of_tokens and add_tokens is None:
        progress.print_notice(
            f"{member.name}: its texts are made of <...> alone, such as {ordered[0]}, so each <...> becomes"
            f" one token ({len(added):,} added). --no-add-tokens writes them character by character"
        )
    if add_tokens and not added:
        raise UserError(
            f"--add-tokens adds what stands in <...>, and {ordered[0]!r} and the other ids have none; leave"
            " it out",
            file=member.name,
        )
    parameters = {
        "file": member.file.name,
        "sha256": artefacts.sha256_of_file(member.file),
        "rows_of_other_items": len(unknown),
    }
    return FileIds(ordered, tuple(sorted(added)), parameters)


def _rows(member: inputs.Member) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table as `item_table.rows` gives them, or of one JSON object, numbered from 1."""
    suffix = pathlib.PurePath(member.base_name).suffix.lower()
    if suffix in ARRAYS:
        raise UserError(
            "is no table, and does not say which item has which codes; wanted Parquet, CSV, TSV or JSON."
            " Write it as one, with `names`, the source's ids of the items, in the codes' order:"
            ' `polars.DataFrame({"item": names, "codes": codes.tolist()}).write_parquet("ids.parquet")`',
            file=member.name,
        )
    if suffix in (".json", ".jsonl"):
        try:  # tuples are objects, in which an item may occur twice
            entries = json.loads(staging.read_all(member), object_pairs_hook=tuple)
        except (ValueError, RecursionError):  # JSON lines, or broken, which that reader says
            entries = None
        if entries and isinstance(entries, tuple) and all(isinstance(v, list) for _, v in entries):
            rows = ({ITEM_NAMES[0]: source, CODES_NAMES[0]: codes} for source, codes in entries)
            return enumerate(rows, start=1)
    return item_table.rows(member)


def _columns(
    names: list[str], asked: Mapping[str, str] | None, member: inputs.Member
) -> tuple[str, list[str], bool]:
    """The item's column, those of its id, and whether they hold codes."""
    asked = dict(asked or {})
    unknown = [name for name in asked if name not in ("item", "text", "codes")]
    found = asked.get("item") or next((name for name in ITEM_NAMES if name in names), None)
    left = [name for name in names if name != found]
    text = [asked["text"]] if "text" in asked else []
    codes = asked["codes"].split("+") if "codes" in asked else []
    if not text and not codes:
        text = [name for name in TEXT_NAMES if name in left][:1]
        numbered = [name for name in left if NUMBERED.fullmatch(name)]
        codes = [name for name in CODES_NAMES if name in left][:1] or _consecutive(numbered, member)
    missing = [name for name in (found, *text, *codes) if name is not None and name not in names]
    if unknown or missing or found is None or bool(text) == bool(codes):
        lacking = ", ".join(unknown or missing) or "an item and either a text or codes"
        raise UserError(
            f"has the columns {staging.listed(names)}; wanted {lacking}. {LAYOUT}",
            file=member.name,
            line=1,
        )
    return found, text or codes, bool(codes)


def _consecutive(names: list[str], member: inputs.Member) -> list[str]:
    """Columns of codes by their numbers, which begin with 0 or 1 and have no gap."""
    by_number = sorted(names, key=_number)
    numbers = [_number(name) for name in by_number]
    if numbers and numbers not in (list(range(len(names))), list(range(1, len(names) + 1))):
        raise UserError(
            f"has columns of codes with the numbers {', '.join(map(str, numbers))}; wanted each number"
            " once, from 0 or 1 and without a gap. Add the missing column, or name those that count with"
            f" --id-columns codes={'+'.join(by_number)}",
            file=member.name,
            line=1,
        )
    return by_number


def _number(column: str) -> int:
    return int(NUMBERED.sub(r"\1", column))


def _text(value: Any) -> str | None:
    """An id on one line; None where there is none, or a list."""
    if value is None or isinstance(value, list | dict):
        return None
    return " ".join(str(jsonlines.as_text(value)).split())


def _codes_text(values: list[Any]) -> str | None:
    """`<a_12><b_7>` for the codes 12 and 7, in one column or several; None where they are none.

    A column holds a code, a list of them, or a text such as `[12, 7]` or `12 7`; a code that is already
    a token, `<a_12>`, stays as it is.
    """
    codes = [part for value in values for part in _parts(value)]
    if len(codes) > len(string.ascii_lowercase):
        return None
    tokens = []
    for letter, code in zip(string.ascii_lowercase, codes, strict=False):
        number = re.fullmatch(r"(\d+)(?:\.0)?", code)
        if number is None and not foreign_ids.TOKEN.fullmatch(code):
            return None
        tokens.append(code if number is None else f"<{letter}_{int(number[1])}>")
    return "".join(tokens)


def _parts(value: Any) -> list[str]:
    """The codes of one cell, as texts."""
    text = (jsonlines.as_text(value) or "").strip(" []()")
    return [part.strip("'\"") for part in re.split(r"[\s,]+", text) if part]


def _check_coverage(
    source_ids: Sequence[str],
    lines: Mapping[int, int],
    unknown: Sequence[str],
    member: inputs.Member,
) -> None:
    missing = [source for item, source in enumerate(source_ids) if item not in lines]
    if missing:
        others = (
            f" Items there that the dataset does not have: {', '.join(unknown[:3])}."
            if unknown
            else ""
        )
        raise UserError(
            f"has no id for {len(missing):,} of {len(source_ids):,} items, such as"
            f" {', '.join(missing[:3])}; wanted one for each.{others} Add them, or check which column is"
            " the item (--id-columns item=COLUMN)",
            file=member.name,
        )


def _check_distinct(
    texts: Sequence[str], source_ids: Sequence[str], lines: Mapping[int, int], member: inputs.Member
) -> None:
    first: dict[str, int] = {}
    clashes = [
        (other, item) for item in lines if (other := first.setdefault(texts[item], item)) != item
    ]
    if clashes:
        one, two = clashes[0]
        more = f" (and {len(clashes) - 1:,} more such)" if len(clashes) > 1 else ""
        raise UserError(
            f"gives item {source_ids[two]!r} the id {texts[two]!r}, which item {source_ids[one]!r} has on"
            f" line {lines[one]}{more}; wanted an id of its own for every item. Add to such ids what tells"
            " them apart, as TIGER adds a last code",
            file=member.name,
            line=lines[two],
        )
