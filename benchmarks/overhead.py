"""What is paid besides training: starting a command, and looking after the workflow's graph.

    python benchmarks/overhead.py [--repeat 3] [--no-dag] [-o FILE]

Starting: wall time of processes of their own, the median. The graph: a dry run of the whole paper
(params/paper.yaml, nothing done yet), and for the tests' small experiment, once it is finished, a
run that has nothing to do and the building of the tables.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable]
STARTS = {
    "import d2v.cli": [*PYTHON, "-c", "import d2v.cli"],
    "d2v --help": [*PYTHON, "-m", "d2v.cli", "--help"],
    "d2v plan": [*PYTHON, "-m", "d2v.cli", "plan", "params/paper.yaml"],
    "model on CPU": [*PYTHON, "-c", "import d2v.task, d2v.optim, d2v.data"],
}
SNAKEMAKE = [*PYTHON, "-m", "snakemake", "--cores", "2"]
PAPER = ["--dry-run", "--quiet", "all", "--config", "experiment=params/paper.yaml"]


def seconds(command: Sequence[str], repeat: int, folder: Path = ROOT) -> float:
    """Median wall time of a command that must succeed."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        times.append(time.perf_counter() - began)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return statistics.median(times)


def graph(repeat: int) -> dict[str, float]:
    """Times of the workflow where nothing is computed."""
    sys.path.insert(0, str(ROOT / "tests"))
    import workspace  # the folder that the tests run the whole workflow in

    found = {"dry run, paper": seconds([*SNAKEMAKE, *PAPER], repeat)}
    config = ["--config", "experiment=params/tiny.yaml"]
    with tempfile.TemporaryDirectory() as name:
        folder = workspace.make(Path(name))
        seconds([*SNAKEMAKE, *config], 1, folder)
        found["nothing to do, small"] = seconds([*SNAKEMAKE, *config], repeat, folder)
        code = (
            "from pathlib import Path; from d2v import params; from d2v.results import tables;"
            "tables.build(params.load('params/tiny.yaml'), Path('results/tiny'))"
        )
        found["tables, small"] = seconds([*PYTHON, "-c", code], repeat, folder)
    return found


def run(words: Sequence[str] = ()) -> dict[str, Any]:
    """Measure as the words of the command line say."""
    a = arguments(words)
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = source.strip(os.pathsep)
    start = {name: seconds(command, a.repeat) for name, command in STARTS.items()}
    return {"start": start} | ({"dag": graph(a.repeat)} if a.dag else {})


def table(found: dict[str, Any]) -> str:
    """Markdown, a row a command."""
    lines = ["| command | s |", "|---|---|"]
    for part in ("start", "dag"):
        lines += [f"| {name} | {value:.2f} |" for name, value in found.get(part, {}).items()]
    return "\n".join(lines)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-dag", dest="dag", action="store_false")
    parser.add_argument("-o", "--out", type=Path, help="JSON")
    return parser.parse_args(words)


def main() -> None:
    """Print a table; with -o also write the figures as JSON."""
    a = arguments(None)
    found = run(sys.argv[1:])
    print(table(found))
    if a.out:
        a.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
