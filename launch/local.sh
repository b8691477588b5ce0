#!/usr/bin/env bash
# One job of several processes on this machine: a multi-host run without a cluster, or a process a GPU.
#
#   launch/local.sh [--processes 2] [--gpus] [--port 9876] [--dry-run] -- COMMAND ...
#
#   --processes N  how many (default 2)
#   --gpus         process i sees GPU i alone; without it each sees every device of the machine
#   --port P       where process 0 listens (default: one that is free)
#   --dry-run      print the commands instead of running them
#
# Lines of process i begin with [i]. SIGTERM and Ctrl-C go to all processes as SIGTERM, on which
# `genrec train` saves one checkpoint and stops. When one fails, the others are stopped.
#
#   launch/local.sh --processes 2 -- genrec train --multihost --gin_file=gin_configs/quickstart.gin \
#     --gin.MODEL_DIR=\"runs/two\"
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

processes=2 gpus='' port=''
while [ $# -gt 0 ]; do
  case "$1" in
    --processes) value "$@"; processes=$2; shift 2 ;;
    --port) value "$@"; port=$2; shift 2 ;;
    --gpus) gpus=1; shift ;;
    --dry-run) dry_run=1; shift ;;
    --help | -h) help; exit ;;
    --) shift; break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[ $# -gt 0 ] || die "no command; wanted one after --"
[[ $processes =~ ^[1-9][0-9]*$ ]] || die "--processes is '$processes'; wanted a whole number from 1"

free_port() { # one that nobody listens on, below the range that outgoing connections take
  local candidate
  while candidate=$((20000 + RANDOM % 10000)); (: <"/dev/tcp/localhost/$candidate") 2>/dev/null; do :; done
  echo "$candidate"
}
port=${port:-$(free_port)}

pids=()
for ((i = 0; i < processes; i++)); do
  place=(JAX_COORDINATOR_ADDRESS="localhost:$port" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$i")
  [ -z "$gpus" ] || place+=(CUDA_VISIBLE_DEVICES="$i")
  if [ -n "$dry_run" ]; then
    run env "${place[@]}" "$@"
  else
    env "${place[@]}" "$@" > >(sed -u "s/^/[$i] /") 2> >(sed -u "s/^/[$i] /" >&2) &
    pids+=("$!")
  fi
done

trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT

code=0
while [ ${#pids[@]} -gt 0 ]; do
  status=0
  wait -n -p ended "${pids[@]}" || status=$?
  [ -n "${ended:-}" ] || continue # a signal came in between
  for i in "${!pids[@]}"; do
    [ "${pids[$i]}" != "$ended" ] || unset "pids[$i]"
  done
  if [ "$status" != 0 ] && [ "$code" = 0 ]; then
    code=$status
    if [ ${#pids[@]} -gt 0 ]; then # they wait for it; those that have heard end by themselves
      sleep 10 && kill -KILL "${pids[@]}" 2>/dev/null &
    fi
  fi
done
exit "$code"
