"""Status of an experiment: one line per run."""

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from d2v.experiment import purged, runs
from d2v.experiment.run import Run
from d2v.jobs import cluster, squeue
from d2v.jobs.job import PULSE_S, word_of
from d2v.jobs.local import State
from d2v.params import Experiment
from d2v.util import locks
from d2v.util.files import read_json

Queue = Mapping[str, State]  # keyed by job id
Row = tuple[str, ...]
HEAD = (
    "run", "state", "step", "age", "rate", "ETA", "loss", "std t/p", "job", "link", "node",
    "GPU MiB",
)  # fmt: skip
LEFT = ("run", "state", "job", "node")  # left-aligned; the other columns are numbers
# ends of a job that are recorded in job.json, each with its reason
REASONS = ("refused", "cancelled", "out of time", "out of memory", "interrupted", "held")
ENDS = (
    "done",
    "purged",
    "damaged",
    "failed",
    "stopped",
    *REASONS,
)  # final unless the run is restarted
STALL_S = 600.0  # a running job without a new step for so long, or for STALL reports, is stalled
STALL = 10
CLEAR = "\x1b[H\x1b[J"


def watch(experiment: Experiment, seconds: float) -> None:
    """Print the table every `seconds` until every run has ended, or until Ctrl-C."""
    try:
        while True:
            rows, lost = _rows(experiment)
            text = "\n".join(_table(rows, lost))
            print((CLEAR if sys.stdout.isatty() else "") + text, flush=True)
            if all(row[1] in ENDS for row in rows):
                return
            time.sleep(seconds)
    except KeyboardInterrupt:
        return


def lines(experiment: Experiment) -> Iterator[str]:
    """Lines of the table: every run with its state and latest numbers, then a count of states.

    age: time since the last step was logged. rate: examples per second. std t/p: standard deviation
    of targets and predictions. job: id, with the position in its array. link: number of the job in
    the chain of jobs with a time limit, and how many the chain will have at this rate. GPU MiB:
    peak memory of the job's first GPU so far.
    """
    yield from _table(*_rows(experiment))


def _rows(experiment: Experiment) -> tuple[list[Row], purged.Lost]:
    found = runs.all_runs(experiment)
    queue, places, lost = cluster_queue(found), cluster.load().slurm, purged.lost(experiment)
    return [_row(run, queue, places, lost.get(run.id)) for run in found], lost


