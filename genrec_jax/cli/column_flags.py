"""Flags that say which column of a table is what."""

import argparse


def pairs(value: str) -> dict[str, str]:
    """`title=product_name,item=sku` as a dict: our name -> theirs."""
    found: dict[str, str] = {}
    for part in value.split(","):
        ours, _, theirs = part.partition("=")
        found[ours] = theirs
    if not all(found.values()):
        raise argparse.ArgumentTypeError(f"{value!r}: wanted NAME=COLUMN,NAME=COLUMN")
    return found
