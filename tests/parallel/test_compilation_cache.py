"""Compiled programs are kept by default, where the user says, and not where the user says not to."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from genrec_jax.parallel import compilation_cache


@pytest.fixture(autouse=True)
def setting():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_default_is_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compilation_cache.use()
    assert folder == tmp_path / "genrec_jax" / "compiled" and folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert compilation_cache.use() == folder  # what is set already stays


def test_an_empty_variable_is_none_and_the_home_has_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv(compilation_cache.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert compilation_cache.use() == tmp_path / "home" / ".cache" / "genrec_jax" / "compiled"
    assert not list((tmp_path / "here").iterdir())


def test_the_environment_says_where_or_that_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv(compilation_cache.VARIABLE, "")
    assert compilation_cache.use() is None
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv(compilation_cache.VARIABLE, str(tmp_path / "here"))
    assert compilation_cache.use() == tmp_path / "here"


def test_a_folder_set_in_jax_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv(compilation_cache.VARIABLE, str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    assert compilation_cache.use() == tmp_path / "theirs"
    assert not (tmp_path / "ours").exists()


def test_a_home_that_cannot_be_written_costs_compile_time_only(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv(compilation_cache.VARIABLE, str(blocked / "below"))
    assert compilation_cache.use() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_programs_are_kept_even_after_others_were_compiled(tmp_path):
    """A notebook has compiled something before it calls `genrec_jax.load`."""
    code = """
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x + 1)(1.0)
from genrec_jax.parallel import compilation_cache
print(compilation_cache.use())
jax.jit(lambda x: x * 2)(1.0)
"""
    environment = {
        **os.environ,
        compilation_cache.VARIABLE: str(tmp_path / "kept"),
        "JAX_PLATFORMS": "cpu",
    }
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir())
