"""Libri-light's lists and unlabelled speech, the official language model."""

import gzip
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import public_sets
import pytest
import soundfile
from preparing import run
from speech_builds import fails, sound

from d2v.data.readers import librilight
from d2v.data.readers.librilight import recordings, strung
from d2v.data.shards import PARTS, Shards, hash_of, read_meta
from d2v.data.sound import RATE, decode
from d2v.data.writing import write_split
from d2v.util.errors import UserError

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


def test_long_files_are_cut_without_their_pauses(light, tmp_path):
    run("librilight", light, "--seconds", 8, "-o", tmp_path / "a", "--workers", 1)
    shards = Shards(tmp_path / "a" / "train")
    assert list(shards.texts("id")) == ["77/long#0", "77/long#1", "88/short#0"]
    # 4 and 2 s make the first piece, 4.5 and 0.5 s the second
    assert shards.numbers("samples").tolist() == [6 * RATE, 5 * RATE, 3 * RATE]
    whole, _ = soundfile.read(light / "small" / "77" / "book" / "long.flac", dtype="int16")
    for number, spans in enumerate((((0, 4), (5, 7)), ((7.5, 12), (19, 19.5)))):
        spoken = [whole[round(start * RATE) : round(end * RATE)] for start, end in spans]
        assert np.array_equal(decode(shards.payload(number), "piece"), np.concatenate(spoken))
    assert "text" not in shards.columns
    meta = read_meta(tmp_path / "a")
    assert meta["splits"]["train"] == {"examples": 3, "samples": 14 * RATE}
    assert meta["hours"] == {"small": round(23 / 3600, 3)}  # before cutting


