"""The metrics.json of a run, checked where it is read.

A file that was cut, edited or copied from another run is not a result. Whoever reads a metrics.json
reads it here, so that all agree on which runs have one.
"""

import json
import os
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from d2v.experiment.run import Kind, Run
from d2v.params import Setting
from d2v.util.errors import UserError

NAME = "metrics.json"


class Damaged(UserError):
    """A metrics.json cannot be used; `fault` says why, without the path."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(
            f"{path} is damaged ({fault}); `d2v reproduce` runs what is damaged again, or restore"
            " the file"
        )
        self.fault = fault


class _Checked(BaseModel):
    """Types of the entries that are read; an older file may lack some, and have others."""

    model_config = ConfigDict(strict=True)


class _Version(_Checked):
    after_step: int
    code_sha256: str | None


class _Provenance(_Checked):
    params_sha256: str | None = None
    data_sha256: dict[str, Any] | None = None
    code_sha256: str | None = None
    git_commit: str | None = None
    versions: dict[str, Any] | None = None
    device: str | None = None
    code_versions: list[_Version] | None = None
    previous: dict[str, Any] | None = None
    wall_s: float | None = None
    peak_mib: float | None = None
    finished: str = ""


class _Metrics(_Checked):
    metrics: dict[str, dict[str, float | None]]
    run: str | None = None
    name: str | None = None
    arm: str | None = None
    seed: int | None = None
    pretrain_run: str | None = None
    setting: Setting | None = None
    checkpoint: str = ""
    steps: int | None = None
    train_s: float | None = None
    examples_per_s: float | None = None
    partial_data: dict[str, Any] | None = None
    probe: dict[str, Any] | None = None
    failed_afterwards: list[str] = []
    provenance: _Provenance | None = None


def read(path: Path, run: str | None = None) -> dict[str, Any] | None:
    """The content of a metrics.json, that of the run with the id `run` if one is given.

    None without such a file. Raises Damaged for a file that cannot be used, and UserError for one
    that cannot be read now.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # it may be intact: no reason to repeat a run
        raise UserError(f"{path}: cannot be read at the moment: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"cannot be read: {error}") from None
    fault = _fault(content) or (_stray(content, run) if run else "")
    if fault:
        raise Damaged(path, fault)
    found: dict[str, Any] = content
    return found


def intact(run: Run) -> dict[str, Any] | None:
    """The content of a run's metrics.json; None if it is missing or damaged."""
    try:
        return read(run.metrics_path, run.id)
    except Damaged:
        return None


def place(folder: Path) -> str | None:
    """The id of the run whose folder this is by its place; None outside of a `runs` folder."""
    parts = Path(os.path.abspath(folder)).parts
    if "runs" not in parts:
        return None
    inner = parts[len(parts) - parts[::-1].index("runs") :]
    return "/".join(inner) if inner and inner[0] in get_args(Kind) else None


def _fault(content: Any) -> str:
    """What is wrong with the types of the entries; empty if nothing is."""
    try:
        _Metrics.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return ""


def _stray(content: dict[str, Any], run: str) -> str:
    """Whose the metrics are, if they say that they are those of another run; empty otherwise."""
    if content.get("run") not in (None, run):
        return f"is that of {content['run']}"
    seed = content.get("seed")
    if seed is not None and not run.endswith(f"/seed{seed}"):
        return f"is that of seed {seed}"
    return ""
