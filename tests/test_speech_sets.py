"""Libri-light's lists and unlabelled speech, AudioSet, the official language model."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from d2v.data import prepare
from d2v.data.librilight import joined
from d2v.data.librispeech import RATE, decode
from d2v.data.shards import Shards, hash_of, read_meta
from d2v.errors import UserError


def run(*words: object) -> None:
    prepare.main([str(word) for word in words])


def sound(path: Path, seconds: float, seed: int = 0, rate: int = RATE, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (round(seconds * rate), channels)
    wave = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    soundfile.write(path, wave.squeeze(), rate)


def fails(message: str, out: Path, *words: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(*words, "-o", out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


# --- LibriSpeech and its lists of limited supervision -------------------------------------------


@pytest.fixture(scope="module")
def libri(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("libri") / "LibriSpeech"
    for split, speakers in (("train-clean-100", (1, 2)), ("train-other-500", (3,)), ("dev", (4,))):
        for speaker in speakers:
            folder = root / split / str(speaker) / "7"
            names = [f"{speaker}-7-{k:04d}" for k in range(3)]
            for k, name in enumerate(names):
                sound(folder / f"{name}.flac", 0.1, k)
            text = "".join(f"{name} HELLO THERE\n" for name in names)
            (folder / f"{speaker}-7.trans.txt").write_text(text)
    return root


def limited_tree(root: Path, extra: str = "") -> Path:
    """As librispeech_finetuning.tgz: 10 min in 1h/0, 1 h in 1h, 10 h in both folders."""
    for place in (
        "1h/0/clean/1/7/1-7-0000",
        "1h/1/clean/1/7/1-7-0002",
        "1h/1/other/3/7/3-7-0001",
        "9h/clean/2/7/2-7-0000",
        *([extra] if extra else []),
    ):
        path = root / f"{place}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_limited_supervision_becomes_label_lists(libri, tmp_path):
    tree = limited_tree(tmp_path / "fine")
    run("librispeech", libri, "--limited", tree, "-o", tmp_path / "set")
    lists = {p.stem: p.read_text().split() for p in (tmp_path / "set" / "lists").iterdir()}
    assert lists["10min"] == ["1-7-0000"]
    assert lists["1h"] == ["1-7-0000", "1-7-0002", "3-7-0001"]
    assert lists["10h"] == ["1-7-0000", "1-7-0002", "2-7-0000", "3-7-0001"]
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, listed in lists.items():
        (texts / f"{name}.txt").write_text("\n".join(listed))
    run("librispeech", libri, "--limited", texts, "-o", tmp_path / "again")
    assert hash_of(tmp_path / "again") == hash_of(tmp_path / "set")


def test_a_list_that_names_an_absent_utterance_is_told(libri, tmp_path, capsys):
    tree = limited_tree(tmp_path / "fine", "9h/other/9/9/9-9-0009")
    words = ("librispeech", libri, "--limited", tree)
    fails(r"9-9-0009 of 10h \(1 of 5\) in no split", tmp_path / "set", *words)
    run(*words, "--allow-partial", "-o", tmp_path / "set")
    assert "warning" in capsys.readouterr().err
    assert len((tmp_path / "set" / "lists" / "10h.txt").read_text().split()) == 4
    (tree / "9h").rename(tree / "elsewhere")
    fails("neither 10h.txt nor a folder 9h", tmp_path / "new", *words)


def test_the_official_counts_are_asked_for(libri, tmp_path):
    words = ("librispeech", libri, "--official")
    fails("train-clean-100 has 6 of 28,539; train-clean-360 has 0", tmp_path / "set", *words)
    run(*words, "--allow-partial", "-o", tmp_path / "set")
    assert read_meta(tmp_path / "set")["complete"] is False


# --- Libri-light --------------------------------------------------------------------------------


@pytest.fixture
def light(tmp_path) -> Path:
    root = tmp_path / "light"
    sound(root / "small" / "77" / "book" / "long.flac", 20.0)
    voice = [[0.0, 4.0], [5.0, 7.0], [7.5, 12.0], [19.0, 19.5]]
    (root / "small" / "77" / "book" / "long.json").write_text(json.dumps({"voice_activity": voice}))
    sound(root / "small" / "88" / "book" / "short.flac", 3.0, 1)
    return root


def test_long_files_are_cut_at_pauses(light, tmp_path):
    run("librilight", light, "--seconds", 8, "-o", tmp_path / "a", "--workers", 1)
    shards = Shards(tmp_path / "a" / "train")
    assert list(shards.texts("id")) == ["77/long#0", "77/long#1", "88/short#0"]
    # 0 to 7 s is one piece, 7.5 to 12 s the next; half a second at the end is too short
    assert shards.numbers("samples").tolist() == [7 * RATE, 4.5 * RATE, 3 * RATE]
    whole, _ = soundfile.read(light / "small" / "77" / "book" / "long.flac", dtype="int16")
    piece = decode(shards.payload(1), "piece")
    assert np.array_equal(piece, whole[round(7.5 * RATE) : 12 * RATE])
    assert "text" not in shards.columns
    run("librilight", light, "--seconds", 8, "-o", tmp_path / "b", "--workers", 2)
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "b")


def test_pieces_are_joined_and_cut_by_their_length():
    s = RATE
    assert joined([(0, 3 * s), (4 * s, 5 * s)], 10 * s) == [(0, 5 * s)]
    assert joined([(0, 25 * s)], 10 * s) == [(0, 10 * s), (10 * s, 20 * s), (20 * s, 25 * s)]
    assert joined([(0, s)], 10 * s) == []


def test_faults_of_libri_light_are_named(light, tmp_path):
    book = light / "small" / "77" / "book"
    words = ("librilight", light, "--seconds", 8, "--workers", 1)
    (book / "long.json").write_text('{"voice_activity": 3}')
    fails("long.json: no list voice_activity", tmp_path / "set", *words)
    (book / "long.json").unlink()
    fails("long.json: missing", tmp_path / "set", *words)
    sound(book / "long.flac", 1.0, rate=8000)
    fails("long.flac: 8000 Hz, 1 channel", tmp_path / "set", *words)
    (book / "long.flac").write_bytes(b"fLaC")
    fails("long.flac: corrupt audio", tmp_path / "set", *words)


# --- AudioSet -----------------------------------------------------------------------------------


@pytest.fixture
def audio(tmp_path) -> Path:
    root = tmp_path / "audioset"
    root.mkdir()
    (root / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/a,"Speech"\n1,/m/b,"Male speech, man speaking"\n2,/t/c,Dog\n'
    )
    head = "# Segments csv created ...\n# num_ytids=2\n# YTID, start_seconds, end_seconds, labels\n"
    lists = {
        "balanced_train": 'abc, 30.000, 40.000, "/t/c,/m/a"\n-de, 0.000, 10.000, "/m/b"\n',
        "unbalanced_train": 'ghi, 5.000, 15.000, "/m/a"\n',
        "eval": 'jkl, 0.000, 10.000, "/t/c"\nmno, 0.000, 10.000, "/m/b"\n',
    }
    for name, text in lists.items():
        (root / f"{name}_segments.csv").write_text(head + text)
    for k, name in enumerate(("abc.wav", "Y-de.flac", "ghi_5.flac", "jkl.flac", "mno.flac")):
        sound(root / "clips" / str(k % 2) / name, 0.2, k)
    return root


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


def test_missing_clips_are_counted_and_too_many_refused(audio, tmp_path, capsys):
    (audio / "clips" / "1" / "jkl.flac").unlink()
    fails(
        "eval_segments.csv: 1 of 2 clips are not there; .* --most-missing",
        tmp_path / "set",
        "audioset",
        audio,
    )
    run("audioset", audio, "-o", tmp_path / "set", "--most-missing", 0.5)
    assert "1 of 2 clips" in capsys.readouterr().err
    assert read_meta(tmp_path / "set")["splits"]["eval"]["missing"] == 1


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
    fails("eval_segments.csv:6: '/m/zzz' is no class", tmp_path / "set", *words)
    segments.write_text(good + "pqr, 0.000\n")
    fails("eval_segments.csv:6: YTID, start, end", tmp_path / "set", *words)
    segments.unlink()
    fails("eval_segments.csv: no such file", tmp_path / "set", *words)


# --- language model -----------------------------------------------------------------------------

ARPA = "\n\\data\\\nngram 1=2\n\n\\1-grams:\n-1\t<s>\n-1\tHELLO\n\n\\end\\\n"


def test_the_official_language_model_is_unpacked_and_its_words_spelt(tmp_path):
    source = tmp_path / "lm"
    source.mkdir()
    (source / "4-gram.arpa.gz").write_bytes(gzip.compress(ARPA.encode()))
    lexicon = "HELLO  HH AH0 L OW1\nHELLO  HH EH0 L OW1\nIT'S  IH1 T S\nCAFÉ  K AE0 F EY1\n"
    (source / "librispeech-lexicon.txt").write_text(lexicon, encoding="utf-8")
    run("official-lm", source, "-o", tmp_path / "set")
    assert (tmp_path / "set" / "lm.arpa").read_text() == ARPA
    rows = (tmp_path / "set" / "lexicon.txt").read_text().splitlines()
    assert rows == ["HELLO\tH E L L O |", "IT'S\tI T ' S |"]
    assert read_meta(tmp_path / "set")["words_left_out"] == 1


def test_faults_of_the_language_model_are_named(tmp_path):
    source = tmp_path / "lm"
    source.mkdir()
    words = ("official-lm", source)
    fails("none of 4-gram.bin, .*`d2v fetch librispeech-lm`", tmp_path / "set", *words)
    (source / "4-gram.arpa.gz").write_bytes(gzip.compress(ARPA.encode())[:-20])
    fails("none of librispeech-lexicon.txt", tmp_path / "set", *words)
    (source / "librispeech-vocab.txt").write_text("HELLO\n")
    fails("4-gram.arpa.gz: truncated or unreadable", tmp_path / "set", *words)
    (source / "4-gram.bin").write_bytes(b"something else")
    fails("4-gram.bin: not a KenLM binary file", tmp_path / "set", *words)
