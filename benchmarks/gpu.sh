#!/bin/sh
# The benchmarks of one GPU, without network and without installing: the essential part in four
# minutes, the rest in eight, except for what gpu.py says is left out then.
#
#     benchmarks/gpu.sh [--device cpu --tiny] [--minutes 8] [--parts PART ...] [-o FOLDER]
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
