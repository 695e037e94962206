"""The files below a folder, found by the same rules for all readers.

Links are followed. A folder that is reached more than once, through a link or a cycle of links, is
read only once. Hidden files and folders are skipped. A reader warns of anything else that it skips.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from d2v.util.errors import UserError, counted

SHOWN = 3  # names listed in a warning


@dataclass
class Tree:
    """Paths below a folder, as strings because there may be millions."""

    files: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)  # links whose target does not exist
    repeated: list[str] = field(default_factory=list)  # links to folders that were already read


def walk(top: Path) -> Tree:
    """Find all visible files below `top`, folder by folder and sorted by name.

    Folders in the tree itself come before folders reached through links, so a link never hides
    them. Raises UserError for a folder that cannot be read, or for a name as `check_name` does.
    """
    tree = Tree()
    seen: set[tuple[int, int]] = set()
    waiting = [str(top)]
    while waiting:
        place = waiting.pop(0)
        if _new(place, seen):
            waiting += _walk_one(place, tree, seen)
        else:
            tree.repeated.append(place)
    return tree


def _walk_one(top: str, tree: Tree, seen: set[tuple[int, int]]) -> list[str]:
    """Add the files below `top`; return the links to folders."""
    links = []
    for place, folders, names in os.walk(top, onerror=_refuse):
        links += [
            os.path.join(place, name)
            for name in sorted(folders)
            if not name.startswith(".") and os.path.islink(os.path.join(place, name))
        ]
        for name in folders:
            if not name.startswith("."):
                check_name(os.path.join(place, name))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not os.path.islink(os.path.join(place, name))
            and _new(os.path.join(place, name), seen)
        )
        for name in sorted(names):
            path = os.path.join(place, name)
            if not name.startswith("."):
                check_name(path)
                (tree.files if os.path.exists(path) else tree.dangling).append(path)
    return links


def _new(place: str, seen: set[tuple[int, int]]) -> bool:
    found = os.stat(place)
    key = found.st_dev, found.st_ino
    new = key not in seen
    seen.add(key)
    return new


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot read this folder ({error.strerror})")


def check_name(path: str) -> None:
    """Raise UserError for a file name that cannot appear in a list of examples.

    Such a name is not UTF-8, or contains a line break, a tab or another control character.
    """
    name = os.path.basename(path)
    if name.isprintable() or not any(map(_unlistable, name)):
        return
    shown = ascii(path)[1:-1]
    raise UserError(f"{shown}: the name is not UTF-8, or contains a tab or line break; rename it")


def _unlistable(letter: str) -> bool:
    return letter < " " or letter == "\x7f" or "\ud800" <= letter <= "\udfff"


def refuse_dangling(paths: Iterable[str | Path]) -> None:
    """Raise UserError naming the first link whose target does not exist, if there are any."""
    broken = sorted(map(str, paths))
    if broken:
        raise UserError(
            f"{broken[0]}: the target of this link does not exist"
            f" ({counted(len(broken), 'such link')}); restore the target or remove the link"
        )


def refuse_twice(folders: Iterable[Path]) -> None:
    """Raise UserError naming a folder that is the same as another one under a different name."""
    seen: dict[tuple[int, int], Path] = {}
    for folder in folders:
        found = folder.stat()
        first = seen.setdefault((found.st_dev, found.st_ino), folder)
        if first != folder:
            raise UserError(f"{folder}: the same folder as {first}; remove one of the two")


def warn_unused(top: Path, paths: Iterable[str | Path], why: str) -> None:
    """Print one warning to standard error about the paths below `top` that a reader skips."""
    unused = sorted(map(str, paths))
    if not unused:
        return
    names = [os.path.relpath(path, top) for path in unused[:SHOWN]]
    more = ", ..." if len(unused) > SHOWN else ""
    print(
        f"warning: {top}: {counted(len(unused), 'path')} not used ({why}):"
        f" {', '.join(names)}{more}",
        file=sys.stderr,
    )
