"""The pre-training step at Base size, and the same step composed from Hugging Face's modules.

    python benchmarks/step.py [--kinds speech vision text] [--repeat 3] [--threads 2] [-o FILE]

Both sides see the same batches (speech 1 x 10 s, vision 2 x 224^2, text 2 x 512 tokens: random,
with the recipe's masks and dropouts) and take turns in one process: matrix product, ours, peer,
again. Medians count. `ratio` is the peer's time over ours; `fraction` the step's operations
(d2v.flops) over its time and over the rate of a 2048 x 2048 matrix product in the same run; memory
is the peak of a process of its own above what its imports take. The peer is explained in peer.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import batches
import torch
from steps import PARTS, Ours, Stepper, Theirs, gemm_gflops

from d2v import flops

SIDES = {"ours": Ours, "peer": Theirs}
STEPS_FOR_MEMORY = 2  # the second has gradients and moments of the first in memory
Row = dict[str, Any]


def measure(kind: str, a: argparse.Namespace) -> Row:
    """Times of both sides, in turns; memory beside them unless it is not asked for."""
    device, size, examples = torch.device("cpu"), _size(kind, a.tiny), a.examples[kind]
    p = batches.recipe(kind, a.tiny)
    sides: dict[str, Stepper] = {
        name: side(p, device, split=True) for name, side in SIDES.items() if name in a.sides
    }
    drawn = [batches.batch(p, size, examples, step) for step in range(a.repeat + 1)]
    for stepper in sides.values():  # the first step warms up
        stepper.step(drawn[0])
        stepper.clock.read()
    times: dict[str, list[Row]] = {name: [] for name in sides}
    products = []
    for step in range(1, a.repeat + 1):
        products.append(gemm_gflops(device))
        torch.manual_seed(step)
        for name, stepper in sides.items():
            times[name].append(_timed(stepper, drawn[step]))
    began = time.perf_counter()
    batches.batch(p, size, examples, a.repeat)
    data = time.perf_counter() - began
    operations = examples * flops.pretraining(p, size)
    found = {"examples": examples, "size": size, "gflop": operations / 1e9}
    found |= _merged(times, operations, statistics.median(products))
    found.setdefault("split", {})["data"] = data
    return found | (_memory(kind, a) if a.memory else {})


def _timed(stepper: Stepper, batch: dict[str, torch.Tensor]) -> Row:
    began, cpu = time.perf_counter(), time.process_time()
    stepper.step(batch)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "split": stepper.clock.read(),
    }


def _merged(times: dict[str, list[Row]], operations: float, product: float) -> Row:
    """Medians of both sides and what follows from them."""
    found: Row = {"gemm_gflops": product}
    for name, rows in times.items():
        prefix = "" if name == "ours" else "peer_"
        seconds = [row["seconds"] for row in rows]
        found[f"{prefix}seconds"] = statistics.median(seconds)
        found[f"{prefix}cpu_seconds"] = statistics.median(row["cpu_seconds"] for row in rows)
        found[f"{prefix}spread"] = (max(seconds) - min(seconds)) / statistics.median(seconds)
        found[f"{prefix}fraction_of_gemm"] = operations / 1e9 / found[f"{prefix}seconds"] / product
        found[f"{prefix}split"] = {
            part: statistics.median(row["split"][part] for row in rows) for part in PARTS
        }
    if len(times) == 2:
        found["ratio"] = found["peer_seconds"] / found["seconds"]
        found["cpu_ratio"] = found["peer_cpu_seconds"] / found["cpu_seconds"]
    return found


# --- memory ---------------------------------------------------------------------------------------


def _memory(kind: str, a: argparse.Namespace) -> Row:
    """Peak of each side in a process of its own, MiB."""
    found = {}
    for name in a.sides:
        command = [sys.executable, __file__, "--alone", name, "--kinds", kind]
        command += ["--threads", str(a.threads), "--batch", str(a.examples[kind])]
        command += ["--tiny"] if a.tiny else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found["peak_mib" if name == "ours" else "peer_peak_mib"] = float(done.stdout)
    return found


def alone(side: str, kind: str, a: argparse.Namespace) -> float:
    """MiB that building a side and a few steps of it take at most, above what was there before."""
    import peer  # noqa: F401  (both sides start with the same imports)

    p = batches.recipe(kind, a.tiny)
    size, examples = _size(kind, a.tiny), a.examples[kind]
    before = _status("VmRSS")
    stepper = SIDES[side](p, torch.device("cpu"))
    for step in range(STEPS_FOR_MEMORY):
        stepper.step(batches.batch(p, size, examples, step))
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """KiB that Linux says of this process (getrusage would include the parent's peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


# --- command line ---------------------------------------------------------------------------------


def _size(kind: str, tiny: bool) -> int:
    return (batches.TINY_SIZES if tiny else batches.SIZES)[kind]


def table(rows: dict[str, Row]) -> str:
    """Markdown, a row a modality."""
    lines = [
        "| step | s | of gemm | peer, s | of gemm | ratio | by CPU time | MiB | peer, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, row in rows.items():
        cells = [
            f"{kind}, {row['examples']} x {row['size']:,}",
            f"{row['seconds']:.2f}",
            f"{row['fraction_of_gemm']:.0%}",
        ]
        for name, text in (
            ("peer_seconds", ".2f"),
            ("peer_fraction_of_gemm", ".0%"),
            ("ratio", ".2f"),
            ("cpu_ratio", ".2f"),
            ("peak_mib", ".0f"),
            ("peer_peak_mib", ".0f"),
        ):
            cells.append(format(row[name], text) if name in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def split_table(rows: dict[str, Row]) -> str:
    """Markdown: where the time goes, seconds, ours / peer's."""
    parts = [*PARTS, "data"]
    lines = [f"| seconds, ours / peer | {' | '.join(parts)} |", "|---" * (len(parts) + 1) + "|"]
    for kind, row in rows.items():
        both = [(row["split"].get(p, 0.0), row.get("peer_split", {}).get(p)) for p in parts]
        cells = [f"{x:.3f}" + ("" if y is None else f" / {y:.3f}") for x, y in both]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(words: Sequence[str] = ()) -> dict[str, Any]:
    """Measure as the words of the command line say."""
    a = arguments(words)
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    torch.set_num_threads(a.threads)
    rows = {kind: measure(kind, a) for kind in a.kinds}
    gemm = statistics.median(row["gemm_gflops"] for row in rows.values())
    return {"threads": a.threads, "gemm_gflops": gemm, "step": rows}


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=batches.KINDS, default=list(batches.KINDS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="examples of a step; default as above")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--tiny", action="store_true", help="layers of a few channels: for tests")
    parser.add_argument("--alone", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=Path, help="JSON")
    a = parser.parse_args(words)
    a.examples = dict.fromkeys(batches.KINDS, a.batch) if a.batch else batches.EXAMPLES
    return a


def main() -> None:
    """Print tables; with -o also write the figures as JSON."""
    a = arguments(None)
    if a.alone:
        torch.set_num_threads(a.threads)
        print(alone(a.alone, a.kinds[0], a))
        return
    found = run(sys.argv[1:])
    print(table(found["step"]), split_table(found["step"]), sep="\n\n")
    if a.out:
        a.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
