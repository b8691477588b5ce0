#!/usr/bin/env bash
# One job of several processes on this machine: a multi-host run without a cluster, or a process a GPU.
#
#   launch/local.sh [--processes 2] [--gpus] [--port 9876] [--dry-run] -- COMMAND ...
#
#   --processes N  how many (default 2)
#   --gpus         process i sees GPU i alone; without it each sees every device of the machine
#   --port P       where process 0 listens (default: one that is free)
#   --dry-run      print the commands instead of running them; without --port the port is an example
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
if [ -z "$port" ]; then
  port=$(free_port)
  [ -z "$dry_run" ] || echo "port $port is an example: without --port each run takes a free one" >&2
fi

prefixed() { # prefixed I: lines of process I, as they come; no `sed`, whose flag for that differs
  local line
  while IFS= read -r line || [ -n "$line" ]; do printf '[%s] %s\n' "$1" "$line"; done
}

pids=()
for ((i = 0; i < processes; i++)); do
  place=(JAX_COORDINATOR_ADDRESS="localhost:$port" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$i")
  [ -z "$gpus" ] || place+=(CUDA_VISIBLE_DEVICES="$i")
  if [ -n "$dry_run" ]; then
    run env "${place[@]}" "$@"
  else
    env "${place[@]}" "$@" > >(prefixed "$i") 2> >(prefixed "$i" >&2) &
    pids+=("$!")
  fi
done

trap 'kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null || true' TERM INT

# Looks twice a second which have ended: macOS's bash, 3.2, cannot wait for whichever ends first. A signal
# ends the nap, whose output goes nowhere, so that nobody who reads ours waits for it.
code=0 deadline=''
while [ ${#pids[@]} -gt 0 ]; do
  sleep 0.5 >/dev/null 2>&1 &
  wait $! || true
  for i in "${!pids[@]}"; do
    if ! kill -0 "${pids[$i]}" 2>/dev/null; then
      status=0
      wait "${pids[$i]}" || status=$?
      unset "pids[$i]"
      if [ "$status" != 0 ] && [ "$code" = 0 ]; then
        code=$status deadline=$((SECONDS + 10))
      fi
    fi
  done
  # The others wait for the one that failed; those that have heard end by themselves.
  if [ -n "$deadline" ] && [ "$SECONDS" -ge "$deadline" ]; then
    kill -KILL ${pids[@]+"${pids[@]}"} 2>/dev/null || true
  fi
done
exit "$code"
