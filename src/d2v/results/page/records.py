"""Data of each run for the page: its metrics file, its curves, and why they are missing."""

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from d2v.experiment import runs, stored
from d2v.experiment.run import Run
from d2v.params import Experiment

POINTS = 250  # approximate number of points per curve
PARSED = 2 << 20  # bytes up to which a log is read whole; a longer log is sampled


@dataclass(frozen=True)
class Record:
    """A planned run with its metrics and curves, as far as they exist."""

    run: Run
    content: dict[str, Any] = field(default_factory=dict)
    fault: str = ""  # why the content is missing
    log: Path = Path()

    @property
    def finished(self) -> bool:
        """Whether the run's metrics could be read."""
        return not self.fault

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """About POINTS lines of the run's log, and all lines with validations."""
        return read_log(self.log)

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of the log's quantity `name`."""
        pairs = [(line["step"], line[name]) for line in self.lines if line.get(name) is not None]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def validations(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of every validation metric; NaN where the metric was undefined."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for line in self.lines:
            for name, value in (line.get("validation") or {}).items():
                steps, values = found.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(math.nan if value is None else value)
        return found


def collect(experiment: Experiment, results: Path, work: Path) -> list[Record]:
    """A record of every run of the experiment, in the experiment's order."""
    return [_record(run, results, work) for run in runs.all_runs(experiment)]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Evenly sampled lines of a log.jsonl; empty without a file. Incomplete lines are skipped."""
    try:
        size = path.stat().st_size
        text = path.read_bytes() if 0 < size <= PARSED else b""
        picked = _thinned(text.splitlines()) if text else [*_picked(path)] if size else []
    except OSError:
        return []
    lines = {}
    for raw in picked:
        try:
            line = json.loads(raw)
            lines[int(line["step"])] = line
        except (ValueError, KeyError, TypeError):
            continue
    return [lines[step] for step in sorted(lines)]


def _record(run: Run, results: Path, work: Path) -> Record:
    path = results / "runs" / run.id / stored.NAME
    log = work / run.id / "log.jsonl"
    try:
        content = stored.read(path, run.id)
    except stored.Damaged as error:
        return Record(run, {}, f"{path} is unreadable ({error.fault})", log)
    return Record(run, content or {}, "" if content else "not run yet", log)


def _thinned(lines: list[bytes]) -> list[bytes]:
    stride = max(len(lines) // POINTS, 1)
    return [
        line
        for number, line in enumerate(lines)
        if number % stride == 0 or number == len(lines) - 1 or b'"validation"' in line
    ]


def _picked(path: Path) -> Iterator[bytes]:
    """Evenly spaced lines of a long file, and all lines with validations."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for place in range(0, len(text), max(len(text) // POINTS, 1)):
            yield _line_at(text, place)
        yield _line_at(text, len(text) - 2)
        at = text.find(b'"validation"')
        while at >= 0:
            yield _line_at(text, at)
            at = text.find(b'"validation"', at + 1)


def _line_at(text: mmap.mmap, place: int) -> bytes:
    end = text.find(b"\n", place)
    return text[text.rfind(b"\n", 0, place) + 1 : end if end >= 0 else len(text)]
