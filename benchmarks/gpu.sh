#!/usr/bin/env bash
# The measurements that need a GPU, in under ten minutes: see benchmarks/gpu_suite.py, whose flags it takes.
#
#   bash benchmarks/gpu.sh [--results FOLDER] [--data FOLDER] [--only RESULT ...] [--smoke]
#
# PYTHON names the Python that has JAX (python3).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
exec "${PYTHON:-python3}" -m benchmarks.gpu_suite "$@"
