"""Check that the prepared data that an experiment reads exists or is written by a DVC stage."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath

import yaml

from d2v.params.experiment import Experiment
from d2v.params.faults import nearest
from d2v.params.reading import refuse_file


def check(experiment: Experiment, path: Path, sets: Iterable[str], root: Path = Path()) -> None:
    """Raise ParamsError with all errors that `unwritten` finds; `path` is the parameter file."""
    refuse_file(path, list(unwritten(experiment, sets, root)))


def unwritten(experiment: Experiment, sets: Iterable[str], root: Path = Path()) -> Iterator[str]:
    """Yield an error for each prepared set that is missing and that no stage writes.

    The stages are those of the DVC file `experiment.stages`; `root` is the folder of the
    repository. If the DVC file is missing, no set can be checked and nothing is yielded.
    """
    written = _outputs(root, experiment.stages)
    if written is None:
        return
    folder = normpath(experiment.prepared)
    absent = [
        name
        for name in sets
        if normpath(f"{folder}/{name}") not in written
        and not (root / folder / name / "meta.json").exists()
    ]
    folders = dict.fromkeys(str(PurePosixPath(out).parent) for out in written)
    if absent and folder not in folders:
        yield (
            f"prepared: no stage of {experiment.stages} writes into {folder}"
            f"{nearest(folder, folders)}; set prepared or stages"
        )
        return
    for name in absent:
        yield f"prepared: no stage of {experiment.stages} writes {folder}/{name}"


def _outputs(root: Path, stages: str) -> set[str] | None:
    """Paths that the stages of a DVC file write, relative to the root.

    None if the file is missing or cannot be parsed.
    """
    try:
        found = yaml.safe_load((root / stages).read_text(encoding="utf-8"))
        groups = list(found["stages"].values())
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return None
    outputs = set()
    for stage in groups:
        wdir = PurePosixPath(stages).parent / stage.get("wdir", ".")
        for out in stage.get("outs", []):
            outputs.add(normpath(wdir / (out if isinstance(out, str) else next(iter(out)))))
    return outputs
