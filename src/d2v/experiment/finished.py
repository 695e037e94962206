"""Whether a run is finished and everything it was made from is unchanged."""

from pathlib import Path
from typing import Any

from d2v.experiment import contents, provenance
from d2v.experiment.run import Run
from d2v.experiment.task_runs import FinetuneRun
from d2v.util.errors import UserError
from d2v.util.files import read_json


def up_to_date(run: Run) -> bool:
    """Whether parameters, data, code and earlier runs are those that made the run's metrics.

    Also False if files that other runs or commands read are missing.
    """
    found = read_json(run.metrics_path)
    described = (found or {}).get("provenance")
    if found is None or not isinstance(described, dict):
        return False
    try:
        same = described["params_sha256"] == run.fingerprint()
        data = contents.contents(run)
    except (KeyError, UserError):  # edited by hand, no grid or no data yet
        return False
    return (
        same
        and described.get("data_sha256") == data
        and described.get("code_sha256") == provenance.code_sha256()
        and not _overtaken(run, described)
        and all(path.exists() for path in _files(run, found))
    )


def _overtaken(run: Run, described: dict[str, Any]) -> bool:
    """Whether the run that this one starts from has finished again since."""
    before = run.previous
    found = read_json(before.metrics_path) if before else None
    return found is not None and found["provenance"]["finished"] > described["finished"]


def _files(run: Run, found: dict[str, Any]) -> list[Path]:
    """Files that a finished run leaves besides its metrics."""
    paths = [run.predictions(name) for name in found.get("metrics", {})]
    if "checkpoint" in found:
        paths.append(Path(found["checkpoint"]))
    if run.kind == "finetune" and isinstance(run, FinetuneRun) and run.searched:
        paths += [run.emissions(name) for name in found["metrics"]]
    return paths
