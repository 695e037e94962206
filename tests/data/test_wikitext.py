"""WikiText's articles: whole documents however the file is cut, with words rejoined."""

from pathlib import Path

import pytest
from preparing import run
from public_sets import wikitext

from d2v.data.documents import find_parts, read_sentences
from d2v.data.shards import Shards


def read(path: Path, piece_bytes: int) -> tuple[int, list[tuple[str, str]]]:
    parts = find_parts(path, piece_bytes)
    return len(parts), [row for part in parts for row in read_sentences(part, "text")]


@pytest.mark.parametrize("piece_bytes", [1, 500, 3000])
def test_articles_are_documents_however_the_file_is_cut(tmp_path: Path, piece_bytes: int) -> None:
    path = wikitext(tmp_path / "w") / "wiki.train.raw"
    one, whole = read(path, 10**9)
    many, cut = read(path, piece_bytes)
    assert one == 1
    assert many > 1
    assert cut == whole
    names = list(dict.fromkeys(name for name, _ in whole))
    assert len(names) == 12
    assert names[:2] == ["wiki.train:2", "wiki.train:13"]
    texts = [text for name, text in whole if name == names[0]]
    assert texts[0] == "Article 0"
    assert texts[1] == "the cat sat on the mat , well-known ."
    assert texts[2] == "Section of 0"
    assert texts[-2:] == ["Numbers", "It has 1,234.5 of them ."]


def test_it_becomes_blocks_of_whole_articles(tmp_path: Path) -> None:
    path = wikitext(tmp_path / "w") / "wiki.train.raw"
    run("tokenizer", path, "-o", tmp_path / "tokenizer", "--vocab-size", 120)
    words = ("--tokenizer", tmp_path / "tokenizer", "--block", 500, "--workers", 1)
    run("corpus", path, "-o", tmp_path / "corpus", *words)
    ids = list(Shards(tmp_path / "corpus" / "train").texts("id"))
    assert ids[:2] == ["wiki.train:2#0", "wiki.train:13#0"]
    assert len(ids) == 12
