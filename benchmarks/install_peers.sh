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

mkdir -p "$PEERS"
for peer in "${@:-torch}"; do
  "install_$peer"
  echo "$peer: $PEERS/$peer"
done
