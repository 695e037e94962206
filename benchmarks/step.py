"""The pre-training step at Base size, and the same step composed from Hugging Face's modules.

    python benchmarks/step.py [--kinds speech vision text] [--repeat 5] [--threads 2] [-o FILE]

All sides see the same batches (speech 1 x 10 s, vision 2 x 224^2, text 2 x 512 tokens: random,
with the recipe's masks and dropouts). Each lives in a process of its own, as its users start it,
and they take turns: matrix product, ours, peer, again. Medians count. `ratio` is the peer's time
over ours; `fraction` the step's operations (d2v.jobs.flops) over its time and over the rate of a
2048 x 2048 matrix product in the same run; memory is the peak of the side's process above what its
imports take. The peer is explained in peer.py. `kept` is the peer in a process that keeps freed
memory as d2v.training.devices lets ours do: the ratio to it is what is gained in the step itself.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import batches
import reports
import sides
import torch
from sides import Row, Side
from steps import PARTS, Ours, Stepper, Theirs, gemm_gflops

from d2v.jobs import flops

SIDES = ("ours", "peer", "kept")
WARM_UP = 4  # steps until memory is where it stays
PAUSE = 0.3  # seconds until the threads of the side before are asleep


def build(side: str, p: Any) -> Stepper:
    """One side on the CPU."""
    device = torch.device("cpu")
    if side == "ours":
        return Ours(p, device, split=True)
    return Theirs(p, device, split=True, keep=side == "kept")


def start(name: str, kind: str, a: argparse.Namespace) -> Side:
    """A side in a process of its own."""
    words = ["--serve", name, "--kinds", kind, "--threads", str(a.threads)]
    words += ["--batch", str(a.examples[kind])]
    return Side(Path(__file__), words + ["--tiny"] * a.tiny)


def serve(name: str, kind: str, a: argparse.Namespace) -> None:
    """What the process of a side does."""
    import peer  # noqa: F401  (all sides start with the same imports)

    p = batches.recipe(kind, a.tiny)
    sides.serve(
        lambda: build(name, p),
        lambda number: batches.batch(p, _size(kind, a.tiny), a.examples[kind], number),
        lambda stepper, _: {"split": stepper.clock.read()},
    )


def measure(kind: str, a: argparse.Namespace) -> Row:
    """Times of all sides, in turns, and their memory."""
    size, examples = _size(kind, a.tiny), a.examples[kind]
    p = batches.recipe(kind, a.tiny)
    running = {name: start(name, kind, a) for name in a.sides}
    for side in running.values():
        for number in range(a.warm_up):
            side.step(number)
    times: dict[str, list[Row]] = {name: [] for name in running}
    products = []
    for turn in range(a.repeat):
        time.sleep(PAUSE)
        products.append(gemm_gflops(torch.device("cpu")))
        for name, side in running.items():
            time.sleep(PAUSE)
            times[name].append(side.step(a.warm_up + turn))
    mib = {name: side.end() for name, side in running.items()}
    began = time.perf_counter()
    batches.batch(p, size, examples, a.repeat)
    data = time.perf_counter() - began
    operations = examples * flops.pretraining(p, size)
    found = {"examples": examples, "size": size, "gflop": operations / 1e9}
    found |= _merged(times, mib, operations, statistics.median(products))
    found.setdefault("split", {})["data"] = data
    return found


def _merged(
    times: dict[str, list[Row]], mib: dict[str, float], operations: float, product: float
) -> Row:
    """Medians of all sides and what follows from them."""
    found: Row = {"gemm_gflops": product}
    for name, rows in times.items():
        prefix = {"ours": "", "peer": "peer_", "kept": "peer_kept_"}[name]
        seconds = [row["seconds"] for row in rows]
        found[f"{prefix}seconds"] = statistics.median(seconds)
        found[f"{prefix}cpu_seconds"] = statistics.median(row["cpu_seconds"] for row in rows)
        found[f"{prefix}spread"] = (max(seconds) - min(seconds)) / statistics.median(seconds)
        found[f"{prefix}fraction_of_gemm"] = operations / 1e9 / found[f"{prefix}seconds"] / product
        found[f"{prefix}split"] = {
            part: statistics.median(row["split"][part] for row in rows) for part in PARTS
        }
        found[f"{prefix}peak_mib"] = mib[name]
    if {"ours", "peer"} <= times.keys():
        found["ratio"] = found["peer_seconds"] / found["seconds"]
        found["cpu_ratio"] = found["peer_cpu_seconds"] / found["cpu_seconds"]
    if {"ours", "kept"} <= times.keys():
        found["kept_ratio"] = found["peer_kept_seconds"] / found["seconds"]
    return found


# --- command line ---------------------------------------------------------------------------------


def _size(kind: str, tiny: bool) -> int:
    return (batches.TINY_SIZES if tiny else batches.SIZES)[kind]


def table(rows: dict[str, Row]) -> str:
    """Markdown, a row a modality."""
    lines = [
        "| step | s | of gemm | peer, s | of gemm | ratio | by CPU time | kept, s | ratio"
        " | MiB | peer, MiB |",
        "|---" * 11 + "|",
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
            ("peer_kept_seconds", ".2f"),
            ("kept_ratio", ".2f"),
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
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="steps before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="examples of a step; default as above")
    parser.add_argument("--tiny", action="store_true", help="layers of a few channels: for tests")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=reports.out, help="JSON")
    a = parser.parse_args(words)
    a.examples = dict.fromkeys(batches.KINDS, a.batch) if a.batch else batches.EXAMPLES
    return a


def main() -> None:
    """Print tables; with -o also write the figures as JSON."""
    a = arguments(None)
    if a.serve:
        torch.set_num_threads(a.threads)
        serve(a.serve, a.kinds[0], a)
        return
    found = run(sys.argv[1:])
    print(table(found["step"]), split_table(found["step"]), sep="\n\n")
    if a.out:
        reports.write(a.out, found)


if __name__ == "__main__":
    main()
