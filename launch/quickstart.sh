#!/usr/bin/env bash
# The main job, end to end: prepare, index, train, evaluate, report. Called by `make quickstart`.
#
#   launch/quickstart.sh [toystore | movielens_100k | FOLDER]
#
# FOLDER is a dataset dir that `genrec prepare` wrote, or raw files in the layout of MovieLens,
# MovieTweetings or `user item item ...` sequences. What is already done is not done again.
set -euo pipefail

dataset=${1:-toystore}

say() {
  if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi
}
show() { # prints a command as it would be typed, and runs it
  say "\$$(printf ' %q' "$@")"
  "$@"
}
unless() { # unless DONE_FILE COMMAND ...: the same, but only while DONE_FILE does not exist
  if [ -e "$1" ]; then
    say "\$$(printf ' %q' "${@:2}")"
    echo "(already done: $1)"
  else
    show "${@:2}"
  fi
}

is_movielens_dat() { # MovieLens 1M or 10M: MovieTweetings' item ids are IMDb's, with leading zeros
  [ -e "$dataset/ratings.dat" ] && ! grep -q '^[0-9]*::0' "$dataset/ratings.dat"
}

gin=gin_configs/quickstart.gin
case "$dataset" in
  toystore)
    data=data/toystore
    prepare=(toystore)
    ;;
  movielens_100k)
    data=data/movielens_100k
    prepare=(movielens --download ml-100k --name ML100K)
    gin=gin_configs/quickstart_large.gin
    ;;
  *)
    if [ ! -d "$dataset" ]; then
      echo "quickstart: '$dataset' is neither toystore, movielens_100k nor a folder" >&2
      exit 2
    fi
    name=$(basename "$dataset" | tr -cd 'A-Za-z0-9_-')
    name=${name:-dataset}
    data=data/$name
    gin=gin_configs/quickstart_large.gin
    if [ -e "$dataset/dataset.json" ]; then
      data=$dataset
      prepare=()
    elif [ -e "$dataset/u.data" ] || [ -e "$dataset/ratings.csv" ] || is_movielens_dat; then
      prepare=(movielens --input "$dataset" --name "$name")
    elif [ -e "$dataset/ratings.dat" ]; then
      prepare=(movietweetings --input "$dataset" --name "$name")
    elif [ -e "$dataset/user_sequence.txt" ]; then
      prepare=(sequences --input "$dataset/user_sequence.txt" --name "$name")
      [ ! -e "$dataset/items.tsv" ] || prepare+=(--items "$dataset/items.tsv")
    else
      echo "quickstart: no raw files that it knows in '$dataset'; run 'genrec prepare --help' for" >&2
      echo "other sources, then 'make quickstart DATASET=<the dataset dir>'" >&2
      exit 2
    fi
    ;;
esac
run=runs/quickstart
[ "$data" = data/toystore ] || run=runs/quickstart-$(basename "$data")

started=$(date +%s)
[ ${#prepare[@]} = 0 ] || unless "$data/dataset.json" genrec prepare "${prepare[@]}" --output "$data"
unless "$data/index/sequential/index.json" genrec index "$data" --method sequential
show genrec train --gin_file="$gin" --gin.DATA_DIR="\"$data\"" --gin.MODEL_DIR="\"$run\""
show genrec evaluate "$run"
show genrec report "$run" --output "$run/report.html"
took=$(($(date +%s) - started))
say "Done in $((took / 60)) min $((took % 60)) s. Open the report in a browser: $run/report.html"
echo "Ask for recommendations: source .venv/bin/activate, then genrec recommend $run --help"
