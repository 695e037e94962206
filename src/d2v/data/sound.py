"""Payloads of sounds: FLAC files or bare samples, whole or a range of them, and their level."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path

import numpy as np
import soundfile

from d2v.util.errors import UserError

RATE = 16_000  # samples a second
UNKNOWN = 0x7FFFF000  # a WAV file written to a pipe says that it has so many bytes, or more
FLAC, PCM = "flac", "pcm_16"  # encodings of payloads: files, or bare samples, little-endian


def decode(payload: bytes | memoryview, name: Path | str) -> np.ndarray:
    """A FLAC file as samples (S,) int16.

    Compares with the MD5 that the file's header gives, because the decoder may skip broken frames
    in silence. Raises UserError with the name if the file is broken, not 16 kHz or not mono.
    """
    with opened(payload, name) as file:
        frames = file.frames
        exact = file.subtype == "PCM_16"  # else the samples read are rounded
        wave: np.ndarray = file.read(dtype="int16")
    if len(wave) != frames:
        raise UserError(f"{name}: corrupt audio ({len(wave)} of {frames} samples); replace it")
    expected = _md5(payload)
    if exact and expected and md5(wave.astype("<i2", copy=False).data).digest() != expected:
        raise UserError(f"{name}: corrupt audio (samples differ from their checksum); replace it")
    return wave


def samples(payload: bytes, name: Path | str) -> np.ndarray:
    """A sound file of any format as samples (S,) float32 from -1 to 1.

    Raises UserError with the name if the file is broken, cut off, not 16 kHz or not mono, or if a
    sample is NaN or infinite.
    """
    check_length(payload, name)
    if _md5(payload) is not None:
        with opened(payload, name) as file:
            exact = file.subtype == "PCM_16"
        if exact:
            return decode(payload, name).astype(np.float32) / np.float32(2**15)
    with opened(payload, name) as file:
        frames = file.frames
        wave: np.ndarray = file.read(dtype="float32")
    if len(wave) != frames:
        raise UserError(f"{name}: corrupt audio ({len(wave)} of {frames} samples); replace it")
    check_finite(wave, name)
    return wave


def check_length(payload: bytes, name: Path | str) -> None:
    """Raises UserError for a WAV file that ends before its header says.

    The decoder would read what is there in silence.
    """
    if payload[:4] != b"RIFF":
        return
    declared, at = 8 + int.from_bytes(payload[4:8], "little"), 12
    while at + 8 <= len(payload):  # its chunks: four letters, four bytes of length, content
        size = int.from_bytes(payload[at + 4 : at + 8], "little")
        if payload[at : at + 4] == b"data":
            declared = max(declared if declared < UNKNOWN else 0, at + 8 + size)
            break
        at += 8 + size + size % 2
    if len(payload) < declared < UNKNOWN:
        raise UserError(
            f"{name}: corrupt audio ({len(payload):,} of {declared:,} bytes); replace it"
        )


def check_finite(wave: np.ndarray, name: Path | str) -> None:
    """Raises UserError with the name if a sample is NaN or infinite."""
    if not np.isfinite(wave).all():
        raise UserError(f"{name}: corrupt audio (samples that are no numbers); replace it")


@contextmanager
def opened(payload: bytes | memoryview, name: Path | str) -> Iterator[soundfile.SoundFile]:
    """A file of 16 kHz, one channel and at least one sample, as its header says."""
    try:
        with soundfile.SoundFile(io.BytesIO(payload)) as file:
            rate, channels = file.samplerate, file.channels
            if (rate, channels) != (RATE, 1):
                raise UserError(
                    f"{name}: {rate} Hz, {channels} channel(s); 16000 Hz and one are needed:"
                    " convert it with `ffmpeg -ar 16000 -ac 1`"
                )
            if file.frames == 0:
                raise UserError(f"{name}: no samples in it; remove it and its transcript")
            yield file
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(f"{name}: corrupt audio ({error}); replace or remove it") from None


def as_pcm(wave: np.ndarray) -> bytes:
    """Samples (S,) int16 as the payload of encoding pcm_16."""
    return wave.astype("<i2", copy=False).tobytes()


def samples_of(payload: memoryview, encoding: str, name: str) -> np.ndarray:
    """Samples (S,) int16 of a payload; those of pcm_16 lie in the shard itself.

    Raises UserError as `decode` does.
    """
    return np.frombuffer(payload, "<i2") if encoding == PCM else decode(payload, name)


def range_of(payload: memoryview, encoding: str, start: int, count: int, name: str) -> np.ndarray:
    """`count` samples int16 from `start` on; of a FLAC file only these are decoded.

    The checksum is of a whole file, so it is not compared here: preparing did.
    Raises UserError with the name if the file is broken or too short.
    """
    if encoding == PCM:
        return np.frombuffer(payload, "<i2", count, 2 * start)
    with opened(payload, name) as file:
        file.seek(start)
        wave: np.ndarray = file.read(count, dtype="int16")
    if len(wave) != count:
        raise UserError(f"{name}: corrupt audio ({len(wave)} of {count} samples); replace it")
    return wave


# --- level ----------------------------------------------------------------------------------------


def level(wave: np.ndarray) -> tuple[np.float32, np.float32]:
    """Mean of 16-bit samples (S,) scaled to [-1, 1), and what they are divided by without it."""
    scaled = wave.astype(np.float32) / 2**15
    mean = scaled.mean()
    scaled -= mean
    return mean, np.sqrt(scaled.var() + np.float32(1e-5))


def normalise(wave: np.ndarray, at: tuple[np.float32, np.float32] | None = None) -> np.ndarray:
    """16-bit samples (S,) to float32 of zero mean and unit variance (fairseq `normalize: true`).

    `at` is the level of the whole utterance that they are a part of; without it they are whole.
    """
    mean, deviation = at or level(wave)
    scaled = wave.astype(np.float32) / 2**15
    scaled -= mean
    return scaled / deviation


def level_columns(wave: np.ndarray) -> dict[str, int | float | str]:
    """Samples and level of an utterance: with them a part of it can be decoded on its own."""
    mean, deviation = level(wave)
    return {"samples": len(wave), "mean": float(mean), "deviation": float(deviation)}


def _md5(payload: bytes | memoryview) -> bytes | None:
    """MD5 of the samples as the STREAMINFO block, which comes first in a FLAC file, has it."""
    digest = bytes(payload[26:42])
    return digest if any(digest) and bytes(payload[:4]) == b"fLaC" else None
