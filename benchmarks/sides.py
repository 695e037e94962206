"""The two ends of a pipe: a side of a benchmark in a process of its own, and who measures it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from steps import Batch, Stepper

Row = dict[str, Any]
Further = Callable[[Stepper, Batch], Row]


class Side:
    """A process that makes one step when it is told to."""

    def __init__(self, script: Path, words: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, str(script), *words]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def step(self, number: int) -> Row:
        """Wall and CPU time of the step in seconds, and what else the side measures."""
        return self._answer(f"{number}\n")

    def end(self) -> float:
        """End the process; returns its peak memory above what its imports take, in MiB."""
        found = self._answer("end\n")["mib"]
        self.process.wait()
        return float(found)

    def _answer(self, words: str) -> Row:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(words)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side of the benchmark ended with code {self.process.wait()}")
        found: Row = json.loads(line)
        return found


def serve(build: Callable[[], Stepper], batch: Callable[[int], Batch], further: Further) -> None:
    """What the process of a side does: one step for each line that it reads, with its number.

    `further` adds to the times of a step what else a side measures.
    """
    before = memory_kib("VmRSS")
    stepper = build()
    for line in sys.stdin:
        if line == "end\n":
            print(json.dumps({"mib": (memory_kib("VmHWM") - before) / 1024}), flush=True)
            return
        drawn = batch(int(line))
        torch.manual_seed(int(line))
        began, cpu = time.perf_counter(), time.process_time()
        stepper.step(drawn)
        row = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(row | further(stepper, drawn)), flush=True)


def memory_kib(name: str) -> int:
    """KiB that Linux reports for this process (getrusage would include the parent's peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
