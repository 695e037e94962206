"""Which data a run reads: the hash of each prepared set, and of a label list that was changed."""

from typing import Any

from d2v.experiment import runs
from d2v.params import Experiment
from d2v.util.errors import UserError
from d2v.util.files import read_json, sha256


def contents(experiment: Experiment, run: runs.Run) -> dict[str, str]:
    """Hash of each prepared set that a run reads.

    It is the set's own sha256. If the run's label list was changed or added since the set was
    prepared, the list's hash follows it, so that the run counts as one on other data.

    Raises UserError for a set that is not prepared.
    """
    found = {}
    for name in runs.datasets(experiment, run):
        path = runs.meta_path(experiment, name)
        meta = read_json(path)
        if meta is None or "sha256" not in meta:
            raise UserError(f"{path} is missing or incomplete; run `d2v data {name}`")
        found[name] = f"{meta['sha256']}{_changed_list(experiment, run, name, meta)}"
    return found


def _changed_list(experiment: Experiment, run: runs.Run, dataset: str, meta: dict[str, Any]) -> str:
    """Hash of the run's label list if it is not the prepared one; empty for sets without hashes."""
    if run.kind not in ("finetune", "select") or "lists" not in meta:
        return ""
    task = experiment.finetune[run.name]
    labels = runs.labels_of(task, run.seed)
    if labels is None or task.data != dataset:
        return ""
    name = f"{labels.removesuffix('.txt')}.txt"
    path = runs.meta_path(experiment, dataset).with_name("lists") / name
    now = sha256(path) if path.is_file() else None
    return "" if now == meta["lists"].get(name) else f" with {name} {now}"
