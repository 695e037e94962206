"""Finished runs that have lost files which something still needs, to a purge for example.

Scratch file systems delete files that nobody has used for some weeks. What a finished run left is
needed as long as another run has yet to read it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from d2v.experiment import runs
from d2v.experiment.run import PretrainRun, Run
from d2v.experiment.task_runs import FinetuneRun
from d2v.params import Experiment
from d2v.training.layout import MODEL
from d2v.util.errors import UserError
from d2v.util.files import read_json

Lost = Mapping[str, Path]  # a missing file, by the id of its run
NAMED = 3  # runs that the message names


def lost(experiment: Experiment) -> Lost:
    """The finished runs that have to run again, each with a file that it lost."""
    known = runs.all_runs(experiment)
    metrics = {run.id: read_json(run.metrics_path) for run in known}
    # without another look at parameters: most experiments have lost nothing
    if not any(_missing(run, metrics[run.id], True) for run in known):
        return {}
    found: dict[str, Path] = {}
    wanted: set[str] = set()  # runs whose files a later run will read
    for run in reversed(known):
        missing = _missing(run, metrics[run.id], run.id in wanted)
        if missing is not None:
            found[run.id] = missing
        if run.previous is not None and (missing is not None or not made(run, metrics[run.id])):
            wanted.add(run.previous.id)
    return {run.id: found[run.id] for run in known if run.id in found}


def wanted_by(run: Run) -> list[str]:
    """Ids of the unfinished runs that read the run's weights or outputs."""
    return [
        other.id
        for other in runs.all_runs(run.experiment)
        if other.previous == run and not made(other, read_json(other.metrics_path))
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
    some = [f"{run} ({path} is gone)" for run, path in list(found.items())[:NAMED]]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    runs_ = "1 finished run has" if len(found) == 1 else f"{len(found)} finished runs have"
    return f"{runs_} lost files that are still needed, and will run again: {', '.join(some)}{more}"


def _missing(run: Run, metrics: Mapping[str, Any] | None, wanted: bool) -> Path | None:
    paths = _needed(run, metrics, wanted) if metrics else ()
    return next((path for path in paths if not path.exists()), None)


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
