"""Check that the prepared data that an experiment reads exists or is written by a DVC stage."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

import yaml

from d2v.params.choices import sets_of
from d2v.params.data import CheckpointTokenizer
from d2v.params.experiment import Experiment
from d2v.params.faults import nearest
from d2v.params.own import Own, own_stages
from d2v.params.reading import UNREADABLE, SafeLoader, refuse_file
from d2v.util.errors import UserError

ROOT_STAGES = "dvc.yaml"  # in the root of every repository


def check(experiment: Experiment, path: Path, sets: Iterable[str], root: Path = Path()) -> None:
    """Raise ParamsError with all errors that `unwritten` finds; `path` is the parameter file."""
    refuse_file(path, list(unwritten(experiment, sets, root)))


def unwritten(experiment: Experiment, sets: Iterable[str], root: Path = Path()) -> Iterator[str]:
    """Yield an error for each prepared set that is missing and that no stage writes.

    The stages are those of the DVC file `experiment.stages`; `root` is the folder of the
    repository. Outside of one, the DVC file is missing, no set can be checked, and nothing is
    yielded.
    """
    written = written_for(experiment, root)
    folder = normpath(experiment.prepared)
    absent = [
        name
        for name in sets
        if normpath(f"{folder}/{name}") not in (written or ())
        and not (root / folder / name / "meta.json").exists()
    ]
    if written is None:
        yield from _no_stages(experiment.stages, root, bool(absent))
        return
    folders = dict.fromkeys(str(PurePosixPath(out).parent) for out in written)
    if absent and folder not in folders:
        yield (
            f"prepared: no stage of {experiment.stages} writes into {folder}"
            f"{nearest(folder, folders)}; set prepared or stages"
        )
        return
    for name in absent:
        yield f"prepared: no stage of {experiment.stages} writes {folder}/{name}"


def _no_stages(stages: str, root: Path, needed: bool) -> Iterator[str]:
    """Yield an error for a file without stages, or, where some are needed, for a missing one."""
    if (root / stages).exists():
        try:
            read_stages(root, stages)
        except UserError as error:
            yield f"stages: {error}"
    elif needed and (root / ROOT_STAGES).is_file():
        yield f"stages: {stages} not found; name an existing DVC file, such as dvc.yaml"


def written_for(experiment: Experiment, root: Path = Path()) -> set[str] | None:
    """Paths that the stages of an experiment write, relative to the root; None if nobody can tell.

    A file of stages that d2v writes may be that of earlier parameters, and is written again before
    its stages run; so what it will write follows from the parameters alone.
    """
    if not generated(experiment):
        return outputs(root, experiment.stages)
    return {
        normpath(f"{experiment.prepared}/{made}")
        for name, group in experiment.data.items()
        if isinstance(group, Own | CheckpointTokenizer)
        for made in sets_of(name, group)
    }


def generated(experiment: Experiment) -> bool:
    """Whether d2v writes the file of stages of an experiment, for data sets of one's own."""
    own = any(isinstance(group, Own) for group in experiment.data.values())
    return own and experiment.stages == own_stages(experiment.name)


def outputs(root: Path, stages: str) -> set[str] | None:
    """Paths that the stages of a DVC file write, relative to the root.

    `${prepared}` in a path stands for that key of the stages' parameter file. None if the file is
    missing or cannot be parsed.
    """
    commands = _commands(root, stages)
    return None if commands is None else set(commands)


def command_of(root: Path, stages: str, out: str) -> str:
    """Command of the stage that writes the path `out`, as the DVC file has it; empty if none."""
    return (_commands(root, stages) or {}).get(normpath(out), "")


def _commands(root: Path, stages: str) -> dict[str, str] | None:
    """The command of each stage of a DVC file, by the paths that it writes."""
    try:
        groups = read_stages(root, stages).values()
    except UserError:
        return None
    folder = next((f for p in parameter_files(root, stages) if (f := _prepared(root / p))), "")
    written = {}
    for stage in groups:
        wdir = PurePosixPath(stages).parent / str(stage.get("wdir", "."))
        for out in _listed(stage.get("outs")):
            path = out if isinstance(out, str) else str(next(iter(out)))
            place = normpath(wdir / path.replace("${prepared}", folder))
            written[place] = str(stage.get("cmd", ""))
    return written


def read_stages(root: Path, stages: str | Path) -> dict[str, dict[str, Any]]:
    """The stages of a DVC file, by name; raises UserError for a file that is none."""
    try:
        found = yaml.load((root / stages).read_text(encoding="utf-8"), SafeLoader)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{stages} not found; run this in the root of the repository") from None
    except OSError as error:
        raise UserError(f"{stages}: cannot be read ({error.strerror}); name a DVC file") from None
    except UNREADABLE as error:
        said = " ".join(str(error).split())
        raise UserError(f"{stages}: not valid YAML ({said}); name a DVC file") from None
    groups = found.get("stages") if isinstance(found, dict) else None
    if not groups or not isinstance(groups, dict):
        raise UserError(f"{stages}: has no stages; name a DVC file, such as dvc.yaml")
    if strange := [name for name, stage in groups.items() if not isinstance(stage, dict)]:
        raise UserError(f"{stages}: {strange[0]} is not a stage, which has a cmd; correct the file")
    return groups


def _listed(value: Any) -> list[Any]:
    """The entries of a list that are names, or mappings with a name."""
    return [v for v in value if v and isinstance(v, str | dict)] if isinstance(value, list) else []


def parameter_files(root: Path, stages: str) -> list[Path]:
    """Parameter files that a DVC file names under `vars:`, relative to the root."""
    found = _parsed(root / stages) or {}
    names = [name for name in _listed(found.get("vars")) if isinstance(name, str)]
    return [Path(normpath(PurePosixPath(stages).parent / name)) for name in names]


def _prepared(path: Path) -> str:
    return str((_parsed(path) or {}).get("prepared") or "")


def _parsed(path: Path) -> dict[str, Any] | None:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), SafeLoader)
    except (OSError, *UNREADABLE):
        return None
    return found if isinstance(found, dict) else None
