"""All benchmarks of one machine in one run: `make bench`.

    python benchmarks/bench.py [--baseline FILE] [--growth] [--parts step loaders decoding overhead]

Prints Markdown tables and writes benchmarks/results/DEVICE.json and DEVICE.svg. With a baseline,
figures that are worse beyond noise (regressions.py) are named; the exit code is 1 if there are any.
`--growth` adds the step at twice and four times the batch, at other lengths and with several
processes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import growth
import loaders
import overhead
import regressions
import reports
import step

FOLDER = Path(__file__).parent
PARTS = ("step", "loaders", "decoding", "overhead")
DECODING = ["--beams", "50", "500", "--minutes", "2", "--cpus", "2"]


def device() -> str:
    """Name of this machine's kind."""
    return f"{platform.machine()}-{os.cpu_count()}cpu"


def measure(a: argparse.Namespace) -> dict[str, Any]:
    """All parts that are asked for, one after another."""
    found: dict[str, Any] = {"device": device()}
    tiny = ["--tiny", "--repeat", "2", "--warm-up", "1"] if a.tiny else []
    if "step" in a.parts:
        found |= step.run([*tiny, "--threads", str(a.threads)])
        say(step.table(found["step"]), step.split_table(found["step"]))
    if a.growth:
        found["growth"] = growth.run(a.tiny, a.threads)
        say(growth.table(found["growth"]))
    if "loaders" in a.parts:
        words = ["--images", "8", "--utterances", "8", "--sentences", "2000"] if a.tiny else []
        found["loaders"] = loaders.run(words)
        say(loaders.table(found["loaders"]))
    if "decoding" in a.parts:
        found["decoding"] = decoding(["--beams", "20", "--minutes", "0.1"] if a.tiny else DECODING)
    if "overhead" in a.parts:
        times = overhead.run(["--repeat", "1", "--no-dag"] if a.tiny else [])
        found |= times
        say(overhead.table(times))
    return found


def decoding(words: list[str]) -> dict[str, Any]:
    """Figures of decoding.py, which prints its own table; the machine has to have flashlight."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, str(FOLDER / "decoding.py"), *words, "-o", str(out)]
        subprocess.run(command, check=True)
        found: dict[str, Any] = reports.read(out)
    return found


def say(*tables: str) -> None:
    """Print tables as soon as they are there."""
    print(*tables, "", sep="\n\n", flush=True)


def main() -> int:
    """Measure, print, write, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--baseline", type=Path, help="JSON of an earlier run")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="small sizes: for tests")
    parser.add_argument("-o", "--out", type=Path, default=FOLDER / "results")
    a = parser.parse_args()
    path = a.out / f"{device()}.json"
    picture = path.with_suffix(".svg")
    said = reports.fault(path)
    if said is None and picture.exists() and not path.exists():  # a plot is beside its figures
        said = f"{picture}: not written by a benchmark; give another folder with -o"
    if said is not None:
        parser.error(said)
    # read first: it may be the file that is written
    baseline = json.loads(a.baseline.read_text()) if a.baseline else None
    found = measure(a)
    reports.write(path, found)
    print(f"written: {path}")
    if "step" in found:
        import plot  # here: matplotlib is for developers

        plot.draw(found, picture)
    if baseline is None:
        return 0
    changes = regressions.worse(baseline, found)
    print(*(changes or [f"nothing is worse than in {a.baseline}"]), sep="\n")
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
