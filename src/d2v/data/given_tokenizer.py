"""A given tokenizer as a prepared set: GPT-2's byte pairs as fairseq uses them, or sentencepiece.

encoder.json, vocab.bpe, dict.txt    GPT-2's byte pairs, numbered by fairseq's dict.txt
NAME.model                           a sentencepiece model; its pieces get fairseq's special ids
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from d2v.data.encodings import FILES, Kind, encoding
from d2v.data.shards import write_meta, written_whole
from d2v.util.errors import UserError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3, as fairseq numbers them
DICTIONARY, VOCABULARY, MERGES = "dict.txt", "encoder.json", "vocab.bpe"
MODEL = "tokenizer.model"


def prepare_given_tokenizer(source: Path, out: Path, vocab_size: int) -> None:
    """Write the tokenizer in `source` (a folder or a sentencepiece model) as a prepared set.

    Raises UserError naming the file if it is missing or unreadable, and if the tokenizer has
    another number of tokens than `vocab_size`, which includes <mask>.
    """
    kind, files = _files(source)
    try:
        found = encoding(kind, files).size
    except UserError:
        raise
    except Exception as error:  # each tokenizer package raises its own
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: not a readable tokenizer ({said})") from None
    if found != vocab_size:
        raise UserError(
            f"{source}: has {found:,} tokens with the special ones, not {vocab_size:,}; set"
            f" vocab_size: {found} for the text and for the encoder"
        )
    with written_whole(out) as temporary:
        for name in FILES[kind]:
            (temporary / name).write_bytes(files[name])
        write_meta(
            temporary,
            dataset=out.name,
            kind="tokenizer",
            encoding=kind,
            source=source.as_posix(),
            vocab_size=vocab_size,
        )


def _files(source: Path) -> tuple[Kind, dict[str, bytes]]:
    if source.is_file() and source.suffix == ".model":
        return "sentencepiece", {MODEL: _renumbered(source)}
    names = [VOCABULARY, MERGES]
    if missing := [name for name in names if not (source / name).is_file()]:
        raise UserError(
            f"{source}: contains no {missing[0]}; give a folder with {', '.join(names)} and"
            f" {DICTIONARY}, or a sentencepiece model NAME.model"
        )
    vocab = json.dumps(byte_pairs(source), ensure_ascii=False).encode()
    return "bpe", {"vocab.json": vocab, "merges.txt": (source / MERGES).read_bytes()}


def byte_pairs(folder: Path) -> dict[str, int]:
    """Ids of GPT-2's byte pairs and of fairseq's special symbols, in the order of dict.txt.

    Symbols of dict.txt that are not byte pairs keep their name (madeupword0000 pads the vocabulary
    to a multiple of 8). <mask> has the last id; fairseq's task adds it to the dictionary. Without
    dict.txt, the byte pairs keep GPT-2's order. Raises UserError for files that cannot be read.
    """
    try:
        pieces = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        by_gpt2_id = {str(i): piece for piece, i in pieces.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{folder / VOCABULARY}: not readable as JSON ({error})") from None
    path = folder / DICTIONARY
    listed = list(symbols(path)) if path.is_file() else sorted(by_gpt2_id, key=int)
    names = [*SPECIAL, *(by_gpt2_id.get(symbol, symbol) for symbol in listed)]
    names += [] if "<mask>" in names else ["<mask>"]
    return {name: i for i, name in enumerate(names)}


def symbols(path: Path) -> Iterator[str]:
    """Symbols of a fairseq dictionary, which has one symbol and its count per line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield line.rsplit(" ", 1)[0]


def _renumbered(path: Path) -> bytes:
    """The sentencepiece model with <s>, <pad>, </s>, <unk> as ids 0 to 3, then its other pieces.

    Only ids change: sentencepiece chooses pieces by their scores.
    """
    from sentencepiece import sentencepiece_model_pb2

    protocol: Any = sentencepiece_model_pb2  # its messages are made when it is imported
    model: Any = protocol.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a readable sentencepiece model ({said})") from None
    special = {processor.bos_id(), processor.pad_id(), processor.eos_id(), processor.unk_id()}
    others = [piece for i, piece in enumerate(model.pieces) if i not in special]
    kinds = protocol.ModelProto.SentencePiece
    first = [
        kinds(piece=name, score=0.0, type=kinds.UNKNOWN if name == "<unk>" else kinds.CONTROL)
        for name in SPECIAL
    ]
    kept = [kinds.FromString(piece.SerializeToString()) for piece in others]
    del model.pieces[:]
    model.pieces.extend([*first, *kept])
    trained = model.trainer_spec
    trained.bos_id, trained.pad_id, trained.eos_id, trained.unk_id = range(4)
    trained.bos_piece, trained.pad_piece, trained.eos_piece, trained.unk_piece = SPECIAL
    trained.vocab_size = len(model.pieces)
    return bytes(model.SerializeToString())
