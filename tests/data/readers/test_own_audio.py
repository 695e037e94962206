"""Recordings of one's own: formats, rates, alphabets, splits, and what is unusable."""

import io
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from own_sets import SAID, meta, params_of, prepared, recordings, tone

from d2v import params
from d2v.data import build_dataset
from d2v.data.letters import LETTERS
from d2v.data.shards import PARTS, Shards, hash_of
from d2v.data.sound import RATE
from d2v.util.errors import UserError

ROWS = {"column": "split", "values": {"train": "train", "dev": "dev", "test": "test"}}
ENCODER = params.WaveEncoder(
    kind="speech",
    conv_layers=[[8, 10, 5], [8, 8, 4], [8, 4, 4], [8, 4, 4]],
    position_kernel=9,
    position_depth=1,
    position_groups=4,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("own") / "set")


def group(source: Path, **more: Any) -> dict[str, Any]:
    usual = {"kind": "audio_folder", "source": str(source), "manifest": "metadata.csv"}
    return {**usual, "splits": ROWS, "resample": True, **more}


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("made") / "speech", "--workers", 1, **group(source))


def test_four_formats_become_16_khz_mono_and_are_reported(made: Path) -> None:
    found = meta(made)
    train = found["splits"]["train"]
    assert (found["kind"], found["rate"], train["examples"]) == ("librispeech", RATE, 8)
    assert sum(train["resampled"].values()) == 4  # the others have the rate already
    assert set(train["resampled"]) <= {"44100 Hz, 2 channels", "48000 Hz, mono"}
    shards = Shards(made / "train")
    for name, samples in zip(shards.texts("id"), shards.numbers("samples").tolist(), strict=True):
        seconds = 2.0 + 0.05 * int(Path(name).name)
        # an MP3 file has some padding at its ends
        assert samples == pytest.approx(seconds * RATE, abs=0.1 * RATE)


def test_a_flac_file_of_the_right_rate_stays_as_it_is(source: Path, made: Path) -> None:
    shards = Shards(made / "train")
    row = list(shards.texts("id")).index("clips/01")
    assert bytes(shards.payload(row)) == (source / "clips/01.flac").read_bytes()


def test_resampling_keeps_the_tone(made: Path) -> None:
    """The strongest frequency of the 44.1 kHz stereo MP3 is still its own."""
    shards = Shards(made / "train")
    names = list(shards.texts("id"))
    row = names.index("clips/02")
    wave, rate = soundfile.read(io.BytesIO(bytes(shards.payload(row))))
    spectrum = np.abs(np.fft.rfft(wave))
    assert rate == RATE
    assert np.argmax(spectrum) * rate / len(wave) == pytest.approx(220.0, abs=1.0)


def test_letters_are_those_of_the_training_transcripts(made: Path) -> None:
    found = meta(made)
    letters = found["letters"]
    assert tuple(letters[:5]) == LETTERS[:5]
    assert set("zażółćgęśląjaźńßäöü") <= set(letters)
    assert not {"Z", "!", ",", "„", "–"} & set(letters)
    assert (made / "letters.txt").read_text().split() == letters
    view = params.WaveAugment(kind="speech")
    data = build_dataset(
        made, "train", view, encoder=ENCODER, seed=0, train=True, task=params.CTC(kind="ctc")
    )
    example = data[0, 0]
    said = "".join(letters[i] for i in example["letters"]).replace("|", " ").strip()
    assert said == data.references[0]
    assert said in ("zażółć gęślą jaźń", "straße äöü", "dzień dobry łódź", "grüße aus köln")


