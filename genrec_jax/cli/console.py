"""The console that commands print to: titles and paths may look like markup, and are shown as they are."""

import sys

import rich.console


def make(
    *, stderr: bool = False, quiet: bool = False, width_elsewhere: int | None = None
) -> rich.console.Console:
    """A console that takes nothing in a text for markup, an emoji's name or something to colour.

    Colours are asked for with `style=` or `rich.text.Text`.

    Args:
        stderr: print there.
        quiet: print nothing.
        width_elsewhere: columns where stdout is no terminal; rich's own 80 when not given.
    """
    width = None if sys.stdout.isatty() else width_elsewhere
    return rich.console.Console(
        stderr=stderr, quiet=quiet, width=width, markup=False, emoji=False, highlight=False
    )
