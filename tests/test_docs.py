"""Every command in the README and docs is one that exists; the long suite runs them for real.

A fenced block tagged `bash` is run by the long suite, in order, page by page, in one scratch
folder. A block that cannot be run here says so in its tag: `bash download`, `bash gpu`,
`bash tpu`, `bash seqio`, `bash t5x`, `bash install` or `bash sketch` (a shape with placeholders).
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from genrec_jax.cli import main

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TAGS = {"", "download", "gpu", "tpu", "seqio", "t5x", "install", "sketch"}
BLOCK = re.compile(r"^```(bash[^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: pathlib.Path) -> list[tuple[str, str]]:
    """The (tag, text) of every shell block of a page."""
    return [
        (tag.removeprefix("bash").strip(), text) for tag, text in BLOCK.findall(page.read_text())
    ]


def commands(text: str) -> list[list[str]]:
    """The `genrec` commands of a block, as words; continuation lines joined."""
    joined = text.replace("\\\n", " ")
    lines = (line.strip() for line in joined.splitlines())
    return [shlex.split(line, comments=True) for line in lines if line.startswith("genrec ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_shell_blocks_have_known_tags(page):
    assert {tag for tag, _ in blocks(page)} <= TAGS


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_parse(page):
    for tag, text in blocks(page):
        for words in commands(text):
            if tag == "sketch" or words[1:] in ([], ["--help"]) or words[1].isupper():
                continue
            assert words[1] in main.COMMANDS, f"{page.name}: genrec has no subcommand {words[1]!r}"
            if "--help" not in words:
                main.build_parser(words[1]).parse_args(words[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_pages_name_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for name in re.findall(r"gin_configs/[\w./-]+\.gin", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
    for name in re.findall(
        r"`((?:genrec_jax|tasks|benchmarks|launch|tests)/[\w./-]+\.(?:py|sh|toml))`", text
    ):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("command", main.COMMANDS)
def test_help_teaches_by_an_example_that_parses(command, capsys):
    parser = main.build_parser(command)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--help"])
    assert stop.value.code == 0
    epilog = parser.epilog or ""
    examples = commands(epilog)
    assert examples, f"genrec {command} --help shows no example"
    for words in examples:
        if words[1] in main.COMMANDS:
            main.build_parser(words[1]).parse_args(words[2:])
    assert capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_run(page, tmp_path):
    texts = [text for tag, text in blocks(page) if tag == ""]
    if not texts:
        pytest.skip(f"{page.name} has no command to run")
    for name in ("gin_configs", "launch", "Makefile", "tasks", "docs", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    if (ROOT.parent / "shared").is_dir():
        (tmp_path / "shared").symlink_to(ROOT.parent / "shared")
    shutil.copy(ROOT / "README.md", tmp_path)
    script = "set -euo pipefail\n" + "\n".join(texts)
    environment = {
        **os.environ,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "XLA_FLAGS": "",
    }
    run = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
