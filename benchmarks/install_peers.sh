#!/usr/bin/env bash
# Puts the peers that benchmarks compare with into virtual environments of their own; none is a
# dependency of the project, and nothing of theirs is committed.
#
#   bash benchmarks/install_peers.sh            # into .peers/
#   PEERS=/some/where bash benchmarks/install_peers.sh torch
#
# Each argument names one peer; all of them without arguments. One that is there already is left alone.
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

mkdir -p "$PEERS"
(($#)) || set -- torch static
for peer in "$@"; do
  "install_$peer"
  echo "$peer: $PEERS/$peer"
done
