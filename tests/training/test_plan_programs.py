"""What XLA makes of a plan's steps, on fake devices and for TPUs: memory, collectives, refusals."""

import dataclasses
import types

import jax
import pytest

from genrec_jax.model.config import T5Config
from genrec_jax.parallel import collectives, topology
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel.mesh import Sizes
from genrec_jax.training import plan, plan_programs, plan_text
from genrec_jax.training.plan_programs import Compiled, TooLarge
from tests.decoding import crossing
from tests.training.small_plan import CONFIG, SHAPES, on

EXPECTED = {
    # Gradients are added up over the rows; nothing else moves.
    (8, 1, 1): {"data": {"all-reduce"}},
    # Parameters are brought together before use.
    (1, 8, 1): {"fsdp": {"all-gather"}},
    # Products contracted over heads, feed-forward and vocabulary are added up.
    (1, 1, 8): {"tensor": {"all-reduce"}},
    (2, 2, 2): {"data": {"all-reduce"}, "fsdp": {"all-gather"}, "tensor": {"all-reduce"}},
}


def kinds_by_axis(found: tuple[collectives.Collective, ...]) -> dict[str, set[str]]:
    """Mesh axis -> the kinds of collective that run along it."""
    axes = {axis for one in found for axis in one.axes}
    return {axis: {one.kind for one in found if axis in one.axes} for axis in axes}


def check_collectives(found: tuple, sizes: tuple[int, int, int]) -> None:
    kinds = kinds_by_axis(found)
    for axis, expected in EXPECTED[sizes].items():
        assert expected <= kinds[axis], f"{axis}: {kinds}"
    unsplit = {axis for axis, size in Sizes(*sizes)._asdict().items() if size == 1}
    assert not unsplit & set(kinds)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_fake_devices_compile_and_are_compared_with_the_count(sizes):
    made = plan.plan_choice(CONFIG, topology.parse("cpu-8"), SHAPES, on(sizes), jax.devices()[:8])
    for step in (made.train, made.recommend):
        assert isinstance(step.compiled, Compiled)
        assert step.compiled.total == step.compiled.arguments + step.compiled.temporaries
        assert step.fits is None and step.seconds is None and step.wire_seconds is None
    check_collectives(made.train.compiled.collectives, sizes)
    # Data parallelism alone adds up every gradient, the embedding's of both stacks apart.
    params = made.train.counted.params
    if sizes == (8, 1, 1):
        moved = collectives.total_bytes(made.train.compiled.collectives)
        assert params < moved < 2 * params
    # What is passed in: the state, exactly as counted, and a batch (what no operation reads is left out).
    rows = SHAPES.rows // (sizes[0] * sizes[1])
    state = params + made.train.counted.optimizer
    assert state < made.train.compiled.arguments <= state + rows * 4 * (4 * 24 + 5 * 8) + 64
    assert 0.2 < made.train.counted.total / made.train.compiled.total < 5
    text = "\n".join(plan_text.lines(made))
    assert "compiled by XLA" in text and "times XLA's" in text and "over data" in text
    on_links = dataclasses.replace(made, train=dataclasses.replace(made.train, wire_seconds=0.25))
    assert "a device; at least 250.0 ms on a chip's links" in "\n".join(plan_text.lines(on_links))
    unread = dataclasses.replace(made.train.compiled, collectives=None)
    made = dataclasses.replace(made, train=dataclasses.replace(made.train, compiled=unread))
    assert "collectives: not known" in "\n".join(plan_text.lines(made))


def test_what_crosses_a_chips_links_takes_at_least_its_bytes():
    """8 GB gathered over 8 chips: each is sent 7 of them, at 200 GB a second."""
    gathered = collectives.Collective("all-gather", ("fsdp",), 10, 8 * 10**9)
    compiled = Compiled(1, 1, 2, (gathered,))
    sizes, chips = meshes.Sizes(1, 8, 1), topology.CHIPS
    assert plan.wire_seconds(chips["v5e"], sizes, compiled) == pytest.approx(0.035)
    assert plan.wire_seconds(chips["v5p"], sizes, compiled) == pytest.approx(0.035 / 3)
    unread = dataclasses.replace(compiled, collectives=None)
    for chip, found in ((chips["h100"], compiled), (chips["v5e"], unread), (chips["v5e"], None)):
        assert plan.wire_seconds(chip, sizes, found) is None


