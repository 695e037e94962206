"""Files of one's own data sets: found in folders or manifests, divided into splits, checked.

Recordings and images share everything here; a reader adds what is in a file.
"""

import re
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from d2v import params
from d2v.data.layout import LISTS
from d2v.data.readers.splitting import by_chance, by_column, contents, leaks
from d2v.data.readers.tables import Row, is_table
from d2v.data.shards import SHARD_BYTES, Shards
from d2v.data.walk import refuse_dangling, walk, warn_unused
from d2v.util.errors import UserError, quoted

SMALLEST_SHARD = 8 * 2**20  # bytes of files: seconds of work for one process
LEFT_OUT = "left_out.tsv"  # split, file and reason of everything that was left out


class Listed(NamedTuple):
    """A file as it is listed: `name` is its id, `where` its line in the manifest, if any."""

    path: Path
    name: str
    label: str  # class, or normalised transcript; empty without
    speaker: str
    where: str

    @property
    def at(self) -> str:
        """The line of the manifest in brackets, to end a message with."""
        return f" ({self.where})" if self.where else ""


class Found(NamedTuple):
    """A file with its row of the manifest, whose columns may divide the set."""

    listed: Listed
    row: Row | None

    def cell(self, column: str) -> str:
        """Return the cell of a column; raises UserError without a manifest."""
        if self.row is None:
            raise UserError(
                f"{self.listed.path}: splits need the column {column!r}, but there is no manifest"
            )
        return self.row[column]


Left = list[tuple[str, str]]  # file and reason
Group = params.AudioFolder | params.ImageFolder


def find(
    group: Group,
    in_place: Callable[[Path], list[Found]],
    stratum: Callable[[Found], Hashable] = lambda found: None,
) -> dict[str, list[Listed]]:
    """Find the files of every split, sorted by name; `in_place` lists a folder or a table.

    Division by fractions divides each stratum on its own. Raises UserError for a missing folder, a
    file that is listed twice, two files of one name, an empty split.
    """
    source, splits = Path(group.source), group.splits
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    if splits.folders is not None:
        found = {split: in_place(source / place) for split, place in splits.folders.items()}
    elif (column := splits.column) is not None:
        found = by_column(in_place(source), splits, lambda f: f.cell(column), _where)
    else:
        by = splits.by
        found = by_chance(
            in_place(source), splits, lambda f: f.cell(by) if by else f.listed.name, stratum
        )
    _refuse_doubled({split: [f.listed for f in items] for split, items in found.items()})
    for split, items in found.items():
        if not items:
            raise UserError(f"{source}: split {split} contains no files")
    return {
        split: sorted((f.listed for f in items), key=lambda item: item.name)
        for split, items in found.items()
    }


def _where(found: Found) -> str:
    return found.listed.where or str(found.listed.path)


def check_place(place: Path) -> None:
    """Raise UserError for a folder or table of `splits.folders` that does not exist."""
    if not is_table(place.name) and not place.is_dir():
        raise UserError(f"{place}: no such folder; it is named in splits.folders")


