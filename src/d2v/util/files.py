"""Atomic writing of files, and all deleting and renaming of files and folders.

Nothing here checks who owns a path. Callers pass paths that only d2v writes (below work/ and
results/, or a draft next to a file), or check first, with `d2v.util.outputs` or, among checkpoints,
where users keep files of their own, with `d2v.training.layout`.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any

MARK = ".d2v"  # file that marks a folder as written by d2v; removed last (d2v.util.outputs)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing, incomplete or something else."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object atomically: the whole file or nothing."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically, without converting line ends."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: the whole file or nothing."""
    with whole(path) as draft:
        draft.write_bytes(content)


@contextmanager
def whole(path: Path, drafts: Path | None = None) -> Iterator[Path]:
    """Draft file to write, which is renamed to `path` if the block ends without error.

    The draft is in the folder `drafts`, which must be on the same file system (default: next to
    `path`). Its name includes the process id, so that two processes that write the same file do not
    interfere. Raises OSError, always with a file name.
    """
    draft = (drafts or path.parent) / f".{path.name}.{os.getpid()}"
    with no_empty_folders(path), naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise


@contextmanager
def no_empty_folders(path: Path) -> Iterator[None]:
    """After an error, remove the parent folders of `path` that are new and empty."""
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    except BaseException:
        remove_empty(new)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add a file name to an OSError of the block that has none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def open_to_others(path: Path) -> None:
    """Give a file the mode that new files have in its folder; safetensors creates 0600."""
    probe = path.with_name(f".{path.name}.mode.{os.getpid()}")
    try:
        probe.touch(exist_ok=False)
        path.chmod(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)


def rename(path: Path, name: Path) -> None:
    """Rename a file or folder within a file system; an existing file `name` is replaced."""
    os.replace(path, name)


def remove_file(path: Path) -> None:
    """Remove a file or a link, if it exists."""
    path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder as far as possible.

    Its mark is removed last, so that the rest of a killed removal is still recognised as d2v's.
    Links in the folder are removed, not followed; if `folder` itself is a link, it stays.
    """
    if folder.is_symlink():
        return
    empty_folder(folder)
    shutil.rmtree(folder, ignore_errors=True)


def empty_folder(folder: Path) -> None:
    """Remove the content of a folder except its mark, as far as possible; links as above."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != MARK:
                path.unlink(missing_ok=True)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are empty, in the given order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def replace_folder(folder: Path, fresh: Path, old: Path) -> None:
    """Replace `folder` by the folder `fresh`; `folder` is renamed to `old`, then removed.

    `old` must not exist beforehand.
    """
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    remove_folder(old)
