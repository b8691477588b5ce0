#!/usr/bin/env bash
# Puts the peers that benchmarks compare with into virtual environments of their own; none is a
# dependency of the project, and nothing of theirs is committed.
#
#   bash benchmarks/install_peers.sh            # into .peers/
#   PEERS=/some/where bash benchmarks/install_peers.sh torch
#
# Each argument names one peer; without arguments those of `make bench`. One that is there already is left alone.
set -euo pipefail

PEERS=${PEERS:-.peers}
PYTHON=${PYTHON:-python3}

install_torch() { # PyTorch and Hugging Face transformers, for decode_vs_hf.py
  [[ -e $PEERS/torch/installed ]] && return
  "$PYTHON" -m venv "$PEERS/torch"
  "$PEERS/torch/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "numpy>=2.0"
  touch "$PEERS/torch/installed"
}

install_static() { # STATIC's constrained decoding, for trie_build.py and trie_step.py: its source alone
  [[ -e $PEERS/static/installed ]] && return
  rm -rf "$PEERS/static"
  git clone --quiet https://github.com/youtube/static-constraint-decoding.git "$PEERS/static"
  git -C "$PEERS/static" checkout --quiet c24f9dc8b9b8045716fff7ef750a1f0cb31c6f57
  touch "$PEERS/static/installed"
}

install_t5x() { # T5X's trainer, for train_vs_t5x.py: its requirements would ask for newest commits (docs/t5x.md)
  [[ -e $PEERS/t5x/installed ]] && return
  local here
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  "$PYTHON" -m venv "$PEERS/t5x"
  "$PEERS/t5x/bin/pip" install --quiet -c "$here/constraints.txt" "${here}[seqio]" \
    cached-property fiddle grain libcst portpicker
  "$PEERS/t5x/bin/pip" install --quiet --no-deps \
    "git+https://github.com/google-research/t5x@cc342d419ec3e3e9c4bf1df33c82330cafdc1e16" \
    "git+https://github.com/google/airio@69897df7d9a427b947a9f7bb4164c7782b43e601" \
    "git+https://github.com/google-research/jestimator@326824a477feef6d92e6f44175000907a72899ca"
  touch "$PEERS/t5x/installed"
}

mkdir -p "$PEERS"
(($#)) || set -- torch static
for peer in "$@"; do
  "install_$peer"
  echo "$peer: $PEERS/$peer"
done
