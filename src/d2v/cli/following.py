"""What `d2v reproduce` shows of a running workflow: a line for the data and for all seeds of a run.

Snakemake's own output goes to a file, so that Snakemake continues when `d2v reproduce` is killed.
"""

import math
import re
import sys
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from d2v.experiment import folders, runs
from d2v.experiment.run import Run
from d2v.params import Experiment
from d2v.util import progress, verbosity
from d2v.util.files import read_json

STEPS = re.compile(r"(\d+) of (\d+) steps \(")  # Snakemake's count after each finished job
TOLD = re.compile(r"(?:\S+ \| )?(?:warning|error): .*")  # lines that are passed on
Version = str | None
TAIL = 20  # lines of the log to show if the workflow fails without a message of d2v


class Follower:
    """Reads Snakemake's log as it grows and prints what has been finished since."""

    def __init__(self, experiment: Experiment, log: Path) -> None:
        self.experiment, self.log = experiment, log
        self.runs = runs.all_runs(experiment)
        self.seen, self.rest = 0, ""
        self.done, self.total = 0, 0
        self.sets = {n: folders.meta_path(experiment, n) for n in runs.all_datasets(experiment)}
        self.files, self.prepared = self._states(), self._set_states()
        self.finished: dict[str, list[Run]] = {}  # by name, until all seeds of the name are there
        self.told: dict[str, None] = {}  # messages, in order
        self.bar: tqdm[Any] | None = None

    def look(self) -> None:
        """Print what has been finished since the last look."""
        *lines, self.rest = (self.rest + self._new()).split("\n")
        for line in lines:
            self._read(line)
        if self.bar is not None:
            self.bar.refresh()

    def close(self) -> None:
        """Look for the last time and remove the bar."""
        self.look()
        self._finished()
        for name in list(self.finished):
            self._tell(name)
        if self.bar is not None:
            self.bar.close()

    def failure(self) -> list[str]:
        """Lines that explain why the workflow failed: d2v's messages or the end of the log."""
        messages = [line for line in self.told if line.startswith("error: ")]
        return messages or self.log.read_text(errors="replace").splitlines()[-TAIL:]

    def _new(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self.seen)
            new = file.read()
        self.seen += len(new)
        return new.decode(errors="replace")

    def _read(self, line: str) -> None:
        if verbosity.verbose() and line and not TOLD.fullmatch(line):
            self._print(line)
        if found := STEPS.match(line):
            self.done, self.total = int(found[1]), int(found[2])
            self._finished()
            self._move("")
        elif TOLD.fullmatch(line):
            if line not in self.told and "error: " not in line:  # errors are shown at the end
                self._print(line)
            self.told[line] = None
        elif self.bar is not None:
            run, _, said = line.partition(" | ")
            if parsed := progress.parse(said):
                unit, done, total, text = parsed
                self._move(f"{run} {unit} {done}/{total}, {text}")

    def _finished(self) -> None:
        """Print a line when all seeds of a run have metrics, and one when all data is prepared."""
        prepared = self._set_states()
        if all(prepared.values()) and prepared != self.prepared:
            new = [name for name, state in prepared.items() if state != self.prepared[name]]
            self._print(f"{self._count()}data  prepared: {', '.join(new)}")
            self.prepared = prepared
        states = self._states()
        for run in self.runs:
            if states[run.id] not in (None, self.files[run.id]):
                self.finished.setdefault(_without_seed(run), []).append(run)
        self.files = states
        missing = {_without_seed(run) for run in self.runs if states[run.id] is None}
        for name in [name for name in self.finished if name not in missing]:
            self._tell(name)

    def _tell(self, name: str) -> None:
        """Print what the new runs of a name gave."""
        new = self.finished.pop(name)
        head = new[0].id if len(new) == 1 else f"{name}  {len(new)} seeds"
        self._print(f"{self._count()}{head}  {_outcome(new)}")

    def _states(self) -> dict[str, Version]:
        return {run.id: _version(run.metrics_path) for run in self.runs}

    def _set_states(self) -> dict[str, Version]:
        return {name: _version(path) for name, path in self.sets.items()}

    def _count(self) -> str:
        return f"[{self.done:>{len(str(self.total))}}/{self.total}]  " if self.total else ""

    def _print(self, text: str) -> None:
        if verbosity.quiet() and not text.startswith("warning: "):
            return
        if self.bar is not None:
            self.bar.write(text, file=sys.stdout)
        else:
            print(text if sys.stdout.isatty() else progress.stamped(text), flush=True)

    def _move(self, text: str) -> None:
        """Move the bar to the number of finished jobs and show what runs."""
        if self.bar is None and sys.stdout.isatty() and not verbosity.quiet():
            self.bar = tqdm(
                total=self.total, unit="job", file=sys.stdout, leave=False, dynamic_ncols=True
            )
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(self.done - self.bar.n)


def _version(path: Path) -> Version:
    """What identifies the content of a file (Snakemake changes its time); None without a file."""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _without_seed(run: Run) -> str:
    return run.id.rpartition("/")[0]


def _outcome(new: list[Run]) -> str:
    """Total time and mean scores of finished runs, in one line."""
    found = [read_json(run.metrics_path) or {} for run in new]
    times = _means([content.get("provenance") or {} for content in found])
    seconds = len(new) * times.get("wall_s", math.nan)
    parts = [] if math.isnan(seconds) else [str(timedelta(seconds=round(seconds)))]
    if new[0].kind == "pretrain":
        losses = _means(found)
        parts += [
            f"{label} {losses[key]:.4f}"
            for key, label in (("loss", "loss"), ("target_std", "target std"))
            if key in losses
        ]
    for split in ("test", "dev"):
        scores = _means([(content.get("metrics") or {}).get(split) or {} for content in found])
        if scores:
            parts += [f"{split} " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items())]
            break
    return "  ".join(parts)


def _means(found: list[dict[str, Any]]) -> dict[str, float]:
    """Means of the numbers that all runs have."""
    names = [name for name in found[0] if all(isinstance(f.get(name), int | float) for f in found)]
    return {name: sum(content[name] for content in found) / len(found) for name in names}
