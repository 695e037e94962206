"""How the time of a step grows with its batch, the length of examples and the number of processes.

Ours only; medians of two steps after one. Processes share the machine's threads equally and average
their gradients over gloo, as `torchrun` would start them, each with the batch of one.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import batches
import torch
from steps import Ours

from d2v.training import distributed

REPEAT = 2
LENGTHS = {"speech": (0.5, 1.0, 2.0), "text": (0.25, 0.5, 1.0)}  # of batches.SIZES
BATCHES, RANKS = (1, 2, 4), (1, 2)


def run(tiny: bool, threads: int) -> list[dict[str, Any]]:
    """A row a modality, batch and length; then a row a number of processes."""
    torch.set_num_threads(threads)
    rows = []
    for kind in batches.KINDS:
        size = (batches.TINY_SIZES if tiny else batches.SIZES)[kind]
        first = batches.EXAMPLES[kind]
        shapes = [(first * times, size) for times in BATCHES]
        shapes += [(first, int(size * part)) for part in LENGTHS.get(kind, ()) if part != 1.0]
        for examples, length in shapes:
            seconds = timed(kind, examples, length, tiny)
            rows.append({"kind": kind, "examples": examples, "size": length, "ranks": 1})
            rows[-1]["seconds"] = seconds
        for ranks in RANKS[1:]:
            seconds = several(kind, ranks, first, size, tiny, threads)
            rows.append({"kind": kind, "examples": first * ranks, "size": size, "ranks": ranks})
            rows[-1]["seconds"] = seconds
    return rows


def timed(kind: str, examples: int, size: int, tiny: bool) -> float:
    """Median seconds of a step; under torchrun that of all processes together."""
    world = distributed.join()
    p = batches.recipe(kind, tiny)
    stepper = Ours(p, torch.device("cpu"))
    stepper.module = distributed.wrap(stepper.task, world)
    times = []
    for step in range(REPEAT + 1):
        drawn = batches.batch(p, size, examples, step)
        began = time.perf_counter()
        stepper.step(drawn)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def several(kind: str, ranks: int, examples: int, size: int, tiny: bool, threads: int) -> float:
    """The same in several processes, each with its share of the threads."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", __file__]
    share = max(1, threads // ranks)
    words = json.dumps({"kind": kind, "examples": examples, "size": size, "tiny": tiny})
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    command += [words, str(share)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=quiet)
    return float(done.stdout.split()[0])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a row a shape."""
    lines = ["| step | examples | length | processes | s | s an example |", "|---" * 6 + "|"]
    for row in rows:
        each = row["seconds"] / row["examples"]
        cells = [row["kind"], row["examples"], f"{row['size']:,}", row["ranks"]]
        cells += [f"{row['seconds']:.2f}", f"{each:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    median = timed(**json.loads(sys.argv[1]))
    if distributed.join().main:
        print(median)
