#!/usr/bin/env bash
# A job on a GKE cluster of TPUs through XPK: cluster made, job started, restarted when preempted, deleted.
#
#   launch/gke_xpk.sh cluster --cluster C --type v5litepod-16 [--slices 1] [--spot]
#   launch/gke_xpk.sh image   --image IMAGE
#   launch/gke_xpk.sh run     NAME --cluster C --type v5litepod-16 --image IMAGE [--slices 1] -- COMMAND ...
#   launch/gke_xpk.sh delete  NAME --cluster C
#   launch/gke_xpk.sh delete-cluster --cluster C
#
#   cluster  makes a cluster with that many slices of that type
#   image    builds launch/Dockerfile from this checkout and pushes it
#   run      starts the command on every host of every slice; hosts that vanish start it again, at most
#            --restarts times (default 100), and it goes on from the last checkpoint
#   --project P, --zone Z  where, if not gcloud's defaults
#   --dry-run              print the commands
#
# Run dirs must be at gs:// URLs, or on storage that all hosts mount: `xpk storage attach` adds it to the
# cluster.
#
#   launch/gke_xpk.sh run toys --cluster tpus --type v5litepod-16 --image IMAGE -- \
#     genrec train --multihost --gin_file=gin_configs/quickstart.gin --gin.MODEL_DIR=\"/runs/toys\"
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

case "${1:-}" in --help | -h) help; exit ;; '') die "wanted an action" ;; esac
action=$1
shift
name=''
case "$action" in run | delete) [ $# -gt 0 ] || die "wanted the job's name"; name=$1; shift ;; esac
cluster='' type='' image='' slices=1 restarts=100 spot=() place=()
while [ $# -gt 0 ]; do
  case "$1" in
    --cluster) value "$@"; cluster=$2; shift 2 ;;
    --type) value "$@"; type=$2; shift 2 ;;
    --image) value "$@"; image=$2; shift 2 ;;
    --slices) value "$@"; slices=$2; shift 2 ;;
    --restarts) value "$@"; restarts=$2; shift 2 ;;
    --project | --zone) value "$@"; place+=("$1=$2"); shift 2 ;;
    --spot) spot=(--spot); shift ;;
    --dry-run) dry_run=1; shift ;;
    --help | -h) help; exit ;;
    --) shift; break ;;
    *) die "unknown option '$1'" ;;
  esac
done
needs() { # needs OPTION VALUE
  [ -n "$2" ] || die "$action wants $1"
}
[ "$action" = image ] || needs --cluster "$cluster"
on=(--cluster="$cluster" ${place[@]+"${place[@]}"})

case "$action" in
  cluster)
    needs --type "$type"
    run xpk cluster create "${on[@]}" --tpu-type="$type" --num-slices="$slices" \
      ${spot[@]+"${spot[@]}"}
    ;;
  image)
    needs --image "$image"
    root=$(cd "$(dirname "$0")/.." && pwd)
    run docker build --file "$root/launch/Dockerfile" --tag "$image" "$root"
    run docker push "$image"
    ;;
  run)
    needs --type "$type"
    needs --image "$image"
    [ $# -gt 0 ] || die "no command; wanted one after --"
    # 75: stopped by a signal with a checkpoint saved; XPK itself restarts what was killed.
    run xpk workload create "${on[@]}" --workload="$name" --tpu-type="$type" \
      --num-slices="$slices" --docker-image="$image" --env=GENREC_STOPPED_CODE=75 \
      --restart-on-exit-codes=75 --max-restarts="$restarts" \
      --termination-grace-period-seconds=120 --command="$(quoted "$@")"
    ;;
  delete) run xpk workload delete "${on[@]}" --workload="$name" ;;
  delete-cluster) run xpk cluster delete "${on[@]}" ;;
  *) die "unknown action '$action'; wanted cluster, image, run, delete or delete-cluster" ;;
esac
