"""Text of one's own: corpora in any folder, and sentences with classes or numbers."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from own_sets import meta, params_of, prepared, sentences
from small_sets import SENTENCES, write_lines

from d2v import params
from d2v.cli import prepare
from d2v.data import build_dataset
from d2v.data.shards import Shards
from d2v.data.tokenizer import Tokenizer
from d2v.util.errors import UserError

FRACTIONS = {"fractions": {"train": 0.5, "dev": 0.25, "test": 0.25}}


# --- labelled sentences ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentences(tmp_path_factory.mktemp("own") / "set")


def group(source: Path, **more: Any) -> dict[str, Any]:
    usual = {"kind": "labelled_text", "source": str(source), "splits": FRACTIONS}
    columns = {"file": "reviews.csv", "texts": ["sentence"], "label": "mood", "classes": 2}
    return {**usual, **columns, **more}


@pytest.fixture
def tokens(small_prepared: Path) -> list[object]:
    return ["--tokenizer", small_prepared / "tokenizer", "--workers", 1]


def test_a_csv_becomes_a_set_like_glues(source: Path, tmp_path: Path, tokens: list[Any]) -> None:
    out = prepared(tmp_path / "out", *tokens, **group(source))
    found = meta(out)
    assert (found["kind"], found["classes"], found["pairs"]) == ("glue", ["bad", "good"], False)
    train = Shards(out / "train")
    assert sorted(train.numbers("label").tolist()) == [0] * 6 + [1] * 6
    model = Tokenizer(tokens[1])
    texts = {row.split('"')[1] for row in (source / "reviews.csv").read_text().splitlines()[1:]}
    first = model.decode(np.frombuffer(train.payload(0), model.dtype).tolist())
    assert first in {model.decode(model.encode(text)) for text in texts}
    view = params.TokenAugment(kind="text", max_tokens=64)
    encoder = params.TokenEncoder(kind="text", vocab_size=model.size, max_positions=70)
    task = params.Classify(kind="classify", classes=2, pool="first")
    data = build_dataset(out, "dev", view, encoder=encoder, seed=0, train=False, task=task)
    assert len(data) == 6


def test_the_tables_may_be_of_any_kind_and_classes_may_be_named(
    source: Path, tmp_path: Path, tokens: list[Any]
) -> None:
    """The same rows as TSV, gzipped JSON lines and Parquet give the same bytes."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [r.rsplit(",", 1) for r in (source / "reviews.csv").read_text().splitlines()[1:]]
    pairs = [(text.strip('"'), label) for text, label in rows]
    named = {"classes": ["bad", "good"]}
    write_lines(tmp_path / "set/a.tsv", "sentence\tmood", *("\t".join(pair) for pair in pairs))
    lines = (json.dumps({"sentence": text, "mood": label}) for text, label in pairs)
    with gzip.open(tmp_path / "set/a.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    columns = {"sentence": [text for text, _ in pairs], "mood": [label for _, label in pairs]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "set/a.parquet")
    given = group(tmp_path / "set", **named)
    hashes = set()
    for name in ("a.tsv", "a.jsonl.gz", "a.parquet"):
        out = prepared(tmp_path / name.replace(".", "-"), *tokens, **{**given, "file": name})
        hashes.add(meta(out)["sha256"])
    expected = prepared(tmp_path / "out", *tokens, **group(source))
    assert hashes == {meta(expected)["sha256"]}


def test_pairs_with_numbers_in_one_file_per_split(tmp_path: Path, tokens: list[Any]) -> None:
    """The test file has no labels."""
    for split in ("train", "dev", "test"):
        head = "a\tb" + ("\tscore" if split != "test" else "")
        rows = [
            f"{split} {text}\t{text}" + (f"\t{i / 2}" if split != "test" else "")
            for i, text in enumerate(SENTENCES)
        ]
        write_lines(tmp_path / "set" / f"{split}.tsv", head, *rows)
    folders = {"folders": {split: f"{split}.tsv" for split in ("train", "dev", "test")}}
    out = prepared(
        tmp_path / "out", *tokens, kind="labelled_text", source=str(tmp_path / "set"),
        splits=folders, texts=["a", "b"], label="score",
    )  # fmt: skip
    found = meta(out)
    assert (found["classes"], found["pairs"]) == (None, True)
    assert [found["splits"][s]["labelled"] for s in folders["folders"]] == [True, True, False]
    assert Shards(out / "dev").numbers("label").tolist() == [i / 2 for i in range(len(SENTENCES))]


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ('"","good"', {}, "column 'sentence' is empty"),
        ('"x",""', {}, "column 'mood' is empty"),
        ('"x","god"', {"classes": ["bad", "good"]}, "label 'god' is not one of the classes"),
        ('"x","good"', {"classes": None}, "label 'good' is not a number"),
    ],
)
def test_an_unusable_row_is_named_and_can_be_left_out(
    row: str, more: dict[str, Any], message: str, tmp_path: Path, tokens: list[Any]
) -> None:
    folder = sentences(tmp_path / "set")
    table = folder / "reviews.csv"
    lines = table.read_text().splitlines()
    if more.get("classes", 2) is None:
        lines[1:] = [line.replace(",good", ",1.5").replace(",bad", ",-2") for line in lines[1:]]
    table.write_text("\n".join([*lines[:3], row, *lines[3:]]) + "\n")
    with pytest.raises(UserError, match=rf"reviews\.csv:4: {message}") as caught:
        prepared(tmp_path / "out", *tokens, **group(folder, **more))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    out = prepared(tmp_path / "out", *tokens, **group(folder, skip_bad=True, **more))
    splits = meta(out)["splits"].values()
    assert sum(split["examples"] for split in splits) == 24
    assert sum(split.get("left_out", 0) for split in splits) == 1
    assert "reviews.csv:4" in (out / "left_out.tsv").read_text()


