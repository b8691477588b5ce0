"""What the search sends between devices, read off a compiled program."""

import re

_COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    r".*op_name=\"([^\"]*)\""
)


def of_search(text):
    """The kinds of collectives among the trie's operations and the reordering of beams."""
    found = _COLLECTIVE.findall(text)
    assert found, "no collective at all: is this a program for several devices?"
    return {kind for kind, name in found if {"trie", "reorder"} & set(name.split("/"))}
