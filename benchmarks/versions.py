"""The pre-training step of data2vec 2.0 beside that of version 1, at Base size.

    python benchmarks/versions.py [--kinds speech vision text] [--repeat 3] [--threads 2] [-o FILE]

Both sides see as many examples in a step (speech 1 x 10 s, vision 1 x 224^2, text 1 x 512 tokens:
random, with the recipes' masks, copies and dropouts). Each lives in a process of its own, and they
take turns. Medians count. An example of version 1 is one masked copy, one of version 2 has as many
as the recipe says. `copies` and `targets` (masked positions with a target) per second follow;
`ratio` is version 2 over version 1: at equal examples (the step's time), in copies, in targets.
Memory is the peak of the side's process above what its imports take, per masked copy.
"""

import argparse
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import batches
import reports
import sides
import torch
from sides import Row, Side
from steps import Ours

VERSIONS = (1, 2)


def start(version: int, kind: str, a: argparse.Namespace) -> Side:
    """A version in a process of its own."""
    words = ["--serve", str(version), "--kinds", kind, "--threads", str(a.threads)]
    words += ["--examples", str(a.examples)]
    return Side(Path(__file__), words + ["--tiny"] * a.tiny)


def serve(version: int, kind: str, a: argparse.Namespace) -> None:
    """What the process of a side does."""
    p = batches.recipe(kind, a.tiny, version)
    size = (batches.TINY_SIZES if a.tiny else batches.SIZES)[kind]
    sides.serve(
        lambda: Ours(p, torch.device("cpu"), split=False),
        lambda number: batches.batch(p, size, a.examples, number),
        lambda _, drawn: {"targets": len(drawn["masked"]), "copies": len(drawn["mask"])},
    )


def measure(kind: str, a: argparse.Namespace) -> Row:
    """Both versions of one modality, in turns."""
    running = {version: start(version, kind, a) for version in VERSIONS}
    for side in running.values():
        for number in range(a.warm_up):
            side.step(number)
    rows: dict[int, list[Row]] = {version: [] for version in VERSIONS}
    for turn in range(a.repeat):
        for version, side in running.items():
            rows[version].append(side.step(a.warm_up + turn))
    found: Row = {}
    for version, side in running.items():
        found[f"v{version}"] = _merged(rows[version], side.end())
    one, two = found["v1"], found["v2"]
    found["ratio"] = {
        "step_time": two["seconds"] / one["seconds"],
        "copies": two["copies_per_s"] / one["copies_per_s"],
        "targets": two["targets_per_s"] / one["targets_per_s"],
        "copies_by_cpu_time": two["copies_per_cpu_s"] / one["copies_per_cpu_s"],
        "mib_per_copy": two["mib_per_copy"] / one["mib_per_copy"],
    }
    return found


def _merged(rows: list[Row], mib: float) -> Row:
    found = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return found | {
        "copies_per_s": found["copies"] / found["seconds"],
        "targets_per_s": found["targets"] / found["seconds"],
        "copies_per_cpu_s": found["copies"] / found["cpu_seconds"],
        "peak_mib": mib,
        "mib_per_copy": mib / found["copies"],
    }


def table(found: dict[str, Row]) -> str:
    """Markdown, two rows per modality."""
    head = "| | s per step | copies/s | targets/s | MiB | MiB per copy |"
    lines = [head, "|---" * 6 + "|"]
    for kind, row in found.items():
        for version in VERSIONS:
            one = row[f"v{version}"]
            lines.append(
                f"| {kind}, version {version}, {one['copies']:.0f} copies | {one['seconds']:.2f}"
                f" | {one['copies_per_s']:.2f} | {one['targets_per_s']:.0f}"
                f" | {one['peak_mib']:.0f} | {one['mib_per_copy']:.0f} |"
            )
        ratios = ", ".join(f"{name} {value:.2f}" for name, value in row["ratio"].items())
        lines.append(f"| {kind}, version 2 / 1: {ratios} |" + " |" * 5)
    return "\n".join(lines)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=batches.KINDS, default=list(batches.KINDS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=2, help="steps before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", type=int, default=1, help="examples of a step")
    parser.add_argument("--tiny", action="store_true", help="layers of a few channels: for tests")
    parser.add_argument("--serve", type=int, choices=VERSIONS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=reports.out, help="JSON")
    return parser.parse_args(words)


def main() -> None:
    """Print a table; with -o also write the figures as JSON."""
    a = arguments(None)
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    torch.set_num_threads(a.threads)
    if a.serve:
        serve(a.serve, a.kinds[0], a)
        return
    found = {kind: measure(kind, a) for kind in a.kinds}
    print(table(found))
    if a.out:
        device = f"{platform.machine()}-{os.cpu_count()}cpu"
        written = {"device": device, "threads": a.threads, "step": found}
        reports.write(a.out, written)


if __name__ == "__main__":
    main()
