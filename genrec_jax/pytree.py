"""Frozen dataclasses that JAX sees as pytrees, with shapes checked when users build one, and only then.

JAX rebuilds pytrees with all kinds of leaves (tracers, shardings, None); so unflattening skips
`__init__`, where the tests' runtime type checker sits.
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static_field(**options: Any) -> Any:
    """A field that is part of the structure (hashable, compiled in), not a leaf."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(static_field, dataclasses.field))
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass and registers it with JAX; fields are leaves unless static."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    statics = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(tree):
        children = [(jax.tree_util.GetAttrKey(name), getattr(tree, name)) for name in leaves]
        return children, tuple(getattr(tree, name) for name in statics)

    def flatten(tree):
        return [getattr(tree, name) for name in leaves], tuple(getattr(tree, n) for n in statics)

    def unflatten(structure, children):
        tree = object.__new__(cls)
        for name, value in zip(statics, structure, strict=True):
            object.__setattr__(tree, name, value)
        for name, value in zip(leaves, children, strict=True):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
