"""`genrec plan`, the command: what it prints and writes, what it assumes, what it refuses."""

import json

import numpy as np
import pytest

from genrec_jax.cli import main


def test_the_command_counts_for_gpus_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    file = tmp_path / "plan.json"
    words = ["plan", "--topology", "h100-8", "--gin_file=gin_configs/models/t5_tiny.gin"]
    words += ["--gin_file=gin_configs/runs/train.gin", "--gin.BATCH_SIZE=64", "--input-length=64"]
    assert main.main([*words, "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "h100-8: 8 devices; 74.5 GiB of memory each" in shown
    assert "counted, not compiled" in shown and "compiled by XLA" not in shown
    assert shown.count("collectives: not counted; `--topology cpu-N`") == 2
    assert "64 rows of 64 + 32 tokens" in shown
    assert "at 40%" in shown and "at 50%" in shown
    written = json.loads(file.read_text())
    assert written["train"]["source"] == "counted" and written["train"]["fits"] is True
    assert written["choice"]["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    seconds = written["train"]["flops"] / (8 * 989e12 * np.asarray([0.4, 0.5]))
    np.testing.assert_allclose(written["train"]["seconds"], seconds)


@pytest.mark.parametrize(
    ("flags", "assumed", "length"),
    [
        ([], True, 32),
        (["--target-length=48"], False, 48),
        (['--gin.TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 40}'], False, 40),
    ],
)
def test_the_command_says_that_it_assumes_a_length_of_targets(
    flags, assumed, length, capsys, monkeypatch
):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    words = ["plan", "--topology", "h100-8", "--gin_file=gin_configs/models/t5_tiny.gin"]
    words += ["--gin_file=gin_configs/runs/train.gin", "--gin.BATCH_SIZE=64", "--input-length=64"]
    assert main.main([*words, *flags]) == 0
    shown = capsys.readouterr().out
    assert f"64 rows of 64 + {length} tokens" in shown
    assert ("assumed: targets of 32 tokens" in shown) == assumed
    assert ("--target-length" in shown) == assumed


def test_the_commands_errors(capsys):
    assert main.main(["plan", "--topology", "v5e-3"]) == 2
    assert "wanted a number of chips" in capsys.readouterr().err
    assert main.main(["plan", "--topology", "v5e-16"]) == 2
    assert "no configuration; wanted --gin_file" in capsys.readouterr().err
    words = ["plan", "--topology", "h100-8", "--gin_file=gin_configs/models/t5_tiny.gin"]
    assert main.main([*words, "--gin_file=gin_configs/runs/train.gin"]) == 2
    assert "BATCH_SIZE must be set" in capsys.readouterr().err


def test_the_command_refuses_what_training_would(capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    words = ["plan", "--topology", "h100-8", "--gin_file=gin_configs/models/t5_tiny.gin"]
    words += ["--gin_file=gin_configs/runs/train.gin", "--gin.PACKING=False", "--input-length=64"]
    assert main.main([*words, "--gin.BATCH_SIZE=100"]) == 2
    assert "without packing it must be a multiple of 8" in capsys.readouterr().err
    assert main.main([*words, "--gin.BATCH_SIZE=100", "--suggest"]) == 0
    assert "mesh data=4, fsdp=1, tensor=2; remat 'none'; microbatches 1" in capsys.readouterr().out
    assert main.main([*words, "--gin.BATCH_SIZE=7", "--suggest"]) == 2
    assert "a BATCH_SIZE that is a multiple of their number" in capsys.readouterr().err