@pytest.mark.parametrize("name", ["cpu-8", pytest.param("v5e-8", marks=pytest.mark.long)])
def test_fsdp_brings_parameters_together_twice_and_their_gradients_once(name):
    """Each device gets 7 of 8 parts three times, of every parameter, in the type it is used in."""
    cluster = topology.parse(name)
    config, shapes, width = CONFIG, SHAPES, 4  # a CPU's products of bfloat16 are float32's
    if name == "cpu-8":
        mesh = meshes.make_mesh(1, 8, 1, jax.devices()[:8])
    else:  # rows and layers large enough for what libtpu does with a real model's
        model = T5Config(512, 512, 8, 64, 2048, 2, 2, dtype="bfloat16")
        config, width = dataclasses.replace(CONFIG, model=model), 2
        shapes = dataclasses.replace(SHAPES, rows=128, input_length=512, target_length=32)
        mesh = tpu_mesh(cluster, (1, 8, 1))
    lowered = plan_programs.lower_train_step(config, shapes, mesh)
    compiled = plan_programs.compile_program(lowered, mesh)
    assert isinstance(compiled, Compiled) and compiled.collectives is not None
    state = plan_programs.state_lib.state_shapes(config.model, config.optimizer)
    least = 3 * 7 / 8 * width * plan_programs.state_lib.number_of_parameters(state.params)
    assert least <= collectives.total_bytes(compiled.collectives) < 1.5 * least


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("v5e-8", (2, 2, 2)),
        pytest.param("v4-16", (1, 8, 1), marks=pytest.mark.long),
        pytest.param("v5e-8", (8, 1, 1), marks=pytest.mark.long),
        pytest.param("v5p-16", (1, 1, 8), marks=pytest.mark.long),
    ],
)
def test_training_compiles_for_tpus_with_the_collectives_of_the_mesh(name, sizes):
    cluster = topology.parse(name)
    mesh = tpu_mesh(cluster, sizes)
    lowered = plan_programs.lower_train_step(CONFIG, SHAPES, mesh)
    compiled = plan_programs.compile_program(lowered, mesh)
    assert isinstance(compiled, Compiled)
    check_collectives(compiled.collectives, sizes)
    params = plan.count_training(CONFIG, on(sizes), SHAPES).params
    assert params < compiled.arguments < compiled.total < cluster.chip.memory


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("v4-8", (1, 2, 2)),
        pytest.param("v5e-8", (2, 1, 4), marks=pytest.mark.long),
        pytest.param("v5e-8", (8, 1, 1), marks=pytest.mark.long),
    ],
)
def test_recommending_compiles_for_tpus_and_each_device_selects_for_its_own_rows(name, sizes):
    mesh = tpu_mesh(topology.parse(name), sizes)
    model = dataclasses.replace(CONFIG.model, vocab_size=8192)
    text = plan_programs.lower_recommend_step(model, SHAPES, mesh).compile().as_text()
    assert text is not None
    found = collectives.of_program(text, mesh)
    kinds = kinds_by_axis(found)
    # Of the trie's operations only the asked-for logits cross devices: no candidate, no logits.
    assert crossing.of_search(text) == ({"all-reduce"} if sizes[2] > 1 else set())
    if sizes[2] > 1:
        assert "all-reduce" in kinds["tensor"]
        rows = -(-SHAPES.prompts // (sizes[0] * sizes[1]))
        logits = rows * SHAPES.beams * model.padded_vocab_size * 4
        gathered = [one for one in found if one.kind == "all-gather" and "tensor" in one.axes]
        assert all(one.bytes / one.count < logits / 100 for one in gathered)
    else:
        assert "tensor" not in kinds


@pytest.mark.long
def test_recommending_is_planned_where_the_program_cannot_be_read_back():
    """What libtpu 0.0.51 makes for v6e, jaxlib 0.10.2 cannot read; another pair may."""
    mesh = tpu_mesh(topology.parse("v6e-8"), (8, 1, 1))
    lowered = plan_programs.lower_recommend_step(CONFIG.model, SHAPES, mesh)
    compiled = plan_programs.compile_program(lowered, mesh)
    assert isinstance(compiled, Compiled)
    assert compiled.total > compiled.arguments > 0
    if compiled.collectives is not None:
        assert "tensor" not in kinds_by_axis(compiled.collectives)


def test_what_xla_refused_does_not_fit_whatever_its_rounded_figures_say():
    limit = 15 * topology.GIB
    step = plan.plan_choice(CONFIG, topology.parse("h100-8"), SHAPES, on((8, 1, 1)), None).train
    for total in (limit, limit + 1):
        assert dataclasses.replace(step, compiled=TooLarge(total, limit)).fits is False


class Unreadable:
    """A compiled program of 100 bytes whose text jaxlib fails to make."""

    def __init__(self, message: str):
        self.message = message

    def compile(self):
        return self

    def memory_analysis(self):
        names = ("argument", "output", "alias", "temp", "generated_code")
        return types.SimpleNamespace(**{f"{name}_size_in_bytes": 20 for name in names})

    def as_text(self):
        raise RuntimeError(self.message)


def test_a_program_that_cannot_be_read_has_no_known_collectives():
    mesh = meshes.single_device_mesh()
    compiled = plan_programs.compile_program(
        Unreadable("INTERNAL: RET_CHECK failure (hlo_instruction.cc:390) async-update ..."), mesh
    )
    assert isinstance(compiled, Compiled)
    assert compiled.collectives is None and compiled.total == 60
    with pytest.raises(RuntimeError, match="something else"):
        plan_programs.compile_program(Unreadable("something else"), mesh)


def tpu_mesh(cluster, sizes):
    if not topology.has_libtpu():
        pytest.skip("needs libtpu, which compiles for TPUs: pip install 'genrec-jax[tpu-plan]'")
    return meshes.make_mesh(*sizes, topology.devices_of(cluster))


@pytest.mark.long
def test_a_program_too_large_for_a_tpu_is_not_an_error():
    mesh = tpu_mesh(topology.parse("v5e-1"), (1, 1, 1))
    shapes = dataclasses.replace(SHAPES, rows=256, input_length=2048)
    model = T5Config(32128, 1024, 16, 64, 2816, 2, 2, dtype="bfloat16")
    lowered = plan_programs.lower_train_step(dataclasses.replace(CONFIG, model=model), shapes, mesh)
    refused = plan_programs.compile_program(lowered, mesh)
    assert isinstance(refused, TooLarge)
    assert refused.total > refused.limit > 14 * topology.GIB


@pytest.mark.parametrize(
    ("message", "total"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space"
            " hbm. Used 29.50G of 15.75G hbm. Exceeded hbm capacity by 13.75G.",
            29.5,
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory"
            " required for HLO temporaries (453.46G) exceeds available HBM (15.75G). HLO module: m.",
            453.46,
        ),
    ],
)
def test_a_refusal_is_read_from_xlas_message(message, total):
    class Lowered:
        def compile(self):
            raise RuntimeError(message)

    refused = plan_programs.compile_program(Lowered(), meshes.single_device_mesh())
    assert refused == TooLarge(int(total * 2**30), int(15.75 * 2**30))
