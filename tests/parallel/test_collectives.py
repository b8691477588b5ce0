"""Collectives read off XLA's text: a program written by hand, and programs whose answer is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from genrec_jax.parallel import collectives, topology
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel.collectives import Collective

# A loop of five rounds over a step of an asynchronous all-gather, split into two fusions of one channel.
BY_HAND = """
HloModule by_hand

%first_half (p: f32[4]) -> f32[8] {
  ROOT %all-gather.1 = f32[8]{0} all-gather(%p), channel_id=7, replica_groups=[4,2]<=[8], dimensions={0}
}

%second_half (p: f32[4]) -> f32[8] {
  ROOT %all-gather.2 = f32[8]{0} all-gather(%p), channel_id=7, replica_groups=[4,2]<=[8], dimensions={0}
}

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %one = f32[8]{0} fusion(%x), kind=kCustom, calls=%first_half
  %two = f32[8]{0} fusion(%one), kind=kCustom, calls=%second_half
}

%condition (s: (s32[], f32[8])) -> pred[] {
  %constant.1 = s32[] constant(5)
  ROOT %compare.1 = pred[] compare(%i, %constant.1), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]{0}) while(%start), condition=%condition, body=%body
  %sum = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce(%a, %b), replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %part = f32[4]{0} reduce-scatter(%a), channel_id=9, replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={0}
  %moved = s8[16]{0} collective-permute(%a), channel_id=10, source_target_pairs={{0,2},{2,0}}
  %alone = f32[4]{0} all-reduce(%a), channel_id=11, replica_groups={{0},{1}}, to_apply=%add
}
"""


def test_a_program_written_by_hand():
    found = collectives.of_program(BY_HAND, meshes.make_mesh(2, 2, 2))
    assert found == (
        Collective("all-gather", ("tensor",), 5, 5 * 8 * 4),
        Collective("reduce-scatter", ("fsdp",), 1, 2 * 4 * 4),
        Collective("all-reduce", ("data",), 1, 4 * 4 + 6 * 2),
        Collective("collective-permute", ("fsdp",), 1, 16),
    )
    assert collectives.total_bytes(found) == 160 + 32 + 28 + 16
    # Halves of what is gathered or scattered among two; of a sum every part twice, out and back.
    assert collectives.sent_bytes(found, {"data": 2, "fsdp": 2, "tensor": 2}) == 80 + 16 + 28 + 16


# Sums in a `shard_map` all have channel 1. The gathering of channel 4 starts before a loop, whose rounds
# bring it forward, and is done after it.
SHARED_CHANNELS = """
HloModule shared_channels

%start (p: f32[4]) -> f32[8] {
  ROOT %gather.1 = f32[8]{0:T(128)S(1)} all-gather(%p), channel_id=4, replica_groups=[4,2]<=[8]
}

%step (p: f32[4]) -> f32[8] {
  ROOT %gather.2 = f32[8]{0} all-gather(%p), channel_id=4, replica_groups=[4,2]<=[8]
}

%done (p: f32[4]) -> f32[8] {
  ROOT %gather.3 = f32[8]{0} all-gather(%p), channel_id=4, replica_groups=[4,2]<=[8]
}

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %sum.3 = f32[4]{0} all-reduce(%x), channel_id=1, replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %fusion.1 = f32[8]{0} fusion(%x), kind=kCustom, calls=%step
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %sum.1 = f32[4]{0} all-reduce(%a), channel_id=1, replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %sum.2 = f32[4]{0} all-reduce(%sum.1), channel_id=1, replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %most = f32[2]{0} all-reduce(%sum.2), channel_id=1, replica_groups=[4,2]<=[8], to_apply=%max
  %async-collective-start = f32[8]{0} fusion(%a), kind=kCustom, calls=%start
  %loop = (s32[]) while(%x), body=%body, condition=%c, config={"known_trip_count":{"n":"24"}}
  %async-collective-done = f32[8]{0} fusion(%a), kind=kCustom, calls=%done
  %two = (f32[8]{0}, s8[8]{0}) all-gather(%a, %b), channel_id=1, replica_groups={{0,2},{1,3}}
  %begun = ((f32[4]{0}, s8[4]{0}), (f32[8]{0}, s8[8]{0})) all-gather-start(%a, %b), channel_id=1, \
