"""Check that the data of an experiment matches what its DVC stages prepare."""

from pathlib import Path
from posixpath import normpath
from typing import Any

from d2v.params.base import ParamsError, Strict
from d2v.params.choices import sets_of
from d2v.params.experiment import Experiment
from d2v.params.prepared import generated, outputs, parameter_files
from d2v.params.reading import read_yaml
from d2v.util.errors import counted


def check_stages(experiment: Experiment, root: Path = Path()) -> None:
    """Compare `data:` with that of the parameter files that the stages read (`vars:`).

    Without this check, a variant (`base: paper.yaml`) with its own data would run on the data of
    its base. Only sets that a stage writes into the experiment's folder are compared; without a
    file of stages, or with one that d2v writes from the same parameters, nothing is compared.
    Raises ParamsError with one line per differing value.
    """
    if generated(experiment):
        return
    written = outputs(root, experiment.stages)
    if written is None:
        return
    folder = normpath(experiment.prepared)
    compared = {
        key: data
        for key, data in experiment.data.items()
        if any(f"{folder}/{made}" in written for made in sets_of(key, data))
    }
    faults = []
    for file in parameter_files(root, experiment.stages):
        theirs = (read_yaml(root / file).get("data") or {}) if compared else {}
        for key, ours in compared.items():
            faults += _differences(key, ours, theirs.get(key), file)
    if faults:
        advice = (
            f"{experiment.stages} prepares {experiment.prepared} from its own parameters; change"
            " those, or give the experiment its own `stages:` and `prepared:`"
        )
        raise ParamsError("\n  ".join([counted(len(faults), "error"), *faults, advice]))


def _differences(key: str, ours: Strict, theirs: Any, file: Path) -> list[str]:
    if not isinstance(theirs, dict):
        return [f"data.{key}: not in {file}, which the stages read"]
    usual = {name: field.default for name, field in type(ours).model_fields.items()}
    given = {name: theirs.get(name, usual[name]) for name in usual}
    return [
        f"data.{key}.{name}: {value}, but the stages prepare it with {given[name]} ({file})"
        for name, value in ours.model_dump(mode="json").items()
        if given[name] != value
    ]
