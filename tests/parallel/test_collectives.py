"""Collectives read off XLA's text: a program written by hand, and programs whose answer is known."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from genrec_jax.parallel import collectives
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
