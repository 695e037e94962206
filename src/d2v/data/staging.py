"""Copies of prepared sets on a node's own disk, for jobs that ask for them.

    <stage>/d2v-<uid>/<name>-<hash>/          the copy, complete: it is renamed when it is verified
                      <name>-<hash>.copying   lock of the process that copies
                      <name>-<hash>.used      lock that every process using the copy shares

The processes of a node share one copy, and later jobs find it again. Copies that nobody uses are
removed when the space is needed.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from d2v.util import locks
from d2v.util.files import read_json, remove_folder, rename
from d2v.util.outputs import hash_of

VARIABLE = "D2V_STAGE"  # folder on the node's disk; set by the job
SPARE = 0.05  # share of the disk that stays free
_used: dict[Path, Path] = {}  # copies that this process uses, by original
_held: list[IO[str]] = []  # locks of these, kept for the life of the process


def stage(folders: Iterable[Path], where: str) -> None:
    """Copy prepared sets to the folder `where`, whose variables are expanded, if there is space.

    Prints a line for each set. `local` then finds the copies, in child processes, too.
    """
    place = os.path.expandvars(where)
    if not os.path.isabs(place) or "$" in place:
        print(f"stage: {where} is no absolute path on {os.uname().nodename}: nothing is staged")
        return
    os.environ[VARIABLE] = place
    for folder in folders:
        local(folder)


def local(folder: Path) -> Path:
    """The copy of a prepared set on the node's disk, made if necessary; otherwise `folder`."""
    where = os.environ.get(VARIABLE)
    if not where or folder in _used:
        return _used.get(folder, folder)
    try:
        _used[folder] = _copy(folder, Path(where) / f"d2v-{os.getuid()}")
    except OSError as error:
        _used[folder] = folder
        said = f"{error.filename or where}: {error.strerror or error}"
        print(f"{folder}: read from where it is, not staged ({said})", flush=True)
    return _used[folder]


def _copy(folder: Path, root: Path) -> Path:
    """The copy in `root`, or `folder` if it cannot be copied, with a line that says why."""
    wanted = (read_json(folder / "meta.json") or {}).get("sha256")
    if not wanted:
        return folder  # not prepared: whoever reads it reports that
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise PermissionError(13, "belongs to somebody else", str(root))
    copy = root / f"{folder.name}-{wanted[:16]}"
    lock = copy.with_name(f"{copy.name}.used")
    used = lock.open("a")
    fcntl.flock(used, fcntl.LOCK_SH)
    os.utime(lock)
    waiting = f"{copy}: another process is copying; waiting for it"
    with locks.held(copy.with_name(f"{copy.name}.copying"), waiting):
        reason = None if _complete(folder, copy) else _make(folder, copy, wanted)
        if reason is None:
            _renew_lists(folder, copy)
    if reason is not None:
        used.close()
        print(f"{folder}: read from where it is, not staged ({reason})", flush=True)
        return folder
    _held.append(used)
    return copy


def _complete(folder: Path, copy: Path) -> bool:
    """Whether there is a copy that has lost nothing since it was verified."""
    if not copy.is_dir():
        return False
    sizes = _sizes(folder)
    same = {name: size for name, size in _sizes(copy).items() if name in sizes}
    return all(same.get(n) == s for n, s in sizes.items() if not n.startswith("lists/"))


def _make(folder: Path, copy: Path, wanted: str) -> str | None:
    """Copy and verify a set; return why that is impossible, or None."""
    size = sum(_sizes(folder).values())
    remove_folder(copy)
    if not _has_room(copy.parent, size):
        free = shutil.disk_usage(copy.parent).free
        return f"{size / 1e9:.1f} GB, and {copy.parent} has {free / 1e9:.1f} GB free"
    part, started = copy.with_name(f"{copy.name}.part"), time.monotonic()
    remove_folder(part)
    try:
        shutil.copytree(folder, part)
        if hash_of(part) != wanted:
            return "its content is not that of its meta.json"
        rename(part, copy)
    finally:
        remove_folder(part)
    seconds = time.monotonic() - started
    print(f"{folder}: staged to {copy} ({size / 1e9:.1f} GB in {seconds:.0f} s)", flush=True)
    return None


def _has_room(root: Path, size: int) -> bool:
    """Whether a copy fits, once those that nobody uses have been removed, the oldest first."""
    keep = SPARE * shutil.disk_usage(root).total
    locks_ = sorted(root.glob("*.used"), key=lambda path: path.stat().st_mtime)
    for lock in locks_:
        if shutil.disk_usage(root).free - size >= keep:
            return True
        with locks.attempt(lock) as alone:
            if alone is not None:
                for name in (lock.stem, f"{lock.stem}.part"):
                    remove_folder(root / name)
    return shutil.disk_usage(root).free - size >= keep


def _renew_lists(folder: Path, copy: Path) -> None:
    """Copy the label lists again: unlike everything else, they may be edited."""
    for path in sorted((folder / "lists").glob("*.txt")):
        target = copy / "lists" / path.name
        if not target.exists() or target.read_bytes() != path.read_bytes():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


def _sizes(folder: Path) -> dict[str, int]:
    """Size of each file, by its name in the folder."""
    # safe: only looks
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
