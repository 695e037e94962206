"""Check that the data of an experiment matches what its DVC stages prepare."""

import os
from pathlib import Path
from typing import Any

import yaml

from d2v.params.base import ParamsError
from d2v.params.data import sets_of
from d2v.params.experiment import Experiment
from d2v.params.reading import read_yaml


def check_stages(experiment: Experiment, root: Path = Path()) -> None:
    """Compare `data:` with that of the parameter files that the stages read (`vars:`).

    Without this check, a variant (`base: paper.yaml`) with its own data would run on the data of
    its base. Only sets that a stage writes into the experiment's folder are compared; without a
    file of stages, nothing is compared. Raises ParamsError with one line per differing value.
    """
    path = root / experiment.stages
    if not path.is_file():
        return
    known = yaml.safe_load(path.read_text()) or {}
    written = {out for stage in (known.get("stages") or {}).values() for out in _outs(stage)}
    compared = {
        key: data.model_dump(mode="json")
        for key, data in experiment.data.items()
        if any(f"{experiment.prepared}/{name}" in written for name in sets_of(key, data))
    }
    faults = []
    for name in [name for name in known.get("vars") or [] if isinstance(name, str)]:
        file = Path(os.path.normpath(Path(experiment.stages).parent / name))
        theirs = (read_yaml(root / file).get("data") or {}) if compared else {}
        for key, ours in compared.items():
            faults += _differences(key, ours, theirs.get(key), file)
    if faults:
        advice = (
            f"{experiment.stages} prepares {experiment.prepared} from its own parameters; change"
            " those, or give the experiment its own `stages:` and `prepared:`"
        )
        raise ParamsError("\n  ".join([f"{len(faults)} fault(s)", *faults, advice]))


def _outs(stage: dict[str, Any]) -> list[str]:
    """Paths that a stage writes, as written in the DVC file."""
    outs = stage.get("outs") or []
    return [next(iter(out)) if isinstance(out, dict) else str(out) for out in outs]


def _differences(key: str, ours: dict[str, Any], theirs: Any, file: Path) -> list[str]:
    if not isinstance(theirs, dict):
        return [f"data.{key}: not in {file}, which the stages read"]
    return [
        f"data.{key}.{field}: {value}, but the stages prepare it with {theirs.get(field)} ({file})"
        for field, value in ours.items()
        if theirs.get(field) != value
    ]
