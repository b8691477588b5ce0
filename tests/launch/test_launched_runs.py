"""Two real processes, started by the launchers, train one model through the whole command line."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrec_jax.checkpoint import restore, run_log
from genrec_jax.checkpoint.import_weights import ForeignWeights
from genrec_jax.checkpoint.imported import ImportedWeights
from genrec_jax.data import prepare, toystore
from genrec_jax.evaluation import checkpoints
from genrec_jax.evaluation.evaluator import EvaluateConfig
from genrec_jax.indexing import build
from genrec_jax.parallel import mesh as meshes
from genrec_jax.prompts import templates
from tests.checkpoint import foreign
from tests.launch import shells

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GIN = """
from __gin__ import dynamic_registration
from genrec_jax.model import config as model_config
from genrec_jax.training import config
include 'gin_configs/models/t5_tiny.gin'
include 'gin_configs/runs/train.gin'
DATA_DIR = "{data}"
MIXTURE_OR_TASK_NAME = "openp5_sequential"
BATCH_SIZE = 16
TASK_FEATURE_LENGTHS = {{"inputs": 96, "targets": None}}
EVAL_PERIOD = None
model_config.T5Config.embed_dim = 16
model_config.T5Config.num_heads = 2
model_config.T5Config.head_dim = 8
model_config.T5Config.mlp_dim = 32
model_config.T5Config.num_encoder_layers = 1
model_config.T5Config.num_decoder_layers = 1
config.TrainConfig.log_period = 1
config.DataConfig.max_shapes = 1
config.DataConfig.history = 5
"""
# What Slurm does, on one machine: sbatch runs the script as a job, srun starts its tasks.
SBATCH = """#!/usr/bin/env bash
while [[ $1 = --* ]]; do
  case "$1" in
    --nodes=*) nodes=${1#*=} ;;
    --ntasks-per-node=*) tasks=${1#*=} ;;
    --export=*) IFS=, read -ra exported <<<"${1#--export=ALL,}" ;;
  esac
  shift
done
cp "$1" "$SPOOL/slurm_script" # as Slurm does: the job runs a copy
shift
exec env "${exported[@]}" SLURM_JOB_ID=$$ SLURM_NTASKS=$((nodes * tasks)) \\
  bash "$SPOOL/slurm_script" "$@"
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 = --* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=0 SLURM_STEP_NODELIST='localhost,node[02-09]' "$@" | sed "s/^/$i: /" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit "${code:-0}"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >>"$SPOOL/requests"
"""


@pytest.fixture(scope="module")
def train_command(tmp_path_factory):
    """`genrec train --multihost` of a model that trains in seconds, as words; a function of the run dir."""
    folder = tmp_path_factory.mktemp("launched")
    data = folder / "toystore"
    log = toystore.generate(seed=3, num_users=60)
    prepare.prepare(log, data, name="toystore", filters=prepare.Filters(3, 1))
    lines = [text for t in templates.load_templates() for text in (t.input, t.target)]
    build.build_index([data], build.IndexConfig(method="sequential"), prompt_lines=lines)
    gin = folder / "tiny.gin"
    gin.write_text(GIN.format(data=data))

    def command(run_dir: pathlib.Path, steps: int) -> list[str]:
        return [
            *(sys.executable, "-m", "genrec_jax.cli.main", "train", "--multihost"),
            *(f"--gin_file={gin}", f'--gin.MODEL_DIR="{run_dir}"', f"--gin.TRAIN_STEPS={steps}"),
        ]

    return command


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """One device a process; what one job has compiled the next one finds."""
    cluster = ("SLURM_", "JAX_COORDINATOR", "JAX_NUM_PROCESSES", "JAX_PROCESS")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(cluster)}
    return plain | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false",
        "GENREC_COMPILATION_CACHE": str(tmp_path_factory.mktemp("compiled")),
    }


def launch(script: str, *words: str, env: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [shells.BASH, str(ROOT / "launch" / f"{script}.sh"), *words],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_run(folder: pathlib.Path, steps: int) -> None:
    """Every step was taken once, by both processes together, and the last one is saved."""
    records = [r for r in run_log.read_metrics(folder) if r["kind"] == "train"]
    assert [r["step"] for r in records] == list(range(1, steps + 1))
    assert records[-1]["examples"] == 16 * steps
    assert restore.open_store(restore.RunDir.load(folder)).steps() == [steps]
    assert (folder / "finished.json").is_file()


@pytest.fixture(scope="module")
def trained(train_command, environment, tmp_path_factory):
    """A run of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    job = launch("local", "--processes", "2", "--", *train_command(folder, 3), env=environment)
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output[-3000:]
    return folder, output


