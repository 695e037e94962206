"""AudioSet: clips of many formats, and lists, with planted faults."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from preparing import run
from speech_builds import audioset, fails, sound

from d2v.data.shards import Shards, read_meta
from d2v.data.sound import RATE, decode
from d2v.util.errors import UserError


@pytest.fixture
def audio(tmp_path) -> Path:
    return audioset(tmp_path / "audioset")


def test_clips_get_the_numbers_of_their_classes(audio, tmp_path):
    run("audioset", audio, "-o", tmp_path / "set", "--workers", 1)
    meta = read_meta(tmp_path / "set")
    assert meta["classes"] == ["Speech", "Male speech, man speaking", "Dog"]
    assert meta["splits"]["balanced"] == {"examples": 2, "samples": 6400, "missing": 0}
    shards = Shards(tmp_path / "set" / "balanced")
    assert list(shards.texts("id")) == ["abc", "-de"]
    assert list(shards.texts("labels")) == ["0,2", "1"]
    whole, _ = soundfile.read(audio / "clips" / "0" / "abc.wav", dtype="int16")
    assert np.array_equal(decode(shards.payload(0), "abc"), whole)


@pytest.mark.parametrize(
    "name",
    [
        "abc",
        "Yabc",
        "abc_30",
        "Yabc_30",
        "abc_30.000",
        "abc_30000",
        "Yabc_30000_40000",
        "abc_30_40",
    ],
)
def test_clips_have_the_names_that_downloaders_give(audio, tmp_path, name):
    (audio / "clips" / "0" / "abc.wav").rename(audio / "clips" / "0" / f"{name}.wav")
    run("audioset", audio, "-o", tmp_path / "set", "--workers", 1)
    assert read_meta(tmp_path / "set")["splits"]["balanced"]["missing"] == 0
    assert list(Shards(tmp_path / "set" / "balanced").texts("id")) == ["abc", "-de"]


def test_a_clip_of_another_time_is_not_taken(audio, tmp_path):
    (audio / "clips" / "0" / "abc.wav").rename(audio / "clips" / "0" / "abc_20_30.wav")
    run("audioset", audio, "-o", tmp_path / "set", "--most-missing", 0.5, "--workers", 1)
    assert read_meta(tmp_path / "set")["splits"]["balanced"]["missing"] == 1


def test_missing_clips_are_counted_and_too_many_refused(audio, tmp_path, capsys):
    (audio / "clips" / "1" / "jkl.flac").unlink()
    fails(
        "eval_segments.csv: 1 of 2 clips are missing; .*partial: true.*--most-missing",
        tmp_path / "set",
        "audioset",
        audio,
    )
    run("audioset", audio, "-o", tmp_path / "set", "--most-missing", 0.5)
    assert "1 of 2 clips" in capsys.readouterr().err
    assert read_meta(tmp_path / "set")["splits"]["eval"]["missing"] == 1


def test_a_part_is_enough_if_that_is_said(audio, tmp_path, capsys):
    (audio / "unbalanced_train_segments.csv").unlink()
    for clip in ("ghi", "jkl"):
        for path in audio.rglob(f"*{clip}*.flac"):
            path.unlink()
    out = tmp_path / "set"
    fails("unbalanced_train_segments.csv: no such file", out, "audioset", audio)
    run("audioset", audio, "-o", out, "--partial", "true", "--workers", 1)
    meta = read_meta(out)
    assert meta["complete"] is False
    assert "balanced" in meta["splits"]
    assert "not the whole official set" in capsys.readouterr().out


def test_faults_of_audioset_are_named(audio, tmp_path):
    words = ("audioset", audio, "--workers", 1)
    clip = audio / "clips" / "0" / "mno.flac"
    for plant, message in (
        ({"rate": 44_100}, "mno.flac: 44100 Hz, 1 channel.*ffmpeg"),
        ({"channels": 2}, "mno.flac: 16000 Hz, 2 channel"),
    ):
        sound(clip, 0.2, **plant)
        fails(message, tmp_path / "set", *words)
    sound(clip, 0.2)
    segments = audio / "eval_segments.csv"
    good = segments.read_text()
    segments.write_text(good + 'pqr, 0.000, 10.000, "/m/zzz"\n')
    fails("eval_segments.csv:6: '/m/zzz' is not a class", tmp_path / "set", *words)
    segments.write_text(good + "pqr, 0.000\n")
    fails("eval_segments.csv:6: YTID, start, end", tmp_path / "set", *words)
    segments.unlink()
    fails("eval_segments.csv: no such file", tmp_path / "set", *words)


def test_samples_of_any_wav_format_are_kept(audio, tmp_path):
    wave = 0.5 * np.sin(np.arange(3200) / 9)
    clips = {"PCM_16": "abc", "PCM_24": "Y-de", "FLOAT": "ghi_5", "DOUBLE": "jkl", "PCM_U8": "mno"}
    for path in list((audio / "clips").rglob("*.*")):
        path.unlink()
    for subtype, name in clips.items():
        soundfile.write(audio / "clips" / f"{name}.wav", wave, RATE, subtype=subtype)
    run("audioset", audio, "-o", tmp_path / "set", "--workers", 1)
    for split, count in (("balanced", 2), ("unbalanced", 1), ("eval", 2)):
        shards = Shards(tmp_path / "set" / split)
        for row in range(count):
            kept = decode(shards.payload(row), "clip") / 2**15
            assert np.abs(kept - wave).max() < (0.01 if shards.texts("id")[row] == "mno" else 1e-4)
    loud = audio / "clips" / "abc.wav"
    soundfile.write(loud, 4 * wave, RATE, subtype="FLOAT")  # clipped, not wrapped
    run("audioset", audio, "-o", tmp_path / "loud", "--workers", 1)
    kept = decode(Shards(tmp_path / "loud" / "balanced").payload(0), "clip")
    assert (kept.min(), kept.max()) == (-(2**15), 2**15 - 1)
    assert np.array_equal(np.sign(kept[1:]), np.sign(wave[1:]))
    soundfile.write(loud, np.full(3200, np.nan), RATE, subtype="FLOAT")
    fails("abc.wav: corrupt audio .samples that are not numbers", tmp_path / "x", "audioset", audio)


@pytest.mark.parametrize("name", ["abc.wav", "Y-de.flac"])
def test_damaged_clips_are_named(audio, tmp_path, name):
    path = next((audio / "clips").rglob(name))
    payload = path.read_bytes()
    path.write_bytes(payload[:-100])
    fails(f"{name}: corrupt audio", tmp_path / "set", "audioset", audio, "--workers", 1)
    if path.suffix == ".flac":  # the decoder alone would be content
        path.write_bytes(payload[:26] + bytes([payload[26] ^ 255]) + payload[27:])
        fails(f"{name}: corrupt .*checksum", tmp_path / "set", "audioset", audio, "--workers", 1)
    else:  # written to a pipe, a file does not know its size
        unknown = b"\xff\xff\xff\xff"
        path.write_bytes(payload[:4] + unknown + payload[8:40] + unknown + payload[44:])
        run("audioset", audio, "-o", tmp_path / "set", "--workers", 1)
        assert Shards(tmp_path / "set" / "balanced").numbers("samples")[0] == 3200
    path.write_bytes(b"")
    fails(f"{name}: an empty file", tmp_path / "again", "audioset", audio, "--workers", 1)


@pytest.mark.parametrize("limit", [2**17, 2**40])  # a library may have moved it
def test_endless_cells_are_told_in_a_short_sentence(audio, tmp_path, limit):
    usual = csv.field_size_limit(limit)
    try:
        _endless_cells(audio, tmp_path)
    finally:
        csv.field_size_limit(usual)


def _endless_cells(audio, tmp_path):
    endless = "A" * 200_000  # longer than Python's reader of CSV takes
    path = audio / "eval_segments.csv"
    good = path.read_text()
    for row, said in (
        (f'pqr, 0.000, 10.000, "/m/{endless[:9000]}"', "is not a class"),
        (f'pqr, 0.000, 10.000, "{endless}"', "YTID, start, end"),
    ):
        path.write_text(f"{good}{row}\n")
        with pytest.raises(UserError, match=rf"eval_segments\.csv:6: .*{said}") as caught:
            run("audioset", audio, "-o", tmp_path / "set")
        assert len(str(caught.value)) < 500
    path.write_text(good)
    (audio / "class_labels_indices.csv").write_text(f"index,mid,display_name\n0,/m/a,{endless}\n")
    fails("class_labels_indices.csv:1: columns", tmp_path / "set", "audioset", audio)


def test_a_list_that_is_cut_off_is_told(audio, tmp_path):
    path = audio / "balanced_train_segments.csv"
    text = path.read_text().replace("num_ytids=2", "num_ytids=2, num_segs=2, num_unique_labels=3")
    path.write_text(text)
    run("audioset", audio, "-o", tmp_path / "set")
    path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    fails("balanced_train.*: 1 segments, .* num_segs=2", tmp_path / "x", "audioset", audio)
    path.write_text(text + text.splitlines(keepends=True)[-1])
    fails("balanced_train_segments.csv:6: -de is listed twice", tmp_path / "x", "audioset", audio)


def test_a_list_without_any_clip_is_told(audio, tmp_path):
    for path in list((audio / "clips").rglob("ghi*")):
        path.unlink()
    words = ("audioset", audio, "--most-missing", 1)
    fails("unbalanced_train.*1 of 1 clips are missing; put them", tmp_path / "set", *words)