# shards of one file each; a file takes its time
SCRIPT = """
import sys, time
from functools import partial
from d2v.data.readers import librilight; from d2v.cli import prepare
from d2v.data.writing import write_split
librilight.write_split = partial(write_split, shard_bytes=1)
pause, decode = float(sys.argv[1]), librilight.decode
librilight.decode = lambda *given: (time.sleep(pause), decode(*given))[1]
prepare.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch):
    for number in range(5):
        sound(tmp_path / "light" / "medium" / str(number) / "book" / "a.flac", 2.1, number)
    words = ["librilight", str(tmp_path / "light"), "-o", str(tmp_path / "set")]
    killed = subprocess.Popen([sys.executable, "-c", SCRIPT, "0.3", *words, "--workers", "1"])
    parts = tmp_path / "set.tmp" / PARTS / "train"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() < 0
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.bin")}
    assert 2 <= len(kept) < 5
    monkeypatch.setattr(librilight, "write_split", partial(write_split, shard_bytes=1))
    run(*words, "--workers", 1)
    for path, time_ns in kept.items():  # taken as they were
        assert (tmp_path / "set" / "train" / path.name).stat().st_mtime_ns == time_ns
    run("librilight", tmp_path / "light", "-o", tmp_path / "whole", "--workers", 2)
    assert hash_of(tmp_path / "set") == hash_of(tmp_path / "whole")
    hours = [read_meta(tmp_path / name)["hours"] for name in ("set", "whole")]
    assert hours == [{"medium": round(5 * 2.1 / 3600, 3)}] * 2


def test_spans_are_strung_together_and_cut_by_their_length():
    s = RATE
    assert strung([(0, 3 * s), (4 * s, 5 * s)], 4 * s) == [[(0, 3 * s), (4 * s, 5 * s)]]
    assert strung([(0, 3 * s), (4 * s, 6 * s)], 4 * s) == [[(0, 3 * s)], [(4 * s, 6 * s)]]
    long = [[(0, 10 * s)], [(10 * s, 20 * s)], [(20 * s, 25 * s)]]
    assert strung([(0, 25 * s)], 10 * s) == long
    assert strung([(0, s)], 10 * s) == []


def test_all_subsets_are_read_and_nothing_beside_them(light, tmp_path):
    for place in ("large/77/other/long.flac", "duplicate/5/book/x.flac", "medium/9/b/.x.flac"):
        sound(light / place, 2.5)
    found = recordings(light)
    names = [(r.subset, r.name, r.voice is not None) for r in found]
    assert names == [  # chapters of two books may have one name
        ("small", "small/77/book/long", True),
        ("small", "88/short", False),
        ("large", "large/77/other/long", False),
    ]
    tree = [r.name for r in recordings(light / "small")]  # without subsets
    assert tree == ["77/long", "88/short"]
    words = ("librilight", light, "--seconds", 8, "--official")
    fails("small has 0.0 of 577.2 hours; medium has 0.0 of 5,189.0 .*large", tmp_path / "x", *words)
    run(*words, "--allow-partial", "-o", tmp_path / "x")
    meta = read_meta(tmp_path / "x")
    assert meta["complete"] is False
    assert list(meta["hours"]) == ["large", "small"]


def test_files_that_give_no_piece_are_counted_and_named(light, tmp_path, capsys):
    book = light / "small" / "77" / "book"
    (book / "long.json").write_text('{"voice_activity": []}')
    for place in ("small/5/b/brief.flac", "duplicate/5/b/x.flac"):
        sound(light / place, 1.5)
    run("librilight", light, "-o", tmp_path / "set", "--workers", 1)
    said = capsys.readouterr().err
    assert f"{light}: 2 paths not used (no piece of 2 s or longer): small/5/b/brief.flac, " in said
    assert "small/77/book/long.flac\n" in said
    assert f"{light}: 1 path not used (further recordings of books in the subsets): dup" in said
    assert list(Shards(tmp_path / "set" / "train").texts("id")) == ["88/short#0"]


def test_speech_in_overlapping_spans_is_used_once(light, tmp_path):
    book = light / "small" / "77" / "book"
    voice = [[4.0, 5.0], [0.0, 3.0], [1.0, 4.0], [0.5, 2.0], [19.0, 30.0]]
    (book / "long.json").write_text(json.dumps({"voice_activity": voice}))
    run("librilight", light, "-o", tmp_path / "set", "--workers", 1)
    shards = Shards(tmp_path / "set" / "train")
    assert shards.numbers("samples").tolist() == [6 * RATE, 3 * RATE]
    whole, _ = soundfile.read(book / "long.flac", dtype="int16")
    spoken = np.concatenate([whole[: 5 * RATE], whole[19 * RATE :]])
    assert np.array_equal(decode(shards.payload(0), "piece"), spoken)


@pytest.mark.parametrize("span", ["[4.0, 1.0]", "[-1, 2]", "[0, Infinity]", "[NaN, 1]", "[0]"])
def test_a_span_that_cannot_be_is_refused(light, tmp_path, span):
    book = light / "small" / "77" / "book"
    (book / "long.json").write_text(f'{{"voice_activity": [[0, 3], {span}]}}')
    words = ("librilight", light, "--workers", 1)
    fails("long.json: voice_activity ", tmp_path / "set", *words)


def test_faults_of_libri_light_are_named(light, tmp_path):
    book = light / "small" / "77" / "book"
    words = ("librilight", light, "--seconds", 8, "--workers", 1)
    (book / "long.json").write_text('{"voice_activity": 3}')
    fails("long.json: voice_activity is not", tmp_path / "set", *words)
    (book / "long.json").unlink()
    fails("long.flac: too long, and no long.json", tmp_path / "set", *words)
    sound(book / "long.flac", 1.0, rate=8000)
    fails("long.flac: 8000 Hz, 1 channel", tmp_path / "set", *words)
    sound(book / "long.flac", 3.0)
    flipped = bytearray((book / "long.flac").read_bytes())
    flipped[26] ^= 255  # of the checksum: the decoder is content
    (book / "long.flac").write_bytes(flipped)
    fails("long.flac: corrupt audio .samples differ", tmp_path / "set", *words)
    (book / "long.flac").write_bytes(b"fLaC")
    fails("long.flac: corrupt audio", tmp_path / "set", *words)
    sound(light / "small" / "stray.flac", 3.0)
    fails("stray.flac: not in a speaker folder", tmp_path / "set", *words)
    fails(
        "--seconds 1: pieces shorter than 2 s",
        tmp_path / "set",
        "librilight",
        light,
        "--seconds",
        1,
    )
    (tmp_path / "empty").mkdir()
    fails("empty: contains no FLAC files", tmp_path / "set", "librilight", tmp_path / "empty")


# --- language model -----------------------------------------------------------------------------

ARPA = """\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-1.2\t<unk>\t0
-99\t<s>\t-0.3
-0.4\t</s>\t0
-0.4\tHELLO\t-0.3

\\2-grams:
-0.3\t<s> HELLO
-0.3\tHELLO HELLO
-0.3\tHELLO </s>

