"""`import genrec_jax`: what it offers, what its help says, and that it takes no time."""

import ast
import os
import pathlib
import subprocess
import sys
import typing

import pytest

import genrec_jax
from genrec_jax.decoding import recommender
from tests import test_layering


def test_every_public_name_is_the_one_that_type_checkers_see():
    tree = ast.parse(pathlib.Path(genrec_jax.__file__).read_text(encoding="utf-8"))
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in checking.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == genrec_jax._HOMES
    assert {*seen, "UserError", "__version__"} == set(genrec_jax.__all__)
    for name in genrec_jax.__all__:
        assert getattr(genrec_jax, name).__doc__, name
    assert set(genrec_jax.__all__) <= set(dir(genrec_jax))


def test_load_describes_its_arguments_and_their_types():
    assert genrec_jax.load is recommender.load
    for argument in ("checkpoint", "dataset", "num_beams", "room", "unknown"):
        assert f"\n        {argument}: " in genrec_jax.load.__doc__
    assert typing.get_type_hints(genrec_jax.load)["return"] is genrec_jax.Recommender


def test_help_names_every_package_in_the_order_of_imports():
    packages = [name for names in test_layering.ORDER[1:] for name in names]
    told = genrec_jax.__doc__
    assert told is not None
    assert ", ".join(packages) in " ".join(told.split())


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'genrec_jax' has no attribute 'trian'"):
        genrec_jax.trian  # noqa: B018


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, genrec_jax; dir(genrec_jax);"
        "print(sorted({'jax', 'numpy', 'polars', 'tensorflow', 'seqio', 'gin'} & set(sys.modules)))"
    )
    root = pathlib.Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
