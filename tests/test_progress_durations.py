"""Durations as people read them."""

import pytest

from genrec_jax import progress


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.0 s"),
        (0.000232, "232 us"),
        (0.0124, "12.4 ms"),
        (1.9, "1.9 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (200.4, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7512.0, "2 h 05 min"),
    ],
)
def test_durations_are_read_at_once(seconds, shown):
    assert progress.duration(seconds) == shown
