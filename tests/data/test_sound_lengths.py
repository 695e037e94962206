"""Half a sound file is refused in every format, or the format itself is."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from d2v.data import sound
from d2v.data.resampling import read_recording
from d2v.data.sound_lengths import WHOLE, declared, fault
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


def pages(content: bytes) -> list[int]:
    """Where each page of an OGG file starts; the file's end is the last."""
    starts = [0]
    while starts[-1] < len(content):
        at = starts[-1]
        table = content[at + 27 : at + 27 + content[at + 26]]
        starts.append(at + 27 + len(table) + sum(table))
    return starts


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_without_its_last_page_is_refused(tmp_path: Path, subtype: str) -> None:
    """libsndfile reads the pages that are there, and tells their number of samples."""
    path = tmp_path / "x.ogg"
    long = np.random.default_rng(0).integers(-9000, 9000, 80_000, np.int16)
    soundfile.write(path, long, sound.RATE, format="OGG", subtype=subtype)
    whole = path.read_bytes()
    assert len(sound.samples(whole, "x")) == len(read_recording(path, True).wave) == len(long)
    assert not fault(whole + b"TAG of another program")
    starts = pages(whole)
    assert len(starts) > 4
    for size in (len(whole) // 2, *starts[3:-1], starts[-2] + 4, starts[-2] + 29, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"^x: corrupt audio \(the last page of its stream"):
            sound.samples(whole[:size], "x")
        with pytest.raises(UserError, match=r"x\.ogg: corrupt audio \(the last page"):
            read_recording(path, True)


def test_samples_after_those_that_a_wav_file_declares_are_noticed(tmp_path: Path) -> None:
    wav = bytearray(written("WAV"))
    size = len(wav) - 44
    wav[40:44] = (size // 2).to_bytes(4, "little")
    with pytest.raises(UserError, match=rf"^x: corrupt audio \({size // 2:,} bytes after"):
        sound.samples(bytes(wav), "x")
    (tmp_path / "x.wav").write_bytes(wav)
    with pytest.raises(UserError, match=r"x\.wav: corrupt audio"):
        read_recording(tmp_path / "x.wav", True)


def test_what_may_follow_the_samples_of_a_wav_file() -> None:
    wav = bytearray(written("WAV"))
    for more in (b"LIST\4\0\0\0text", b"\0" * 20, b"\0", b"id3 \1\0\0\0x\0"):
        wav[4:8] = (len(wav) + len(more) - 8).to_bytes(4, "little")
        assert len(sound.samples(bytes(wav) + more, "x")) == len(WAVE)
    wav[4:8] = (len(wav) - 8).to_bytes(4, "little")
    assert not fault(bytes(wav) + b"\1\2\3 appended by a program")


def test_samples_far_beyond_full_scale_are_refused(tmp_path: Path) -> None:
    """Integers saved as floats would be clipped to full scale, and 1e30 overflows."""
    for factor in (1e30, 1.0):
        soundfile.write(tmp_path / "x.wav", WAVE * factor, sound.RATE, subtype="FLOAT")
        with pytest.raises(UserError, match=r"but full scale is 1; scale the samples"):
            sound.samples((tmp_path / "x.wav").read_bytes(), "x")
    soundfile.write(tmp_path / "x.wav", WAVE / 9000 * 1.5, sound.RATE, subtype="FLOAT")
    assert sound.samples((tmp_path / "x.wav").read_bytes(), "x").max() > 1.4
