#!/usr/bin/env bash
# The main job, end to end: prepare, index, train, evaluate, report. Called by `make quickstart`.
#
#   launch/quickstart.sh [toystore | movielens_100k | FOLDER]
#
# FOLDER is a dataset dir that `genrec prepare` wrote, or raw files: one table with columns named user and
# item, or the layout of MovieLens, MovieTweetings or `user item item ...` sequences; see `layouts` below.
# What is already done is not done again.
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

layouts() {
  echo "  one .csv, .tsv or .parquet with columns named user and item (and timestamp, rating, if any)"
  echo "  user_sequence.txt, lines of 'user item item ...'"
  echo "  MovieLens: u.data, ratings.dat, or ratings.csv with its header; MovieTweetings: ratings.dat"
  echo "and, beside a table or sequences, items.tsv with the columns item and title (or items.csv, .parquet)."
}
header_of() { # the first line of a text file, between commas
  local line byte_order_mark=$'\xef\xbb\xbf'
  line=$(head -n 1 "$1" | tr -d '\r"' | tr '\t' ',')
  echo ",${line#"$byte_order_mark"},"
}
is_movielens_csv() {
  [ -e "$dataset/ratings.csv" ] && case $(header_of "$dataset/ratings.csv") in
    *,userId,movieId,*) true ;;
    *) false ;;
  esac
}
is_log() { # whether a table has users and items; Parquet is asked by prepare, if it is the only one
  case $1 in
    */items.csv | */items.tsv | */items.parquet) return 1 ;;
    *.parquet) return 0 ;;
  esac
  case $(header_of "$1") in *,user,*) ;; *) return 1 ;; esac
  case $(header_of "$1") in *,item,*) ;; *) return 1 ;; esac
}
find_table() { # sets `table`, the one table of interactions in the folder
  local file
  table=
  for file in "$dataset"/*.csv "$dataset"/*.tsv "$dataset"/*.parquet; do
    if [ ! -f "$file" ] || ! is_log "$file"; then continue; fi
    if [ -n "$table" ]; then
      echo "quickstart: '$table' and '$file' could both be the log; leave one of them there" >&2
      exit 2
    fi
    table=$file
  done
  [ -n "$table" ]
}
add_items() { # adds the table of items to `prepare`, where there is one
  local file
  for file in "$dataset"/items.tsv "$dataset"/items.csv "$dataset"/items.parquet; do
    if [ -e "$file" ]; then
      prepare+=(--items "$file")
      return
    fi
  done
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
    elif [ -e "$dataset/u.data" ] || is_movielens_csv || is_movielens_dat; then
      prepare=(movielens --input "$dataset" --name "$name")
    elif [ -e "$dataset/ratings.dat" ]; then
      prepare=(movietweetings --input "$dataset" --name "$name")
    elif [ -e "$dataset/user_sequence.txt" ]; then
      prepare=(sequences --input "$dataset/user_sequence.txt" --name "$name")
      add_items
    elif find_table; then
      prepare=(table --input "$table" --name "$name")
      add_items
    else
      {
        echo "quickstart: no raw files that it knows in '$dataset'. It takes a folder with"
        layouts
        echo "Run 'genrec prepare --help' for other sources, such as tables whose columns have other"
        echo "names, then 'make quickstart DATASET=<the dataset dir>'"
      } >&2
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
