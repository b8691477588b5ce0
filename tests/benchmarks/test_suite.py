"""The runner of benchmarks: limits, peers that are absent, and what it writes down."""

import json
import os
import pathlib
import sys
import time
import types

import jax
import pytest

from benchmarks import common, cpu_suite, gpu_suite, suite
from benchmarks.suite import Step

READY = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))"
CHILD = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Steps are programs in a string, and results go to a folder of their own."""
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")

    def command(step, *, smoke):
        return [sys.executable, "-c", *(step.smoke if smoke else step.arguments)]

    monkeypatch.setattr(Step, "command", command)
    return tmp_path / "results"


def run(results, *steps: Step, **options) -> tuple[int, list[dict]]:
    failed = suite.run("tried", steps, **options)
    written = json.loads((results / "suite_tried.json").read_text())
    # Asking JAX for its device would take a GPU's memory from the benchmarks.
    assert {"jax", "commit", "load_average"} == written["conditions"].keys() & {
        *("jax", "device", "commit", "load_average")
    }
    return failed, written["steps"]


def test_each_step_is_told_how_it_ended(results, tmp_path):
    failed, steps = run(
        results,
        Step("good", "", 60, (READY, str(tmp_path / "good"))),
        Step("bad", "", 60, ("raise SystemExit(3)",)),
        Step("after", "", 60, (READY, str(tmp_path / "after"))),
    )
    assert failed == 1
    statuses = [step["status"] for step in steps]
    assert statuses == ["measured", "failed with exit status 3", "measured"]
    assert all(0 <= step["seconds"] < step["limit_s"] == 60 for step in steps)
    assert (tmp_path / "after").exists()


def test_a_step_that_takes_too_long_ends_with_all_that_it_started(results, tmp_path):
    file = tmp_path / "child"
    failed, (step,) = run(results, Step("slow", "", 2, (CHILD, str(file))))
    assert failed == 1 and step["status"] == "cut short after 2 s"
    child = pathlib.Path("/proc") / file.read_text()
    deadline = time.monotonic() + 5
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the benchmark's own process lives on"
        time.sleep(0.01)


def test_an_absent_peer_is_named(results):
    steps = [Step(peer, "", 60, ("pass",), peer=peer) for peer in ("static", "torch")]
    _, entries = run(results, *steps, peer_there=lambda peer: peer == "static")
    assert [entry["status"] for entry in entries] == ["measured", "measured"]
    assert entries[0]["peer"] == "static"
    wanted = "not measured: install the peer with `bash benchmarks/install_peers.sh torch`"
    assert entries[1]["peer"] == wanted


def test_a_trial_has_flags_of_its_own(results, tmp_path):
    files = [str(tmp_path / name) for name in ("real", "trial")]
    step = Step("either", "", 60, (READY, files[0]), (READY, files[1]))
    run(results, step, smoke=True)
    assert [pathlib.Path(file).exists() for file in files] == [False, True]


def test_what_cannot_be_measured_is_named(results, tmp_path, monkeypatch):
    absent = tmp_path / "amazon_beauty"
    clock = types.SimpleNamespace(now=0.0)
    run_one = suite._run_one

    def takes_100_seconds(command, limit):
        clock.now += 100
        return run_one(command, limit)

    monkeypatch.setattr(suite, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(suite, "_run_one", takes_100_seconds)
    failed, steps = run(
        results,
        Step("data", "", 60, ("raise SystemExit(1)",), needs=absent),
        Step("long", "", 60, (READY, str(tmp_path / "long"))),
        Step("late", "", 60, ("raise SystemExit(1)",)),
        total_seconds=100.5,
    )
    assert failed == 0
    assert steps[0]["status"] == "not measured: needs amazon_beauty, which is not there"
    assert steps[1]["status"] == "measured"
    assert steps[2]["status"] == "not measured: the suite's time was used up"


def test_what_a_step_leaves_over_is_lent_to_the_next(results, monkeypatch):
    clock, limits = types.SimpleNamespace(now=0.0), []

    def takes_10_seconds(command, limit):
        clock.now += 10
        limits.append(limit)
        return "measured"

    monkeypatch.setattr(suite, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(suite, "_run_one", takes_10_seconds)
    steps = [Step(name, "", 60) for name in ("first", "second", "third")]
    run(results, *steps, total_seconds=200, lend=True)
    assert limits == [200 - suite.KILL_AFTER - 120, 190 - suite.KILL_AFTER - 60, 175]
    limits.clear()
    run(results, *steps, total_seconds=200)
    assert limits == [60, 60, 60]


def test_the_total_holds_the_end_of_the_last_step_too(results, monkeypatch):
    clock, limits = types.SimpleNamespace(now=0.0), []

    def is_cut_short(command, limit):
        clock.now += limit + suite.KILL_AFTER
        limits.append(limit)
        return "cut short"

    monkeypatch.setattr(suite, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(suite, "_run_one", is_cut_short)
    steps = [Step(name, "", 60) for name in ("first", "second", "third")]
    run(results, *steps, total_seconds=180, lend=True)
    assert clock.now == 180 and limits[:2] == [60, 60]


def test_the_commit_may_be_named_where_git_does_not_tell(monkeypatch):
    monkeypatch.setenv("BENCHMARK_COMMIT", "0123456789ab")
    assert common.git_commit() != "0123456789ab"  # git's word counts
    monkeypatch.setattr(common, "_git", lambda *words: None)
    assert common.git_commit() == "0123456789ab"
    monkeypatch.delenv("BENCHMARK_COMMIT")
    assert common.git_commit() is None


def test_versions_of_a_gpu_that_cannot_be_read_are_left_out(monkeypatch):
    versions = common.gpu_versions.__wrapped__
    assert versions() == {}  # no GPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("PATH", "")
    assert versions()["driver"] is None
    monkeypatch.setattr(common, "_version", {"nvidia-cudnn-cu13": "9.1"}.get)
    assert versions().keys() == {"driver", "platform", "nvidia-cudnn-cu13"}


def test_results_go_where_they_are_sent(results, tmp_path):
    code = "from benchmarks import common; common.write_result('probe', {'rows': [1]})"
    run(results, Step("probe", "", 60, (code,)))
    assert json.loads((results / "probe.json").read_text())["rows"] == [1]


def test_the_limits_keep_the_promises():
    assert sum(step.seconds for step in cpu_suite.STEPS) <= cpu_suite.TOTAL_SECONDS <= 20 * 60
    assert sum(step.seconds for step in gpu_suite.STEPS) <= gpu_suite.TOTAL_SECONDS < 10 * 60
    for step in (*cpu_suite.STEPS, *gpu_suite.STEPS):
        assert (common.ROOT / "benchmarks" / f"{step.module}.py").is_file()


def test_every_benchmark_is_run_or_said_not_to_be():
    helpers = {"beauty_size", "common", "hf_generate", "hf_peer", "hf_train", "input_rate"}
    helpers |= {"cpu_suite", "gpu_suite", "suite", "measured", "page_sections", "plots"}
    helpers |= {"random_run", "scope_times", "t5x_train"}
    there = {path.stem for path in (common.ROOT / "benchmarks").glob("*.py")} - helpers
    run_here = {step.module for step in (*cpu_suite.STEPS, *gpu_suite.STEPS)}
    left_out = {words.split(".py")[0] for words, _ in cpu_suite.LEFT_OUT}
    assert there == run_here | left_out


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are chosen on Linux only")
def test_one_core_is_one_core(monkeypatch):
    monkeypatch.undo()
    step = next(step for step in cpu_suite.STEPS if step.one_core)
    assert step.command(smoke=False)[:3] == ["taskset", "-c", "0"]


def test_a_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<a>\nold\n</a>\nafter\n")
    common.write_between(page, "<a>", "</a>", "| new |")
    assert page.read_text() == "before\n<a>\n| new |\n</a>\nafter\n"
    for text in ("nothing", "<a> alone", "</a> first <a>"):
        page.write_text(text)
        with pytest.raises(ValueError, match="lacks '<a>'"):
            common.write_between(page, "<a>", "</a>", "| new |")
        assert page.read_text() == text
