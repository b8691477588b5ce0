"""Gives the items of a log their rows of a table of items, and says how well the two fit."""

from typing import Any

import polars as pl

from genrec_jax.errors import UserError

FEW = 0.5  # a smaller share of items found is worth a look


def match(
    item_ids: pl.Series, described: pl.DataFrame | None, *, file: str
) -> tuple[pl.DataFrame, dict[str, Any] | None]:
    """The items with what the table says of them; of several rows of an item the first counts.

    Args:
        item_ids: source ids, indexed by item number.
        described: the table (`rawlog.ITEM_COLUMNS`); None where there is none.
        file: what an error names.

    Returns:
        Columns `item`, `source_id` and the table's; and what `dataset.json` says of the match: how many
        items were `found`, how many rows were `contradicting` an earlier one, and an id `there` and `here`,
        to show that they are written otherwise. None where there is no table.

    Raises:
        UserError: there is a table, and it has none of the items.
    """
    items = pl.DataFrame(
        {"item": pl.int_range(len(item_ids), dtype=pl.Int32, eager=True), "source_id": item_ids}
    )
    if described is None:
        return items, None
    described = described.rename({"item": "source_id"})
    first = described.unique("source_id", keep="first", maintain_order=True)
    found = items.join(first, on="source_id", how="semi")
    there, here = (frame["source_id"][0] if len(frame) else None for frame in (described, items))
    if not len(found):
        raise UserError(
            f"0 of {len(items):,} items were found in the table of items; ids there look like {there!r},"
            f" in the log like {here!r}. Write them alike, or name the column of ids with"
            " --item-columns item=COLUMN, or leave the table out",
            file=file,
        )
    rows = described.join(found, on="source_id", how="semi").unique()
    entry = {
        "found": len(found),
        "contradicting": len(rows) - len(found),
        "there": there,
        "here": here,
    }
    return items.join(first, on="source_id", how="left", maintain_order="left"), entry


def summary(entry: dict[str, Any], num_items: int) -> str:
    """What a person should know, such as `58 of 60; 2 further rows that say otherwise were left out`."""
    text = f"{entry['found']:,} of {num_items:,}"
    if entry["found"] < FEW * num_items:
        text += f"; ids there look like {entry['there']!r}, in the log like {entry['here']!r}"
    if entry["contradicting"]:
        text += f"; {entry['contradicting']:,} further rows that say otherwise were left out"
    return text
