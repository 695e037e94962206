"""AudioSet's segment lists, and 16 kHz clips, to shards.

    SRC/class_labels_indices.csv                                number, id and name of each class
    SRC/{balanced_train,unbalanced_train,eval}_segments.csv     YTID, start, end, "id,id,..."
    SRC/clips/**/YTID.flac or .wav

A clip may also be named YYTID, and either name may end in _START or _START_END, in seconds (30 or
30.000) or milliseconds (30000).

Clips disappear from the web, so missing clips are counted and reported rather than rejected.
"""

import csv
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from d2v.data.layout import lines
from d2v.data.readers.depth import note_rounded, rounded
from d2v.data.readers.tables import longest_cell
from d2v.data.shards import write_meta, written_whole
from d2v.data.sound import RATE, check_finite, check_length, decode, level_columns, reason
from d2v.data.walk import walk, warn_unused
from d2v.data.writing import Columns, Example, write_split
from d2v.util.errors import UserError, quoted

SPLITS = {
    "unbalanced": "unbalanced_train_segments.csv",
    "balanced": "balanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
CLASSES = "class_labels_indices.csv"
LONGEST_CELL = 2**17  # characters; what Python's CSV reader takes unless a library changes it
Segment = tuple[str, str, str, str]  # YTID, start and end as in the list, numbers of classes
Clip = tuple[Path, str, str]  # file, id, numbers of its classes
FLOATS = ("FLOAT", "DOUBLE")  # subtypes of WAV files whose samples are from -1 to 1


def prepare_audioset(
    source: Path,
    out: Path,
    workers: int | None = None,
    most_missing: float = 0.2,
    *,
    partial: bool = False,
) -> None:
    """Write the clips as FLAC, with their levels and class numbers ("3,17").

    meta.json records the class names, and how many clips of each list are missing. With `partial`,
    any number of clips and whole lists may be missing.

    Raises UserError naming the file (and line) for: a missing or truncated list, a broken line, an
    unknown class, a clip that is listed twice, broken audio, a rate other than 16 kHz, more than
    one channel. Also raises it if all clips of a list, or more than the share `most_missing`, are
    missing.
    """
    names, numbers = _classes(source / CLASSES)
    folder = source / "clips"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the clips (16 kHz, mono) belong there")
    files = _files(folder)
    lists = {
        split: _segments(source / file, numbers)
        for split, file in SPLITS.items()
        if not partial or (source / file).exists()
    }
    splits: dict[str, dict[str, int]] = {}
    found = {
        split: [(name, _find(files, name, start, end), labels) for name, start, end, labels in rows]
        for split, rows in lists.items()
    }
    used = {path for clips in found.values() for _, path, _ in clips}
    warn_unused(folder, set(files.values()) - used, "in none of the lists")
    with written_whole(out) as temporary:
        for split, segments in found.items():
            clips = [
                (Path(path), name, labels) for name, path, labels in segments if path is not None
            ]
            missing = len(segments) - len(clips)
            most = 1.0 if partial else most_missing
            if not _judge(source / SPLITS[split], missing, len(segments), most, partial):
                continue
            shards, counts = write_split(
                temporary / split,
                clips,
                _example,
                sizes=[path.stat().st_size for path, *_ in clips],
                label=split,
                workers=workers,
            )
            samples = int(shards.numbers("samples").sum())
            splits[split] = {"examples": len(shards), "samples": samples, "missing": missing}
            splits[split] |= note_rounded(source / SPLITS[split], counts, len(clips))
        if not splits:
            raise UserError(f"{folder}: contains no clip of any list in {source}")
        write_meta(
            temporary,
            dataset=out.name,
            kind="audioset",
            source=source.as_posix(),
            splits=splits,
            classes=names,
            rate=RATE,
            **({} if splits.keys() == SPLITS.keys() else {"complete": False}),
        )


def _example(clip: Clip) -> Iterator[Example]:
    path, name, labels = clip
    payload = path.read_bytes()
    counts = rounded(payload, path)
    if path.suffix == ".wav":
        payload = _as_flac(payload, path)
    columns: Columns = {"id": name, "labels": labels}
    yield Example(payload, columns | level_columns(decode(payload, path)), counts)


def _as_flac(payload: bytes, path: Path) -> bytes:
    """Convert a WAV file of any format to 16-bit FLAC."""
    check_length(payload, path)
    try:
        with soundfile.SoundFile(io.BytesIO(payload)) as file:
            rate, floats = file.samplerate, file.subtype in FLOATS
            wave = file.read(dtype="float64" if floats else "int16")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(f"{path}: corrupt audio ({reason(error)}); replace it") from None
    if floats:  # if read as integers, samples from -1 to 1 would all be 0
        check_finite(wave, path)
        wave = np.clip(np.rint(wave * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _files(folder: Path) -> dict[str, str]:
    """Map names to paths of the sound files below a folder, as strings: there may be millions."""
    found: dict[str, str] = {}
    others, double = [], []
    tree = walk(folder)
    for path in tree.files:
        stem, suffix = os.path.splitext(os.path.basename(path))
        if suffix not in (".flac", ".wav"):
            others.append(path)
            continue
        if stem in found:
            double.append(found[stem])
        found[stem] = path
    warn_unused(folder, others, "neither .flac nor .wav")
    warn_unused(folder, double, "another file has the same name")
    warn_unused(folder, tree.dangling, "links whose targets do not exist")
    warn_unused(folder, tree.repeated, "links to folders that were already read")
    return found


def _classes(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the class names in the order of their numbers, and the class numbers by id."""
    try:
        with longest_cell(LONGEST_CELL):
            rows = list(csv.DictReader(line for _, line in lines(path)))
        numbers = {row["mid"]: str(int(row["index"])) for row in rows}
        names = [row["display_name"] for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{path}:1: columns index, mid and display_name are expected") from None
    if not rows or list(numbers.values()) != [str(n) for n in range(len(rows))]:
        raise UserError(f"{path}: the classes are not numbered 0, 1, 2, ...")
    return names, numbers


def _segments(path: Path, numbers: dict[str, str]) -> list[Segment]:
    """Return the clip name, the start and end in seconds and the class numbers of each line."""
    found: dict[str, Segment] = {}
    declared = None
    for number, line in lines(path):
        if line.startswith("#") and (told := re.search(r"num_segs=(\d+)", line)):
            declared = int(told[1])
        if not line.strip() or line.startswith("#"):
            continue
        row = _cells(line)
        if len(row) != 4:
            raise UserError(f'{path}:{number}: YTID, start, end and "classes" are expected')
        ids = row[3].split(",")
        if unknown := [i for i in ids if i not in numbers]:
            raise UserError(f"{path}:{number}: {quoted(unknown[0])} is not a class of {CLASSES}")
        if row[0] in found:
            raise UserError(f"{path}:{number}: {row[0][:60]} is listed twice")
        labels = ",".join(map(str, sorted({int(numbers[i]) for i in ids})))
        found[row[0]] = row[0], row[1], row[2], labels
    if not found:
        raise UserError(f"{path}: contains no segments")
    if declared is not None and declared != len(found):
        raise UserError(
            f"{path}: {len(found):,} segments, but its header says num_segs={declared:,}; get the"
            " complete list"
        )
    return list(found.values())


def _cells(line: str) -> list[str]:
    """Split a line into cells; empty if a stray quotation mark or an overlong cell breaks it."""
    try:
        with longest_cell(LONGEST_CELL):
            return next(csv.reader([line], skipinitialspace=True))
    except csv.Error:
        return []


def _find(files: dict[str, str], name: str, start: str, end: str) -> str | None:
    """Return the file of a segment under any of the names that downloaders give."""
    firsts, lasts = _spellings(start), _spellings(end)
    ends = ["", *(f"_{a}" for a in firsts)]
    ends += [f"_{a}_{b}" for a, b in zip(firsts, lasts, strict=True)]
    names = (f"{prefix}{name}{end}" for end in ends for prefix in ("", "Y"))
    return next((files[n] for n in names if n in files), None)


def _spellings(seconds: str) -> tuple[str, str, str]:
    """The spellings of a time of the list (30.000) in names: 30, 30.000 and 30000."""
    whole, _, part = seconds.partition(".")
    thousandths = f"{part:0<3}"[:3]
    short = whole if not part.strip("0") else f"{whole}.{part}"
    milliseconds = f"{whole}{thousandths}".lstrip("0") or "0"
    return short, f"{whole}.{thousandths}", milliseconds


def _judge(path: Path, missing: int, total: int, most: float, partial: bool) -> bool:
    """Warn how many clips of a list are missing; return whether there are any clips of it.

    Raises UserError if too many or, unless `partial`, all are missing.
    """
    if not missing:
        return True
    text = f"{path}: {missing:,} of {total:,} clips are missing"
    if missing == total and not partial:
        raise UserError(f"{text}; put them into clips/, named YTID.flac or YTID.wav")
    if missing > most * total:
        raise UserError(
            f"{text}; download more of them, or set `partial: true` in the set's entry in the"
            " parameter file (d2v prepare: --most-missing SHARE)"
        )
    print(f"warning: {text}", file=sys.stderr)
    return missing < total
