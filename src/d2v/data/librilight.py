"""Libri-light's unlabelled speech to shards, cut at pauses.

    SRC/{small,medium,large}/SPEAKER/BOOK/*.flac, each with a .json

Files are up to hours long. Their .json beside them says where somebody speaks; pieces of speech are
joined up to a longest length, as the set's own cut_by_vad.py does, and written as FLAC again. Equal
bytes need the same version of libFLAC.
"""

import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from d2v.data.librispeech import RATE
from d2v.data.shards import write_meta, written_whole
from d2v.data.writing import Columns, Example, write_split
from d2v.errors import UserError

SPLIT = "train"
SHORTEST_S = 2.0  # the recipes leave out anything shorter


def prepare_librilight(
    source: Path, out: Path, seconds: float = 30.0, workers: int | None = None
) -> None:
    """Write pieces of at most `seconds` seconds, with their samples and speakers.

    Raises UserError naming the file: broken FLAC, other rate than 16 kHz, more than one channel,
    unreadable .json, or a folder without any FLAC.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    files = sorted(source.rglob("*.flac"))
    if not files:
        raise UserError(f"{source}: no FLAC files in it")
    with written_whole(out) as temporary:
        shards, _ = write_split(
            temporary / SPLIT,
            [(path, path.relative_to(source).parts[-3]) for path in files],
            partial(_pieces, seconds),
            sizes=[path.stat().st_size for path in files],
            label=SPLIT,
            workers=workers,
        )
        if not len(shards):
            raise UserError(f"{source}: no piece of {SHORTEST_S} s or more in it")
        samples = int(shards.numbers("samples").sum())
        write_meta(
            temporary,
            dataset=out.name,
            kind="librispeech",
            source=source.as_posix(),
            splits={SPLIT: {"examples": len(shards), "samples": samples}},
            rate=RATE,
            seconds=seconds,
        )


def _pieces(seconds: float, item: tuple[Path, str]) -> Iterator[Example]:
    """Pieces of one file, called FILE#0, FILE#1 ..."""
    path, speaker = item
    wave = _read(path)
    spans = _voiced(path.with_suffix(".json"), len(wave), seconds)
    for number, (start, end) in enumerate(joined(spans, round(seconds * RATE))):
        buffer = io.BytesIO()
        soundfile.write(buffer, wave[start:end], RATE, format="FLAC", subtype="PCM_16")
        name = f"{path.stem}#{number}"
        columns: Columns = {"id": f"{speaker}/{name}", "samples": end - start, "speaker": speaker}
        yield Example(buffer.getvalue(), columns)


def _read(path: Path) -> np.ndarray:
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            wave: np.ndarray = file.read(dtype="int16")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(f"{path}: corrupt audio ({error}); replace or remove it") from None
    if (rate, channels) != (RATE, 1):
        raise UserError(f"{path}: {rate} Hz, {channels} channel(s); 16000 Hz and one are needed")
    if len(wave) != frames:
        raise UserError(f"{path}: corrupt audio ({len(wave)} of {frames} samples); replace it")
    return wave


def _voiced(path: Path, samples: int, seconds: float) -> list[tuple[int, int]]:
    """Where somebody speaks, in samples; all of a file that is short enough as it is."""
    if not path.exists():
        if samples <= seconds * RATE:
            return [(0, samples)]
        raise UserError(f"{path}: missing; it says where {path.stem}.flac can be cut")
    try:
        spans = json.loads(path.read_text(encoding="utf-8"))["voice_activity"]
        found = [(round(start * RATE), min(round(end * RATE), samples)) for start, end in spans]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no list voice_activity of pairs ({error!r})") from None
    return [(start, end) for start, end in found if 0 <= start < end]


def joined(spans: list[tuple[int, int]], longest: int) -> list[tuple[int, int]]:
    """Neighbouring spans as one while it is no longer than `longest`; longer ones are cut up."""
    pieces: list[tuple[int, int]] = []
    for start, end in spans:
        if pieces and end - pieces[-1][0] <= longest:
            pieces[-1] = (pieces[-1][0], end)
            continue
        while end - start > longest:
            pieces.append((start, start + longest))
            start += longest
        pieces.append((start, end))
    shortest = round(SHORTEST_S * RATE)
    return [(start, end) for start, end in pieces if end - start >= shortest]
