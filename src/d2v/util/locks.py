"""Locks that end with their holder: `flock` on a file, released by the kernel even on SIGKILL."""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from d2v.util.errors import UserError
from d2v.util.files import remove_folder

_claims: list[IO[str]] = []  # kept open for the life of the process


@contextmanager
def held(path: Path, waiting: str = "") -> Iterator[IO[str]]:
    """Hold an exclusive lock on `path`, after waiting for its current holder; the file stays.

    The message `waiting`, if given, is printed to standard error before waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(waiting, file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


@contextmanager
def attempt(path: Path) -> Iterator[IO[str] | None]:
    """Hold an exclusive lock on `path` if it is free; None if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


@contextmanager
def held_within(path: Path, seconds: float, describe: Callable[[], str]) -> Iterator[IO[str]]:
    """Hold an exclusive lock on `path`; raises UserError if it is not free within `seconds`.

    `describe` tells who holds it; this is printed when the waiting begins, and every minute.
    """
    end, told = time.monotonic() + seconds, 0.0
    while True:
        with attempt(path) as file:
            if file is not None:
                yield file
                return
        now = time.monotonic()
        if now > end:
            raise UserError(
                f"{describe()}; gave up after {seconds:.0f} s. End that process, or remove the"
                " file if its machine is gone, and run the same command again"
            )
        if now > told + 60 or not told:
            told = now
            print(f"{describe()}; waiting for it to end", flush=True)
        time.sleep(min(1.0, seconds / 10))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder itself, which is created if needed.

    No lock file is added to the folder. On file systems that cannot lock folders (NFS), there is no
    lock.
    """
    handle = _locked(folder)
    try:
        yield
    finally:
        os.close(handle)


def _locked(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"{folder}: another process is writing here; waiting for it to finish", flush=True
            )
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        os.close(handle)  # the previous holder removed or renamed the folder


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock; False if this is unknown. Writes nothing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holder(path: Path) -> int | None:
    """Id of the process that holds the lock, or None.

    The process must have written its id and start time first into the file.
    """
    try:
        pid, started, *_ = path.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    same = str(process_start(int(pid))) == started
    return int(pid) if same and is_held(path) else None


def claim(folder: Path, wait: bool = False) -> bool:
    """Enter a workflow folder (`.snakemake`) and clear the lock of a killed workflow.

    Snakemake's own lock outlives SIGKILL and then blocks every later start. Each workflow process
    therefore holds a shared lock until it ends. A process that gets this lock exclusively is the
    only one, so any lock of Snakemake's is stale. With `wait`, wait until the process is the only
    one. Returns whether it was.
    """
    folder.mkdir(exist_ok=True)
    file = (folder / "alive").open("a")
    _claims.append(file)
    try:
        alone = _exclusive(file, wait)
        if alone:
            remove_folder(folder / "locks")
            (folder / "locks").mkdir()
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:  # a file system without flock: leave Snakemake's lock alone
        return False
    return alone


def claimed() -> list[int]:
    """File descriptors of this process's claims; a child that inherits them keeps them alive."""
    return [file.fileno() for file in _claims]


def _exclusive(file: IO[str], wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        print("another workflow is running in this folder; waiting for it to finish", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    return True


def process_start(pid: int) -> float | None:
    """Start time of a living process in clock ticks since boot; None if the process has ended.

    Pid and start time together identify a process: pids are reused, start times are not.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else _in_use(pid)
    except ProcessLookupError:
        return None
    return None if fields[0] in "ZX" else float(fields[19])


def _in_use(pid: int) -> float | None:
    # systems without /proc (macOS): signal 0 reveals only whether the pid is in use
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return 0.0
