#!/usr/bin/env bash
# A job on a GKE cluster of TPUs as a plain JobSet: launch/jobset.yaml filled in and applied with kubectl.
#
#   launch/gke_jobset.sh run NAME --type v5litepod-16 --image IMAGE [--slices 1] [--claim CLAIM] -- COMMAND ...
#   launch/gke_jobset.sh show NAME ... -- COMMAND ...
#   launch/gke_jobset.sh delete NAME
#
#   run      applies it: a pod on every host of every slice; when one is preempted or fails, all start
#            again, at most --restarts times (default 100), and go on from the last checkpoint
#   show     prints the YAML alone, to keep or to edit
#   delete   removes the job and its pods
#   --type T       v4-*, v5litepod-*, v5p-* or v6e-*, as in `gcloud`; sets the node selector and the hosts
#   --topology XxY the slice's shape, where the type's usual one is not meant
#   --claim CLAIM  a PersistentVolumeClaim that many pods can write (Filestore, or a bucket through the
#                  Cloud Storage FUSE driver), mounted at /runs
#   --dry-run      print the command and the YAML that it gets
#
# The cluster needs the JobSet controller and a node pool of that type. Images: launch/gke_xpk.sh image.
#
#   launch/gke_jobset.sh run toys --type v5litepod-16 --image IMAGE --claim runs -- \
#     genrec train --multihost --gin_file=gin_configs/quickstart.gin --gin.MODEL_DIR=\"/runs/toys\"
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

case "${1:-}" in --help | -h) help; exit ;; esac
[ $# -ge 2 ] || die "wanted an action and the job's name"
action=$1 name=$2
shift 2
a_name='^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$' # macOS's bash, 3.2, wants the parentheses in a variable
[[ $name =~ $a_name ]] ||
  die "the name is '$name'; wanted at most 40 of a-z, 0-9 and -, a letter first"
type='' topology='' image='' claim='' slices=1 restarts=100
while [ $# -gt 0 ]; do
  case "$1" in
    --type) value "$@"; type=$2; shift 2 ;;
    --topology) value "$@"; topology=$2; shift 2 ;;
    --image) value "$@"; image=$2; shift 2 ;;
    --claim) value "$@"; claim=$2; shift 2 ;;
    --slices) value "$@"; slices=$2; shift 2 ;;
    --restarts) value "$@"; restarts=$2; shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    --help | -h) help; exit ;;
    --) shift; break ;;
    *) die "unknown option '$1'" ;;
  esac
done
if [ "$action" = delete ]; then
  run kubectl delete jobset "$name"
  exit
fi
[ "$action" = run ] || [ "$action" = show ] ||
  die "unknown action '$action'; wanted run, show or delete"
[ -n "$image" ] || die "no --image"
[ $# -gt 0 ] || die "no command; wanted one after --"

number=${type##*-}
[[ $number =~ ^[1-9][0-9]*$ ]] || die "--type is '$type'; wanted one such as v5litepod-16"
case "$type" in # v4 and v5p count cores, of which a chip has two
  v4-*) accelerator=tpu-v4-podslice chips=$((number / 2)) ;;
  v5p-*) accelerator=tpu-v5p-slice chips=$((number / 2)) ;;
  v5litepod-*) accelerator=tpu-v5-lite-podslice chips=$number ;;
  v6e-*) accelerator=tpu-v6e-slice chips=$number ;;
  *) die "--type is '$type'; wanted v4-*, v5litepod-*, v5p-* or v6e-*" ;;
esac
if [ -z "$topology" ]; then
  case "$accelerator:$chips" in
    tpu-v5-lite-podslice:* | tpu-v6e-slice:*) # a square, or twice as long as wide
      case "$chips" in
        4) topology=2x2 ;; 8) topology=2x4 ;; 16) topology=4x4 ;; 32) topology=4x8 ;;
        64) topology=8x8 ;; 128) topology=8x16 ;; 256) topology=16x16 ;;
      esac
      ;;
    *)
      case "$chips" in
        4) topology=2x2x1 ;; 8) topology=2x2x2 ;; 16) topology=2x2x4 ;; 32) topology=2x4x4 ;;
        64) topology=4x4x4 ;; 128) topology=4x4x8 ;; 256) topology=4x8x8 ;; 512) topology=8x8x8 ;;
      esac
      ;;
  esac
fi
[ -n "$topology" ] || die "no shape is known for $type; name it with --topology"
[ $((chips % 4)) = 0 ] || die "--type is '$type'; wanted whole hosts, of 4 chips each"
hosts=$((chips / 4))

indented() { # the words of the command as a YAML list
  local word
  for word in "$@"; do
    word=${word//\'/\'\'}
    printf "                - '%s'\n" "$word"
  done
}
yaml() {
  local line volume=''
  [ -z "$claim" ] || volume=1
  while IFS= read -r line; do
    case "$line" in
      '#'*) continue ;;
      *'@COMMAND@'*) indented "$@"; continue ;;
      *'# with --claim')
        [ -n "$volume" ] || continue
        line=${line%  # with --claim}
        ;;
    esac
    line=${line//@NAME@/$name} line=${line//@IMAGE@/$image} line=${line//@CLAIM@/$claim}
    line=${line//@ACCELERATOR@/$accelerator} line=${line//@TOPOLOGY@/$topology}
    line=${line//@HOSTS@/$hosts} line=${line//@SLICES@/$slices} line=${line//@RESTARTS@/$restarts}
    printf '%s\n' "$line"
  done <"$(dirname "$0")/jobset.yaml"
}

if [ "$action" = show ]; then
  yaml "$@"
elif [ -n "$dry_run" ]; then
  run kubectl apply --filename=-
  yaml "$@"
else
  yaml "$@" | run kubectl apply --filename=-
fi
