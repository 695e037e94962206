"""The words about a prepared set are those of its meta.json and its files."""

from pathlib import Path

import pytest
from preparing import run
from small_sets import corpus_folder, glue_folder, image_tree, speech_tree

from d2v.data.shards import write_meta
from d2v.data.summary import amount, summary, told


def test_prepare_ends_with_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prepared" / "photos"
    run("imagefolder", image_tree(tmp_path / "tree"), "-o", out, "--workers", 1)
    first, *splits = capsys.readouterr().out.splitlines()
    size = amount(sum(p.stat().st_size for p in out.rglob("*") if p.is_file()))
    assert first.startswith(f"{out}: 12 examples, 2 classes, {size}, in ")
    assert splits == ["  dev: 6 examples", "  train: 6 examples"]


def test_hours_tokens_and_words_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("librispeech", speech_tree(tmp_path / "tree"), "-o", tmp_path / "speech", "--workers", 1)
    assert "  train: 3 examples, 0.0 minutes" in capsys.readouterr().out
    corpus = corpus_folder(tmp_path / "corpus")
    run("tokenizer", corpus, "-o", tmp_path / "tokenizer", "--vocab-size", 60)
    assert f"{tmp_path / 'tokenizer'}: 60 tokens, " in capsys.readouterr().out
    words = ("--tokenizer", tmp_path / "tokenizer", "--workers", 1)
    run("corpus", corpus, "-o", tmp_path / "blocks", "--block", 24, *words)
    assert " examples, " in (said := capsys.readouterr().out)
    assert " tokens" in said
    run("glue", "SST-2", glue_folder(tmp_path / "sst2", "SST-2"), "-o", tmp_path / "g", *words)
    assert "  dev: 8 examples" in capsys.readouterr().out


def test_what_is_missing_is_told_per_split_and_for_the_set(tmp_path: Path) -> None:
    splits = {"eval": {"examples": 7, "samples": 16_000 * 3600, "missing": 2}}
    splits["dev"] = {"examples": 0, "broken_rows_left_out": 3}
    write_meta(tmp_path, splits=splits, rate=16_000, classes=["a", "b", "c"])
    assert told(tmp_path, 1.25).splitlines()[1:] == [
        "  dev: 0 examples (3 broken rows left out)",
        "  eval: 7 examples, 1.0 hours (2 clips missing)",
    ]
    found = summary(tmp_path)
    assert found is not None
    assert found.line.startswith("7 examples, 1.0 hours, 3 classes, ")
    assert found.line.endswith(", 2 clips are missing")


def test_no_set_has_no_summary(tmp_path: Path) -> None:
    assert summary(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (2.5e9, "2.5 GB")],
)
def test_amounts_have_units(size: float, words: str) -> None:
    assert amount(size) == words
