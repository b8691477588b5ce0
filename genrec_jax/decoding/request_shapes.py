"""The few shapes that requests are put into, so that few programs are compiled: rows, tokens, lists."""

from collections.abc import Sequence

from genrec_jax.decoding import constraints

ROWS = (1, 8, 64)
LENGTHS = (32, 64, 128, 256, 512)


def rows_for(requests: int) -> int:
    """Rows of the batch that holds so many requests; the last of `ROWS` for more."""
    return _rung(ROWS, min(requests, ROWS[-1]))


def length_for(tokens: int) -> int:
    """The padded length of a prompt: one of `LENGTHS`, beyond them a power of two."""
    return _rung(LENGTHS, tokens)


def lengths_up_to(longest: int) -> list[int]:
    """Every padded length that prompts of up to `longest` tokens have."""
    lengths = [LENGTHS[0]]
    while lengths[-1] < longest:
        lengths.append(length_for(lengths[-1] + 1))
    return lengths


def widths_up_to(longest: int) -> list[int]:
    """Every padded length (`constraints.width_for`) that lists of up to `longest` items have."""
    widths = [constraints.SMALLEST_WIDTH]
    while widths[-1] < longest:
        widths.append(2 * widths[-1])
    return widths


def batch_sizes(requests: int) -> list[int]:
    """How many requests go into each batch.

    A batch is padded to one of `ROWS`, of which its requests fill half or more: 16 are two batches of
    8, not one of 64, since every row costs the same whether a request stands in it or not.
    """
    sizes = []
    while requests:
        rows = rows_for(requests)
        fills = 2 * requests >= rows
        sizes.append(min(requests, rows if fills else max(r for r in ROWS if r <= requests)))
        requests -= sizes[-1]
    return sizes


def _rung(ladder: Sequence[int], size: int) -> int:
    """The smallest rung that holds `size`; the ladder goes on in powers of two."""
    return next((rung for rung in ladder if rung >= size), 1 << (size - 1).bit_length())
