"""Every case of cases.py has tests that exist; those that no other file has are here."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import cases
import numpy as np
import own_builds
import pytest
import soundfile
import torch
from PIL import Image
from preparing import run
from small_sets import speech_tree, write_lines
from tiny import OPTIMISER, SCHEDULE, TRAIN, Points

import d2v
from d2v.cli import commands as cli
from d2v.data import encodings, ngram
from d2v.data.readers.imagefolder import decode
from d2v.data.readers.limited import write_limited
from d2v.data.shards import Shards
from d2v.training import devices, distributed, optim, trainer

TESTS = Path(__file__).parents[1]


def functions(file: Path) -> set[str]:
    """Names of the functions at the top of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("case", cases.CASES)
def test_the_tests_of_a_case_exist(case: str) -> None:
    assert cases.CASES[case].tests
    for name in cases.CASES[case].tests:
        file, _, function = name.partition("::")
        assert function in functions(TESTS / file), name


def test_the_table_tells_what_became_of_each_case() -> None:
    outcomes = cases.Outcomes()
    one, two = cases.Case("", ["a.py::one"]), cases.Case("", ["a.py::one", "a.py::two"])
    for name, outcome in (("one[1]", "passed"), ("one[2]", "passed")):
        outcomes.pytest_runtest_logreport(report(name, "call", outcome))
    assert (outcomes.of(one), outcomes.of(two)) == ("passed", "not run")
    outcomes.pytest_runtest_logreport(report("two", "setup", "skipped"))
    assert outcomes.of(two) == "skipped"
    outcomes.pytest_runtest_logreport(report("one[3]", "call", "failed"))
    assert (outcomes.of(one), outcomes.of(two)) == ("failed", "failed")


def report(name: str, when: str, outcome: str) -> SimpleNamespace:
    return SimpleNamespace(nodeid=f"tests/a.py::{name}", when=when, outcome=outcome)


# --- data -------------------------------------------------------------------------------------


def ids(split: Path) -> list[str]:
    return list(Shards(split).texts("id"))


def test_links_to_folders_are_read(tmp_path: Path, small_prepared: Path) -> None:
    write_lines(tmp_path / "text" / "books" / "a.txt", "the cat sat on the mat")
    write_lines(tmp_path / "disk" / "wiki" / "b.txt", "a dog ran over the hill")
    (tmp_path / "text" / "wiki").symlink_to(tmp_path / "disk" / "wiki")
    tokens = ("--tokenizer", small_prepared / "tokenizer", "--block", 24)
    run("corpus", tmp_path / "text", *tokens, "-o", tmp_path / "corpus")
    assert [id.split(":")[0] for id in ids(tmp_path / "corpus" / "train")] == ["books/a", "wiki/b"]

    light, disk = tmp_path / "light", tmp_path / "disk"
    noise = np.random.default_rng(0).normal(0, 1000, 64_000).astype(np.int16)
    for path in (light / "small/100/book/a.flac", disk / "200/book/b.flac"):
        path.parent.mkdir(parents=True)
        soundfile.write(path, noise, 16_000)
    (light / "small" / "200").symlink_to(disk / "200")
    run("librilight", light, "-o", tmp_path / "cut")
    assert ids(tmp_path / "cut" / "train") == ["100/a#0", "200/b#0"]

    lists = tmp_path / "limited"
    write_lines(lists / "1h/0/clean/1/2/1-2-0000.flac")
    write_lines(disk / "other/3/4/3-4-0000.flac")
    write_lines(lists / "9h/5-6-0000.flac")
    (lists / "1h" / "0" / "other").symlink_to(disk / "other")
    (tmp_path / "out").mkdir()
    assert write_limited(lists, tmp_path / "out", {"1-2-0000", "3-4-0000", "5-6-0000"})
    found = {file.stem: len(file.read_text().split()) for file in (tmp_path / "out").rglob("*.txt")}
    assert found == {"10min": 2, "1h": 2, "10h": 3}


def test_16_bit_images_keep_their_levels(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 1024).reshape(32, 32)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray((ramp / 257).astype(np.uint8)).save(tmp_path / "8.png")
    shallow, deep = (
        np.asarray(decode((tmp_path / f"{bits}.png").read_bytes(), "x"), int) for bits in (8, 16)
    )
    assert np.abs(shallow - deep).max() <= 1
    assert len(np.unique(deep)) == 256


