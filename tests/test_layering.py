"""Imports run one way, and TensorFlow, SeqIO, gin and Polars stay where they belong."""

import ast
import collections
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "genrec_jax"
ORDER = (
    ("errors", "checks", "pytree", "shapes", "progress", "storage", "mirror"),
    ("data",),
    ("prompts",),
    ("indexing",),
    ("parallel",),
    ("pipeline",),
    ("model",),
    ("checkpoint",),
    ("decoding",),
    ("baselines",),
    ("evaluation",),
    ("training",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
HEAVY = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports_of(source: str) -> Iterator[tuple[str, int]]:
    """Every module that a source text imports, anywhere in it, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def violations(package: str, source: str) -> list[str]:
    """Imports by a module of `package` (such as `data`) of a package that comes after it."""
    found = []
    for module, line in imports_of(source):
        parts = module.split(".")
        if parts[0] == "genrec_jax" and len(parts) > 1 and parts[1] in RANK:
            if RANK[parts[1]] > RANK[package]:
                found.append(f"line {line}: {package} imports {module}")
        elif parts[0] == "tasks":
            found.append(f"line {line}: {package} imports {module}")
    return found


def package_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    package = package_of(path)
    if package == "__init__":
        return  # the front door may open any room
    assert package in RANK, f"{path} belongs to no package of CONTRIBUTING.md's order"
    assert violations(package, path.read_text()) == []


def test_the_check_sees_a_violation():
    assert violations("data", "def f():\n    from genrec_jax.training import loop\n") == [
        "line 2: data imports genrec_jax.training",
        "line 2: data imports genrec_jax.training.loop",
    ]
    assert violations("training", "from genrec_jax.data import dataset\n") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_tensorflow_only_at_the_border(path):
    relative = path.relative_to(PACKAGE)
    allowed = relative.match("pipeline/seqio_*.py") or relative == pathlib.Path(
        "data/readers/tfds.py"
    )
    heavy = [module for module, _ in imports_of(path.read_text()) if module.split(".")[0] in HEAVY]
    assert allowed or not heavy


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_gin_only_in_the_command_line(path):
    gin = [module for module, _ in imports_of(path.read_text()) if module.split(".")[0] == "gin"]
    assert package_of(path) == "cli" or not gin


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_polars_only_where_raw_logs_are_read(path):
    polars = [
        module for module, _ in imports_of(path.read_text()) if module.split(".")[0] == "polars"
    ]
    assert package_of(path) in ("data", "cli") or not polars


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short_and_say_their_role(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    if path.name != "__init__.py":
        assert ast.get_docstring(ast.parse(text)), "a module says its place in the flow first"


def test_tests_benchmarks_and_tasks_stay_short_too():
    root = PACKAGE.parent
    files = [
        file
        for folder in ("tests", "benchmarks", "tasks")
        for file in (root / folder).rglob("*.py")
    ]
    assert [file.name for file in files if len(file.read_text().splitlines()) > 450] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_refer_to_no_document_outside_the_repository(path):
    assert "DESIGN" not in path.read_text()


def test_no_two_test_files_have_one_name():
    """Pytest collects only the first of them."""
    names = collections.Counter(
        path.name for path in pathlib.Path(__file__).parent.rglob("test_*.py")
    )
    assert [name for name, count in names.items() if count > 1] == []
