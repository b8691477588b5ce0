"""The one table from logical axes to mesh axes, read when parameters and batches are placed."""

import math
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genrec_jax.errors import UserError
from genrec_jax.parallel import mesh as meshes

Axes = tuple[str, ...]

# Logical names are T5X's. Parameters: a matrix is split over `fsdp` along `embed` and over `tensor`
# along its other side. Activations: rows are split over `data` and `fsdp` together.
MESH_AXES_OF: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "beams": (),
    "length": (),
    "activation_embed": (),
    "layers": (),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "norm_embed": (),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv": (),
    "joined_kv": ("tensor",),
    "relpos_buckets": (),
    "whole_words": (),
}


def spec_of(axes: Axes) -> PartitionSpec:
    """The partition of an array whose dimensions carry these logical names.

    Raises:
        ValueError: an unknown name, or two dimensions that want the same mesh axis.
    """
    unknown = [axis for axis in axes if axis not in MESH_AXES_OF]
    if unknown:
        raise ValueError(f"logical axes {unknown} of {axes} are not in MESH_AXES_OF; add them")
    wanted = [mesh_axis for axis in axes for mesh_axis in MESH_AXES_OF[axis]]
    if len(set(wanted)) != len(wanted):
        raise ValueError(f"axes {axes} map to mesh axes {wanted}: one of them is used twice")
    return PartitionSpec(*[MESH_AXES_OF[axis] or None for axis in axes])


def sharding_of(mesh: Mesh, axes: Axes, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of an array of this shape on the mesh.

    Raises:
        UserError: a dimension that the mesh cannot split evenly.
    """
    if len(axes) != len(shape):
        raise ValueError(f"axes {axes} name {len(axes)} dimensions of an array of shape {shape}")
    for axis, size in zip(axes, shape, strict=True):
        ways = 1
        for mesh_axis in MESH_AXES_OF[axis]:
            ways *= mesh.shape[mesh_axis]
        if size % ways:
            names = " x ".join(MESH_AXES_OF[axis])
            raise UserError(
                f"a parameter's `{axis}` dimension has size {size}, which {names} = {ways} does not"
                f" divide; choose another mesh or model size"
            )
    return NamedSharding(mesh, spec_of(axes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over all of `data` and `fsdp`; every other dimension whole."""
    return NamedSharding(mesh, PartitionSpec(MESH_AXES_OF["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def axes_of(variable: nnx.Variable) -> Axes:
    """The logical axes that a parameter (or optimizer statistic) was made with."""
    return variable.get_metadata()["axes"]


def divisions(tree: Any) -> dict[tuple[str, ...], set[int]]:
    """The sizes that a mesh must divide for these variables: mesh axes -> dimensions that they split."""
    found: dict[tuple[str, ...], set[int]] = {}
    for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)):
        if isinstance(leaf, nnx.Variable):
            for axis, size in zip(axes_of(leaf), leaf.get_value().shape, strict=True):
                if MESH_AXES_OF[axis]:
                    found.setdefault(MESH_AXES_OF[axis], set()).add(size)
    return found


def bytes_on_a_device(tree: Any, sizes: meshes.Sizes) -> int:
    """Bytes that each device of a mesh of these sizes holds of a pytree of arrays or shapes."""
    named = sizes._asdict()

    def of(leaf: Any) -> float:
        if not isinstance(leaf, nnx.Variable):
            return float(leaf.size * leaf.dtype.itemsize)
        value = leaf.get_value()
        split = [named[mesh_axis] for axis in axes_of(leaf) for mesh_axis in MESH_AXES_OF[axis]]
        return value.size * value.dtype.itemsize / math.prod(split)

    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return math.ceil(sum(map(of, leaves)))


def check_mesh(tree: Any, mesh: Mesh) -> None:
    """Checks that a mesh divides the variables' dimensions.

    Raises:
        UserError: it lists what does not divide, and the nearest mesh that fits.
    """
    wanted = divisions(tree)
    sizes = meshes.sizes_of(mesh)
    problems = meshes.does_not_fit(sizes, wanted)
    if not problems:
        return
    named = sizes._asdict()
    listed = ", ".join(
        f"{number} by {' x '.join(f'{axis}={named[axis]}' for axis in axes)}"
        for axes, number in problems
    )
    slices = meshes.number_of_slices(mesh.devices.flat)
    raise UserError(
        f"the mesh {sizes} does not divide this model's dimensions: {listed}. The nearest mesh of"
        f" {mesh.size} devices that fits is {meshes.nearest(sizes, mesh.size, wanted, slices)}"
    )


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """Shardings for a pytree of arrays: variables by their `axes`, everything else replicated.

    Raises:
        UserError: the mesh does not divide their dimensions; it names the nearest that does.
    """
    check_mesh(tree, mesh)

    def place(leaf):
        if isinstance(leaf, nnx.Variable):
            value = leaf.get_value()
            return leaf.replace(sharding_of(mesh, axes_of(leaf), tuple(value.shape)))
        return replicated(mesh)

    return jax.tree.map(place, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def mesh_is_set() -> bool:
    """Whether a mesh of ours is set. T5X sets one of its own axes around our search: not for this table."""
    return set(meshes.MESH_AXES) <= set(jax.sharding.get_abstract_mesh().axis_names)


def ways_of(axis: str) -> int:
    """Into how many parts the mesh that is set splits a logical axis; 1 where none is set."""
    if not mesh_is_set():
        return 1
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[own] for own in MESH_AXES_OF[axis])


def constrain(array: jax.Array, axes: Axes) -> jax.Array:
    """Tells the partitioner how an activation is laid out; does nothing where no mesh is set."""
    if not mesh_is_set():
        return array
    return jax.lax.with_sharding_constraint(array, spec_of(axes))