replica_groups={{0,2},{1,3}}
}
"""


def test_collectives_that_share_a_channel_all_count_and_steps_of_one_do_not():
    found = collectives.of_program(SHARED_CHANNELS, meshes.make_mesh(2, 2, 2))
    assert found == (
        Collective("all-reduce", ("data",), 26, 26 * 16),
        Collective("all-gather", ("fsdp",), 2, 2 * (32 + 8)),
        Collective("all-gather", ("tensor",), 1, 32),
        Collective("all-reduce", ("tensor",), 1, 8),
    )


# A product that gathers eight pieces by moving them in both directions, as TPUs do: the counter is the
# second element, unsigned, and grows by two a round. The other integers are none of the loop's business.
PIECES = """
HloModule pieces

%body (s: (f32[4], u32[], s32[], u32[])) -> (f32[4], u32[], s32[], u32[]) {
  %s = (f32[4]{0:T(128)}, u32[]{:T(128)}, s32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %one = u32[]{:T(128)} constant(1)
  %four = s32[]{:T(128)} constant(4)
  %i = u32[]{:T(128)} get-tuple-element(%s), index=1
  %j = s32[]{:T(128)} get-tuple-element(%s), index=2
  %seven = u32[]{:T(128)} get-tuple-element(%s), index=3
  %i.1 = u32[]{:T(128)} add(%i, %one), metadata={op_name="dot_general"}
  %i.2 = u32[]{:T(128)S(6)} add(%one, %i.1)
  %i.3 = u32[]{:T(128)} copy(%i.2)
  %j.1 = s32[]{:T(128)} add(%j, %four)
  %up = f32[4]{0} collective-permute(%a), channel_id=1, source_target_pairs={{0,2},{2,0}}
  %down = f32[4]{0} collective-permute(%up), channel_id=2, source_target_pairs={{0,2},{2,0}}
  ROOT %t = (f32[4]{0}, u32[], s32[], u32[]) tuple(%down, %i.3, %j.1, /*index=3*/%seven)
}

%condition (s.1: (f32[4], u32[], s32[], u32[])) -> pred[] {
  %s.1 = (f32[4]{0}, u32[], s32[], u32[]) parameter(0)
  %bound = u32[]{:T(128)} constant(BOUND)
  %i.4 = u32[]{:T(128)} get-tuple-element(%s.1), index=1
  ROOT %less = pred[]{:T(512)} compare(%i.4, %bound), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %loop = (f32[4]{0}, u32[], s32[], u32[]) while(%start), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(("bound", "rounds"), [(8, 4), (7, 4), (2, 1)])
def test_a_loop_that_counts_two_pieces_a_round(bound, rounds):
    text = PIECES.replace("BOUND", str(bound))
    found = collectives.of_program(text, meshes.make_mesh(2, 2, 2))
    assert found == (Collective("collective-permute", ("fsdp",), 2 * rounds, 2 * rounds * 16),)
    # By a number that is none of the program's constants, or that is not known: as often as it may.
    text = text.replace("add(%i, %one)", "add(%i, %seven)")
    found = collectives.of_program(text, meshes.make_mesh(2, 2, 2))
    assert found == (Collective("collective-permute", ("fsdp",), 2 * bound, 2 * bound * 16),)


def test_compiled_for_a_tpu_each_parameter_is_gathered_twice_and_its_gradient_scattered():
    """Products with rows enough that libtpu makes loops of permutations of gathers and scatters.

    Whatever the algorithm, n - 1 of n pieces are moved three times; in two directions they are n + 1.
    """
    if not topology.has_libtpu():
        pytest.skip("needs libtpu, which compiles for TPUs: pip install 'genrec-jax[tpu-plan]'")
    devices = topology.devices_of(topology.parse("v5e-8"))
    mesh = meshes.make_mesh(1, 8, 1, devices)
    layers, width, hidden = 3, 512, 1024

    def place(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    def loss(weights, x_BD):
        def layer(x_BD, matrices):
            into_DF, back_FD = (matrix.astype(x_BD.dtype) for matrix in matrices)
            return x_BD + jax.nn.relu(x_BD @ into_DF) @ back_FD, None

        kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        x_BD, _ = jax.lax.scan(jax.checkpoint(layer, policy=kept), x_BD, weights)
        return jnp.sum(x_BD.astype(jnp.float32) ** 2)

    shapes = [
        jax.ShapeDtypeStruct(
            (layers, width, hidden), jnp.float32, sharding=place(None, "fsdp", None)
        ),
        jax.ShapeDtypeStruct(
            (layers, hidden, width), jnp.float32, sharding=place(None, None, "fsdp")
        ),
    ]
    x_BD = jax.ShapeDtypeStruct((16384, width), jnp.bfloat16, sharding=place("fsdp"))
    out = [shape.sharding for shape in shapes]
    text = jax.jit(jax.grad(loss), out_shardings=out).lower(shapes, x_BD).compile().as_text()
    assert text is not None and "windowed_dot_general" in text
    moved = collectives.sent_bytes(collectives.of_program(text, mesh), mesh.shape)
    in_bfloat16 = layers * 2 * width * hidden * 2
    assert 3 * 7 / 8 <= moved / in_bfloat16 <= 3 * 9 / 8


def test_compiled_sums_over_two_axes_in_a_shard_map():
    mesh = meshes.make_mesh(2, 2, 2)

    def run(x_BD):
        first_BD = jax.lax.psum(x_BD, "data")
        second_BD = jax.lax.psum(jnp.sin(first_BD) * x_BD, "data")
        return jax.lax.psum(jnp.cos(second_BD) * x_BD, "tensor")

    rows = PartitionSpec("data", "tensor")
    mapped = jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=PartitionSpec("data"))
    shape = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=NamedSharding(mesh, rows))
    text = jax.jit(mapped).lower(shape).compile().as_text()
    assert text is not None
    found = collectives.of_program(text, mesh)
    assert found == (
        Collective("all-reduce", ("data",), 2, 2 * 4 * 8 * 4),
        Collective("all-reduce", ("tensor",), 1, 4 * 8 * 4),
    )


def test_a_compiled_loop_of_products_adds_up_once_a_round():
    """Four rounds of a product contracted over `tensor`: 4 all-reduces of 2 rows of 16 floats."""
    mesh = meshes.make_mesh(2, 2, 2)

    def place(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    def run(x_BD, weights_NDF, back_NFD):
        def layer(x_BD, matrices):
            into_DF, back_FD = matrices
            out_BD = jnp.tanh(x_BD @ into_DF) @ back_FD
            return jax.lax.with_sharding_constraint(out_BD, place(("data", "fsdp"))), None

        return jax.lax.scan(layer, x_BD, (weights_NDF, back_NFD))[0]

    shapes = [
        jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=place(("data", "fsdp"))),
        jax.ShapeDtypeStruct((4, 16, 32), jnp.float32, sharding=place(None, None, "tensor")),
        jax.ShapeDtypeStruct((4, 32, 16), jnp.float32, sharding=place(None, "tensor")),
    ]
    text = jax.jit(run).lower(*shapes).compile().as_text()
    assert text is not None
    found = collectives.of_program(text, mesh)
    assert found == (Collective("all-reduce", ("tensor",), 4, 4 * 2 * 16 * 4),)
