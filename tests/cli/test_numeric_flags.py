"""Every number on the command line has its limits, and what lies beyond them is one readable line."""

import argparse

import pytest

from genrec_jax.cli import main
from genrec_jax.cli.numeric_flags import Finite, Whole

# What each subcommand cannot do without.
NEEDED = {
    "prepare": ["toystore", "--output", "never"],
    "index": ["never", "--method", "random"],
    "train": [],
    "evaluate": ["never"],
    "recommend": ["never", "--history", "a"],
    "plan": ["--topology", "cpu-8"],
    "report": ["never"],
    "import-weights": ["never", "--output", "never"],
    "export": ["never", "--output", "never"],
}


def numeric(command: str) -> list[argparse.Action]:
    actions = main.build_parser(command)._actions
    return [action for action in actions if isinstance(action.type, Whole | Finite)]


def said(command: str, words: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main.main([command, *NEEDED[command], *words])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_number_has_limits(command, capsys):
    assert command in NEEDED
    for action in main.build_parser(command)._actions:
        assert action.type not in (int, float), f"{action.option_strings}: numeric_flags has types"
    for action in numeric(command):
        (flag,) = action.option_strings
        kind = action.type
        if isinstance(kind, Whole):
            wrong = [str(kind.least - 1), "-1", "1.5", "many"]
            wrong += [] if kind.most is None else [str(kind.most + 1)]
            wanted = f"wanted a whole number from {kind.least}"
        elif isinstance(kind, Finite):
            wrong = ["nan", "inf", "many"]
            wrong += ["-1"] if (kind.least, kind.above) != (None, None) else []
            wrong += ["0"] if kind.above == 0 else []
            wanted = "wanted a number"
        else:
            continue
        for value in wrong:
            values = [value] * (action.nargs if isinstance(action.nargs, int) else 1)
            error = said(command, [flag, *values], capsys)
            assert error.startswith(f"genrec {command}: error: argument {flag}: got '{value}'; ")
            assert wanted in error and error.endswith(f"; see genrec {command} --help\n")


def test_the_flags_that_it_is_about():
    named = {command: {a.option_strings[0] for a in numeric(command)} for command in NEEDED}
    assert {"--seed", "--max-users", "--num-beams", "--batch-size", "--fsdp"} <= named["evaluate"]
    assert named["recommend"] == {"-k", "--num-beams"}
    assert {"--prompts", "--items", "--rows"} <= named["plan"]
    assert sum(map(len, named.values())) > 30


def test_numbers_within_the_limits_are_read():
    words = ["--seed", "0", "--length-penalty", "0", "--watch-poll", "0.01", "--max-users", "1"]
    parsed = main.build_parser("evaluate").parse_args(["run", *words])
    assert (parsed.seed, parsed.length_penalty, parsed.watch_poll, parsed.max_users) == (
        0,
        0,
        0.01,
        1,
    )
    words = ["table", "--output", "out", "--rating-range", "-2.5", "10"]
    assert main.build_parser("prepare").parse_args(words).rating_range == [-2.5, 10]


def test_ratings_from_high_to_low(capsys, tmp_path):
    words = ["prepare", "table", "--input", "log.csv", "--output", str(tmp_path / "out")]
    assert main.main([*words, "--rating-range", "5", "1"]) == 2
    assert "--rating-range is 5 1; wanted the lower bound first" in capsys.readouterr().err


def test_the_environments_number_is_checked_too(monkeypatch, capsys):
    monkeypatch.setenv("GENREC_STOPPED_CODE", "256")
    error = said("train", [], capsys)
    assert "argument --stopped-code: got '256'; wanted a whole number from 0 to 255" in error
