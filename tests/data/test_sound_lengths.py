"""Half a sound file is refused in every format, or the format itself is."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from d2v.data import sound
from d2v.data.sound_lengths import WHOLE, declared
from d2v.util.errors import UserError

WAVE = np.random.default_rng(0).integers(-9000, 9000, 8000, np.int16)
NO_HEADER = {"RAW", "SD2", "XI"}  # which libsndfile cannot read from memory, or without being told


def written(kind: str) -> bytes:
    buffer = io.BytesIO()
    subtype = "PCM_16" if soundfile.check_format(kind, "PCM_16") else None
    soundfile.write(buffer, WAVE, sound.RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", sorted(soundfile.available_formats().keys() - NO_HEADER))
def test_half_a_file_is_refused(kind: str) -> None:
    whole = written(kind)
    if kind not in WHOLE:
        with pytest.raises(UserError, match=r"^x: (.* files can be truncated unnoticed|8000 Hz)"):
            sound.samples(whole, "x")
        return
    assert len(sound.samples(whole, "x")) == len(WAVE)
    for size in (len(whole) // 2, len(whole) - 300):
        with pytest.raises(UserError, match=r"^x: "):
            sound.samples(whole[:size], "x")


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "NIST", "CAF"])
def test_what_a_header_declares_is_the_files_length(kind: str) -> None:
    whole = written(kind)
    assert declared(whole) == len(whole)
    assert declared(whole + b"junk") == len(whole)


def test_a_file_written_to_a_pipe_declares_no_length() -> None:
    wav, au = bytearray(written("WAV")), bytearray(written("AU"))
    wav[4:8] = wav[40:44] = au[8:12] = b"\xff" * 4
    assert declared(bytes(wav)) is declared(bytes(au)) is None
    assert declared(b"NIST_1A\nhello\n") is declared(b"") is declared(b"abc") is None


def test_samples_far_beyond_full_scale_are_refused(tmp_path: Path) -> None:
    """Integers saved as floats would be clipped to full scale, and 1e30 overflows."""
    for factor in (1e30, 1.0):
        soundfile.write(tmp_path / "x.wav", WAVE * factor, sound.RATE, subtype="FLOAT")
        with pytest.raises(UserError, match=r"but full scale is 1; scale the samples"):
            sound.samples((tmp_path / "x.wav").read_bytes(), "x")
    soundfile.write(tmp_path / "x.wav", WAVE / 9000 * 1.5, sound.RATE, subtype="FLOAT")
    assert sound.samples((tmp_path / "x.wav").read_bytes(), "x").max() > 1.4
