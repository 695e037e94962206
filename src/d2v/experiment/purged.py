"""Finished runs that have lost files which something still needs, to a purge for example.

Scratch file systems delete files that nobody has used for some weeks. What a finished run left is
needed as long as another run has yet to read it. Metrics are always needed: those that are damaged,
or of another run, are lost as well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.experiment import runs, stored
from d2v.experiment.run import PretrainRun, Run
from d2v.experiment.task_runs import FinetuneRun
from d2v.params import Experiment
from d2v.training.layout import MODEL
from d2v.util.errors import UserError

NAMED = 3  # runs that the message names


@dataclass(frozen=True)
class Loss:
    """A file that is gone or, if there is a `fault`, damaged."""

    path: Path
    fault: str = ""

    @property
    def words(self) -> str:
        """The file and what happened to it."""
        return f"{self.path} is damaged: {self.fault}" if self.fault else f"{self.path} is gone"


Lost = Mapping[str, Loss]  # by the id of the run


def lost(experiment: Experiment) -> Lost:
    """The finished runs that have to run again, each with a file that it lost."""
    known = runs.all_runs(experiment)
    metrics = {run.id: _metrics(run) for run in known}
    # without another look at parameters: most experiments have lost nothing
    if not any(_missing(run, metrics[run.id], True) for run in known):
        return {}
    found: dict[str, Loss] = {}
    wanted: set[str] = set()  # runs whose files a later run will read
    for run in reversed(known):
        missing = _missing(run, metrics[run.id], run.id in wanted)
        if missing is not None:
            found[run.id] = missing
        if run.previous is not None and (missing is not None or not _made(run, metrics[run.id])):
            wanted.add(run.previous.id)
    return {run.id: found[run.id] for run in known if run.id in found}


def wanted_by(run: Run) -> list[str]:
    """Ids of the unfinished runs that read the run's weights or outputs."""
    return [
        other.id
        for other in runs.all_runs(run.experiment)
        if other.previous == run and not made(other, stored.intact(other))
    ]


def made(run: Run, metrics: Mapping[str, Any] | None) -> bool:
    """Whether there are metrics, made with the current parameters."""
    if metrics is None:
        return False
    try:
        return bool((metrics.get("provenance") or {}).get("params_sha256") == run.fingerprint())
    except UserError:  # its grid has not been searched
        return False


def sentence(found: Lost) -> str:
    """What was lost and what follows, in one sentence."""
    some = [f"{run} ({loss.words})" for run, loss in list(found.items())[:NAMED]]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    runs_ = "1 finished run has" if len(found) == 1 else f"{len(found)} finished runs have"
    kinds = " or damaged" if any(loss.fault for loss in found.values()) else ""
    return (
        f"{runs_} lost{kinds} files that are still needed, and will run again:"
        f" {', '.join(some)}{more}"
    )


def _metrics(run: Run) -> Mapping[str, Any] | Loss | None:
    """The run's metrics, their loss if they are damaged, or None if it has not finished."""
    try:
        found = stored.read(run.metrics_path, run.id)
    except stored.Damaged as error:
        return Loss(run.metrics_path, error.fault)
    if found is not None and found.get("provenance") is None:
        return Loss(run.metrics_path, "no provenance")
    return found


def _made(run: Run, metrics: Mapping[str, Any] | Loss | None) -> bool:
    return not isinstance(metrics, Loss) and made(run, metrics)


def _missing(run: Run, metrics: Mapping[str, Any] | Loss | None, wanted: bool) -> Loss | None:
    if metrics is None or isinstance(metrics, Loss):
        return metrics
    paths = _needed(run, metrics, wanted)
    return next((Loss(path) for path in paths if not path.exists()), None)


def _needed(run: Run, metrics: Mapping[str, Any], wanted: bool) -> Iterator[Path]:
    """Files that a finished run must have; more of them if a later run reads them."""
    names = metrics.get("metrics") or {}
    for name in names:
        yield run.predictions(name)
    if not wanted:
        return
    if isinstance(run, PretrainRun) and "checkpoint" in metrics:
        yield Path(metrics["checkpoint"]) / MODEL
    if isinstance(run, FinetuneRun) and run.kind == "finetune" and run.searched:
        for name in names:
            yield run.emissions(name)
