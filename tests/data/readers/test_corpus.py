"""Text of any supported shape to blocks: the same blocks however it is cut, packed or killed."""

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from preparing import PIECE_BYTES, SHARD_BYTES, killed_and_resumed, run
from small_sets import SENTENCES, write_lines

from d2v.data import tokenizer
from d2v.data.documents import find_parts, read_sentences
from d2v.data.readers import corpus
from d2v.data.readers.corpus import pack
from d2v.data.shards import Shards, hash_of, read_meta
from d2v.data.tokenizer import UNKNOWN, Tokenizer, sample
from d2v.util.errors import UserError

DOCUMENTS = [[SENTENCES[(7 * d + s) % 8] for s in range(1 + d * d % 11)] for d in range(30)]


@pytest.fixture
def model(small_prepared: Path) -> Path:
    return small_prepared / "tokenizer"


def as_text(documents: list[list[str]]) -> str:
    return "\n\n".join("\n".join(document) for document in documents) + "\n"


def as_json(documents: list[list[str]], field: str = "text") -> str:
    rows = [{"id": n, field: "\n".join(d)} for n, d in enumerate(documents)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = text.encode()
    path.write_bytes(gzip.compress(payload) if path.suffix == ".gz" else payload)
    return path


def sentences(source: Path, piece_bytes: int, field: str = "text") -> list[tuple[str, str]]:
    parts = find_parts(source, piece_bytes)
    return [pair for part in parts for pair in read_sentences(part, field)]


def blocks(source: Path, model: Path, out: Path, *more: object) -> tuple[list[str], list[bytes]]:
    run("corpus", source, "--tokenizer", model, "-o", out, "--block", 24, *more)
    shards = Shards(out / "train")
    return list(shards.texts("id")), [bytes(shards.payload(i)) for i in range(len(shards))]


# --- cutting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 2, 30, 100, 1000, 10**6])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_documents_are_the_same_however_files_are_cut(tmp_path: Path, piece, newline) -> None:
    odd = " \t\n\n  padded  \n\n \n\u2003\nlast without line end"
    text = ("\ufeff\n" + as_text(DOCUMENTS) + odd).replace("\n", newline)
    (tmp_path / "a.txt").write_bytes(text.encode())
    expected, line = [], 2
    for document in DOCUMENTS:
        expected += [(f"a:{line}", sentence) for sentence in document]
        line += len(document) + 1
    found = sentences(tmp_path, piece)
    assert found[: len(expected)] == expected
    assert [text for _, text in found[len(expected) :]] == ["padded", "last without line end"]
    assert len({name for name, _ in found}) == len(DOCUMENTS) + 2
    rows = write(tmp_path / "j" / "b.jsonl", as_json(DOCUMENTS) + "\n" + as_json(DOCUMENTS[:1]))
    lines = [(f"b:{n + 1}", s) for n, document in enumerate(DOCUMENTS) for s in document]
    assert sentences(rows, piece) == [*lines, ("b:32", DOCUMENTS[0][0])]


def test_pieces_are_about_as_long_as_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", as_text(DOCUMENTS * 20))
    parts = find_parts(path, 2000)
    longest = max(len(as_text([document])) for document in DOCUMENTS) + 1
    assert all(2000 <= part.size < 2000 + longest for part in parts[:-1])
    assert sum(part.size for part in parts) == path.stat().st_size


def test_folders_may_be_nested_and_of_every_kind(tmp_path: Path) -> None:
    source = tmp_path / "text"
    write(source / "books" / "one.txt.gz", as_text(DOCUMENTS[:2]))
    write(source / "AA" / "wiki_00", as_json(DOCUMENTS[2:4]))
    write(source / "AA" / "wiki_01", as_json(DOCUMENTS[4:5]))
    write(source / "z.jsonl.gz", as_json(DOCUMENTS[5:6]))
    write(source / ".hidden" / "x.txt", "not seen")
    write(source / "readme.md", "not seen")
    found = sentences(source, 1000)
    places = ["AA/wiki_00:1", "AA/wiki_00:2", "AA/wiki_01:1", "books/one:1", "books/one:3", "z:1"]
    order = [2, 3, 4, 0, 1, 5]
    assert found == [
        (place, s) for place, n in zip(places, order, strict=True) for s in DOCUMENTS[n]
    ]


# --- blocks -----------------------------------------------------------------------------------


def test_text_json_and_compressed_give_the_same_blocks(tmp_path: Path, model: Path) -> None:
    _, plain = blocks(write(tmp_path / "a.txt", as_text(DOCUMENTS)), model, tmp_path / "1")
    _, packed = blocks(write(tmp_path / "a.txt.gz", as_text(DOCUMENTS)), model, tmp_path / "2")
    with_empty = (
        as_json(DOCUMENTS[:9]) + '{"text": ""}\n{"text": " \\n"}\n' + as_json(DOCUMENTS[9:])
    )
    _, rows = blocks(write(tmp_path / "a.jsonl", with_empty), model, tmp_path / "3")
    body = write(tmp_path / "b.jsonl", as_json(DOCUMENTS, "body"))
    names, other = blocks(body, model, tmp_path / "4", "--field", "body")
    assert plain == packed == rows == other
    assert names[0] == "b:1#0"
    assert Shards(tmp_path / "4" / "train").numbers("tokens").tolist() == [
        len(b) // 2 for b in plain
    ]


def test_blocks_are_those_of_complete_doc(model: Path) -> None:
    """Sentences that fit are never cut, and one more would not have fitted into any block."""
    random = np.random.default_rng(0)
    for most in (5, 12, 40):
        document = [[n] * int(random.integers(1, most + 1)) for n in range(200)]
        found = list(pack(document, most))
        assert [token for block in found for token in block] == [t for s in document for t in s]
        for block, following in itertools.pairwise(found):
            assert block[-1] != following[0]
            assert len(block) + len(document[following[0]]) > most >= len(block)


def test_documents_never_share_a_block_and_long_ones_take_several(tmp_path, model: Path) -> None:
    run(
        "corpus", write(tmp_path / "a.txt", as_text(DOCUMENTS)),
        "--tokenizer", model, "-o", tmp_path / "out", "--block", 16,
    )  # fmt: skip
    shards, words = Shards(tmp_path / "out" / "train"), Tokenizer(model)
    texts: dict[str, str] = {}
    for row, name in enumerate(shards.texts("id")):
        ids = np.frombuffer(shards.payload(row), words.dtype).tolist()
        assert 1 < len(ids) <= 16
        assert ids[0] == 0
        document, _, number = name.partition("#")
        assert (document in texts) == (number != "0")
        texts[document] = texts.get(document, "") + words.decode(ids).replace(" ", "")
    assert list(texts.values()) == ["".join(d).replace(" ", "") for d in DOCUMENTS]


def test_meta_counts_tokens(tmp_path: Path, model: Path) -> None:
    names, payloads = blocks(write(tmp_path / "a.txt", as_text(DOCUMENTS)), model, tmp_path / "out")
    meta = read_meta(tmp_path / "out")
    tokens = sum(map(len, payloads)) // 2
    assert meta["splits"] == {"train": {"examples": len(names), "tokens": tokens}}
    assert meta["dtype"] == "<u2"


# --- the same bytes ---------------------------------------------------------------------------


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(corpus, "SHARD_BYTES", SHARD_BYTES)


@pytest.mark.slow
def test_the_same_bytes_for_any_number_of_workers(tmp_path, model, small_shards) -> None:
    source = tmp_path / "text"
    write(source / "a.txt", as_text(DOCUMENTS))
    write(source / "b.jsonl", as_json(DOCUMENTS))
    for workers in (1, 3):
        blocks(source, model, tmp_path / str(workers), "--workers", workers)
    assert len(list((tmp_path / "1" / "train").glob("*.bin"))) > 5
    assert hash_of(tmp_path / "1") == hash_of(tmp_path / "3")


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(tmp_path, model, small_shards) -> None:
    source = write(tmp_path / "a.txt", as_text(DOCUMENTS))
    command = ("corpus", source, "--tokenizer", model, "--block", 24)
    blocks(source, model, tmp_path / "whole")
    resumed = killed_and_resumed(tmp_path / "out", "train", *command)
    assert resumed == hash_of(tmp_path / "whole")


# --- faults -----------------------------------------------------------------------------------

Plant = Callable[[Path], object]


def damaged(root: Path) -> None:
    path = write(root / "c.txt.gz", as_text(DOCUMENTS))
    path.write_bytes(path.read_bytes()[:-30])


FAULTS: dict[str, tuple[Plant, str]] = {
    "broken line": (
        lambda r: write(r / "a.jsonl", as_json(DOCUMENTS[:3]) + '{"text": "a'),
        r"a\.jsonl:4: not valid JSON",
    ),
    "no object": (lambda r: write(r / "a.jsonl", '"text"\n'), r"a\.jsonl:1: no text in field"),
    "missing field": (
        lambda r: write(r / "a.jsonl", as_json(DOCUMENTS[:2]) + '{"txt": "a"}\n'),
        r"a\.jsonl:3: no text in field 'text'; .*--field",
    ),
    "number for text": (
        lambda r: write(r / "a.jsonl", '{"text": 3}\n'),
        r"a\.jsonl:1: no text in field 'text'",
    ),
    "empty texts": (lambda r: write(r / "a.jsonl", '{"text": ""}\n'), r"all documents are empty"),
    "blank file": (lambda r: write(r / "a.jsonl", "\n \n"), r"a\.jsonl: contains no text"),
    "half a character": (
        lambda r: write(r / "a.jsonl", '{"text": "\\ud800"}\n'),
        r"a\.jsonl:1: half a character",
    ),
    "not UTF-8": (
        lambda r: (r / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n'),
        r"a\.jsonl:2: not UTF-8",
    ),
    "damaged gzip": (damaged, r"c\.txt\.gz:\d+: damaged gzip"),
    "no gzip": (lambda r: (r / "c.txt.gz").write_text("x"), r"c\.txt\.gz:1: damaged gzip"),
    "WikiExtractor without --json": (
        lambda r: write(r / "wiki_00", '<doc id="1">\na\n</doc>\n'),
        r"wiki_00:1: not valid JSON .*WikiExtractor with --json",
    ),
    "two of one name": (
        lambda r: [write(r / "a.txt", "a\n"), write(r / "a.jsonl", as_json(DOCUMENTS))],
        r"a\.txt: its documents would have the same names as those of a\.jsonl",
    ),
    "nothing to read": (lambda r: write(r / "a.md", "a\n"), r"no \*\.txt or \*\.jsonl"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_nothing_is_written(tmp_path: Path, model: Path, fault: str) -> None:
    plant, message = FAULTS[fault]
    source = tmp_path / "text"
    source.mkdir()
    plant(source)
    rest = ("-o", tmp_path / "out" / "set")
    commands = [
        ("corpus", source, "--tokenizer", model, "--block", 24, "--workers", 2),
        ("tokenizer", source, "--vocab-size", 70),
    ]
    for command in commands:
        with pytest.raises(UserError, match=message) as caught:
            run(*command, *rest)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


# --- tokenizer --------------------------------------------------------------------------------


def test_the_sample_is_even_ordered_and_fixed() -> None:
    numbers = [f"{n:05d}" for n in range(10_000)]
    found, total = sample(numbers, 1000)
    assert total == 10_000
    assert found == sorted(set(found)) == sample(iter(numbers), 1000)[0]
    assert len(found) == 1000
    thirds = np.histogram([int(n) for n in found], 4, (0, 10_000))[0]
    assert (abs(thirds - 250) < 60).all()  # 4 standard deviations
    assert sample(numbers[:5], 5) == (numbers[:5], 5)
    assert sample([], 5) == ([], 0)


def test_a_tokenizer_of_a_sample_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", as_text(DOCUMENTS))
    lines = sum(map(len, DOCUMENTS))
    for out in ("one", "two"):
        run("tokenizer", source, "-o", tmp_path / out, "--vocab-size", 60, "--sentences", 40)
    meta = read_meta(tmp_path / "one")
    assert (meta["sentences"], meta["drawn_from"]) == (40, lines)
    assert hash_of(tmp_path / "one") == hash_of(tmp_path / "two")
    with pytest.raises(UserError, match="--sentences 0"):
        run("tokenizer", source, "-o", tmp_path / "no", "--vocab-size", 60, "--sentences", 0)


def test_json_gives_the_same_tokenizer(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", as_text(DOCUMENTS))
    rows = write(tmp_path / "a.jsonl", as_json(DOCUMENTS, "body"))
    run("tokenizer", text, "-o", tmp_path / "1", "--vocab-size", 70)
    run("tokenizer", rows, "-o", tmp_path / "2", "--vocab-size", 70, "--field", "body")
    assert hash_of(tmp_path / "1") == hash_of(tmp_path / "2")


def test_case_and_bytes_are_options(tmp_path: Path, model: Path) -> None:
    source = write(tmp_path / "a.txt", "\n".join(s.title() for s in SENTENCES))
    more = ("--vocab-size", 330, "--cased", "--byte-fallback")
    run("tokenizer", source, "-o", tmp_path / "out", *more)
    spelt, plain = Tokenizer(tmp_path / "out"), Tokenizer(model)
    assert plain.decode(plain.encode("The Cat")) == "the cat"
    assert UNKNOWN in plain.encode("ω")
    assert spelt.decode(spelt.encode("The Cat ω 猫")) == "The Cat ω 猫"
    assert UNKNOWN not in spelt.encode("ω 猫 <mask>")
    assert max(spelt.encode("ω 猫 <mask>")) < spelt.size - 1


def test_a_tokenizer_with_bytes_is_exported(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from d2v.interop.spm import hf_tokenizer

    source = write(tmp_path / "a.txt", as_text(DOCUMENTS))
    run("tokenizer", source, "-o", tmp_path / "out", "--vocab-size", 330, "--byte-fallback")
    ours, encoder = Tokenizer(tmp_path / "out"), SimpleNamespace(vocab_size=330)
    content = hf_tokenizer((tmp_path / "out" / "tokenizer.model").read_bytes(), encoder)
    theirs = tokenizers.Tokenizer.from_str(content)
    for text in (*SENTENCES, "the ω 猫  <0x41> 𐍈 cat"):
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ids
        assert theirs.decode(ids) == ours.decode(ids)


def test_no_line_is_too_long_to_train_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tokenizer, "_LONGEST", 400)
    source = write_lines(tmp_path / "a.txt", "ab " * 500 + "zw " * 500)
    run("tokenizer", source, "-o", tmp_path / "out", "--vocab-size", 13)
    assert UNKNOWN not in Tokenizer(tmp_path / "out").encode("zw ab")
