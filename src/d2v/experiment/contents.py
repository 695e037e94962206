"""Which data a run reads: the hash of each prepared set, and of a label list that was changed."""

from typing import Any

from d2v.experiment import folders
from d2v.experiment.run import Run
from d2v.experiment.task_runs import FinetuneRun
from d2v.util.errors import UserError
from d2v.util.files import read_json, sha256


def contents(run: Run) -> dict[str, str]:
    """Hash of each prepared set that a run reads.

    It is the set's own sha256. If the run's label list was changed or added since the set was
    prepared, the list's hash follows it, so that the run counts as one on other data.

    Raises UserError for a set that is not prepared.
    """
    found = {}
    for name in run.datasets:
        path = folders.meta_path(run.experiment, name)
        meta = read_json(path)
        if meta is None or "sha256" not in meta:
            raise UserError(
                f"{path} is missing or incomplete; run `d2v data FILE` with the parameter file of"
                f" {run.experiment.name}"
            )
        found[name] = f"{meta['sha256']}{_changed_list(run, name, meta)}"
    return found


def _changed_list(run: Run, dataset: str, meta: dict[str, Any]) -> str:
    """Hash of the run's label list if it is not the prepared one; empty for sets without hashes."""
    if not isinstance(run, FinetuneRun) or "lists" not in meta:
        return ""
    if run.labels is None or run.params.data != dataset:
        return ""
    name = f"{run.labels.removesuffix('.txt')}.txt"
    path = folders.meta_path(run.experiment, dataset).with_name("lists") / name
    now = sha256(path) if path.is_file() else None
    return "" if now == meta["lists"].get(name) else f" with {name} {now}"
