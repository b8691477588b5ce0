"""The console script itself: its version, and what it does without a subcommand."""

import pathlib
import tomllib

import pytest

from genrec_jax.cli import main

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["--version"])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"genrec_jax {version}\n"


def test_without_a_subcommand_it_says_what_there_is(capsys):
    assert main.main([]) == 2
    said = capsys.readouterr().err
    assert all(f"  {command} " in said for command in main.COMMANDS)


def test_an_unknown_subcommand_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["trian"])
    assert ended.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err