def test_local_trains_on_two_processes(trained):
    folder, output = trained
    assert "[0] trained 3 steps, 48 examples" in output
    check_run(folder, 3)


def test_two_processes_evaluate_as_one(trained, environment, tmp_path):
    """The same lists and ranks of every user, in blocks of which each process searches a half."""
    runs = [tmp_path / "alone", tmp_path / "together"]
    for folder in runs:
        shutil.copytree(trained[0], folder)
    config = EvaluateConfig(templates=("A1",), num_beams=10, batch_size=16)
    (alone,) = checkpoints.evaluate_checkpoint(
        runs[0], config=config, mesh=meshes.single_device_mesh()
    )
    words = [sys.executable, "-m", "genrec_jax.cli.main", "evaluate", "--multihost", str(runs[1])]
    words += ["--templates", "A1", "--num-beams", "10", "--batch-size", "16", "--no-baselines"]
    job = launch("local", "--", *words, env=environment)
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output[-3000:]
    (found,) = (runs[1] / "eval").glob("*/predictions.parquet")
    one, two = (pq.read_table(file) for file in (alone.folder / found.name, found))
    assert one.num_rows == 60
    assert two.drop_columns("scores") == one.drop_columns("scores")
    scores = [np.concatenate(table["scores"].to_pylist()) for table in (one, two)]
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_slurm_trains_on_two_tasks(train_command, environment, tmp_path):
    folder = tmp_path / "run"
    options = ["--nodes", "2", "--gpus-per-node", "0"]
    env = with_slurm(tmp_path, environment)
    job = launch("slurm", *options, "--", *train_command(folder, 3), env=env)
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output[-3000:]
    assert "0: trained 3 steps, 48 examples" in output
    check_run(folder, 3)
    assert not (tmp_path / "requests").exists(), "what has finished is not queued again"


def test_local_imports_weights_on_two_processes(shared, environment, tmp_path):
    """Into one folder, under a name that the first makes up; where they cannot, both say so."""
    folder = shared / "fixtures/hf_t511"

    def imported(target: pathlib.Path) -> tuple[int, str]:
        words = [sys.executable, "-m", "genrec_jax.cli.main", "import-weights", "--multihost"]
        words += [str(folder), "--output", str(target)]
        job = launch("local", "--", *words, env=environment)
        output, _ = job.communicate(timeout=300)
        return job.returncode, output

    code, output = imported(tmp_path / "weights")
    assert code == 0, output[-3000:]
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    params = ImportedWeights.load(tmp_path / "weights").restore_params()
    expected = ForeignWeights.open(folder).params()
    foreign.assert_same(foreign.flat(params), foreign.flat(expected))
    code, output = imported(tmp_path / "weights/weights.json/in the way")
    assert code == 2, output[-3000:]
    for process in range(2):
        assert re.search(
            rf"^\[{process}\] genrec import-weights: error: .* in the way", output, re.M
        )


def with_slurm(folder: pathlib.Path, environment: dict[str, str]) -> dict[str, str]:
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return environment | {"PATH": f"{folder}:{environment['PATH']}", "SPOOL": str(folder)}


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (1, False)])
def test_slurm_queues_a_stopped_job_again_and_no_other(environment, tmp_path, code, requeued):
    """Also when the signal reached the batch script itself."""
    shell = f"kill -TERM $PPID $(ps -o ppid= -p $PPID); exit {code}"
    words = ["--nodes", "1", "--gpus-per-node", "1", "--", "bash", "-c", shell]
    env = with_slurm(tmp_path, environment)
    (tmp_path / "srun").write_text('#!/usr/bin/env bash\ntrap : TERM\nshift 2\n"$@"\n')
    job = launch("slurm", *words, env=env)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == code, output
    assert (tmp_path / "requests").exists() == requeued
    if requeued:
        assert re.fullmatch(r"requeue \d+\n", (tmp_path / "requests").read_text())