def test_a_text_of_two_splits_is_a_leak(tmp_path: Path, tokens: list[Any]) -> None:
    rows = [f"{text},{i % 2}" for i, text in enumerate(SENTENCES)]
    write_lines(tmp_path / "set/train.csv", "sentence,mood", *rows[:6], rows[0])
    write_lines(tmp_path / "set/dev.csv", "sentence,mood", *rows[6:], rows[1])
    folders = {"folders": {"train": "train.csv", "dev": "dev.csv"}}
    given = group(tmp_path / "set", file=None, splits=folders)
    message = r"train\.csv:3: a leak: its text is also in split dev, at .*dev\.csv:4"
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "out", *tokens, **given)
    out = prepared(tmp_path / "out", *tokens, **given, skip_bad=True)
    assert meta(out)["splits"]["train"] == {"examples": 6, "labelled": True, "left_out": 1}
    assert meta(out)["repeats"]["train"]["duplicates"] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"texts": ["text"]}, r"reviews\.csv:1: no column 'text' \(there are 'sentence', 'mood'\)"),
        ({"label": "class"}, r"reviews\.csv:1: no column 'class'"),
        ({"classes": 3}, r"the train split has 2 different values \('bad', 'good'\)"),
        ({"file": "none.csv"}, r"none\.csv: no such file"),
    ],
)
def test_wrong_parameters_are_reported(
    more: dict[str, Any], message: str, source: Path, tmp_path: Path, tokens: list[Any]
) -> None:
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "out", *tokens, **group(source, **more))
    assert not (tmp_path / "out").exists()


# --- a corpus -------------------------------------------------------------------------------------


def corpus(folder: Path) -> dict[str, Any]:
    documents = [f"{text}\n{text[::-1]}" for text in SENTENCES]
    lines = "\n".join(json.dumps({"text": text}) for text in documents[:4]) + "\n"
    folder.mkdir()
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (folder / "b.txt.gz").write_bytes(gzip.compress("\n\n".join(documents[4:]).encode()))
    return {"kind": "text_folder", "source": str(folder), "block": 24, "vocab_size": 60}


def both(folder: Path, given: dict[str, Any]) -> Path:
    """Tokenizer and corpus of a parameter file."""
    file = params_of(folder / "params", "corpus", **given)
    prepare.main(["text-tokenizer", str(file), "corpus", "-o", str(folder / "tokenizer")])
    words = ["text-folder", str(file), "corpus", "-o", str(folder / "corpus"), "--workers", "1"]
    prepare.main([*words, "--tokenizer", str(folder / "tokenizer")])
    return folder / "corpus"


def test_compressed_documents_are_divided_whole(tmp_path: Path) -> None:
    splits = {"fractions": {"train": 0.7, "dev": 0.3}, "seed": 2}
    out = both(tmp_path / "a", {**corpus(tmp_path / "set"), "splits": splits})
    names = {
        split: {name.partition("#")[0] for name in Shards(out / split).texts("id")}
        for split in ("train", "dev")
    }
    assert not names["train"] & names["dev"]
    assert len(names["train"] | names["dev"]) == len(SENTENCES)
    assert meta(out)["tokenizer"] == meta(tmp_path / "a/tokenizer")["sha256"]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "b.txt.gz"])
def test_a_truncated_archive_is_named(name: str, tmp_path: Path) -> None:
    given = {**corpus(tmp_path / "set"), "splits": {"fractions": {"train": 1.0}}}
    path = tmp_path / "set" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{name}:\d+: damaged (gzip|Zstandard) file") as caught:
        both(tmp_path / "a", given)
    assert "\n" not in str(caught.value)
