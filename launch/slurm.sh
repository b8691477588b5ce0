#!/usr/bin/env bash
# Runs a job on a Slurm cluster, a process for each GPU, queued again until it has finished.
#
#   launch/slurm.sh --nodes 2 --gpus-per-node 8 [--time 24:00:00] [--sbatch=OPTION ...] [--dry-run] \
#     -- COMMAND ...
#
#   --nodes N          machines (default 1)
#   --gpus-per-node G  GPUs, and processes, on each (default 8; 0 for one process on CPUs)
#   --time T           limit of one attempt, as Slurm writes it (default: the partition's)
#   --name NAME        of the job (default genrec); its output is appended to NAME-<job>.log
#   --sbatch=OPTION    any other option of sbatch, such as --sbatch=--partition=gpu
#   --dry-run          print the sbatch command and, after it, what the job will run, and when it queues
#                      itself again
#
# Outside a job it submits itself; inside one it starts the processes with srun. Two minutes before the
# time limit, and when the job is preempted, Slurm sends SIGTERM: `genrec train` saves a checkpoint and
# exits with code 75 ($GENREC_STOPPED_CODE), and the job is put back into the queue. Environment,
# checkout and a run dir that is no URL must lie on a file system that all machines share.
#
#   launch/slurm.sh --nodes 2 --gpus-per-node 8 --sbatch=--partition=gpu -- \
#     genrec train --multihost --gin_file=gin_configs/quickstart.gin --gin.MODEL_DIR=\"runs/slurm\"
set -euo pipefail
launch=$(cd "$(dirname "${GENREC_LAUNCH:-$0}")" && pwd) # Slurm runs a copy of this file elsewhere
# shellcheck source=launch/common.sh
source "$launch/common.sh"

nodes=1 gpus=8 name=genrec more=()
while [ $# -gt 0 ]; do
  case "$1" in
    --nodes) value "$@"; nodes=$2; shift 2 ;;
    --gpus-per-node) value "$@"; gpus=$2; shift 2 ;;
    --time) value "$@"; more+=(--time="$2"); shift 2 ;;
    --name) value "$@"; name=$2; shift 2 ;;
    --sbatch=*) more+=("${1#--sbatch=}"); shift ;;
    --dry-run) dry_run=1; shift ;;
    --help | -h) help; exit ;;
    --) shift; break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[ $# -gt 0 ] || die "no command; wanted one after --"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || die "--nodes is '$nodes'; wanted a whole number from 1"
[[ $gpus =~ ^[0-9]+$ ]] || die "--gpus-per-node is '$gpus'; wanted a whole number"

# When one task has ended, the others have two minutes: enough to end together, no endless wait for one
# that failed.
step=(srun --wait=120 --label "$@")

if [ -z "${SLURM_JOB_ID:-}" ] || [ -n "$dry_run" ]; then
  tasks=$((gpus > 0 ? gpus : 1))
  options=(--job-name="$name" --nodes="$nodes" --ntasks-per-node="$tasks" --requeue
    --signal=TERM@120 --open-mode=append --output="$name-%j.log")
  [ "$gpus" = 0 ] || options+=(--gpus-per-node="$gpus")
  options+=(--export="ALL,GENREC_LAUNCH=$launch/slurm.sh,GENREC_STOPPED_CODE=75")
  run sbatch "${options[@]}" ${more[@]+"${more[@]}"} "$launch/slurm.sh" -- "$@"
  if [ -n "$dry_run" ]; then
    run "${step[@]}"
    echo "if [ \$? = 75 ]; then scontrol requeue \$SLURM_JOB_ID; fi"
  fi
  exit
fi

trap : TERM # the signal is for the processes; this script waits for them
code=0
run "${step[@]}" || code=$?
if [ "$code" = "${GENREC_STOPPED_CODE:-75}" ]; then
  run scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
