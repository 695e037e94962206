"""Whether a run is finished and everything it was made from is unchanged."""

from pathlib import Path
from typing import Any

from d2v.experiment import contents, provenance, runs
from d2v.params import Experiment
from d2v.util.errors import UserError
from d2v.util.files import read_json


def up_to_date(experiment: Experiment, run: runs.Run) -> bool:
    """Whether parameters, data, code and earlier runs are those that made the run's metrics.

    Also False if files that other runs or commands read are missing.
    """
    found = read_json(runs.metrics_path(experiment, run))
    described = (found or {}).get("provenance")
    if found is None or not isinstance(described, dict):
        return False
    try:
        same = described["params_sha256"] == runs.fingerprint(experiment, run)
        data = contents.contents(experiment, run)
    except (KeyError, UserError):  # edited by hand, no grid or no data yet
        return False
    return (
        same
        and described.get("data_sha256") == data
        and described.get("code_sha256") == provenance.code_sha256()
        and not _overtaken(experiment, run, described)
        and all(path.exists() for path in _files(experiment, run, found))
    )


def _overtaken(experiment: Experiment, run: runs.Run, described: dict[str, Any]) -> bool:
    """Whether the run that this one starts from has finished again since."""
    before = runs.pretrain_run(experiment, run)
    if run.kind == "decode":
        before = runs.finetune_run(run)
    found = read_json(runs.metrics_path(experiment, before)) if before else None
    return found is not None and found["provenance"]["finished"] > described["finished"]


def _files(experiment: Experiment, run: runs.Run, found: dict[str, Any]) -> list[Path]:
    """Files that a finished run leaves besides its metrics."""
    folder = runs.result_folder(experiment, run)
    paths = [folder / f"predictions-{name}.tsv" for name in found.get("metrics", {})]
    if "checkpoint" in found:
        paths.append(Path(found["checkpoint"]))
    if run.kind == "finetune" and runs.searched(experiment, run):
        paths += [runs.emissions_path(experiment, run, name) for name in found["metrics"]]
    return paths
