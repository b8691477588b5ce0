"""Launchers print exactly what they run, refuse what cannot work, and write YAML that the API takes.

`gcloud`, `srun` and the like are stubs here that write down how they were called.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess

import jsonschema
import pytest
import yaml

from tests.launch import shells

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LAUNCH = ROOT / "launch"
SCHEMA = json.loads((pathlib.Path(__file__).parent / "jobset_schema.json").read_text())
SCRIPTS = ("local", "slurm", "tpu_vm", "gke_xpk", "gke_jobset")
STUBBED = ("gcloud", "xpk", "kubectl", "docker", "git", "env", "sbatch", "srun", "scontrol")
COMMAND = ["genrec", "train", "--multihost", '--gin.MODEL_DIR="runs/a b"', "--gin.X='it''s'"]
STUB = """#!/usr/bin/env bash
words=$(printf ' %q' "$(basename "$0")" "$@")
printf '%s\\n' "${words# }" >>"$LOG"
case "$*" in *describe*) state=$(head -n 1 "$STATES"); sed -i 1d "$STATES"; echo "$state" ;; esac
case "$*" in *"$FAILS"*) count=$(head -n 1 "$FAILURES"); if [ "${count:-0}" -gt 0 ]; then
  echo $((count - 1)) >"$FAILURES"; exit 1; fi ;; esac
case "$*" in *genrec\\ train*) code=$(head -n 1 "$CODES"); sed -i 1d "$CODES"; exit "${code:-0}" ;; esac
case "$*" in *'apply --filename=-') cat >>"$LOG" ;; esac
"""


@pytest.fixture
def stubs(tmp_path):
    """Runs a launcher with stubs for the cloud's tools: `stubs(words, states, codes)` -> (run, log).

    With `fails`, a stub fails the first `failures` times that its words contain it.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in STUBBED:
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)

    def run(
        *words: str, states: str = "", codes: str = "", fails: str = "nothing", failures: int = 0
    ):
        contents = {"LOG": "", "STATES": states, "CODES": codes, "FAILURES": str(failures)}
        files = {name: tmp_path / name for name in contents}
        for name, text in contents.items():
            files[name].write_text(text.replace(" ", "\n"))
        environment = {
            **os.environ,
            **{name: str(path) for name, path in files.items()},
            "FAILS": fails,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "GENREC_POLL_SECONDS": "0",
        }
        ran = launch(*words, env=environment)
        return ran, files["LOG"].read_text()

    return run


