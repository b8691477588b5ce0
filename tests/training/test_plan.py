"""`genrec plan`: counts against shapes worked out by hand, suggestions, meshes and batches refused."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import genrec_jax
from genrec_jax.cli import main
from genrec_jax.decoding import network
from genrec_jax.errors import UserError
from genrec_jax.model.config import T5Config
from genrec_jax.parallel import mesh as meshes
from genrec_jax.parallel import topology
from genrec_jax.parallel.mesh import Sizes
from genrec_jax.training import config as config_lib
from genrec_jax.training import losses, plan, plan_flops, plan_programs
from genrec_jax.training.losses import LossConfig
from genrec_jax.training.plan import Choice
from genrec_jax.training.plan_programs import Compiled, TooLarge
from tests.training.small_plan import CONFIG, SHAPES, on

LARGE = T5Config(32128, 4096, 64, 64, 10240, 24, 24, dtype="bfloat16")


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


def test_logits_of_a_search_are_counted_as_the_search_keeps_them():
    model = dataclasses.replace(CONFIG.model, vocab_size=32_128)
    wide = dataclasses.replace(CONFIG, model=model)
    shapes = dataclasses.replace(SHAPES, prompts=256, beams=20)
    h100, v5e = (topology.parse(name).chip for name in ("h100-1", "v5e-1"))
    counted = [
        plan.count_recommending(wide, on((1, 1, 1)), shapes, chip).activations
        for chip in (h100, v5e)
    ]
    logits = 256 * 20 * 32_128 * 4
    assert network.MAX_LOGITS_BYTES < logits < network.kept_logits_bytes("gpu", h100.memory, 1)
    assert counted[0] - counted[1] == 2 * (logits - network.MAX_LOGITS_BYTES)


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


def test_a_plan_from_python_needs_a_configuration_and_a_name(monkeypatch):
    counted = genrec_jax.plan(CONFIG, "h100-8")
    assert counted.choice == on((8, 1, 1)) and counted.fits and counted.train.compiled is None
    assert (counted.shapes.rows, counted.shapes.input_length) == (16, 512)
    split = dataclasses.replace(CONFIG, mesh=config_lib.MeshConfig(fsdp=2, tensor=2))
    assert genrec_jax.plan(split, "h100-8").choice == on((2, 2, 2))
    shapes = dataclasses.replace(counted.shapes, rows=32)
    suggested = genrec_jax.plan(split, "h100-8", shapes=shapes, suggest=True)
    assert suggested.choice == on((8, 1, 1)) and suggested.train.rows == 32
    large = dataclasses.replace(CONFIG, model=LARGE)
    with pytest.raises(UserError, match="fit 16 rows on h100-1; take more or larger devices"):
        genrec_jax.plan(large, "h100-1", suggest=True)
    asked = []
    monkeypatch.setattr(topology, "devices_of", asked.append)
    assert genrec_jax.plan(CONFIG, "v5e-8", compile=False).fits and not asked


class Compiler:
    """Stands for XLA: every step needs `factor` times what is counted; remembers what it was asked."""

    def __init__(self, monkeypatch, factor: float):
        self.asked: list[Choice] = []
        self.real, self.factor = plan.plan_choice, factor
        monkeypatch.setattr(plan, "plan_choice", self.compile)

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
