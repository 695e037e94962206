"""Names in a run's folder of checkpoints, for code that does not need PyTorch.

Users put folders and files of their own there, too. Only a folder that has the name of a checkpoint
and contains nothing but the files of one may be removed.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from d2v.util.errors import UserError
from d2v.util.files import read_json, remove_empty, remove_file, remove_folder

MODEL, TRAINING, META = "model.safetensors", "training.safetensors", "checkpoint.json"
FILES = (MODEL, TRAINING, META)
REMOVED = "removed"  # in META: names of files that `d2v clean` removed
OTHERS = "checkpoints-of-other-parameters"  # next to the folder of checkpoints: set aside

# a checkpoint; a draft of one (.part); one that was set aside (.damaged)
NAME = re.compile(r"step-\d+(\.part|\.damaged)?")
# what a killed process leaves in a draft: of safetensors, and of d2v.util.files
DRAFT = re.compile(r"\.tmp\w{6}|\.(model|training)\.safetensors\.mode\.\d+")


def folders(root: Path) -> list[Path]:
    """Folders of complete checkpoints, oldest first."""
    steps = [f for f in root.glob("step-*") if f.name.removeprefix("step-").isdecimal()]
    return sorted(steps, key=lambda folder: int(folder.name.removeprefix("step-")))


def newest_step(root: Path) -> int:
    """Step of the newest checkpoint, intact or not; 0 without one."""
    found = folders(root)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def steps(root: Path) -> list[Path]:
    """Everything with the name of a checkpoint, of a draft or of one set aside, sorted by name."""
    return sorted(path for path in root.glob("step-*") if NAME.fullmatch(path.name))


def own(root: Path) -> list[Path]:
    """Those of `steps` that d2v may remove: they contain nothing that it did not write."""
    return [folder for folder in steps(root) if foreign(folder) is None]


def drafts(folder: Path) -> Iterator[Path]:
    """Files that a killed process left in a draft."""
    return (path for path in folder.iterdir() if DRAFT.fullmatch(path.name))


def added(folder: Path) -> str | None:
    """Name of something that d2v did not put into a folder of checkpoints; None without it."""
    if folder.is_symlink():
        return "a symbolic link"
    if not folder.is_dir():
        return "a file"
    ours = {*FILES, *(path.name for path in drafts(folder) if folder.suffix)}
    for path in sorted(folder.iterdir()):
        if path.name not in ours or path.is_symlink() or not path.is_file():
            return path.name
    return None


def foreign(folder: Path) -> str | None:
    """What shows that d2v did not write a folder, or not all of it; None if it did."""
    name = added(folder)
    if name is None and not folder.suffix and read_json(folder / META) is None:
        return f"no {META}" if any(folder.iterdir()) else None
    return name


def check(folder: Path) -> None:
    """Raise UserError if a folder, which may be missing, holds what d2v did not write."""
    if os.path.lexists(folder) and (name := foreign(folder)) is not None:
        raise refusal(folder, name)


def refusal(folder: Path, name: str) -> UserError:
    """The error for a folder that contains something of a user."""
    return UserError(
        f"{folder}: contains {name}, which d2v did not write; move the folder away and run the"
        " same command again"
    )


def remove(folder: Path) -> None:
    """Remove a folder that was checked; what a killed removal leaves is still known as ours."""
    for name in (MODEL, TRAINING):
        remove_file(folder / name)
    remove_folder(folder)


def clear(folder: Path) -> None:
    """Remove a checkpoint or a draft, if there is one; raises as `check`."""
    check(folder)
    remove(folder)


def clear_all(root: Path) -> None:
    """Remove all checkpoints, so that a run starts again; what d2v did not write stays.

    Raises UserError for a checkpoint beside which a user has put something.
    """
    for folder in steps(root):
        if (folder / META).exists():
            check(folder)
    for folder in own(root):
        remove(folder)
    remove_empty([root])
