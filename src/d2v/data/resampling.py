"""Recordings of any format as 16 kHz mono: decoding, resampling (soxr), and cutting at pauses.

A recording is decoded block by block, so that memory does not grow with the size of the file: only
its 16-bit samples at 16 kHz are kept (115 MB per hour).
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from d2v.data.sound import RATE, check_finite, check_length, decode
from d2v.util.errors import UserError

SUFFIXES = (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
BLOCK = 2**18  # frames decoded at a time
FULL = 0.9999  # absolute value from which on a sample counts as clipped
CLIPPED = 0.01  # share of clipped samples from which on a recording is unusable
SILENT = 0.001  # peak below which a recording is silent (-60 dB)
FRAME = RATE // 100  # samples over which loudness is measured (10 ms)
PAUSE = 20  # frames that a pause lasts (200 ms)
QUIET = 0.1  # loudness of a pause, relative to the mean loudness of the recording (-20 dB)


class Recording(NamedTuple):
    """Samples (S,) int16 at 16 kHz, and what was changed to get them."""

    wave: npt.NDArray[np.int16]
    file: bytes | None  # the file itself, if it needs no change
    change: str  # such as "44100 Hz, 2 channels"; empty if rate and channels are the wanted ones
    rounded: bool  # whether the file has more than 16 bits per sample


def read_recording(path: Path, resample: bool) -> Recording:
    """Decode a sound file of any rate and number of channels.

    Channels are averaged. A 16-bit FLAC file of 16 kHz and one channel stays as it is, and its
    checksum is verified.

    Raises UserError with the path for a file that is empty, unreadable, truncated, without samples,
    silent or clipped, and without `resample` for another rate or several channels.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes)")
    with _opened(path) as file:
        rate, channels, frames = file.samplerate, file.channels, file.frames
        if frames == 0:
            raise UserError(f"{path}: contains no samples")
        other = "" if (rate, channels) == (RATE, 1) else f"{rate} Hz, {_channels(channels)}"
        if other and not resample:
            raise UserError(f"{path}: {other}, but 16000 Hz mono is required; set resample: true")
        rounded = file.subtype in ("PCM_24", "PCM_32")
        if not other and file.format == "FLAC" and file.subtype == "PCM_16":
            payload = path.read_bytes()
            wave = decode(payload, path)
            _check_level(path, _full(wave / np.float32(2**15)), wave)
            return Recording(wave, payload, "", False)
        wave, full = _converted(file, path)
    _check_level(path, full, wave)
    return Recording(wave, None, other, rounded)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
        check_length(content, path)  # type: ignore[arg-type]  # only slices and its length are used
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise UserError(f"{path}: not a readable recording ({reason})") from None


def _converted(file: soundfile.SoundFile, path: Path) -> tuple[npt.NDArray[np.int16], float]:
    """Samples at 16 kHz, and the share of clipped samples."""
    stream = None
    if file.samplerate != RATE:
        stream = soxr.ResampleStream(file.samplerate, RATE, 1, dtype="float32", quality="HQ")
    parts, full, frames = [], 0.0, 0
    for block in file.blocks(BLOCK, dtype="float32", always_2d=True):  # (frames, channels)
        check_finite(block, path)
        full += _full(block) * len(block)
        frames += len(block)
        mono = block.mean(1, dtype=np.float32)
        parts.append(_as_int16(mono if stream is None else stream.resample_chunk(mono)))
    if frames != file.frames:
        raise UserError(
            f"{path}: corrupt audio ({frames:,} of {file.frames:,} samples); replace it"
        )
    if stream is not None:
        parts.append(_as_int16(stream.resample_chunk(np.zeros(0, np.float32), last=True)))
    return np.concatenate(parts), full / frames


def _full(wave: npt.NDArray[np.floating]) -> float:
    """Share of samples at full scale."""
    return float(np.mean(np.abs(wave) >= FULL))


def _check_level(path: Path, full: float, wave: npt.NDArray[np.int16]) -> None:
    peak = int(np.abs(wave.astype(np.int32)).max(initial=0)) / 2**15
    if peak < SILENT:
        raise UserError(f"{path}: silent (its peak is {peak:.5f} of full scale)")
    if full > CLIPPED:
        raise UserError(f"{path}: clipped ({100 * full:.0f} % of its samples are at full scale)")


def _as_int16(wave: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    scaled = np.rint(wave * np.float32(2**15))
    found: npt.NDArray[np.int16] = np.clip(scaled, -(2**15), 2**15 - 1).astype(np.int16)
    return found


def _channels(count: int) -> str:
    return "mono" if count == 1 else f"{count} channels"


# --- cutting ----------------------------------------------------------------------------------


class Cut(NamedTuple):
    """A piece of a recording: its first sample and its end; whether it ends in a pause."""

    start: int
    stop: int
    pause: bool


def cut_at_pauses(wave: npt.NDArray[np.int16], longest: int) -> list[Cut]:
    """Cut samples (S,) into pieces of at most `longest` samples.

    A piece ends in the middle of the quietest 200 ms in the second half of what it may hold, if
    they are 20 dB below the mean loudness of the recording, and otherwise at the limit.
    """
    if len(wave) <= longest:
        return [Cut(0, len(wave), True)]
    loudness = _loudness(wave)
    quiet = QUIET * float(np.sqrt(np.mean(loudness**2)))
    found, start = [], 0
    while len(wave) - start > longest:
        first, last = (start + longest // 2) // FRAME, (start + longest) // FRAME - PAUSE
        stop, pause = start + longest, False
        if last > first:
            sums = np.convolve(loudness[first : last + PAUSE], np.ones(PAUSE) / PAUSE, "valid")
            place = int(sums.argmin())
            if sums[place] < quiet:
                stop, pause = (first + place + PAUSE // 2) * FRAME, True
        found.append(Cut(start, stop, pause))
        start = stop
    return [*found, Cut(start, len(wave), True)]


def _loudness(wave: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Root mean square of every whole frame of 10 ms (N,)."""
    count = len(wave) // FRAME
    found = np.empty(count, np.float32)
    for start in range(0, count, 6000):  # a minute at a time
        part = wave[start * FRAME : min(count, start + 6000) * FRAME].astype(np.float32)
        found[start : start + 6000] = np.sqrt((part.reshape(-1, FRAME) ** 2).mean(1))
    return found
