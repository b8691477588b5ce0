"""Programs that several tests compile are compiled once."""

import functools
import inspect

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def compiled_once(tmp_path_factory):
    """Keeps this package's compiled programs: the same search stands behind many recommenders."""
    before = (
        jax.config.jax_compilation_cache_dir,
        jax.config.jax_persistent_cache_min_compile_time_secs,
    )
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


@pytest.fixture(scope="package")
def untyped():
    """A function or method as callers have it, who do not check types as these tests do."""

    def strip(called):
        plain = inspect.unwrap(getattr(called, "__func__", called))
        return functools.partial(plain, called.__self__) if inspect.ismethod(called) else plain

    return strip
