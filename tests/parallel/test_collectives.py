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
    assert collectives.kinds_by_axis(found) == {
        "data": {"all-reduce"},
        "fsdp": {"reduce-scatter", "collective-permute"},
        "tensor": {"all-gather"},
    }


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
    found = collectives.of_program(text, mesh)
    assert found == (Collective("all-reduce", ("tensor",), 4, 4 * 2 * 16 * 4),)