\\end\\
"""


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


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\n\\end\\\n", "", "not a language model"),
        ("ngram 2=3", "ngram 2=4", "not a language model"),
        ("-0.3\tHELLO HELLO\n", "", "not a language model"),
        ("-0.3\t<s> HELLO\n", "0.3\t<s> HELLO\n", "not a language model"),
        ("HELLO", "hello", "knows none of the lexicon's 1 words"),
    ],
)
def test_a_language_model_that_decoding_cannot_open_is_refused(tmp_path, old, new, said):
    source = tmp_path / "lm"
    source.mkdir()
    assert old in ARPA
    (source / "4-gram.arpa").write_text(ARPA.replace(old, new))
    (source / "librispeech-vocab.txt").write_text("HELLO\n")
    fails(rf"lm/4-gram\.arpa: .*{said}", tmp_path / "set", "official-lm", source)


def test_a_language_model_without_unk_is_told(tmp_path, capsys):
    source = tmp_path / "lm"
    source.mkdir()
    without = ARPA.replace("-1.2\t<unk>\t0\n", "").replace("ngram 1=4", "ngram 1=3")
    (source / "4-gram.arpa").write_text(without)
    (source / "librispeech-vocab.txt").write_text("HELLO\nTHERE\n")
    run("official-lm", source, "-o", tmp_path / "set")
    said = "lists no <unk>, so decoding never writes the lexicon's 1 words that it does not know"
    assert said in capsys.readouterr().err


def test_faults_of_the_language_model_are_named(tmp_path):
    source = tmp_path / "lm"
    source.mkdir()
    words = ("official-lm", source)
    fails("none of 4-gram.bin, .*`d2v fetch librispeech-lm`", tmp_path / "set", *words)
    (source / "4-gram.arpa.gz").write_bytes(gzip.compress(ARPA.encode())[:-20])
    fails("none of librispeech-lexicon.txt", tmp_path / "set", *words)
    (source / "librispeech-vocab.txt").write_text("HELLO\n")
    fails("4-gram.arpa.gz: truncated or unreadable", tmp_path / "set", *words)
    damaged = bytearray(gzip.compress(ARPA.encode() + bytes(range(256)) * 300, 9))
    damaged[80:90] = bytes(10)
    (source / "4-gram.arpa.gz").write_bytes(damaged)
    fails("4-gram.arpa.gz: truncated or unreadable", tmp_path / "set", *words)
    (source / "4-gram.bin").write_bytes(b"something else")
    fails("4-gram.bin: not a KenLM binary file", tmp_path / "set", *words)


# --- few subsets of LibriSpeech, with the audio of the small lists --------------------------------


def test_the_audio_of_the_lists_makes_few_subsets_enough(tmp_path, capsys):
    tree, limited = tmp_path / "LibriSpeech", tmp_path / "librispeech_finetuning"
    public_sets.librispeech(tree, limited)
    words = ("librispeech", tree, "--limited", limited, "--workers", 1)
    fails("1-7-0002 of 10min|8-7-0000 of 1h", tmp_path / "set", *words)
    run(*words, "--limited-audio", "-o", tmp_path / "set")
    meta = read_meta(tmp_path / "set")
    counts = {split: found["examples"] for split, found in meta["splits"].items()}
    assert counts == {"dev-clean": 8, "limited": 8, "test-clean": 8, "train-clean-100": 8}
    shards = Shards(tmp_path / "set" / "limited")
    assert list(shards.texts("id")) == [f"{s}-7-000{n}" for s in (8, 9) for n in range(4)]
    wave, _ = soundfile.read(limited / "1h/1/other/8/7/8-7-0001.flac", dtype="int16")
    assert np.array_equal(decode(shards.payload(1), "x"), wave)
    lists = {p.stem: p.read_text().split() for p in (tmp_path / "set" / "lists").iterdir()}
    assert lists["10min"] == ["1-7-0002"]
    assert len(lists["1h"]) == 5
    assert len(lists["10h"]) == 9


def test_only_the_chosen_subsets_are_compared_with_the_official_ones(tmp_path):
    tree, limited = tmp_path / "LibriSpeech", tmp_path / "librispeech_finetuning"
    public_sets.librispeech(tree, limited)
    with pytest.raises(UserError) as caught:
        run("librispeech", tree, "--splits", "dev-clean", "--official", "-o", tmp_path / "set")
    assert "dev-clean has 8 of 2,703; add" in str(caught.value)
    assert "test-other" not in str(caught.value)