def test_a_transcript_too_long_for_its_sound_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = speech_tree(tmp_path / "speech", ("train",))
    rows = [f"1-7-{i:04d} {'SEVEN ' * (60 if i == 1 else 1)}".strip() for i in range(3)]
    write_lines(tree / "train" / "1" / "7" / "1-7.trans.txt", *rows)
    run("librispeech", tree, "-o", tmp_path / "set")
    said = capfd.readouterr().err
    assert "1 of 3 transcripts are too long for their audio" in said
    assert "1-7-0001" in said


def test_a_language_model_in_lower_case_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "lm" / "librispeech-vocab.txt", "ONE", "TWO")
    ngram.write_arpa(["one two", "two one"], 2, tmp_path / "lm" / "4-gram.arpa")
    words = ["prepare", "official-lm", str(tmp_path / "lm"), "-o", str(tmp_path / "set")]
    assert cli.main(words) != 0
    assert "knows none of the lexicon's 2 words" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_no_text_encodes_to_a_special_symbol() -> None:
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = [*map(chr, letters), *map(chr, range(256, 512 - len(letters)))]  # as GPT-2 names bytes
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary = special | {sign: at for at, sign in enumerate(sorted(signs), 4)}
    vocabulary["<mask>"] = len(vocabulary)
    files = {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": b"#version: 0.2\n"}
    tokens = encodings.encoding("bpe", files).encode("use <s> and </s> tags <pad> <mask>")
    assert not {*tokens} & {*special.values(), vocabulary["<mask>"]}


# --- inference --------------------------------------------------------------------------------


def test_the_name_of_a_missing_file_is_not_classified(
    tmp_path: Path, small_prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own_builds.folder(tmp_path / "m", "text", small_prepared / "tokenizer")
    for name in ("reveiws.txt", "/nowhere/reviews.txt", ""):
        assert cli.main(["classify", str(model), name]) != 0, name
        said = capsys.readouterr()
        assert said.out == ""
        assert name in said.err


def test_broken_sound_is_not_transcribed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own_builds.folder(tmp_path / "m", "speech")
    wave = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(tmp_path / "whole.wav", wave, 16_000)
    whole = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "half.wav").write_bytes(whole[: len(whole) // 2])
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        wave[100] = value
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000, subtype="FLOAT")
    assert cli.main(["transcribe", str(model), str(tmp_path / "whole.wav")]) == 0
    capsys.readouterr()
    for name in ("half", "nan", "inf"):
        assert cli.main(["transcribe", str(model), str(tmp_path / f"{name}.wav")]) != 0, name
        said = capsys.readouterr()
        assert said.out == ""
        assert f"{name}.wav" in said.err


def test_a_turned_photograph_is_turned_back(tmp_path: Path) -> None:
    model = d2v.load(own_builds.folder(tmp_path / "m", "vision"))
    (path,) = own_builds.images(tmp_path, ((24, 24),))
    with Image.open(path) as image:
        upright = image.copy()
    turned = Image.Exif()
    turned[0x112] = 6  # show it turned by a quarter, clockwise
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    known, found = d2v.classify(model, [str(path), str(tmp_path / "turned.png")])
    assert found.scores == pytest.approx(known.scores, abs=1e-6)


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("real", [False, True])
def test_emulated_bfloat16_is_left_off(real: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A V100 answers yes to the bare question (PyTorch counts emulation), no to the exact one."""

    def supported(including_emulation: bool = True) -> bool:
        return real or including_emulation

    world = SimpleNamespace(device=torch.device("cuda"), size=1, main=True)
    monkeypatch.setattr(distributed, "join", lambda: world)
    monkeypatch.setattr(devices, "keep_memory", lambda device: None)
    monkeypatch.setattr(optim, "build", lambda *words: SimpleNamespace(param_groups=[]))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    mixed = TRAIN.model_copy(update={"precision": "mixed"})
    loop = trainer._Loop(
        MagicMock(), Points(), OPTIMISER, SCHEDULE, mixed, work=Path(), seed=0, meta={}
    )
    assert loop.mixed is real
