"""Libri-light's unlabelled speech to shards, without its pauses.

    SRC/{small,medium,large}/SPEAKER/BOOK/*.flac, each with a .json; or SRC/SPEAKER/BOOK/*.flac

Files can be hours long. The .json next to each file marks the spans with speech. As in the set's
own cut_by_vad.py, pauses are dropped, and spans of speech are joined up to a maximum length;
wav2vec 2.0 (section 4.1) obtained 53.2 thousand hours in this way. Unlike there, a span that is too
long is split. Pieces are FLAC by default; their bytes depend on the version of libFLAC.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from d2v.data.readers.depth import note_rounded, rounded
from d2v.data.readers.official import LIBRILIGHT_HOURS, check_hours
from d2v.data.shards import write_meta, written_whole
from d2v.data.sound import FLAC, PCM, RATE, as_flac, as_pcm, decode, level_columns
from d2v.data.walk import refuse_dangling, walk, warn_unused
from d2v.data.writing import Columns, Example, write_split
from d2v.util.errors import UserError

SPLIT = "train"
SHORTEST_S = 2.0  # the recipes drop anything shorter
SUBSETS = tuple(LIBRILIGHT_HOURS)
DUPLICATE = "duplicate"  # also published: further recordings of books in the subsets
Span = tuple[int, int]  # first sample, and the one after the last


class Recording(NamedTuple):
    """A file to divide into pieces, which are called NAME#0, NAME#1 ..."""

    path: Path
    voice: Path | None  # the .json file
    name: str
    speaker: str
    subset: str  # empty if the tree has no subsets


def prepare_librilight(
    source: Path,
    out: Path,
    seconds: float = 30.0,
    workers: int | None = None,
    *,
    official: bool = False,
    allow_partial: bool = False,
    pcm: bool = False,
) -> None:
    """Write pieces of at most `seconds` seconds, with their levels and speakers.

    Pieces are FLAC files or, with `pcm`, raw samples, which training need not decode.

    meta.json records the hours of each subset before cutting. `official` compares them with those
    of Libri-light; `allow_partial` turns a mismatch from an error into a warning.

    Raises UserError naming the file for: broken FLAC, a rate other than 16 kHz, more than one
    channel, an unreadable .json or one with reversed spans, a folder without FLAC files, a FLAC
    file outside a speaker's folder.
    """
    if seconds < SHORTEST_S:
        raise UserError(
            f"--seconds {seconds:g}: pieces shorter than {SHORTEST_S:g} s are dropped;"
            " give at least that"
        )
    found = recordings(source)
    with written_whole(out) as temporary:
        shards, counts = write_split(
            temporary / SPLIT,
            found,
            partial(_pieces, seconds, pcm),
            sizes=[recording.path.stat().st_size for recording in found],
            label=SPLIT,
            workers=workers,
        )
        if not len(shards):
            raise UserError(f"{source}: contains no piece of {SHORTEST_S:g} s or longer")
        used = {name.rpartition("#")[0] for name in shards.texts("id")}
        lost = [recording.path for recording in found if recording.name not in used]
        warn_unused(source, lost, f"no piece of {SHORTEST_S:g} s or longer")
        hours = _hours(found, counts)
        entries = {"complete": check_hours(hours, allow_partial)} if official else {}
        samples = int(shards.numbers("samples").sum())
        split = {"examples": len(shards), "samples": samples}
        split |= note_rounded(source, counts, len(found))
        write_meta(
            temporary,
            dataset=out.name,
            kind="librispeech",
            source=source.as_posix(),
            splits={SPLIT: split},
            rate=RATE,
            encoding=PCM if pcm else FLAC,
            seconds=seconds,
            hours=hours,
            **entries,
        )


