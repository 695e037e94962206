"""Whether a run is finished and everything it was made from is unchanged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2v.experiment import contents, provenance, purged, stored
from d2v.experiment.run import Run
from d2v.experiment.task_runs import FinetuneRun
from d2v.training.layout import META, MODEL, REMOVED
from d2v.util.errors import UserError
from d2v.util.files import read_json

# entries of the provenance that say what a run was made of; `previous`: the run before it
RECIPE = ("params_sha256", "data_sha256", "code_sha256", "previous")
FAILURES = "failed_afterwards"  # entry of metrics.json: what failed after the training


def up_to_date(run: Run) -> bool:
    """Whether parameters, data, code and earlier runs are those that made the run's metrics.

    Also False if files that other runs or commands read are missing.
    """
    found = stored.intact(run)
    described = (found or {}).get("provenance")
    if found is None or described is None:
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


def failures(run: Run) -> list[str]:
    """What failed after the training of a finished run, a line each."""
    return list((stored.intact(run) or {}).get(FAILURES, []))


def recipe(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a finished run was made of: parameters, data and code, its own and earlier ones.

    A run that is repeated from the same recipe replaces the first one.
    """
    found = (metrics or {}).get("provenance")
    return {name: found.get(name) for name in RECIPE} if found else None


def stands(run: Run, repeated: bool) -> bool:
    """Whether a run is current, was made from the run before it, as that is or will be, and stays.

    `repeated`: the run before it is about to run again, with the code of today.
    """
    found = recipe(stored.intact(run)) or {}
    before = found.get("previous")
    if run.previous is None or before is None:
        return False
    try:
        planned = _planned(run.previous)
        own = (run.fingerprint(), contents.contents(run))
    except UserError:  # no grid or no data yet
        return False
    if own != (found["params_sha256"], found["data_sha256"]) or purged.wanted_by(run):
        return False  # it, or a run that follows it, has to run for a reason of its own
    if repeated:
        return bool(before == planned)
    now = recipe(stored.intact(run.previous))
    return before == now and _without_code(before) == _without_code(planned)


def _planned(run: Run) -> dict[str, Any]:
    """The recipe of a run if it was executed now."""
    return {
        "params_sha256": run.fingerprint(),
        "data_sha256": contents.contents(run),
        "code_sha256": provenance.code_sha256(),
        "previous": _planned(run.previous) if run.previous else None,
    }


def _without_code(made_of: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if made_of is None:
        return None
    return {**made_of, "code_sha256": None, "previous": _without_code(made_of["previous"])}


def _overtaken(run: Run, described: Mapping[str, Any]) -> bool:
    """Whether the run that this one starts from has been made of something else since."""
    found = stored.intact(run.previous) if run.previous else None
    if found is None or found.get("provenance") is None:
        return False
    if described.get("previous") is not None:
        return bool(described["previous"] != recipe(found))
    return bool(found["provenance"]["finished"] > described["finished"])


def _files(run: Run, found: dict[str, Any]) -> list[Path]:
    """Files that a finished run leaves besides its metrics."""
    paths = [run.predictions(name) for name in found.get("metrics", {})]
    if "checkpoint" in found:
        folder = Path(found["checkpoint"])
        by_rule = MODEL in (read_json(folder / META) or {}).get(REMOVED, ())
        if not by_rule or purged.wanted_by(run):
            paths.append(folder / MODEL)
    if run.kind == "finetune" and isinstance(run, FinetuneRun) and run.searched:
        paths += [run.emissions(name) for name in found["metrics"]]
    return paths
