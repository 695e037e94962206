"""Payloads of sounds: FLAC files or raw samples, read whole or in part, and their level."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path

import numpy as np
import soundfile

from d2v.data.sound_lengths import WHOLE, declared, fault
from d2v.util.errors import UserError, counted

RATE = 16_000  # samples per second
LOUDEST = 10.0  # a floating-point sample may exceed full scale, 1, by this factor
FLAC, PCM = "flac", "pcm_16"  # encodings of payloads: FLAC files, or raw little-endian samples


def decode(payload: bytes | memoryview, name: Path | str) -> np.ndarray:
    """Decode a FLAC file to samples (S,) int16.

    Verifies the MD5 in the file's header, because the decoder may silently skip broken frames.
    Raises UserError with the name if the file is broken, not 16 kHz or not mono.
    """
    with opened(payload, name) as file:
        frames = file.frames
        exact = file.subtype == "PCM_16"  # otherwise the samples are rounded when read
        wave: np.ndarray = file.read(dtype="int16")
    if len(wave) != frames:
        raise UserError(f"{name}: corrupt audio ({len(wave)} of {frames} samples); replace it")
    expected = _md5(payload)
    if exact and expected and md5(wave.astype("<i2", copy=False).data).digest() != expected:
        raise UserError(f"{name}: corrupt audio (samples differ from their checksum); replace it")
    return wave


def samples(payload: bytes, name: Path | str) -> np.ndarray:
    """Decode a sound file of any format to samples (S,) float32 from -1 to 1.

    Raises UserError with the name if the file is broken, truncated, not 16 kHz or not mono, of a
    format whose truncated files are not noticed, or if a sample is NaN, infinite or above LOUDEST.
    """
    check_length(payload, name)
    if _md5(payload) is not None:
        with opened(payload, name) as file:
            exact = file.subtype == "PCM_16"
        if exact:
            return decode(payload, name).astype(np.float32) / np.float32(2**15)
    with opened(payload, name) as file:
        if file.format not in WHOLE:
            raise UserError(
                f"{name}: {file.format} files can be truncated unnoticed; convert it to FLAC"
            )
        frames = file.frames
        wave: np.ndarray = file.read(dtype="float32")
    if len(wave) != frames:
        raise UserError(f"{name}: corrupt audio ({len(wave)} of {frames} samples); replace it")
    check_finite(wave, name)
    return wave


def check_length(payload: bytes, name: Path | str) -> None:
    """Raise UserError for a file that is shorter than its header declares, or lacks its end."""
    whole = declared(payload)
    if whole is not None and len(payload) < whole:
        raise UserError(f"{name}: corrupt audio ({len(payload):,} of {whole:,} bytes); replace it")
    if missing := fault(payload):
        raise UserError(f"{name}: corrupt audio ({missing}); replace it")


def check_finite(wave: np.ndarray, name: Path | str) -> None:
    """Raise UserError with the name if a sample is NaN or infinite, or far beyond full scale."""
    if not np.isfinite(wave).all():
        raise UserError(f"{name}: corrupt audio (samples that are not numbers); replace it")
    largest = float(np.abs(wave).max(initial=0.0))
    if largest > LOUDEST:
        raise UserError(
            f"{name}: a sample of {largest:.4g}, but full scale is 1; scale the samples, or save"
            " them as integers"
        )


@contextmanager
def opened(payload: bytes | memoryview, name: Path | str) -> Iterator[soundfile.SoundFile]:
    """Open a sound file; raises UserError unless its header says 16 kHz, mono and not empty."""
    if not len(payload):
        raise UserError(f"{name}: an empty file; replace it, or remove it and its transcript")
    try:
        with soundfile.SoundFile(io.BytesIO(payload)) as file:
            rate, channels = file.samplerate, file.channels
            if (rate, channels) != (RATE, 1):
                raise UserError(
                    f"{name}: {rate} Hz, {counted(channels, 'channel')}; 16000 Hz and one channel"
                    " are required: convert it with `ffmpeg -ar 16000 -ac 1`"
                )
            if file.frames == 0:
                raise UserError(f"{name}: contains no samples; remove it and its transcript")
            yield file
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(f"{name}: corrupt audio ({reason(error)}); replace or remove it") from None


def reason(error: Exception) -> str:
    """What the decoder says about a file, without the object that it read it from."""
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(". ")


def as_pcm(wave: np.ndarray) -> bytes:
    """Return samples (S,) int16 as a payload with encoding pcm_16."""
    return wave.astype("<i2", copy=False).tobytes()


def as_flac(wave: np.ndarray) -> bytes:
    """Return samples (S,) int16 as a payload with encoding flac."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def samples_of(payload: memoryview, encoding: str, name: str) -> np.ndarray:
    """Return the samples (S,) int16 of a payload; pcm_16 samples are a view of the shard.

    Raises UserError as `decode` does.
    """
    return np.frombuffer(payload, "<i2") if encoding == PCM else decode(payload, name)


def range_of(payload: memoryview, encoding: str, start: int, count: int, name: str) -> np.ndarray:
    """Return `count` samples int16 from `start` on; only these are decoded from a FLAC file.

    The checksum covers the whole file and was verified during preparation, so it is not verified
    here. Raises UserError with the name if the file is broken or too short.
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
    """Mean of 16-bit samples (S,) scaled to [-1, 1), and the deviation to divide them by."""
    scaled = wave.astype(np.float32) / 2**15
    mean = scaled.mean()
    scaled -= mean
    return mean, np.sqrt(scaled.var() + np.float32(1e-5))


def normalise(wave: np.ndarray, at: tuple[np.float32, np.float32] | None = None) -> np.ndarray:
    """Normalise 16-bit samples (S,) to zero mean and unit variance (fairseq `normalize: true`).

    The result is float32. For a part of an utterance, `at` is the level of the whole utterance;
    without it, the samples are taken as a whole utterance.
    """
    mean, deviation = at or level(wave)
    scaled = wave.astype(np.float32) / 2**15
    scaled -= mean
    return scaled / deviation


def level_columns(wave: np.ndarray) -> dict[str, int | float | str]:
    """Length and level of an utterance, with which any part of it can be decoded separately."""
    mean, deviation = level(wave)
    return {"samples": len(wave), "mean": float(mean), "deviation": float(deviation)}


def _md5(payload: bytes | memoryview) -> bytes | None:
    """Return the MD5 of the samples from STREAMINFO, the first block of a FLAC file, if given."""
    digest = bytes(payload[26:42])
    return digest if any(digest) and bytes(payload[:4]) == b"fLaC" else None
