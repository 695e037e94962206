"""AudioSet's segment lists, and 16 kHz clips, to shards.

    SRC/class_labels_indices.csv                                number, id and name of each class
    SRC/{balanced_train,unbalanced_train,eval}_segments.csv     YTID, start, end, "id,id,..."
    SRC/clips/**/YTID.flac or .wav                              also as YYTID or YTID_START

Clips vanish from the web: those that are not there are counted and said, not refused.
"""

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import soundfile

from d2v.data.layout import lines
from d2v.data.librispeech import RATE
from d2v.data.shards import write_meta, written_whole
from d2v.data.writing import Example, write_split
from d2v.errors import UserError

SPLITS = {
    "unbalanced": "unbalanced_train_segments.csv",
    "balanced": "balanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
CLASSES = "class_labels_indices.csv"
Clip = tuple[Path, str, str]  # file, id, numbers of its classes


def prepare_audioset(
    source: Path, out: Path, workers: int | None = None, most_missing: float = 0.2
) -> None:
    """Write the clips as FLAC, with their samples and the numbers of their classes ("3,17").

    meta.json gets the names of the classes and how many clips of each list are missing.

    Raises UserError naming the file (and line): missing list, broken line, unknown class, more than
    the share `most_missing` of a list's clips not there, broken audio, other rate than 16 kHz, more
    than one channel.
    """
    names, numbers = _classes(source / CLASSES)
    folder = source / "clips"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the clips (16 kHz, mono) belong there")
    files = {p.stem: p for p in sorted(folder.rglob("*")) if p.suffix in {".flac", ".wav"}}
    lists = {split: _segments(source / file, numbers) for split, file in SPLITS.items()}
    splits: dict[str, dict[str, int]] = {}
    with written_whole(out) as temporary:
        for split, segments in lists.items():
            clips = [(path, *s[:1], s[2]) for s in segments if (path := _find(files, *s[:2]))]
            missing = len(segments) - len(clips)
            _judge(source / SPLITS[split], missing, len(segments), most_missing)
            shards, _ = write_split(
                temporary / split,
                clips,
                _example,
                sizes=[path.stat().st_size for path, *_ in clips],
                label=split,
                workers=workers,
            )
            samples = int(shards.numbers("samples").sum())
            splits[split] = {"examples": len(shards), "samples": samples, "missing": missing}
        write_meta(
            temporary,
            dataset=out.name,
            kind="audioset",
            source=source.as_posix(),
            splits=splits,
            classes=names,
            rate=RATE,
        )


def _example(clip: Clip) -> Iterator[Example]:
    path, name, labels = clip
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = file.samplerate, file.channels
            wave = file.read(dtype="int16")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(f"{path}: corrupt audio ({error}); replace or remove it") from None
    if (rate, channels) != (RATE, 1) or not len(wave):
        raise UserError(
            f"{path}: {rate} Hz, {channels} channel(s), {len(wave)} samples; 16000 Hz and one"
            " channel are needed: convert it with `ffmpeg -ar 16000 -ac 1`"
        )
    if path.suffix == ".flac":
        payload = path.read_bytes()
    else:
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, RATE, format="FLAC", subtype="PCM_16")
        payload = buffer.getvalue()
    yield Example(payload, {"id": name, "samples": len(wave), "labels": labels})


def _classes(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the classes in the order of their numbers, and numbers by id."""
    rows = list(csv.DictReader(line for _, line in lines(path)))
    try:
        numbers = {row["mid"]: str(int(row["index"])) for row in rows}
        names = [row["display_name"] for row in rows]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}:1: columns index, mid and display_name are expected") from None
    if not rows or list(numbers.values()) != [str(n) for n in range(len(rows))]:
        raise UserError(f"{path}: the classes are not numbered 0, 1, 2, ...")
    return names, numbers


def _segments(path: Path, numbers: dict[str, str]) -> list[tuple[str, str, str]]:
    """Name, start in seconds and numbers of the classes of each line."""
    found = []
    for number, line in lines(path):
        if not line.strip() or line.startswith("#"):
            continue
        row = next(csv.reader([line], skipinitialspace=True))
        if len(row) != 4:
            raise UserError(f'{path}:{number}: YTID, start, end and "classes" are expected')
        ids = row[3].split(",")
        if unknown := [i for i in ids if i not in numbers]:
            raise UserError(f"{path}:{number}: {unknown[0]!r} is no class of {CLASSES}")
        labels = sorted(int(numbers[i]) for i in ids)
        found.append((row[0], row[1].removesuffix(".000"), ",".join(map(str, labels))))
    if not found:
        raise UserError(f"{path}: no segments in it")
    return found


def _find(files: dict[str, Path], name: str, start: str) -> Path | None:
    return next((files[n] for n in (name, f"Y{name}", f"{name}_{start}") if n in files), None)


def _judge(path: Path, missing: int, total: int, most: float) -> None:
    """Say how many clips of a list are not there; raises UserError if they are too many."""
    if not missing:
        return
    text = f"{path}: {missing:,} of {total:,} clips are not there"
    if missing > most * total:
        raise UserError(f"{text}; get more of them, or allow it with --most-missing SHARE")
    print(f"warning: {text}", file=sys.stderr)
