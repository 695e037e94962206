"""Where an experiment stands: one line a run."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2v import locks, runs
from d2v.files import read_json
from d2v.params import Experiment


def lines(experiment: Experiment) -> Iterator[str]:
    """Every run with its state, step and loss, and a count of states."""
    found = runs.all_runs(experiment)
    width = max(len(run.id) for run in found)
    counts: Counter[str] = Counter()
    yield f"{'run':{width}}  {'state':8}  {'step':>7}  loss"
    for run in found:
        state = state_of(experiment, run)
        counts[state] += 1
        last = _last_line(runs.work_folder(experiment, run) / "log.jsonl")
        step, loss = last.get("step", "-"), last.get("loss")
        yield f"{run.id:{width}}  {state:8}  {step:>7}  {'-' if loss is None else f'{loss:.4f}'}"
    yield ", ".join(f"{n} {state}" for state, n in counts.items())


def state_of(experiment: Experiment, run: runs.Run) -> str:
    """running, done, failed (the job told why), stopped (it was cut off), or missing."""
    folder = runs.work_folder(experiment, run)
    if locks.is_held(folder / "lock"):
        return "running"
    if runs.metrics_path(experiment, run).exists():
        return "done"
    job, outcome = read_json(folder / "job.json"), read_json(folder / "outcome.json")
    if job is None:
        return "missing"
    told = outcome is not None and outcome["attempt"] == job["attempt"]
    return "failed" if told and outcome and outcome["error"] else "stopped"


def _last_line(path: Path) -> dict[str, Any]:
    """Last whole line of a log, without reading all of it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            tail = file.read().decode(errors="replace").strip().split("\n")
        return json.loads(tail[-1])
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
