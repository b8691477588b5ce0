"""`benchmarks/gpu.sh --smoke` from end to end on a CPU, where nothing heavy can be imported."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import common, gpu_decode, gpu_mfu, gpu_suite, hf_peer, page_sections

# Python runs a module of this name as it starts, in every process of the suite.
SITECUSTOMIZE = """
import sys

ABSENT = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "gin", "t5x", "polars"}
ABSENT |= {"beartype"}


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        absent = name.split(".")[0] in ABSENT
        return None if absent else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "PYTHON": sys.executable,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }


def test_the_packages_are_hidden(environment):
    for package in ("polars", "gin", "beartype"):
        run = subprocess.run(
            [sys.executable, "-c", f"import {package}"], env=environment, capture_output=True
        )
        assert b"ModuleNotFoundError" in run.stderr, "the smoke test would prove nothing"


def test_the_checks_on_a_gpu_start_without_beartype_and_skip_without_a_gpu(environment):
    """The command of benchmarks/README.md."""
    text = (common.ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    command = text.partition("python -m pytest ")[2].partition("```")[0].replace("\\", "").split()
    assert "--noconftest" in command
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *command],
        cwd=common.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "7 skipped" in run.stdout and "needs a GPU" in run.stdout


def test_one_failed_row_of_mfu_leaves_the_others(tmp_path, monkeypatch):
    def timed(config, rows, positions, arguments):
        if positions is not None:
            raise TypeError("no such product\nand more")
        if config.dropout_rate == 0:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return {"step_s": 0.5, "flop_per_s": 2.0, "mfu": None, "compile_s": 1.0}

    monkeypatch.setattr(gpu_mfu, "timed", timed)
    monkeypatch.setattr(gpu_mfu, "matmul_rate", lambda size: 4.0)
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_mfu", "--dropout", "0", "0.1"])
    with pytest.raises(SystemExit):
        gpu_mfu.main()
    rows = json.loads((tmp_path / "gpu_mfu_t5_small.json").read_text())["rows"]
    assert [(row["dropout"], row["attention"]) for row in rows] == [
        (0.0, "own"),
        (0.0, "cudnn"),
        (0.1, "own"),
        (0.0, "own"),
    ]
    assert "RESOURCE_EXHAUSTED" in rows[0]["does_not_fit"] and rows[2]["of_matmul"] == 0.5
    assert rows[3]["failed"] == "TypeError: no such product"
    assert rows[3]["remat"] == "none, and logits, 16 positions at a time"


def test_a_failed_peer_leaves_our_rows_and_its_reason(tmp_path, monkeypatch):
    def peer(*words):
        raise SystemExit("the peer ended with status 1")

    def measure(step, params, trie, batch, calls):
        rows = len(batch.users_B)
        seconds = {"p50_s": 1.0, "p99_s": 2.0, "users_per_s": rows, "compile_s": 1.0}
        return {"batch": rows, "items": None} | seconds

    monkeypatch.setattr(hf_peer, "Peer", peer)
    monkeypatch.setattr(gpu_decode, "measure", measure)
    monkeypatch.setattr(gpu_decode, "peer_python", lambda: sys.executable)
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_decode", "--smoke"])
    gpu_decode.main()
    content = json.loads((tmp_path / "gpu_decode.json").read_text())
    assert content["peer_failed"] == "not measured: the peer ended with status 1"
    assert [(row["dtype"], row["batch"]) for row in content["rows"]] == [
        (dtype, batch) for dtype in ("bfloat16", "float32") for batch in (1, 2)
    ]


@pytest.mark.long
def test_the_whole_suite_runs_without_tensorflow_gin_and_polars(environment, tmp_path, monkeypatch):
    run = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--smoke", "--results", str(tmp_path / "results")],
        cwd=common.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").iterdir()}
    assert written.keys() == {step.result for step in gpu_suite.STEPS} | {"suite_gpu"}
    assert all(step["status"] == "measured" for step in written["suite_gpu"]["steps"])
    assert all(content["rows"] for name, content in written.items() if name != "suite_gpu")
    assert written["gpu_beauty"]["data"]["source"] == "made up"
    assert written["gpu_beauty"]["rows"][0]["users"] == 24
    plain, _, chunked = written["gpu_mfu_t5_small"]["rows"]
    assert chunked["positions"] == 4 and chunked["loss"] == pytest.approx(plain["loss"], rel=1e-2)
    row, fused = written["gpu_mfu_t5_xl"]["rows"]
    assert (row["attention"], fused["attention"]) == ("own", "cudnn")
    assert row["mfu"] is None and row["flop_per_s"] > 0
    attention = {row["implementation"]: row for row in written["gpu_attention"]["rows"]}
    assert attention["ours"]["both_error"] < 0.05 and attention["xla"]["both_error"] < 0.05
    assert "forward_refused" in attention["cudnn"]  # a CPU has no cuDNN, and the result says so
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    page = page_sections.gpu()
    assert "ot measured yet" not in page
    for words in (
        "| t5_xl | 0.1 | dots | cudnn |",
        "| bfloat16 | 2 |",
        "| 8 | 24 |",
        "| t5_small, ours |",
    ):
        assert words in page
