"""One's own recordings and their transcripts: manifests, transcript files, folders."""

import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from d2v import params
from d2v.data.layout import lines
from d2v.data.readers.own_files import Found, Listed, check_place, files_below, find, listed
from d2v.data.readers.tables import column_of, is_table, read_table
from d2v.data.resampling import SUFFIXES
from d2v.data.transcripts import normalised
from d2v.data.walk import refuse_dangling, walk

PATHS = (
    "path",
    "file_name",
    "file",
    "audio",
)  # usual columns, the first that exists is read
TEXTS = ("text", "transcription", "transcript", "sentence")


def find_recordings(group: params.AudioFolder) -> dict[str, list[Listed]]:
    """Find the recordings of every split; labels are normalised transcripts.

    Raises UserError as `own_files.find` and `read_table` do. Missing files and empty transcripts
    are left to the reader.
    """
    return find(group, lambda place: _in_place(group, place))


def _in_place(group: params.AudioFolder, place: Path) -> list[Found]:
    """Recordings of a folder, or of the table that lists them."""
    check_place(place)
    if is_table(place.name):
        return _of_table(group, place, place.parent)
    if group.manifest is None:
        found = files_below(place, SUFFIXES, "recordings")
        return [Found(listed(group, path), None) for path in found]
    if any(mark in group.manifest for mark in "*?["):
        return list(_of_lines(group, place, group.manifest))
    return _of_table(group, place / group.manifest, place)


def _of_table(group: params.AudioFolder, table: Path, folder: Path) -> list[Found]:
    columns, rows = read_table(table)
    top = folder if group.audio is None else Path(group.source) / group.audio
    path_in = column_of(table, columns, group.path, PATHS)
    text_in = column_of(table, columns, group.text, TEXTS)
    if group.speaker is not None:
        column_of(table, columns, group.speaker, ())
    found = []
    for row in rows:
        text = normalised(row.get(text_in) or "", group.transcripts)
        speaker = row[group.speaker].strip() if group.speaker else ""
        item = listed(group, top / row[path_in].strip(), text, speaker, row.where)
        found.append(Found(item, row))
    if top.is_dir():
        there = {f.listed.path for f in found}
        sounds = [Path(p) for p in walk(top).files if Path(p).suffix.lower() in SUFFIXES]
        _tell_unlisted(top, [path for path in sounds if path not in there], table)
    return found


def _of_lines(group: params.AudioFolder, folder: Path, pattern: str) -> Iterator[Found]:
    """Recordings that files of NAME TEXT lines list, in the folder of each file."""
    tree = walk(folder)
    refuse_dangling(tree.dangling)
    paths = sorted(map(Path, tree.files))
    files = [path for path in paths if fnmatch(path.name, pattern)]
    sounds = {p.with_suffix(""): p for p in paths if p.suffix.lower() in SUFFIXES}
    used: set[Path] = set()
    for file in files:
        for number, line in lines(file):
            if not line.strip():
                continue
            name, _, text = line.strip().partition(" ")
            stem = file.parent / name
            path = sounds.get(stem, stem.with_name(f"{stem.name}.flac"))
            used.add(path)
            text = normalised(text, group.transcripts)
            speaker = file.parent.parent.name  # SPEAKER/CHAPTER/*.trans.txt
            yield Found(listed(group, path, text, speaker, f"{file}:{number}"), None)
    _tell_unlisted(folder, [path for path in sounds.values() if path not in used], folder / pattern)


def _tell_unlisted(folder: Path, paths: Sequence[Path], table: Path) -> None:
    if paths:
        print(
            f"warning: {folder}: {len(paths):,} recording(s) without a line in {table.name} are not"
            f" used, such as {min(paths)}",
            file=sys.stderr,
        )
