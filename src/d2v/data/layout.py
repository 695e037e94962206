"""Helpers that the readers of all layouts share: lines, split folders, label lists, progress."""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from d2v.data.walk import check_name, refuse_dangling, warn_unused
from d2v.util import verbosity
from d2v.util.errors import UserError, quoted

Item = TypeVar("Item")
LISTS = "lists"  # folder of label lists, next to the split folders


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, from 1, without line ends and byte-order mark.

    Raises UserError if the file does not exist, or naming a line that is not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 ({error.reason})") from None
            yield number, line.rstrip("\r\n")


def split_folders(source: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Return the split folders of a data set, sorted: those named, or all except lists/ and hidden.

    Without names, warns of files next to the split folders. Raises UserError if `source` or a named
    folder is missing, or if there are no split folders.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    if names:
        missing = [name for name in names if not (source / name).is_dir()]
        if missing:
            raise UserError(f"{source}: no split folder {', '.join(missing)}")
        return [source / name for name in sorted(set(names))]
    # LibriSpeech has *.TXT files about itself next to its subsets
    others = [path for path in visible_files(source) if path.suffix != ".TXT"]
    warn_unused(source, others, "not in a split folder")
    found = [p for p in subfolders(source) if p.name != LISTS]
    if not found:
        raise UserError(f"{source}: contains no split folders")
    return found


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, and links to folders, sorted by name, without hidden ones.

    Raises UserError naming a link whose target does not exist, or a name as `check_name` does.
    """
    return [path for path in _visible(folder) if path.is_dir()]


def visible_files(folder: Path) -> list[Path]:
    """Return the files in `folder`, and links to files, sorted by name, without hidden ones.

    Raises UserError naming a link whose target does not exist, or a name as `check_name` does.
    """
    return [path for path in _visible(folder) if path.is_file()]


def _visible(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in found:
        check_name(str(path))
    refuse_dangling(path for path in found if not path.exists())
    return found


def copy_lists(source: Path, out: Path, ids: Collection[str]) -> None:
    """Check and copy lists/*.txt (one id per line) of a data set; warns of other files.

    Raises UserError naming the line with an id that no split has or that is listed twice, and for
    an empty list.
    """
    if not (source / LISTS).is_dir():
        return
    known = frozenset(ids)
    files = visible_files(source / LISTS)
    others = [path for path in files if path.suffix != ".txt"] + subfolders(source / LISTS)
    warn_unused(source, others, "not *.txt lists")
    for path in (path for path in files if path.suffix == ".txt"):
        listed: set[str] = set()
        for number, name in lines(path):
            if name not in known:
                raise UserError(f"{path}:{number}: no example is named {quoted(name)}")
            if name in listed:
                raise UserError(f"{path}:{number}: {quoted(name)} is listed twice")
            listed.add(name)
        if not listed:
            raise UserError(f"{path}: an empty list")
        (out / LISTS).mkdir(exist_ok=True)
        (out / LISTS / path.name).write_bytes(path.read_bytes())


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over items, with a progress bar and a rate on standard error if it is a terminal.

    There is no bar without tqdm, which the core does not need.
    """
    if not sys.stderr.isatty() or verbosity.quiet():
        return iter(items)
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(items)
    return iter(tqdm(items, desc=label, total=total, unit=" examples"))
