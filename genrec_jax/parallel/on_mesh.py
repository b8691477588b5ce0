"""A jitted function together with the mesh it is traced and run on."""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import jax
from jax.sharding import Mesh

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class OnMesh(Generic[Arguments, Result]):
    """Calls a jitted function with a mesh set, so that `rules.constrain` inside it binds.

    Attributes:
        mesh: the mesh.
    """

    def __init__(self, jitted: Callable[Arguments, Result], mesh: Mesh):
        self._jitted: Any = jitted
        self.mesh = mesh

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Runs the function."""
        with jax.set_mesh(self.mesh):
            return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Traces it for arguments that may be shapes only, to be compiled ahead of time."""
        with jax.set_mesh(self.mesh):
            return self._jitted.lower(*args, **kwargs)