def launch(script: str, *words: str, env=None) -> subprocess.CompletedProcess:
    command = [shells.BASH, str(LAUNCH / f"{script}.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_an_example(script):
    ran = launch(script, "--help")
    assert ran.returncode == 0
    assert ran.stdout.count(f"launch/{script}.sh ") >= 2, "the usage, and an example"
    assert "--dry-run" in ran.stdout
    assert "genrec train --multihost" in ran.stdout
    assert "set -euo" not in ran.stdout


ZONE = ["--zone", "us-west4-a"]
TPU = [*ZONE, "--type", "v5litepod-16"]
ON_TPUS = ["--type", "v5litepod-16", "--image", "here/genrec:1"]
WHOLE = {
    "tpu create": ["tpu_vm", "create", "pod", *TPU, "--spot"],
    "tpu install": ["tpu_vm", "install", "pod", *ZONE, "--nfs", "10.0.0.2:/a b"],
    "tpu run": ["tpu_vm", "run", "pod", *ZONE, "--project", "p", "--", *COMMAND],
    "tpu delete": ["tpu_vm", "delete", "pod", *ZONE],
    "tpu resume": ["tpu_vm", "resume", "pod", *TPU, "--", *COMMAND],
    "xpk cluster": ["gke_xpk", "cluster", "--cluster", "c", "--type", "v6e-8", "--slices", "2"],
    "xpk image": ["gke_xpk", "image", "--image", "here/genrec:1"],
    "xpk run": ["gke_xpk", "run", "job", "--cluster", "c", *ON_TPUS, "--", *COMMAND],
    "xpk delete": ["gke_xpk", "delete", "job", "--cluster", "c"],
    "xpk delete-cluster": ["gke_xpk", "delete-cluster", "--cluster", "c"],
    "jobset run": ["gke_jobset", "run", "job", *ON_TPUS, "--", *COMMAND],
    "jobset delete": ["gke_jobset", "delete", "job"],
    "local": ["local", "--port", "1234", "--", *COMMAND],
    "local gpus": ["local", "--processes", "3", "--gpus", "--port", "1234", "--", *COMMAND],
}


@pytest.mark.parametrize("words", WHOLE.values(), ids=WHOLE)
def test_dry_run_prints_exactly_what_runs(stubs, words):
    end = words.index("--") if "--" in words else len(words)
    dry, log = stubs(*words[:end], "--dry-run", *words[end:])
    assert dry.returncode == 0, dry.stderr
    assert log == "", "a dry run must run nothing"
    states = "PREEMPTED READY" if words[1] == "resume" else ""
    real, log = stubs(*words, states=states)
    assert real.returncode == 0, real.stderr
    lines = log.splitlines()
    if words[0] == "local":  # its processes start together
        lines.sort()
    if words[1] == "resume":  # asks once more whether the new TPU is ready
        assert lines.pop(-2) == lines[0]
    assert dry.stdout.splitlines() == lines
    assert lines


def test_a_dry_run_of_local_says_that_its_port_is_an_example(stubs):
    dry, _ = stubs("local", "--dry-run", "--", *COMMAND)
    (port,) = set(re.findall(r"JAX_COORDINATOR_ADDRESS=localhost:(\d+)", dry.stdout))
    assert dry.stderr.startswith(f"port {port} is an example")
    assert len(dry.stdout.splitlines()) == 2
    told, _ = stubs("local", "--dry-run", "--port", port, "--", *COMMAND)
    assert (told.stdout, told.stderr) == (dry.stdout, "")


def test_a_dry_run_of_slurm_prints_the_submission_the_step_and_when_it_is_queued_again(
    stubs, monkeypatch
):
    words = ["--nodes", "2", "--time", "1:00", "--sbatch=--comment=a b"]
    dry, log = stubs("slurm", *words, "--dry-run", "--", *COMMAND)
    submission, step, again = dry.stdout.splitlines()
    assert (dry.returncode, log) == (0, "")
    _, log = stubs("slurm", *words, "--", *COMMAND)
    assert log.splitlines() == [submission]
    requeue = re.fullmatch(r"if \[ \$\? = 75 \]; then (.*); fi", again)
    assert requeue
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for code in (75, 0, 1):
        job, log = stubs("slurm", "--", *COMMAND, codes=str(code))
        more = [requeue[1].replace("$SLURM_JOB_ID", "7")] if code == 75 else []
        assert (job.returncode, log.splitlines()) == (code, [step, *more])


def test_a_remote_command_keeps_its_quotes(stubs):
    _, log = stubs(*WHOLE["tpu run"])
    (words,) = [shlex.split(line) for line in log.splitlines()]
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"]
    (remote,) = [word for word in words if word.startswith("--command=")]
    assert shlex.split(remote.split("GENREC_STOPPED_CODE=75 ")[1]) == COMMAND
    assert "--worker=all" in words


def test_what_is_installed_for_tpus_opens_buckets(stubs):
    _, log = stubs(*WHOLE["tpu install"])
    image = (LAUNCH / "Dockerfile").read_text(encoding="utf-8")
    for text in (log.replace("\\", ""), image):
        assert ".[tpu,gcs]" in text


def test_resume_gives_up_when_the_command_fails_on_a_tpu_that_stands(stubs):
    ran, log = stubs(*WHOLE["tpu resume"], states="READY " * 6, codes="1 1 1")
    assert ran.returncode == 1
    assert "failed 3 times while the TPU stood" in ran.stderr
    assert log.count("genrec\\ train") == 3
    assert "delete" not in log


def test_resume_does_not_count_failures_after_long_runs(stubs, monkeypatch):
    monkeypatch.setenv("GENREC_LONG_RUN_SECONDS", "0")
    ran, log = stubs(*WHOLE["tpu resume"], states="READY " * 12, codes="75 1 75 1 75 0")
    assert ran.returncode == 0, ran.stderr
    assert log.count("genrec\\ train") == 6


@pytest.mark.parametrize("failing", ["scp", "pip\\ install"])
def test_resume_runs_nothing_before_installing_has_succeeded(stubs, failing):
    """The first installation fails, as while ssh is not up yet; then the TPU stands without a checkout."""
    fails = failing.replace("\\", "")
    words = [*WHOLE["tpu resume"]]
    ran, log = stubs(*words, states="ABSENT READY READY READY", fails=fails, failures=1)
    assert ran.returncode == 0, ran.stderr
    steps = [line for line in log.splitlines() if failing in line or "genrec\\ train" in line]
    # (This stub answers that the marker is there: what a first, failed installation leaves is not told.)
    assert "genrec\\ train" in steps[-1]
    ran, log = stubs(*words, states="READY " * 4, fails="test -e", failures=1)
    assert ran.returncode == 0, ran.stderr
    lines = log.splitlines()
    (run,) = [at for at, line in enumerate(lines) if "genrec\\ train" in line]
    (marked,) = [at for at, line in enumerate(lines) if "touch" in line]
    assert marked == run - 1


def test_resume_makes_a_new_tpu_for_every_preemption(stubs):
    states = "READY PREEMPTED PREEMPTED READY ABSENT ABSENT READY"
    ran, log = stubs(*WHOLE["tpu resume"], states=states, codes="255 255 0")
    assert ran.returncode == 0, ran.stderr
    assert log.count("tpu-vm create") == 2
    assert log.count("tpu-vm delete") == 1
    assert log.count("genrec\\ train") == 3


def jobset(*words: str, name: str = "job") -> dict:
    ran = launch("gke_jobset", "show", name, *words)
    assert ran.returncode == 0, ran.stderr
    return yaml.safe_load(ran.stdout)


TOPOLOGIES = {
    "v5litepod-4": ("tpu-v5-lite-podslice", "2x2"),
    "v5litepod-16": ("tpu-v5-lite-podslice", "4x4"),
    "v5litepod-256": ("tpu-v5-lite-podslice", "16x16"),
    "v6e-32": ("tpu-v6e-slice", "4x8"),
    "v5p-64": ("tpu-v5p-slice", "2x4x4"),
    "v4-32": ("tpu-v4-podslice", "2x2x4"),
}


@pytest.mark.parametrize("claim", [[], ["--claim", "runs"]], ids=["no claim", "claim"])
@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_jobset_fits_the_api(kind, claim):
    job = jobset("--type", kind, "--image", "a:b", "--slices", "2", *claim, "--", *COMMAND)
    jsonschema.validate(job, SCHEMA)
    (replicated,) = job["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 2
    spec = replicated["template"]["spec"]
    pod = spec["template"]["spec"]
    accelerator, topology = TOPOLOGIES[kind]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    (container,) = pod["containers"]
    chips = 1
    for side in topology.split("x"):
        chips *= int(side)
    assert spec["completions"] == spec["parallelism"]
    assert spec["completions"] * container["resources"]["limits"]["google.com/tpu"] == chips
    assert container["command"] == COMMAND
    assert container["env"] == [{"name": "GENREC_STOPPED_CODE", "value": "75"}]
    assert ("volumes" in pod) == ("volumeMounts" in container) == bool(claim)


def test_the_schema_refuses_what_the_api_would():
    job = jobset("--type", "v6e-8", "--image", "a:b", "--", "genrec")
    for path, wrong in [
        (("apiVersion",), "v1"),
        (("metadata", "name"), "Upper_Case"),
        (("spec", "failurePolicy", "maxRestarts"), "many"),
        (("spec", "replicatedJobs", 0, "replicas"), -1),
        (("spec", "replicatedJobs", 0, "template", "spec", "completionMode"), "Sometimes"),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers"), []),
        (("spec", "surprise"), 1),
    ]:
        broken = json.loads(json.dumps(job))
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


def test_the_jobset_that_is_applied_is_the_one_shown(stubs):
    words = ["gke_jobset", "run", "job", *ON_TPUS, "--", *COMMAND]
    _, log = stubs(*words)
    shown = launch("gke_jobset", "show", "job", *words[3:]).stdout
    assert log == f"kubectl apply --filename=-\n{shown}"


# Laptops run these; a Mac's bash is 3.2 of 2007, its sed and sleep are not GNU's.
ON_LAPTOPS = [
    *(LAUNCH / f"{name}.sh" for name in ("common", "quickstart", "local", "tpu_vm")),
    *sorted(LAUNCH.glob("gke_*.sh")),
]
TOO_NEW = {
    r"\bwait\b[^;&|]*\s-[a-z]*[np]": "wait -n is of bash 4.3, wait -p of 5.1",
    r"\b(mapfile|readarray|coproc)\b": "of bash 4.0",
    r"\b(declare|local|typeset|readonly)\s+-[a-zA-Z]*[Ang]": "-A and -g are of bash 4, -n of 4.3",
    r"\$\{[#!]?\w+(\[[^]]*\])?(,|\^|@)": "case changes are of bash 4.0, @ operators of 4.4",
    r"&>>|\|&|;;?&(?!&)": "of bash 4.0",
    r"\[-\d+\]": "negative subscripts are of bash 4.2",
    r"%\(.*\)T|\bEPOCH(SECONDS|REALTIME)\b|\bBASHPID\b|\bSRANDOM\b": "of bash 4.0 or later",
    r"\[\[? -v ": "of bash 4.2",
    r"\bread\b.*\s-t\s*\d*\.\d": "fractions are of bash 4.0",
    r"\{\w+\}[<>]": "named descriptors are of bash 4.1",
    r'(?<!\+)"\$\{(spot|pids)\[@\]\}"(?!\})': "empty, an error with `set -u` before bash 4.4",
    r"=~\s+[^$\s]*\(": "3.2 wants an expression with parentheses in a variable",
    r"\bsed\b.*\s-u\b": "lines at once is another flag of sed there",
    r"\bsed\b.*[^;{]\}'": "that sed wants a ; before a }",
    r"\b(tac|nproc|readlink\s+-f|realpath|timeout|date\s+-d)\b": "not on every Mac",
}


@pytest.mark.parametrize("script", ON_LAPTOPS, ids=lambda path: path.stem)
def test_what_laptops_run_is_within_bash_3(script):
    code = re.sub(r"(^|\s)#.*", "", script.read_text(), flags=re.MULTILINE)
    found = {why: re.findall(rf".*(?:{new}).*", code) for new, why in TOO_NEW.items()}
    assert not {why: lines for why, lines in found.items() if lines}


@pytest.mark.parametrize(
    "line",
    [
        'wait -n -p ended "${pids[@]}"',
        "declare -A seen",
        'echo "${name,,}"',
        "tar -x |& cat",
        'kill "${pids[@]}"',
        "[[ $a =~ ^(b|c)$ ]]",
        "cat | sed -u s/a/b/",
        "sed -n '/a/{s/b//p}' file",
    ],
)
def test_what_is_newer_would_be_found(line):
    assert any(re.search(new, line) for new in TOO_NEW)


WRONG = {
    "local without a command": (["local"], "no command"),
    "local with no processes": (["local", "--processes", "0", "--", "true"], "--processes is '0'"),
    "local with an unknown option": (["local", "--gpu", "--", "true"], "unknown option '--gpu'"),
    "local without a value": (["local", "--processes"], "--processes wants a value"),
    "slurm without a command": (["slurm", "--nodes", "2"], "no command"),
    "slurm nodes": (["slurm", "--nodes", "two", "--", "true"], "--nodes is 'two'"),
    "tpu without a zone": (["tpu_vm", "delete", "pod"], "no --zone"),
    "tpu without a name": (["tpu_vm", "delete"], "wanted an action and the TPU's name"),
    "tpu action": (["tpu_vm", "make", "pod", *ZONE], "unknown action 'make'"),
    "tpu type": (["tpu_vm", "create", "pod", *ZONE, "--type", "v9-8"], "no runtime is known"),
    "tpu without a command": (["tpu_vm", "run", "pod", *ZONE], "no command"),
    "xpk without a cluster": (["gke_xpk", "run", "job"], "run wants --cluster"),
    "xpk without an image": (["gke_xpk", "image"], "image wants --image"),
    "jobset name": (["gke_jobset", "run", "A_b", *ON_TPUS, "--", "x"], "the name is 'A_b'"),
    "jobset type": (
        ["gke_jobset", "run", "a", "--type", "h100-8", "--image", "i", "--", "x"],
        "v4-*",
    ),
    "jobset hosts": (
        ["gke_jobset", "run", "a", "--type", "v6e-1", "--image", "i", "--", "x"],
        "v6e-1",
    ),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_are_told_in_one_line(words, message):
    ran = launch(*words)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stdout == ""
