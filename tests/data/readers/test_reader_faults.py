"""Faults planted in official layouts: each is named in one sentence, and nothing is left behind."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from preparing import run
from small_sets import corpus_folder, glue_folder, image_tree, speech_tree, write_lines

from d2v.data.shards import read_meta, write_meta
from d2v.util.errors import UserError

Plant = Callable[[Path], object]


def expect_fault(tmp_path: Path, message: str, *command: object) -> None:
    """The command fails with this message, and what was prepared before stays as it was."""
    out = tmp_path / "prepared" / "set"
    out.mkdir(parents=True)
    write_meta(out)
    before = (out / "meta.json").read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        run(*command, "-o", out)
    assert "\n" not in str(caught.value)
    assert not re.search(r"\b0x[0-9a-f]+|object at", str(caught.value))
    assert [p.name for p in out.parent.iterdir()] == ["set"]
    assert [p.name for p in out.iterdir()] == ["meta.json"]
    assert (out / "meta.json").read_bytes() == before


def cut(path: str, at: float = 0.6) -> Plant:
    """Truncate a file."""

    def plant(root: Path) -> None:
        payload = (root / path).read_bytes()
        (root / path).write_bytes(payload[: int(at * len(payload))])

    return plant


def flip(path: str) -> Plant:
    """Change bytes in the middle of a file."""

    def plant(root: Path) -> None:
        payload = bytearray((root / path).read_bytes())
        middle = len(payload) // 2
        payload[middle : middle + 4] = bytes(255 - byte for byte in payload[middle : middle + 4])
        (root / path).write_bytes(payload)

    return plant


def remove(path: str) -> Plant:
    return lambda root: (root / path).unlink()


def line(path: str, number: int, text: str | bytes) -> Plant:
    """Replace a line (from 1); one past the end appends."""

    def plant(root: Path) -> None:
        rows = (root / path).read_bytes().splitlines(keepends=True)
        rows[number - 1 : number] = [(text.encode() if isinstance(text, str) else text) + b"\n"]
        (root / path).write_bytes(b"".join(rows))

    return plant


def empty_folder(path: str) -> Plant:
    def plant(root: Path) -> None:
        for file in sorted((root / path).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()

    return plant


def folder(path: str) -> Plant:
    return lambda root: (root / path).mkdir(parents=True)


IMAGE = "train/n02/n02_train1.JPEG"
IMAGE_FAULTS: dict[str, tuple[Plant, str]] = {
    "truncated": (cut(IMAGE), rf"{IMAGE}: corrupt image .*[Tt]runcated"),
    "no image": (lambda r: (r / IMAGE).write_text("<html>"), rf"{IMAGE}: not a readable image"),
    "no bytes": (cut(IMAGE, 0), rf"{IMAGE}: an empty file"),
    "too large": (
        lambda r: Image.new("1", (40_000, 10_000)).save(r / "train/n02/big.png"),
        r"train/n02/big\.png: 400,000,000 pixels, more than Pillow opens \(178,956,970\); make",
    ),
    "stray file": (lambda r: write_lines(r / "train/n01/x.csv"), r"x\.csv: not an image file"),
    "same name": (
        lambda r: (r / "train/n02/n02_train1.png").write_bytes((r / IMAGE).read_bytes()),
        r"n02_train1\.png: another image",
    ),
    "empty class": (empty_folder("train/n01"), r"train/n01: contains no images"),
    "empty split": (empty_folder("dev"), r"dev: an empty split"),
    "missing class": (
        lambda r: (r / "dev/n02").rename(r / "dev/.n02"),
        r"dev: no class folder n02 \(1 missing\)",
    ),
    "absent id": (
        line("lists/labels-2.0.txt", 2, "n01/nobody"),
        r"labels-2\.0\.txt:2: .*'n01/nobody'",
    ),
    "id twice": (
        line("lists/labels-2.0.txt", 3, "n02/n02_train1"),
        r"labels-2\.0\.txt:3: .* twice",
    ),
    "empty list": (cut("lists/labels-2.0.txt", 0), r"labels-2\.0\.txt: an empty list"),
}


@pytest.mark.parametrize("fault", IMAGE_FAULTS)
def test_faults_in_image_trees_are_named(tmp_path: Path, fault: str) -> None:
    plant, message = IMAGE_FAULTS[fault]
    source = image_tree(tmp_path / "imagenet")
    plant(source)
    expect_fault(tmp_path, message, "imagefolder", source)


CHAPTER = "train/2/7"
FLAC, TRANS = f"{CHAPTER}/2-7-0001.flac", f"{CHAPTER}/2-7.trans.txt"


def resample(rate: int, channels: int = 1) -> Plant:
    wave = np.zeros((4800, channels), np.int16)
    return lambda root: soundfile.write(root / FLAC, wave, rate)


def same_utterance_in_dev(root: Path) -> None:
    (root / "dev/2").mkdir()
    (root / CHAPTER).rename(root / "dev/2/7")
    speech_tree(root / "again", ("x", "train"))
    (root / "again" / CHAPTER).rename(root / CHAPTER)
    for file in sorted((root / "again").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    (root / "again").rmdir()


SPEECH_FAULTS: dict[str, tuple[Plant, str]] = {
    "truncated": (cut(FLAC), rf"{FLAC}: corrupt audio"),
    "bytes changed": (flip(FLAC), rf"{FLAC}: corrupt audio"),
    "no audio": (lambda r: (r / FLAC).write_text("<html>"), rf"{FLAC}: corrupt audio"),
    "no bytes": (cut(FLAC, 0), rf"{FLAC}: an empty file"),
    "wrong rate": (resample(8000), rf"{FLAC}: 8000 Hz, 1 channel; 16000 Hz"),
    "stereo": (resample(16_000, 2), rf"{FLAC}: 16000 Hz, 2 channel"),
    "no samples": (
        lambda r: soundfile.write(r / FLAC, np.zeros(0, np.int16), 16_000),
        rf"{FLAC}: (contains no samples|an empty file)",
    ),
    "no transcripts": (remove(TRANS), rf"{TRANS}: missing; .* 3 FLAC"),
    "audio without transcript": (
        line(TRANS, 2, "2-7-0002 TWO"),
        rf"{TRANS}:3: 2-7-0002 already has a",
    ),
    "audio without line": (
        lambda r: write_lines(r / TRANS, "2-7-0000 A", "2-7-0002 B"),
        rf"{FLAC}: no transcript in 2-7\.trans\.txt",
    ),
    "transcript without audio": (remove(FLAC), rf"{TRANS}:2: 2-7-0001 has a transcript but no"),
    "empty transcript": (line(TRANS, 2, "2-7-0001 "), rf"{TRANS}:2: 2-7-0001 has an empty"),
    "no blank": (line(TRANS, 2, "2-7-0001"), rf"{TRANS}:2: 2-7-0001 has an empty"),
    "small letters": (line(TRANS, 2, "2-7-0001 One"), rf"{TRANS}:2: 'e' is not one of the letters"),
    "a digit": (line(TRANS, 2, "2-7-0001 ROOM 1"), rf"{TRANS}:2: '1' is not one of the letters"),
    "a tab": (line(TRANS, 2, "2-7-0001 ONE\tTWO"), rf"{TRANS}:2: '\\t' is not one of the letters"),
    "other chapter": (
        line(TRANS, 2, "2-8-0001 ONE"),
        rf"{TRANS}:2: '2-8-0001' is not an utterance",
    ),
    "not UTF-8": (line(TRANS, 2, b"2-7-0001 \xff"), rf"{TRANS}:2: not UTF-8"),
    "empty split": (empty_folder("train"), r"train: an empty split"),
    "another empty split": (folder("test"), r"test: an empty split"),
    "twice": (same_utterance_in_dev, rf"{CHAPTER}/2-7-0000\.flac: another split"),
    "absent id": (line("lists/labels-1.0.txt", 1, "9-9-0001"), r"labels-1\.0\.txt:1: .*9-9-0001"),
}


@pytest.mark.parametrize("fault", SPEECH_FAULTS)
def test_faults_in_speech_trees_are_named(tmp_path: Path, fault: str) -> None:
    plant, message = SPEECH_FAULTS[fault]
    source = speech_tree(tmp_path / "LibriSpeech")
    plant(source)
    expect_fault(tmp_path, message, "librispeech", source)


def test_blank_lines_of_transcripts_are_no_fault(tmp_path: Path) -> None:
    source = speech_tree(tmp_path / "LibriSpeech")
    run("librispeech", source, "-o", tmp_path / "a", "--workers", 1)
    path = source / TRANS
    path.write_text("\n" + path.read_text().replace("\n", "\n  \n"))
    run("librispeech", source, "-o", tmp_path / "b", "--workers", 1)
    assert read_meta(tmp_path / "a")["sha256"] == read_meta(tmp_path / "b")["sha256"]


@pytest.mark.parametrize("fault", ["stereo", "wrong rate", "no samples", "truncated"])
def test_faults_in_headers_are_named_without_decoding(tmp_path: Path, fault: str) -> None:
    if fault == "truncated":
        source = image_tree(tmp_path / "imagenet")
        Image.effect_noise((40, 30), 50).save(source / IMAGE, "JPEG")
        cut(IMAGE)(source)
        message = rf"{IMAGE}: corrupt image \(its end is missing"
        expect_fault(tmp_path, message, "imagefolder", source, "--headers")
        return
    plant, message = SPEECH_FAULTS[fault]
    source = speech_tree(tmp_path / "LibriSpeech")
    plant(source)
    expect_fault(tmp_path, message, "librispeech", source, "--headers")


GLUE_FAULTS: dict[str, tuple[str, Plant, str]] = {
    "missing column": (
        "RTE",
        line("train.tsv", 3, "1\ta\tb"),
        r"train\.tsv:3: 3 columns, but 4",
    ),
    "stray tab": ("SST-2", line("dev.tsv", 2, "a\tb\t1"), r"dev\.tsv:2: 3 columns, but 2"),
    "CoLA column": (
        "CoLA",
        line("train.tsv", 4, "gj04\t1\ta"),
        r"train\.tsv:4: 3 columns, but 4",
    ),
    "blank line": ("STS-B", line("train.tsv", 9, ""), r"train\.tsv:9: 1 column, but 10"),
    "bad label": (
        "MRPC",
        line("dev.tsv", 5, "2\t1\t2\ta\tb"),
        r"dev\.tsv:5: label '2' is not one of",
    ),
    "bad name": ("RTE", line("dev.tsv", 2, "0\ta\tb\tmaybe"), r"dev\.tsv:2: label 'maybe'"),
    "bad number": (
        "STS-B",
        line("dev.tsv", 2, "0\tn\tx\t1\t0\tn\tn\ta\tb\t5.5"),
        r"dev\.tsv:2: label '5\.5' is not a number from 0 to 5",
    ),
    "not a number": (
        "STS-B",
        line("dev.tsv", 2, "0\tn\tx\t1\t0\tn\tn\ta\tb\tnan"),
        r"dev\.tsv:2: label 'nan'",
    ),
    "no text": (
        "MRPC",
        line("dev.tsv", 5, "1\t1\t2\ta\t "),
        r"dev\.tsv:5: column '#2 String' is empty",
    ),
    "not UTF-8": ("SST-2", line("train.tsv", 6, b"caf\xe9\t1"), r"train\.tsv:6: not UTF-8"),
    "no header": ("SST-2", line("train.tsv", 1, "a\t1"), r"train\.tsv:1: no column 'sentence'"),
    "no label column": ("RTE", line("dev.tsv", 1, "i\tsentence1\tsentence2\tx"), r"'label'"),
    "no rows": (
        "SST-2",
        lambda r: write_lines(r / "dev.tsv", "sentence\tlabel"),
        r"dev\.tsv: an empty split",
    ),
    "empty file": ("CoLA", cut("dev.tsv", 0), r"dev\.tsv: an empty split"),
    "no files": ("CoLA", empty_folder(""), r"none of train\.tsv, dev\.tsv, test\.tsv"),
}


@pytest.mark.parametrize("fault", GLUE_FAULTS)
def test_faults_in_glue_files_are_named(tmp_path: Path, tokenizer: Path, fault: str) -> None:
    name, plant, message = GLUE_FAULTS[fault]
    source = glue_folder(tmp_path / name, name)
    plant(source)
    expect_fault(tmp_path, message, "glue", name, source, "--tokenizer", tokenizer)


def test_faults_in_text_are_named(tmp_path: Path, tokenizer: Path) -> None:
    source = corpus_folder(tmp_path / "corpus")
    line("b.txt", 2, b"\xc3(")(source)
    for command in (["tokenizer", source, "--vocab-size", 70], _corpus(source, tokenizer, 16)):
        with pytest.raises(UserError, match=r"b\.txt:2: not UTF-8"):
            run(*command, "-o", tmp_path / "out" / "set")
    write_lines(source / "b.txt", "", " ")
    with pytest.raises(UserError, match=r"b\.txt: contains no text"):
        run(*_corpus(source, tokenizer, 16), "-o", tmp_path / "out" / "set")
    with pytest.raises(UserError, match="no such folder"):
        run(*_corpus(source / "x", tokenizer, 16), "-o", tmp_path / "out" / "set")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no \*\.txt"):
        run(*_corpus(empty, tokenizer, 16), "-o", tmp_path / "out" / "set")
    assert not (tmp_path / "out" / "set").exists()
    assert list((tmp_path / "out").glob("*")) == []


def _corpus(source: Path, tokenizer: Path, block: int) -> list[object]:
    return ["corpus", source, "--tokenizer", tokenizer, "--block", block]


def test_impossible_sizes_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    source, out = corpus_folder(tmp_path / "corpus"), tmp_path / "out"
    with pytest.raises(UserError, match="--block 3"):
        run(*_corpus(source, tokenizer, 3), "-o", out)
    with pytest.raises(UserError, match="--vocab-size 5"):
        run("tokenizer", source, "-o", out, "--vocab-size", 5)
    with pytest.raises(UserError, match="cannot train 5000 tokens") as caught:
        run("tokenizer", source, "-o", out, "--vocab-size", 5000)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="order must be at least 2"):
        run("lm", speech_tree(tmp_path / "s") / "train", "-o", out, "--order", 1)
    with pytest.raises(UserError, match="no such GLUE task; known tasks: SST-2"):
        run("glue", "QQQ", source, "--tokenizer", tokenizer, "-o", out)
    with pytest.raises(UserError, match=r"meta\.json"):
        run("glue", "RTE", glue_folder(tmp_path / "g", "RTE"), "--tokenizer", source, "-o", out)
    with pytest.raises(UserError, match="no such folder"):
        run("imagefolder", tmp_path / "x", "-o", out)
    with pytest.raises(UserError, match="no split folders"):
        run("imagefolder", source, "-o", out)
    assert not out.exists()
