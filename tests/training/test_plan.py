"""`genrec plan`: counts against shapes worked out by hand, XLA's figures, each mesh's collectives."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from genrec_jax.cli import main
from genrec_jax.errors import UserError
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import collectives, topology
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel.mesh import Sizes
from genrec_jax.training import config as config_lib
from genrec_jax.training import losses, plan, plan_flops, plan_programs, plan_text
from genrec_jax.training.losses import LossConfig
from genrec_jax.training.plan import Choice
from genrec_jax.training.plan_programs import Compiled, Shapes, TooLarge
from tests.decoding import crossing
from tests.training import test_step

SHAPES = Shapes(rows=16, input_length=24, target_length=8, prompts=8, items=300, beams=4)
CONFIG = config_lib.TrainConfig(
    model_dir="unused",
    train_steps=1,
    # Two layers, so that there is a loop; bfloat16, as on a TPU.
    model=dataclasses.replace(
        test_step.EIGHT_HEADS, num_encoder_layers=2, num_decoder_layers=2, dtype="bfloat16"
    ),
    optimizer=test_step.OPTIMIZER,
    data=config_lib.DataConfig(datasets=["unused"], mixture="openp5", batch_size=16),
)
LARGE = T5Config(32128, 4096, 64, 64, 10240, 24, 24, dtype="bfloat16")


def on(sizes: tuple[int, int, int], remat: str = "none", microbatches: int = 1) -> Choice:
    return Choice(Sizes(*sizes), remat, microbatches)


# Counting


def test_operations_of_loops_and_branches_by_hand():
    def run(x, weights):
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, weights)
        x = jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ weights[0], x)
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x.T @ x, lambda x: x, x)

    x, weights = jnp.ones((3, 4)), jnp.ones((5, 4, 4))
    one = 2 * 3 * 4 * 4
    assert plan_flops.count(run, x, weights, rounds=7) == 5 * one + 7 * one + 2 * (2 * 3 * 3 * 4)


def test_operations_of_a_training_step_by_hand():
    """Forwards once and backwards twice, product by product."""
    model = dataclasses.replace(CONFIG.model, num_heads=2, head_dim=8, dropout_rate=0.0)
    config = dataclasses.replace(CONFIG, model=model)
    rows, inputs, targets, width, joined, hidden = 16, 24, 8, 16, 16, 32
    enc, dec = rows * inputs, rows * targets
    projections = 4 * width * joined
    mlp = 3 * width * hidden
    products = 2 * (enc * (projections + mlp) + rows * 2 * inputs * inputs * joined)
    decoder = dec * (projections + 2 * width * joined + mlp) + enc * 2 * width * joined
    attention = rows * 2 * targets * joined * (targets + inputs)
    products += 2 * (decoder + attention) + dec * width * 256
    # The biases come from one-hot vectors: 2 heads, 32 buckets, and only the table has a gradient.
    biases = 2 * 2 * 32 * (inputs**2 + targets**2)
    expected = 3 * 2 * products + 2 * biases
    assert plan_programs.train_flops(config, SHAPES) == expected


def test_parameters_and_optimizer_are_split_as_the_rules_say():
    whole = plan.count_training(CONFIG, on((8, 1, 1)), SHAPES)
    split = plan.count_training(CONFIG, on((1, 4, 2)), SHAPES)
    state = plan_programs.state_lib.state_shapes(CONFIG.model, CONFIG.optimizer)
    assert whole.params == 4 * plan_programs.state_lib.number_of_parameters(state.params)
    assert (
        whole.params / 8 < split.params < whole.params / 3
    )  # norms and biases are not split eight ways
    assert split.optimizer < whole.optimizer
    real = meshes.make_mesh(1, 4, 2)
    placed = plan_programs.state_lib.create_state(CONFIG.model, CONFIG.optimizer, real, 0)
    on_first = sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(placed.params)
    )
    assert split.params == on_first


def test_remat_and_microbatches_save_memory():
    counts = {
        (remat, parts): plan.count_training(
            dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, remat=remat)),
            on((1, 1, 1), remat, parts),
            dataclasses.replace(SHAPES, rows=64, input_length=128),
        ).activations
        for remat, parts in [("none", 1), ("dots", 1), ("full", 1), ("none", 4)]
    }
    assert counts["full", 1] < counts["dots", 1] < counts["none", 1]
    assert counts["none", 4] < counts["none", 1] / 2


def test_logits_are_counted_as_the_loss_keeps_them(monkeypatch):
    """The parts that it works on by itself, and the operations of a loss that works on all at once."""

    def asked(positions):
        return dataclasses.replace(CONFIG, loss=LossConfig(positions_at_a_time=positions))

    def counted(positions, sizes):
        return plan.count_training(asked(positions), on(sizes), SHAPES).activations

    monkeypatch.setattr(losses, "MAX_LOGITS_BYTES", 4 * 16 * 2 * 256)
    assert counted(None, (1, 1, 1)) == counted(2, (1, 1, 1)) < counted(0, (1, 1, 1))
    assert counted(None, (1, 1, 2)) == counted(4, (1, 1, 2)) < counted(0, (1, 1, 2))
    assert counted(None, (8, 1, 1)) == counted(0, (8, 1, 1))
    flops = {plan_programs.train_flops(asked(n), SHAPES) for n in (None, 0, 2)}
    assert len(flops) == 1


def test_suggestions_fit_the_cheapest_first():
    large = dataclasses.replace(CONFIG, model=LARGE)
    shapes = dataclasses.replace(SHAPES, rows=16, input_length=512, target_length=32)
    h100 = topology.parse("h100-8")
    best = next(plan.suggestions(large, h100, shapes))
    # 11 billion float32 parameters with gradients take 89 GB: no device holds them whole.
    assert best.mesh.fsdp * best.mesh.tensor > 1
    limit = (h100.chip.memory or 0) * plan.COUNTED_SHARE
    assert plan.count_training(plan.with_choice(large, best), best, shapes).total <= limit
    assert next(plan.suggestions(large, topology.parse("h100-1"), shapes), None) is None
    assert next(plan.suggestions(CONFIG, topology.parse("h100-8"), SHAPES)) == on((8, 1, 1))


class Compiler:
    """Stands for XLA: every step needs `factor` times what is counted; remembers what it was asked."""

    def __init__(self, monkeypatch, factor: float):
        self.asked: list[Choice] = []
        self.real, self.factor = plan.plan, factor
        monkeypatch.setattr(plan, "plan", self.compile)

    def compile(self, config, cluster, shapes, choice, devices):
        self.asked.append(choice)
        counted = self.real(config, cluster, shapes, choice, None)
        limit = cluster.chip.memory

        def judged(step):
            needed = int(step.counted.total * self.factor)
            compiled = (
                TooLarge(needed, limit) if needed > limit else Compiled(0, needed, needed, ())
            )
            return dataclasses.replace(step, compiled=compiled)

        return dataclasses.replace(
            counted, train=judged(counted.train), recommend=judged(counted.recommend)
        )


def test_a_suggestion_that_xla_refuses_is_followed_by_one_that_is_smaller_by_as_much(monkeypatch):
    shapes = dataclasses.replace(SHAPES, rows=64, input_length=128)
    # Two devices that hold, by count, what the cheapest choice takes, and not much more.
    cheapest = plan.count_training(CONFIG, on((2, 1, 1)), shapes).total
    chip = topology.Chip("toy", "tpu", int(1.1 * cheapest / plan.COUNTED_SHARE), 1e12)
    cluster = topology.Topology("toy-2", chip, 2)
    by_count = list(plan.suggestions(CONFIG, cluster, shapes))
    compiler = Compiler(monkeypatch, 1.4)
    found = plan.best_suggestion(CONFIG, cluster, shapes, [])
    assert found is not None and found.fits
    assert by_count[0] == on((2, 1, 1))
    assert compiler.asked == [by_count[0], found.choice]
    # What was passed over would have been refused too.
    passed_over = by_count[1 : by_count.index(found.choice)]
    assert passed_over and all(
        1.4 * plan.count_training(plan.with_choice(CONFIG, one), one, shapes).total > chip.memory
        for one in passed_over
    )
    compiler.factor = 100.0
    compiler.asked.clear()
    found = plan.best_suggestion(CONFIG, cluster, shapes, [])
    assert found is not None and found.fits is False
    assert 1 <= len(compiler.asked) <= plan.COMPILED_SUGGESTIONS


def test_a_cluster_that_xla_finds_too_small_is_an_error_that_says_by_how_much(monkeypatch, capsys):
    Compiler(monkeypatch, 300.0)
    monkeypatch.setattr(topology, "devices_of", lambda cluster: [])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    words = [
        "plan",
        "--topology",
        "v5e-1",
        "--suggest",
        "--gin_file=gin_configs/models/t5_tiny.gin",
    ]
    words += ["--gin_file=gin_configs/runs/train.gin", "--gin.BATCH_SIZE=64", "--input-length=64"]
    assert main.main(words) == 2
    told = capsys.readouterr().err
    assert "what fits v5e-1 by count does not fit as XLA compiles it" in told
    assert "training needs" in told and "of 16.0 GiB" in told


def test_a_configured_mesh_that_does_not_fit_gets_the_nearest():
    cluster = topology.parse("v5e-16")
    config = dataclasses.replace(CONFIG, mesh=config_lib.MeshConfig(fsdp=1, tensor=16))
    with pytest.raises(UserError, match=r"does not divide 8; v5e-16.*data=2, fsdp=1, tensor=8"):
        plan.configured(config, cluster)
    config = dataclasses.replace(CONFIG, mesh=config_lib.MeshConfig(data=3))
    with pytest.raises(UserError, match="has 3 devices; v5e-16 has 16 devices"):
        plan.configured(config, cluster)


def unpacked(batch_size: int, **changes) -> config_lib.TrainConfig:
    data = dataclasses.replace(CONFIG.data, batch_size=batch_size, packing=False, **changes)
    return dataclasses.replace(CONFIG, data=data)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            unpacked(100),
            r"batch_size is 100; without packing it must be a multiple of 8 .*fits is 96",
        ),
        (
            dataclasses.replace(unpacked(104), microbatches=2),
            "batch_size is 104; without packing it must be a multiple of 16 ",
        ),
        (unpacked(100, mixture_module="theirs"), "batch_size is 100; it must be a multiple of 8 "),
    ],
)
@pytest.mark.parametrize("name", ["cpu-8", "h100-8"])
def test_a_batch_that_training_would_refuse_is_refused_as_there(name, config, message):
    with pytest.raises(UserError, match=message):
        plan.configured(config, topology.parse(name))
    if config.data.mixture_module is None:  # packed rows are filled up
        packed = dataclasses.replace(config, data=dataclasses.replace(config.data, packing=True))
        assert plan.configured(packed, topology.parse(name)).mesh == Sizes(8, 1, 1)


@pytest.mark.parametrize("name", ["cpu-8", "h100-8"])
def test_suggestions_divide_a_batch_that_is_not_packed(name):
    shapes = dataclasses.replace(SHAPES, rows=100)
    found = list(plan.suggestions(unpacked(100), topology.parse(name), shapes))
    assert found[0].mesh == Sizes(4, 1, 2)
    for choice in found:
        assert 100 % (choice.mesh.data * choice.mesh.fsdp * choice.microbatches) == 0
        config = plan.with_choice(unpacked(100), choice)
        assert plan.configured(config, topology.parse(name)) == choice
    # Packed, eight ways are the cheapest all the same: four of 104 rows are empty.
    packed = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, batch_size=100))
    assert next(plan.suggestions(packed, topology.parse(name), shapes)) == on((8, 1, 1))


# What XLA makes of it, on fake devices and for TPUs

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
    made = plan.plan(CONFIG, topology.parse("cpu-8"), SHAPES, on(sizes), jax.devices()[:8])
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
    step = plan.plan(CONFIG, topology.parse("h100-8"), SHAPES, on((8, 1, 1)), None).train
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