def files_below(folder: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """Files below a folder with one of the suffixes, sorted by path; warns of others."""
    tree = walk(folder)
    refuse_dangling(tree.dangling)
    paths = sorted(map(Path, tree.files))
    unread = (path for path in paths if path.suffix.lower() not in suffixes)
    others = [path for path in unread if path.parent.name != LISTS]  # copy_lists reads those
    warn_unused(folder, others, f"not {what} by their names")
    warn_unused(folder, tree.repeated, "links to folders that were already read")
    return [path for path in paths if path.suffix.lower() in suffixes]


def listed(group: Group, path: Path, label: str = "", speaker: str = "", where: str = "") -> Listed:
    """A file with its id: its path below the source (outside of it: its name), without suffix."""
    source = Path(group.source)
    place = path.relative_to(source) if path.is_relative_to(source) else Path(path.name)
    name = place.with_suffix("").as_posix()
    if not name.isprintable():
        raise UserError(f"{where or path}: {quoted(name)} is not a usable name; rename the file")
    return Listed(path, name, label, speaker, where)


def _refuse_doubled(found: Mapping[str, Sequence[Listed]]) -> None:
    seen: dict[str, tuple[str, Listed]] = {}
    for split, items in found.items():
        for item in items:
            where = f"{item.where}: " if item.where else ""
            other, first = seen.setdefault(item.name, (split, item))
            if first is item:
                continue
            if first.path == item.path:
                place = first.where or f"split {other}"
                raise UserError(f"{where}{item.path} is already listed ({place}); remove one")
            raise UserError(
                f"{where}{item.path}: {first.path} has the same name without its suffix; rename one"
            )


# --- what is usable -------------------------------------------------------------------------------


class Usable(NamedTuple):
    """Files that can be prepared, and those that cannot, by split."""

    kept: dict[str, list[Listed]]
    left: dict[str, Left]

    def counts(self, split: str) -> dict[str, int]:
        """Counts of a split for meta.json."""
        return {"left_out": len(self.left[split])} if self.left[split] else {}


def usable(
    found: Mapping[str, list[Listed]],
    fault: Callable[[Listed], str],
    what: str,
    skip_bad: bool,
    remedy: str,
) -> Usable:
    """Choose the files that are there, pass `fault`, and are not also in another split.

    `fault` says what is wrong with a file before it is opened. Raises UserError for unusable files
    unless they may be skipped.
    """
    left: dict[str, Left] = {
        split: [(str(i.path), why) for i in items if (why := _absent(i) or fault(i))]
        for split, items in found.items()
    }
    gone = {path for faults in left.values() for path, _ in faults}
    kept = {s: [i for i in items if str(i.path) not in gone] for s, items in found.items()}
    hashes = contents([item.path for items in kept.values() for item in items])
    contained = {s: [(i.name, hashes.get(i.path)) for i in items] for s, items in kept.items()}
    by_name = {item.name: item for items in kept.values() for item in items}
    leaked = {
        name: f"a leak: it has the same content as {by_name[other].path} of split {split}"
        for name, other, split in leaks(contained)
    }
    for split, items in kept.items():
        left[split] += [(str(i.path), leaked[i.name]) for i in items if i.name in leaked]
    at = {str(item.path): item.at for items in found.values() for item in items}
    faults = [f"{path}: {why}{at[path]}" for told in left.values() for path, why in told]
    report(faults, skip_bad, remedy)
    chosen = {s: [i for i in items if i.name not in leaked] for s, items in kept.items()}
    for split, items in chosen.items():
        if not items:
            raise UserError(f"split {split} has no usable {what}; all are listed above")
    return Usable(chosen, left)


def _absent(item: Listed) -> str:
    if not item.path.is_file():
        return "no such file"
    return "" if item.path.stat().st_size else "the file is empty (0 bytes)"


def report(faults: Sequence[str], skip_bad: bool, remedy: str) -> None:
    """Report unusable files: one warning each if they are left out, otherwise raise UserError.

    The error is the first one, with the number of the others; standard error lists them all.
    """
    for fault in faults if skip_bad or len(faults) > 1 else ():
        print(f"warning: {fault}", file=sys.stderr)
    if faults and not skip_bad:
        more = f" ({len(faults) - 1} more unusable, named above)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}; {remedy}{more}")


def reason_of(error: UserError, item: Listed) -> str:
    """What a reader says about a file, without its path and without advice."""
    said = str(error).removeprefix(f"{item.path}: ")
    return re.sub(r"; replace( or remove)? it$", "", said)


def shard_bytes(sizes: Sequence[int]) -> int:
    """Size of a shard: small enough that processes share the work, depending only on the input."""
    return min(SHARD_BYTES, max(SMALLEST_SHARD, sum(sizes) // 64))


def left_out(
    split: str, items: Sequence[Listed], shards: Shards, reason: Callable[[Listed], str]
) -> Left:
    """Files of which no example was written; `reason` reads one again and says why.

    Raises UserError if no example of the split was written.
    """
    there = set(shards.texts("id")) if len(shards) else set()
    missing = [i for i in items if i.name not in there and f"{i.name}#0" not in there]
    left = [(str(i.path), reason(i)) for i in missing]
    report([f"{i.path}: {why}{i.at}" for i, (_, why) in zip(missing, left, strict=True)], True, "")
    if not there:
        raise UserError(f"split {split} has no usable files; all are listed above")
    return left


def write_left_out(folder: Path, left: Mapping[str, Left]) -> None:
    """Write left_out.tsv if anything was left out."""
    rows = [f"{split}\t{file}\t{why}\n" for split, found in left.items() for file, why in found]
    if rows:
        text = "".join(["split\tfile\treason\n", *rows])
        (folder / LEFT_OUT).write_text(text, encoding="utf-8")
        print(f"{len(rows):,} unusable files are left out; {LEFT_OUT} lists them", file=sys.stderr)
