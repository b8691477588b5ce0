"""`genrec recommend` as the tests call it."""

from genrec_jax.cli import main


def genrec(capsys, *words):
    """The exit code, and what was printed to stdout and stderr."""
    code = main.main(["recommend", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