def test_slurm_says_what_it_will_run(train_command, tmp_path):
    words = [
        "--nodes",
        "2",
        "--gpus-per-node",
        "8",
        "--time",
        "1:00:00",
        "--sbatch=--partition=gpu",
    ]
    job = launch("slurm", *words, "--dry-run", "--", "genrec", "train", env=dict(os.environ))
    output, _ = job.communicate(timeout=60)
    submitted, step, again = output.splitlines()
    assert submitted.startswith("sbatch --job-name=genrec --nodes=2 --ntasks-per-node=8 --requeue ")
    assert "--gpus-per-node=8" in submitted
    assert "--time=1:00:00 --partition=gpu" in submitted
    assert submitted.endswith("/launch/slurm.sh -- genrec train")
    assert step == "srun --wait=120 --label genrec train"
    assert again == "if [ $? = 75 ]; then scontrol requeue $SLURM_JOB_ID; fi"


def test_local_gives_each_process_its_place_and_its_gpu(tmp_path):
    show = "echo $JAX_PROCESS_ID/$JAX_NUM_PROCESSES $JAX_COORDINATOR_ADDRESS $CUDA_VISIBLE_DEVICES"
    words = ["--processes", "3", "--gpus", "--port", "1234", "--", "bash", "-c", show]
    job = launch("local", *words, env=dict(os.environ))
    output, _ = job.communicate(timeout=60)
    assert sorted(output.splitlines()) == [f"[{i}] {i}/3 localhost:1234 {i}" for i in range(3)]


def test_local_stops_the_others_when_one_fails():
    """The one that waits for the dead one would wait for ever."""
    shell = 'if [ "$JAX_PROCESS_ID" = 1 ]; then exit 3; else exec sleep 1000; fi'
    started = time.monotonic()
    job = launch("local", "--", "bash", "-c", shell, env=dict(os.environ))
    job.communicate(timeout=120)
    assert job.returncode == 3
    assert time.monotonic() - started < 60


def test_local_passes_a_signal_on_and_ends_with_the_code():
    """As soon as all have ended: nobody who reads its output waits for anything else."""
    shell = 'trap "echo told; exit 75" TERM; echo ready; while :; do sleep 0.1; done'
    job = launch("local", "--", "bash", "-c", shell, env=dict(os.environ))
    assert job.stdout is not None
    assert sorted(job.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
    job.terminate()
    output, _ = job.communicate(timeout=60)
    assert sorted(output.splitlines()) == ["[0] told", "[1] told"]
    assert job.returncode == 75


def test_local_shows_a_line_without_an_end_and_keeps_errors_apart():
    words = ["--processes", "1", "--", "bash", "-c", "printf out; printf '  err\\\\ \n' >&2"]
    command = [shells.BASH, str(ROOT / "launch" / "local.sh"), *words]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[0] out\n", "[0]   err\\ \n")


@pytest.mark.long
def test_a_signal_to_any_process_leaves_one_checkpoint(train_command, environment, tmp_path):
    """The one that is told is not the one that writes; the same command goes on from there."""
    folder = tmp_path / "run"
    env = environment | {"GENREC_STOPPED_CODE": "75"}
    job = launch("local", "--", *train_command(folder, 100_000), env=env)
    while not run_log.read_metrics(folder) and job.poll() is None:
        time.sleep(0.1)
    os.kill(child_number(1, job.pid), signal.SIGTERM)
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 75, output[-3000:]
    (said,) = re.findall(r"^\[0\] stopped on request after (\d+) steps", output, re.MULTILINE)
    assert restore.open_store(restore.RunDir.load(folder)).steps() == [int(said)]
    steps = int(said) + 2
    job = launch("local", "--", *train_command(folder, steps), env=env)
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output[-3000:]
    assert f"going on from step {said} of {steps}" in output
    assert (folder / "finished.json").is_file()


@pytest.mark.long
def test_a_signal_to_the_launcher_reaches_all(train_command, environment, tmp_path):
    folder = tmp_path / "run"
    job = launch("local", "--", *train_command(folder, 100_000), env=environment)
    while not run_log.read_metrics(folder) and job.poll() is None:
        time.sleep(0.1)
    job.terminate()
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output[-3000:]
    assert len(restore.open_store(restore.RunDir.load(folder)).steps()) == 1


def child_number(number: int, parent: int) -> int:
    """The process id of process `number` of a job that local.sh has started."""
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    wanted = f"JAX_PROCESS_ID={number}".encode()
    (found,) = [int(child) for child in children if wanted in environment_of(child).split(b"\0")]
    return found


def environment_of(process: str) -> bytes:
    try:
        return pathlib.Path(f"/proc/{process}/environ").read_bytes()
    except OSError:  # the launcher's nap, over by now
        return b""
