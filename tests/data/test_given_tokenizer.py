"""Given tokenizers: GPT-2's byte pairs with fairseq's ids, and sentencepiece models renumbered."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
from preparing import run
from small_sets import SENTENCES, corpus_folder, write_lines

from d2v.data.given_tokenizer import prepare_given_tokenizer
from d2v.data.shards import read_meta
from d2v.data.tokenizer import END, START, UNKNOWN, Tokenizer
from d2v.util.errors import UserError


def gpt2(folder: Path) -> Path:
    """Byte pairs of all ASCII letters and two merges, in GPT-2's and fairseq's files."""
    signs = [chr(i) for i in range(33, 127)] + ["Ġ", "th", "the"]
    write_lines(folder / "encoder.json", json.dumps({sign: i for i, sign in enumerate(signs)}))
    write_lines(folder / "vocab.bpe", "#version: 0.2", "t h", "th e")
    # fairseq numbers by frequency, and pads the dictionary
    order = [*reversed(range(len(signs)))]
    write_lines(folder / "dict.txt", *(f"{i} 9" for i in order), "madeupword0000 0")
    return folder


def test_gpt2s_byte_pairs_get_fairseqs_ids(tmp_path: Path) -> None:
    size = 97 + 4 + 1 + 1  # signs, special symbols, padding word, <mask>
    words = ("--vocab-size", size, "--given", gpt2(tmp_path / "gpt2"))
    run("tokenizer", tmp_path / "unused", *words, "-o", tmp_path / "set")
    found = Tokenizer(tmp_path / "set")
    assert found.size == size
    assert found.encode("the") == [4]  # the last sign of encoder.json is the first of dict.txt
    assert found.encode("th e") == [5, 6, 4 + 96 - (ord("e") - 33)]
    assert found.decode(found.encode("the hat")) == "the hat"


def test_without_a_dictionary_the_order_is_gpt2s(tmp_path: Path) -> None:
    folder = gpt2(tmp_path / "gpt2")
    (folder / "dict.txt").unlink()
    prepare_given_tokenizer(folder, tmp_path / "set", 102)
    assert Tokenizer(tmp_path / "set").encode("!the") == [4, 4 + 96]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_keeps_its_pieces_under_fairseqs_ids(
    tmp_path: Path, kind: str
) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5),
        model_writer=model,
        model_type=kind,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )  # its own ids: <unk> 0, <s> 1, </s> 2, no <pad>
    path = tmp_path / "llama.model"
    path.write_bytes(model.getvalue())
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = theirs.vocab_size() - 3 + 4 + 1
    prepare_given_tokenizer(path, tmp_path / "set", size)
    ours = Tokenizer(tmp_path / "set")
    for text in (*SENTENCES, "zebra Quux", "<s> and </s>", "日本"):
        expected = [UNKNOWN if i == theirs.unk_id() else i - 3 + 4 for i in theirs.encode(text)]
        assert ours.encode(text) == expected
        assert START not in ours.encode(text)
        assert END not in ours.encode(text)
    corpus = corpus_folder(tmp_path / "corpus")
    words = ("--tokenizer", tmp_path / "set", "--block", 24, "--workers", 1)
    run("corpus", corpus, "-o", tmp_path / "blocks", *words)
    assert read_meta(tmp_path / "blocks")["vocab_size"] == size


def test_faults_of_given_tokenizers_are_named(tmp_path: Path) -> None:
    folder, out = gpt2(tmp_path / "gpt2"), tmp_path / "set"
    with pytest.raises(UserError, match=r"gpt2: has 103 tokens with the special ones, not 50,265;"):
        prepare_given_tokenizer(folder, out, 50265)
    (folder / "encoder.json").write_text("{")
    with pytest.raises(UserError, match=r"encoder\.json: not readable as JSON"):
        prepare_given_tokenizer(folder, out, 103)
    (folder / "encoder.json").unlink()
    with pytest.raises(UserError, match=r"gpt2: contains no encoder\.json; give a folder with"):
        prepare_given_tokenizer(folder, out, 103)
    (tmp_path / "x.model").write_bytes(b"\x01\x02")
    with pytest.raises(UserError, match=r"x\.model: not a readable sentencepiece model"):
        prepare_given_tokenizer(tmp_path / "x.model", out, 103)
    assert not out.exists()