def recordings(source: Path) -> list[Recording]:
    """Return the FLAC files of the subsets or, if there are none, of the whole tree."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    subsets = [subset for subset in SUBSETS if (source / subset).is_dir()]
    if subsets:
        beside = {path for path in source.iterdir() if not path.name.startswith(".")}
        known = {source / name for name in (*subsets, DUPLICATE)}
        warn_unused(source, beside - known, f"next to {', '.join(subsets)}")
        repeated = beside & {source / DUPLICATE}
        warn_unused(source, repeated, "further recordings of books in the subsets")
    found = []
    for subset in subsets or [""]:
        for path in _files(source / subset):
            parts = path.relative_to(source / subset).parts
            if len(parts) < 2:
                raise UserError(f"{path}: not in a speaker folder (SPEAKER/BOOK/*.flac)")
            voice = path.with_suffix(".json")
            name, there = f"{parts[0]}/{path.stem}", voice if voice.exists() else None
            found.append(Recording(path, there, name, parts[0], subset))
    if not found:
        raise UserError(f"{source}: contains no FLAC files")
    names = Counter(recording.name for recording in found)
    return [
        recording  # two books may have chapters of the same name
        if names[recording.name] == 1
        else recording._replace(name=recording.path.relative_to(source).with_suffix("").as_posix())
        for recording in found
    ]


def _files(folder: Path) -> list[Path]:
    """Return the FLAC files below a folder, sorted by path; warns of other files."""
    tree = walk(folder)
    refuse_dangling(tree.dangling)
    others = [path for path in tree.files if not path.endswith((".flac", ".json"))]
    warn_unused(folder, others, "neither FLAC nor JSON")
    sounds = {path[: -len(".flac")] for path in tree.files if path.endswith(".flac")}
    lone = [p for p in tree.files if p.endswith(".json") and p[: -len(".json")] not in sounds]
    warn_unused(folder, lone, "JSON without a FLAC file of the same name")
    warn_unused(folder, tree.repeated, "links to folders that were already read")
    return sorted(Path(path) for path in tree.files if path.endswith(".flac"))


def _pieces(seconds: float, pcm: bool, recording: Recording) -> Iterator[Example]:
    """Yield the pieces of one file; the first has the file's samples by subset as its counts."""
    path, voice, name, speaker, subset = recording
    payload = path.read_bytes()
    wave = decode(payload, path)
    lengths = [len(wave) if subset == known else 0 for known in SUBSETS]
    counts = np.concatenate([np.array(lengths, np.int64), rounded(payload, path)])
    if voice is None and len(wave) > seconds * RATE:
        raise UserError(f"{path}: too long, and no {path.stem}.json says where to cut it")
    spans = _voiced(voice, len(wave)) if voice else [(0, len(wave))]
    for number, piece in enumerate(strung(spans, round(seconds * RATE))):
        samples = np.concatenate([wave[start:end] for start, end in piece])
        payload = as_pcm(samples) if pcm else as_flac(samples)
        columns: Columns = {"id": f"{name}#{number}", "speaker": speaker}
        columns |= level_columns(samples)
        yield Example(payload, columns, None if number else counts)


def _voiced(path: Path, samples: int) -> list[Span]:
    """Return the spans with speech in a file with `samples` samples, in order and without overlap.

    Raises UserError for spans that end before they start, or start before the file does.
    """
    try:
        spans = json.loads(path.read_text(encoding="utf-8"))["voice_activity"]
        found = [(round(start * RATE), round(end * RATE)) for start, end in spans]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path}: voice_activity is not a readable list of pairs ({error!r})"
        ) from None
    for (start, end), span in zip(found, spans, strict=True):
        if not 0 <= start <= end:
            raise UserError(
                f"{path}: voice_activity has {span}, but a span is [start, end] in seconds; repair"
                " it"
            )
    return _merged((start, min(end, samples)) for start, end in found if start < min(end, samples))


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Sort spans and join those that overlap; others stay apart even if one follows another."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def strung(spans: list[Span], longest: int) -> list[list[Span]]:
    """Join spans into pieces of at most `longest` samples, splitting spans that are longer.

    Pieces shorter than SHORTEST_S seconds are dropped.
    """
    pieces: list[list[Span]] = []
    lengths: list[int] = []
    for first, end in spans:
        for start in range(first, end, longest):
            span = (start, min(start + longest, end))
            length = span[1] - span[0]
            if pieces and lengths[-1] + length <= longest:
                pieces[-1].append(span)
                lengths[-1] += length
            else:
                pieces.append([span])
                lengths.append(length)
    shortest = round(SHORTEST_S * RATE)
    return [piece for piece, n in zip(pieces, lengths, strict=True) if n >= shortest]


def _hours(found: list[Recording], counts: npt.NDArray[np.int64] | None) -> Mapping[str, float]:
    """Hours of each subset found, before cutting; only files that gave a piece count."""
    there = {recording.subset for recording in found}
    if counts is None:
        return {}
    return {
        subset: round(int(count) / RATE / 3600, 3)
        for subset, count in zip(SUBSETS, counts[: len(SUBSETS)], strict=True)
        if subset in there
    }
