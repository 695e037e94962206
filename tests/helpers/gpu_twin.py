"""`benchmarks/gpu.sh` in small, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12  # of a tiny run through the trainer


def call(folder: Path, *words: str) -> dict[str, Any]:
    """Figures of `gpu.sh --device cpu --tiny`."""
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--device", "cpu", "--tiny", "--steps", "1"]
    command += ["--minutes", "15"]  # a busy machine may need more than the plan gives
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    done = subprocess.run(
        [*command, *words, "-o", str(folder)],
        capture_output=True, text=True, env=env, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "gpu-cpu.json").read_text())
    return found


def resumed(found: dict[str, Any], kind: str) -> bool:
    """Whether a killed run went on as if nothing had been; on a CPU it is the same to the bit."""
    row = found["trainer"][kind]
    assert row["steps"] == STEPS
    return bool(row["equal"]) and row["differs"] == 0
