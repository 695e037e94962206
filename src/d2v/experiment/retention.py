"""Checkpoints of finished runs that nothing needs any more, by rule.

all    everything stays
last   the last checkpoint with its training state, and the weights that the result comes from
best   the weights that the result comes from, without training state (moments of the optimiser)
none   no weights, unless an unfinished run starts from them

`checkpoint.json` of a removed file stays where it says what was removed, or how the run ended.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d2v.experiment import purged, runs, stored
from d2v.experiment.run import Run
from d2v.params import Experiment
from d2v.training.layout import FILES, META, MODEL, OTHERS, REMOVED, drafts, folders, foreign, steps
from d2v.util import locks
from d2v.util.files import read_json, remove_empty, remove_file, write_json

Rule = Literal["none", "last", "best", "all"]


@dataclass(frozen=True)
class Spare:
    """Files of one folder that a run can do without."""

    run: str
    folder: Path
    names: tuple[str, ...]
    whole: bool  # whether nothing of the folder is needed
    size: int  # bytes


@dataclass(frozen=True)
class Found:
    """What can be removed, and why other files stay, one sentence each."""

    spare: list[Spare]
    notes: list[str]


def find(experiment: Experiment, rule_of: Callable[[str], Rule]) -> Found:
    """What the rules of the runs, `rule_of(id)`, leave to be removed; changes nothing."""
    found = Found([], [])
    for run in runs.all_runs(experiment):
        _find(run, rule_of(run.id), found)
    return found


def remove(spare: Spare, work: Path) -> int:
    """Remove the files unless the run has started again since; return the number of bytes.

    `work` is the run's work folder, whose lock is held meanwhile.
    """
    with locks.attempt(work / "lock") as lock:
        if lock is None:
            return 0
        meta = None if spare.whole else read_json(spare.folder / META)
        if meta is not None:  # first, so that a removal that is cut off is known, too
            removed = sorted({*meta.get(REMOVED, ()), *spare.names})
            write_json(spare.folder / META, {**meta, REMOVED: removed})
        for name in spare.names:
            remove_file(spare.folder / name)
        if spare.whole:
            for path in [*drafts(spare.folder)]:
                remove_file(path)
            remove_empty([spare.folder])
            remove_empty([spare.folder.parent] if spare.folder.parent.name == OTHERS else [])
    return spare.size


def _find(run: Run, rule: Rule, found: Found) -> None:
    metrics = stored.intact(run)
    if rule == "all" or metrics is None or "checkpoint" not in metrics:
        return
    root, kept = run.work / "checkpoints", Path(metrics["checkpoint"])
    if not purged.made(run, metrics):
        found.notes.append(f"{run.id}: its parameters have changed; its checkpoints stay")
        return
    if kept.parent != root or root.is_symlink() or not kept.is_dir():
        if root.is_symlink():
            found.notes.append(f"{root}: is a symbolic link; its content stays")
        return
    if locks.is_held(run.work / "lock"):
        found.notes.append(f"{run.id}: is running; its checkpoints stay")
        return
    for folder, names in _candidates(run, rule, root, kept, found.notes):
        other = foreign(folder)
        if other is not None:
            found.notes.append(f"{folder}: contains {other}, which d2v did not write; it stays")
            continue
        there = tuple(name for name in names if (folder / name).exists())
        if there:
            size = sum((folder / name).stat().st_size for name in there)
            found.spare.append(Spare(run.id, folder, there, names == FILES, size))


def _candidates(
    run: Run, rule: Rule, root: Path, kept: Path, notes: list[str]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Folders of a finished run, with the names of files that it can do without."""
    complete = folders(root)
    newest = complete[-1] if complete else kept
    for folder in complete:
        if folder == kept:
            if rule == "last" and folder == newest:
                continue
            names = tuple(name for name in FILES if name not in (META, MODEL))
            if rule == "none":
                names = (*names, MODEL)
                if wanting := purged.wanted_by(run):
                    names = names[:-1]
                    notes.append(f"{run.id}: {wanting[0]} starts from its weights; they stay")
            yield folder, names
        elif folder == newest:  # its checkpoint.json says that the run has finished
            if rule != "last":
                yield folder, tuple(name for name in FILES if name != META)
        else:
            yield folder, FILES
    aside = run.work / OTHERS
    unfinished = [folder for folder in steps(root) if folder.suffix]
    for folder in (*unfinished, *([] if aside.is_symlink() else steps(aside))):
        yield folder, FILES
