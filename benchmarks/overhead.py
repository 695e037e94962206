"""What is paid besides training: starting a command, and looking after the workflow's graph.

    python benchmarks/overhead.py [--repeat 3] [--no-dag] [-o FILE]

Starting: processes of their own, the median of wall and of CPU time: the help of every command,
commands that only read, and what comes before the first batch of a run (imports, parameters, a Base
model on the CPU). The graph: a dry run of the whole paper (params/paper.yaml, nothing done yet),
and for the tests' small experiment, once it is finished, a run that has nothing to do and the
building of the tables.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import reports

from d2v.cli import commands as cli

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable]
D2V = [*PYTHON, "-m", "d2v.cli"]
HELP_S, START_S = 0.5, 3.0  # what the help and the start of a command may take
MODEL = (
    "import d2v.experiment.execute; from d2v import params; from d2v.training import task;"
    "task.Pretraining(params.load('params/paper.yaml').pretrain['{}'])"
)
HELPS = {
    f"d2v {name} --help".replace("  ", " "): [*D2V, *name.split(), "--help"]
    for name in ("", *cli.COMMANDS)
}
READING = {
    "d2v check": [*D2V, "check", "--params", "params/paper.yaml"],
    "d2v status": [*D2V, "status", "--params", "params/paper.yaml"],
    "d2v plan": [*D2V, "plan", "params/paper.yaml"],
}
RUNS = {
    f"a run of {name}": [*PYTHON, "-c", MODEL.format(name)]
    for name in ("vision-base", "speech-base", "text-base")
}
STARTS = {"import torch": [*PYTHON, "-c", "import torch"], **HELPS, **READING, **RUNS}
BARS = dict.fromkeys(HELPS, HELP_S) | dict.fromkeys([*READING, *RUNS], START_S)
SNAKEMAKE = [*PYTHON, "-m", "snakemake", "--cores", "2"]
PAPER = ["--dry-run", "--quiet", "all", "--config", "experiment=params/paper.yaml"]


class Times(NamedTuple):
    """Seconds by the clock, and of all processors together."""

    wall: float
    cpu: float


def seconds(command: Sequence[str], repeat: int, folder: Path = ROOT) -> Times:
    """Median times of a command that must succeed."""
    times = []
    for _ in range(repeat):
        began, used = time.perf_counter(), _cpu_of_children()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        times.append(Times(time.perf_counter() - began, _cpu_of_children() - used))
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return Times(*map(statistics.median, zip(*times, strict=True)))


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def graph(repeat: int) -> dict[str, Times]:
    """Times of the workflow where nothing is computed."""
    sys.path.insert(0, str(ROOT / "tests/helpers"))
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
    parts = {"start": {name: seconds(command, a.repeat) for name, command in STARTS.items()}}
    if a.dag:
        parts["dag"] = graph(a.repeat)
    found: dict[str, Any] = {}
    for part, times in parts.items():
        found[part] = {name: t.wall for name, t in times.items()}
        found[f"{part}_cpu"] = {name: t.cpu for name, t in times.items()}
    return found


def table(found: dict[str, Any]) -> str:
    """Markdown, a row a command."""
    lines = ["| command | wall, s | CPU, s | bar, s | met |", "|---|---|---|---|---|"]
    for part in ("start", "dag"):
        for name, wall in found.get(part, {}).items():
            times = Times(wall, found[f"{part}_cpu"][name])
            bar = BARS.get(name) if part == "start" else None
            words = f"{bar or ''} | {_met(times, bar) if bar else ''}"
            lines.append(f"| {name} | {times.wall:.2f} | {times.cpu:.2f} | {words} |")
    return "\n".join(lines)


def _met(times: Times, bar: float) -> str:
    """Whether a bar is met; on a busy machine only CPU time may tell."""
    if times.wall <= bar:
        return "yes"
    return "by CPU time only" if times.cpu <= bar else "no"


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-dag", dest="dag", action="store_false")
    parser.add_argument("-o", "--out", type=reports.out, help="JSON")
    return parser.parse_args(words)


def main() -> None:
    """Print a table; with -o also write the figures as JSON."""
    a = arguments(None)
    found = run(sys.argv[1:])
    print(table(found))
    if a.out:
        reports.write(a.out, found)


if __name__ == "__main__":
    main()
