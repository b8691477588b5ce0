"""`benchmarks/gpu.sh --smoke` from end to end on a CPU, where nothing heavy can be imported."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import common, gpu_suite, page_sections

# Python runs a module of this name as it starts, in every process of the suite.
SITECUSTOMIZE = """
import sys

ABSENT = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "gin", "t5x", "polars"}


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
    for package in ("polars", "gin"):
        run = subprocess.run(
            [sys.executable, "-c", f"import {package}"], env=environment, capture_output=True
        )
        assert b"ModuleNotFoundError" in run.stderr, "the smoke test would prove nothing"


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
    (row,) = written["gpu_mfu_t5_xl"]["rows"]
    assert row["mfu"] is None and row["flop_per_s"] > 0
    attention = {row["implementation"]: row for row in written["gpu_attention"]["rows"]}
    assert attention["ours"]["both_error"] < 0.05 and attention["xla"]["both_error"] < 0.05
    assert "forward_refused" in attention["cudnn"]  # a CPU has no cuDNN, and the result says so
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    page = page_sections.gpu()
    assert "ot measured yet" not in page
    for words in ("| t5_xl | 0.1 | dots |", "| bfloat16 | 2 |", "| 8 | 24 |", "| t5_small, ours |"):
        assert words in page