def test_letters_that_training_lacks_are_reported(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    table = folder / "metadata.csv"
    lines = table.read_text().splitlines()
    dev = next(i for i, line in enumerate(lines) if line.endswith(",dev"))
    cells = lines[dev].split(",")
    lines[dev] = ",".join([cells[0], '"xyz ñ ñ"', *cells[-2:]])
    table.write_text("\n".join(lines) + "\n")
    out = prepared(tmp_path / "out", **group(folder))
    assert meta(out)["unknown_letters"]["dev"] == {"x": 1, "ñ": 2}
    assert "warning: dev: 3 letter(s) that no training transcript has" in capsys.readouterr().err


def test_normalisation_is_a_parameter(source: Path, tmp_path: Path) -> None:
    how = {"case": "upper", "keep": "'!–"}
    texts = set(
        Shards(prepared(tmp_path / "out", **group(source, transcripts=how)) / "train").texts("text")
    )
    assert texts == {"ZAŻÓŁĆ GĘŚLĄ JAŹŃ!", "STRASSE – ÄÖÜ", "DZIEŃ DOBRY ŁÓDŹ", "GRÜSSE AUS KÖLN"}


def test_a_speaker_stays_in_one_split(source: Path, tmp_path: Path) -> None:
    splits = {"fractions": {"train": 0.5, "dev": 0.25, "test": 0.25}, "by": "who"}
    out = prepared(tmp_path / "out", **group(source, splits=splits, speaker="who"))
    voices = {split: set(Shards(out / split).texts("speaker")) for split in splits["fractions"]}
    assert sum(map(len, voices.values())) == 6 == len(set().union(*voices.values()))


def test_layouts_of_hugging_face_common_voice_and_librispeech(source: Path, tmp_path: Path) -> None:
    """metadata.csv in split folders; a TSV per split and clips/; SPEAKER/CHAPTER/*.trans.txt."""
    hugging, voice, libri = (tmp_path / name for name in ("hf", "cv", "ls"))
    for split, numbers in {"train": range(4), "dev": range(4, 6)}.items():
        rows = [(f"{i:02}.wav", SAID[i % 4]) for i in numbers]
        for i in numbers:
            for path in (hugging / split / f"{i:02}.wav", voice / "clips" / f"{i:02}.wav"):
                tone(path, 2.0, pitch=200.0 + i)
            tone(libri / split / "7" / "8" / f"7-8-{i:04}.flac", 2.0, pitch=200.0 + i)
        (hugging / split / "metadata.csv").write_text(
            "file_name,transcription\n" + "".join(f'{p},"{t}"\n' for p, t in rows)
        )
        (voice / f"{split}.tsv").write_text(
            "client_id\tpath\tsentence\n" + "".join(f"c{p[0]}\t{p}\t{t}\n" for p, t in rows)
        )
        (libri / split / "7" / "8" / "7-8.trans.txt").write_text(
            "\n".join(f"7-8-{i:04} {SAID[i % 4]}" for i in numbers) + "\n\n"
        )
    folders = {"folders": {"train": "train", "dev": "dev"}}
    tables = {"folders": {"train": "train.tsv", "dev": "dev.tsv"}}
    usual: dict[str, Any] = {"kind": "audio_folder"}
    one = prepared(
        tmp_path / "a", **usual, source=str(hugging), manifest="metadata.csv", splits=folders
    )
    two = prepared(
        tmp_path / "b", **usual, source=str(voice), audio="clips", splits=tables,
        speaker="client_id",
    )  # fmt: skip
    three = prepared(
        tmp_path / "c", **usual, source=str(libri), manifest="*.trans.txt", splits=folders
    )
    texts = [list(Shards(out / "dev").texts("text")) for out in (one, two, three)]
    assert texts[0] == texts[1] == texts[2] == ["zażółć gęślą jaźń", "straße äöü"]
    assert list(Shards(three / "dev").texts("speaker")) == ["7", "7"]


# --- long recordings ------------------------------------------------------------------------------


def test_long_recordings_without_transcripts_are_cut_at_pauses(tmp_path: Path) -> None:
    """Nothing is lost, no piece is longer than the limit, and the pause is where it is cut."""
    t = np.arange(10 * RATE) / RATE
    wave = 0.3 * np.sin(2 * np.pi * 220 * t)
    wave[round(2.9 * RATE) : round(3.3 * RATE)] = 0.0
    (tmp_path / "set").mkdir()
    soundfile.write(tmp_path / "set" / "a.wav", wave, RATE)
    tone(tmp_path / "set" / "b.wav", 2.0)
    splits = {"fractions": {"train": 1.0}}
    out = prepared(
        tmp_path / "out", kind="audio_folder", source=str(tmp_path / "set"), splits=splits,
        max_seconds=4.0,
    )  # fmt: skip
    shards = Shards(out / "train")
    lengths = dict(zip(shards.texts("id"), shards.numbers("samples").tolist(), strict=True))
    assert list(lengths) == ["a#0", "a#1", "a#2", "b"]
    assert sum(lengths.values()) == 12 * RATE
    assert max(lengths.values()) <= 4 * RATE
    assert 2.9 * RATE <= lengths["a#0"] <= 3.3 * RATE
    found = meta(out)["splits"]["train"]
    assert (found["cut_at_pauses"], found["cut_at_limit"]) == (1, 1)
    assert "text" not in shards.columns
    assert "letters" not in meta(out)


# --- unusable recordings --------------------------------------------------------------------------


def quiet(path: Path) -> None:
    soundfile.write(path, np.zeros(2 * RATE), RATE)


def loud(path: Path) -> None:
    soundfile.write(path, np.sign(np.sin(np.arange(2 * RATE) / 20)), RATE, subtype="FLOAT")


def odd(path: Path) -> None:
    soundfile.write(path, np.full(2 * RATE, np.nan, np.float32), RATE, subtype="FLOAT")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


# what is done to clips/00.wav, which is on line 2 of the manifest, and how it is reported
FAULTS: dict[str, tuple[Any, str]] = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "empty": (lambda path: path.write_bytes(b""), r"the file is empty \(0 bytes\)"),
    "no sound": (lambda path: path.write_text("hello"), "not a readable recording"),
    "no samples": (lambda path: soundfile.write(path, np.zeros(0), RATE), "contains no samples"),
    "truncated": (cut, r"corrupt audio \([\d,]+ of [\d,]+ bytes\)"),
    "silent": (quiet, "silent"),
    "clipped": (loud, "clipped"),
    "not numbers": (odd, r"corrupt audio \(samples that are not numbers\)"),
    "short": (lambda path: tone(path, 0.05), r"too short \(0.05 s; min_seconds is 0.1\)"),
    "long": (lambda path: tone(path, 31.0), r"too long \(31.0 s; max_seconds is 30\)"),
    "unaligned": (lambda path: tone(path, 0.3), "its transcript is too long for it"),
    "leak": (
        lambda path: shutil.copy(path.with_name("04.wav"), path),
        "a leak: it has the same content as .*04.wav of split dev",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_an_unusable_recording_is_named_and_can_be_left_out(
    name: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence with file and line, and nothing written; with skip_bad, only it is missing."""
    change, message = FAULTS[name]
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    change(folder / "clips/00.wav")
    with pytest.raises(UserError, match=rf"00\.wav: {message}.*\(.*metadata\.csv:2\)") as caught:
        prepared(tmp_path / "out", "--workers", 1, **group(folder))
    assert "\n" not in str(caught.value)
    assert "skip_bad: true" in str(caught.value)
    assert not (tmp_path / "out").exists()
    out = prepared(tmp_path / "out", "--workers", 1, **group(folder, skip_bad=True))
    train = meta(out)["splits"]["train"]
    assert (train["examples"], train["left_out"]) == (7, 1)
    rows = (out / "left_out.tsv").read_text().splitlines()
    assert rows[0] == "split\tfile\treason"
    assert rows[1].startswith(f"train\t{folder}/clips/00.wav\t")
    assert len(rows) == 2
    assert "00.wav" in capsys.readouterr().err


def test_all_unusable_recordings_of_a_pass_are_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    quiet(folder / "clips/00.wav")
    loud(folder / "clips/08.wav")
    with pytest.raises(UserError, match="1 more"):
        prepared(tmp_path / "out", **group(folder))
    told = capsys.readouterr().err
    assert "00.wav: silent" in told
    assert "08.wav: clipped" in told


def test_another_rate_needs_resample(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\d\d\.(mp3|ogg): .*but 16000 Hz mono is required"):
        prepared(tmp_path / "out", **group(source, resample=False))
    assert not (tmp_path / "out").exists()


def test_repetitions_within_a_split_are_counted(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    shutil.copy(folder / "clips/00.wav", folder / "clips/08.wav")
    out = prepared(tmp_path / "out", **group(folder))
    assert meta(out)["repeats"]["train"]["duplicates"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('clips/00.wav,"..!",s0,train', r"its transcript is empty.*metadata\.csv:2"),
        ('clips/00.wav,a,s0,trian', r"metadata\.csv:2: 'trian' in column 'split' is the value"),
        ('clips/00.wav,a,b,s0,train', r"metadata\.csv:2: 5 cells, but the header has 4"),
        ('clips/01.flac,a,s0,train', r"metadata\.csv:3: .*01\.flac is already listed"),
        ('clips/00.wav,"a,s0,train', r"metadata\.csv:2: not valid CSV"),
        ('clips/00.wav,\xff,s0,train', r"metadata\.csv:2: not UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_row_of_the_manifest_is_named(
    row: str, message: str, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    table = folder / "metadata.csv"
    lines = table.read_text().split("\n")
    lines[1] = row
    table.write_bytes("\n".join(lines).encode("latin-1" if "\xff" in row else "utf-8", "replace"))
    with pytest.raises(UserError, match=message) as caught:
        prepared(tmp_path / "out", **group(folder))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_column_is_named_with_those_there_are(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metadata\.csv:1: no column 'words' \(there are 'path'"):
        prepared(tmp_path / "out", **group(source, text="words"))


# --- the same bytes -------------------------------------------------------------------------------

SLOW = """
import sys, time
from d2v.cli import prepare
from d2v.data.readers import own_audio, own_files
own_files.SMALLEST_SHARD = 200_000
read, pause = own_audio.read_recording, float(sys.argv[1])
own_audio.read_recording = lambda *a: (time.sleep(pause), read(*a))[1]
prepare.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_killed_and_resumed_or_with_two_processes_it_is_the_same(
    source: Path, tmp_path: Path
) -> None:
    file = params_of(tmp_path, "speech", **group(source))
    out = tmp_path / "speech"
    words = ["audio-folder", str(file), "speech", "-o", str(out), "--workers"]
    first = subprocess.Popen([sys.executable, "-c", SLOW, "0.3", *words, "1"])
    parts = out.with_name("speech.tmp") / PARTS / "train"
    while first.poll() is None and len(list(parts.glob("*.npz"))) < 2:
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -9
    assert not out.exists()
    done = subprocess.run(
        [sys.executable, "-c", SLOW, "0", *words, "1"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    resumed = hash_of(out)
    shutil.rmtree(out)
    subprocess.run([sys.executable, "-c", SLOW, "0", *words, "2"], check=True)
    assert hash_of(out) == resumed == meta(out)["sha256"]
