"""Files and folders that are whole or not there; all that deletes or renames goes through here.

Nothing here asks whose a path is. Callers name paths that only d2v writes (below work/ and
results/, or a draft beside a file), or ask `d2v.util.outputs` first.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any

MARK = ".d2v"  # in a folder that d2v wrote; removed last (d2v.util.outputs)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none (or half of one)."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file with its line ends as they are, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole(path) as draft:
        draft.write_bytes(content)


@contextmanager
def whole(path: Path, drafts: Path | None = None) -> Iterator[Path]:
    """A draft to write, which takes the name `path` when the block ends without error.

    The draft lies in the folder `drafts` (of the same file system; default: beside `path`) and is
    called after this process, so that two that write the same file do not disturb each other.
    Raises OSError, always naming a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = (drafts or path.parent) / f".{path.name}.{os.getpid()}"
    with naming(path):
        try:
            yield draft
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of the block a file name if it has none, as that of a full disk has not."""
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


def rename(path: Path, name: Path) -> None:
    """Give a file or folder another name of the same file system; a file there is replaced."""
    os.replace(path, name)


def remove_file(path: Path) -> None:
    """Remove a file or a link, if it is there."""
    path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder as far as it goes, its mark last, so that what a kill leaves is still known.

    Links in it are removed and not followed; a link in its place stays.
    """
    if folder.is_symlink():
        return
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != MARK:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty, in this order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def replace_folder(folder: Path, fresh: Path, old: Path) -> None:
    """Put the folder `fresh` in the place of `folder`, which is called `old` until it is removed.

    There must be no `old`.
    """
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    remove_folder(old)
