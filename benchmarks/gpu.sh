#!/bin/sh
# The benchmarks of one GPU, in less than eight minutes, without network and without installing:
#
#     benchmarks/gpu.sh [--device cpu --tiny] [--minutes 7.5] [-o FOLDER]
#
# Needs a Python with PyTorch >= 2.11 (PYTHON=...). Packages that it lacks are taken from
# benchmarks/wheels/, which `make gpu-wheels` fills on a machine with network; those that it has
# come first. Writes benchmarks/results/gpu-DEVICE.json.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-python3}
beside=$("$python" "$here/wheels.py" --unpack)
PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}" D2V_BESIDE="$beside" \
  exec "$python" "$here/beside.py" "$here/gpu.py" "$@"