def _table(rows: list[Row], lost: purged.Lost) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    for row in (HEAD, *rows):
        cells = [
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for name, cell, width in zip(HEAD, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()
    counts = Counter(row[1] for row in rows)
    yield ", ".join(f"{n} {state}" for state, n in counts.items())
    if lost:
        yield purged.sentence(lost)


def cluster_queue(experiment_runs: Iterable[Run]) -> Queue:
    """Slurm's state of the runs' jobs, from one query; empty if there are no such jobs."""
    found = (read_json(run.work / "job.json") for run in experiment_runs)
    ids = [job["id"] for job in found if job and job["place"] == "slurm" and job["id"]]
    return squeue.of_ids(ids, cluster.load().slurm.poll_s) if ids else {}


def state_of(run: Run, queue: Queue | None = None) -> str:
    """State of a run: missing, queued, requeued, running, ending, done, or how it ended.

    A run may have ended as failed (the job reported an error), stopped (the job ended without a
    report), or with one of `REASONS`. `queue` holds the states
    that the cluster reports; a job that is not in it counts as running while its heartbeat is
    recent.
    """
    folder = run.work
    job = read_json(folder / "job.json")
    here = job is None or job["place"] != "slurm"
    if here and locks.is_held(folder / "lock"):
        return "running"
    word = word_of(folder, job["attempt"]) if job else None
    told = word is not None and not word["lost_peer"]
    given_up = job is not None and job.get("state") in REASONS  # whatever squeue said before
    if job and not here and not told and not given_up:
        state = (queue or {}).get(job["id"] or "")
        if state is not None and state.phase != "ending":
            return "requeued" if state.phase == "queued" and state.restarts else state.phase
        if state is None and _beats(folder, job):
            return "running"
    if run.metrics_path.exists():
        return "done"
    if job is None:
        return "missing"
    if job.get("state") in REASONS:
        return str(job["state"])
    return "failed" if told and word and word["error"] else "stopped"


@dataclass(frozen=True)
class Facts:
    """What is known of a run; None for what is unknown or does not apply."""

    run: str
    state: str
    step: int | None  # latest step in the log
    steps: int | None
    age_s: float | None  # since the last step was logged, of a running run
    examples_per_s: float | None
    eta_s: float | None
    loss: float | None
    target_std: float | None
    prediction_std: float | None
    job: str | None  # id of its Slurm job
    link: int | None  # number of the job in the chain of jobs with a time limit
    links: int | None  # expected length of the chain
    node: str | None
    gpu_mib: float | None  # peak memory of the job's first GPU


def all_facts(experiment: Experiment) -> list[Facts]:
    """What is known of every run, in an order in which the runs can be executed."""
    found = runs.all_runs(experiment)
    queue, places, lost = cluster_queue(found), cluster.load().slurm, purged.lost(experiment)
    return [_facts(run, queue, places, lost.get(run.id)) for run in found]


def _row(run: Run, queue: Queue, places: cluster.SlurmJobs, lost: purged.Loss | None) -> Row:
    return _cells(_facts(run, queue, places, lost))


def _facts(run: Run, queue: Queue, places: cluster.SlurmJobs, lost: purged.Loss | None) -> Facts:
    folder = run.work
    state = state_of(run, queue)
    if lost and state == "done":
        state = "damaged" if lost.fault else "purged"
    last, age = _last_line(folder / "log.jsonl")
    pulse = read_json(folder / "pulse.json") or {}
    job = read_json(folder / "job.json") or {}
    step, speed, steps = last.get("step"), last.get("steps_per_s"), run.steps
    running = state == "running"
    left = (steps - step) / speed if running and step and steps and speed else None
    if running and age is not None and age > max(STALL_S, STALL * _report_s(run, speed)):
        state = "stalled"
    on_slurm = job.get("place") == "slurm" and job.get("id")
    limit = 3600 * places.of(run.id).hours
    link, links = _link(job, pulse, left, limit) if on_slurm else (None, None)
    return Facts(
        run=run.id,
        state=state,
        step=step,
        steps=steps,
        age_s=age if running else None,
        examples_per_s=last.get("examples_per_s"),
        eta_s=left,
        loss=last.get("loss"),
        target_std=last.get("target_std"),
        prediction_std=last.get("prediction_std"),
        job=str(job["id"]) if on_slurm else None,
        link=link,
        links=links,
        node=pulse.get("node") or None if running else None,
        gpu_mib=pulse.get("gpu_mib"),
    )


def _cells(f: Facts) -> Row:
    """A row of the table."""
    spread = [_number(value, 3) for value in (f.target_std, f.prediction_std)]
    return (
        f.run,
        f.state,
        "-" if f.step is None else f"{f.step}/{f.steps or '?'}",
        _short(f.age_s),
        _number(f.examples_per_s, 1),
        "-" if f.eta_s is None else str(timedelta(seconds=round(f.eta_s))),
        _number(f.loss, 4),
        "-" if spread == ["-", "-"] else "/".join(spread),
        f.job or "-",
        "/".join(str(n) for n in (f.link, f.links) if n is not None) or "-",
        f.node or "-",
        _number(f.gpu_mib, 0),
    )


def _link(
    job: Mapping[str, Any], pulse: Mapping[str, Any], left: float | None, limit: float
) -> tuple[int, int | None]:
    """Position in the chain of jobs, and its length if the remaining seconds are known."""
    link = int(pulse.get("restarts") or job.get("restarts") or 0) + 1
    if left is None or "started" not in pulse:
        return link, None
    here = limit - (time.time() - datetime.fromisoformat(pulse["started"]).timestamp())
    return link, link + max(0, math.ceil((left - here) / limit))


def _report_s(run: Run, speed: float | None) -> float:
    """Seconds between two reports of a training at its latest speed."""
    train = getattr(run.params, "train", None)
    return train.log_every / speed if train is not None and speed else 0.0


def _short(seconds: float | None) -> str:
    """A duration in its largest unit."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _beats(folder: Path, job: Mapping[str, Any]) -> bool:
    """Whether the job's last heartbeat is recent."""
    pulse = read_json(folder / "pulse.json")
    same = pulse is not None and pulse["attempt"] == job["attempt"]
    return bool(same and pulse and time.time() - pulse["time"] < 6 * PULSE_S)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _last_line(path: Path) -> tuple[dict[str, Any], float | None]:
    """Last line of a log of JSON lines, read from the end, and its age in seconds.

    The line is empty if the log is missing or its last line incomplete.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            file.seek(max(0, found.st_size - 4096))
            tail = file.read().decode(errors="replace").strip().split("\n")
        return json.loads(tail[-1]), time.time() - found.st_mtime
    except (FileNotFoundError, json.JSONDecodeError):
        return {}, None
