#!/usr/bin/env bash
# A Cloud TPU VM, of one host or a pod of many: made, installed, run on all its workers, kept alive, deleted.
#
#   launch/tpu_vm.sh create  NAME --zone ZONE --type v5litepod-16 [--spot] [--version RUNTIME]
#   launch/tpu_vm.sh install NAME --zone ZONE [--nfs HOST:/SHARE]
#   launch/tpu_vm.sh run     NAME --zone ZONE -- COMMAND ...
#   launch/tpu_vm.sh resume  NAME --zone ZONE --type v5litepod-16 [--spot] [--nfs HOST:/SHARE] -- COMMAND ...
#   launch/tpu_vm.sh delete  NAME --zone ZONE
#
#   create   asks for the TPU; --version is its runtime, chosen from the type when not given
#   install  copies this checkout's HEAD to every worker and makes a virtual environment there; with --nfs
#            mounts a share (Filestore, say) at /mnt/genrec, for run dirs that are not at gs:// URLs
#   run      runs the command on every worker, in the checkout, with the environment active
#   resume   runs it until it has finished: while the TPU stands it tries again, until it has failed 3 times
#            within ten minutes of its start; when it was preempted it deletes, creates and installs it
#            anew, then runs the command, which goes on from the last checkpoint. A TPU that stands and on
#            which installing was never finished is installed first
#   delete   gives the TPU back
#   --project P  the project, where it is not gcloud's default
#   --dry-run    print the commands; for resume, those of one preemption
#
#   launch/tpu_vm.sh resume pod --zone us-west4-a --type v5litepod-16 --spot --nfs 10.0.0.2:/share -- \
#     genrec train --multihost --gin_file=gin_configs/quickstart.gin \
#     --gin.MODEL_DIR=\"/mnt/genrec/runs/pod\"
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

case "${1:-}" in --help | -h) help; exit ;; esac
[ $# -ge 2 ] || die "wanted an action and the TPU's name"
action=$1 name=$2
shift 2
type='' version='' nfs='' spot=() place=()
while [ $# -gt 0 ]; do
  case "$1" in
    --zone | --project) value "$@"; place+=("$1=$2"); shift 2 ;;
    --type) value "$@"; type=$2; shift 2 ;;
    --version) value "$@"; version=$2; shift 2 ;;
    --nfs) value "$@"; nfs=$2; shift 2 ;;
    --spot) spot=(--spot); shift ;;
    --dry-run) dry_run=1; shift ;;
    --help | -h) help; exit ;;
    --) shift; break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[[ " ${place[*]-} " == *" --zone="* ]] || die "no --zone"
if [ "$action" = run ] || [ "$action" = resume ]; then
  [ $# -gt 0 ] || die "no command; wanted one after --"
  # GENREC_STOPPED_CODE: a run that was stopped before its end must not look finished.
  remote="cd genrec && source .venv/bin/activate && GENREC_STOPPED_CODE=75 $(quoted "$@")"
elif [ $# -gt 0 ]; then
  die "$action takes no command"
fi
if [ "$action" = create ] || [ "$action" = resume ]; then
  [ -n "$type" ] || die "no --type, such as v5litepod-16"
  if [ -z "$version" ]; then
    case "$type" in
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
      *) die "no runtime is known for '$type'; name one with --version" ;;
    esac
  fi
fi

tpu() { run gcloud compute tpus tpu-vm "$@" "${place[@]}"; }
everywhere() { tpu ssh "$name" --worker=all --command="$1"; }

create() { tpu create "$name" --accelerator-type="$type" --version="$version" ${spot[@]+"${spot[@]}"}; }
delete() { tpu delete "$name" --quiet; }
install() { # its steps are chained: resume asks whether all went well, which turns off `set -e`
  local root archive
  root=$(cd "$(dirname "$0")/.." && pwd)
  archive="${TMPDIR:-/tmp}/genrec-$name.tar.gz"
  run git -C "$root" archive --format=tar.gz --output="$archive" HEAD &&
    tpu scp "$archive" "$name:genrec.tar.gz" --worker=all &&
    everywhere 'mkdir -p genrec && rm -f genrec/.installed && tar -xzf genrec.tar.gz -C genrec' &&
    everywhere 'python3 -m pip install --quiet --user uv' &&
    everywhere 'cd genrec && ~/.local/bin/uv venv --quiet --clear --python 3.12 .venv' &&
    everywhere 'cd genrec && ~/.local/bin/uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".[tpu,gcs]"' &&
    if [ -n "$nfs" ]; then
      everywhere 'sudo apt-get install --yes --quiet nfs-common && sudo mkdir -p /mnt/genrec' &&
        everywhere "mountpoint --quiet /mnt/genrec || sudo mount -t nfs $(quoted "$nfs") /mnt/genrec" &&
        everywhere 'sudo chmod a+rwx /mnt/genrec'
    fi &&
    everywhere 'touch genrec/.installed'
}
state() { gcloud compute tpus tpu-vm describe "$name" --format='value(state)' "${place[@]}" 2>/dev/null || echo ABSENT; }

resume() {
  local installed='' failures=0 began seconds=${GENREC_POLL_SECONDS:-60}
  if [ -n "$dry_run" ]; then
    run gcloud compute tpus tpu-vm describe "$name" --format='value(state)' "${place[@]}"
    delete; create; install; everywhere "$remote"
    return
  fi
  while :; do
    case "$(state)" in
      READY)
        began=$SECONDS
        if [ -n "$installed" ] || everywhere 'test -e genrec/.installed' || install; then
          installed=1
          everywhere "$remote" && return
        fi
        if [ "$(state)" = READY ]; then
          # After a long run it was stopped, or failed of something that may be over.
          [ $((SECONDS - began)) -lt "${GENREC_LONG_RUN_SECONDS:-600}" ] || failures=0
          failures=$((failures + 1))
          [ "$failures" -lt 3 ] || { echo "failed 3 times while the TPU stood" >&2; exit 1; }
        fi
        ;;
      PREEMPTED | TERMINATED | STOPPED)
        installed=''
        delete || true
        if create && install; then installed=1; fi
        ;;
      ABSENT)
        installed=''
        if create && install; then installed=1; fi
        ;;
    esac
    sleep "$seconds"
  done
}

case "$action" in
  create | install | resume | delete) "$action" ;;
  run) everywhere "$remote" ;;
  *) die "unknown action '$action'; wanted create, install, run, resume or delete" ;;
esac
