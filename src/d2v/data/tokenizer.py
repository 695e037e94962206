"""Sub-word tokens: a sentencepiece BPE model with fairseq's special ids, and <mask> as last id."""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import sentencepiece

from d2v.data.documents import PIECE_BYTES, Part, find_parts, read_sentences
from d2v.data.encodings import FILES, Kind, encoding
from d2v.data.shards import read_meta, write_meta, written_whole
from d2v.data.writing import progress_of
from d2v.util.errors import UserError

START, PADDING, END, UNKNOWN = range(4)  # <s> <pad> </s> <unk>; <mask> is the last id
SPECIAL = 5
MODEL = "tokenizer.model"
SAMPLE = 4_000_000  # sentences to train on
_MANY = 100_000  # sentences from which on training takes more than seconds
_SEED = 0  # for drawing the sample
_LONGEST = 2**20  # bytes per sentence; sentencepiece silently drops longer ones
_COMMON = 0.9999  # share of all characters covered by their own ids; bytes spell the rest


class Tokenizer:
    """A trained tokenizer, or that of a checkpoint; `size` includes <mask>, which no text gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "meta.json").is_file():
            raise UserError(
                f"{folder}: not a prepared tokenizer (no meta.json); make one with `d2v prepare"
                " tokenizer` or, of a checkpoint, with `d2v convert CKPT --to tokenizer`"
            )
        self.meta = read_meta(folder)
        kind: Kind = self.meta.get("encoding", "sentencepiece")
        try:
            files = {name: (folder / name).read_bytes() for name in FILES[kind]}
            self._encoding = encoding(kind, files)
        except (OSError, RuntimeError, ValueError):
            raise UserError(
                f"{folder}: no readable {FILES[kind][0]}; make it with `d2v prepare tokenizer`"
            ) from None
        self.size = int(self.meta["vocab_size"])
        # little-endian, no wider than the ids need
        self.dtype = np.dtype("<u2" if self.size <= 2**16 else "<u4")

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[Path]]:
        return Tokenizer, (self.folder,)  # another process reads the files again

    def __repr__(self) -> str:
        return f"Tokenizer({self.meta['sha256']})"

    def encode(self, text: str) -> list[int]:
        """Normalise a text as the model does and return its ids, without <s> and </s>."""
        return self._encoding.encode(text)

    def decode(self, ids: list[int]) -> str:
        """Return the normalised text that the ids stand for."""
        return self._encoding.decode(ids)


def prepare_tokenizer(
    source: Path,
    out: Path,
    vocab_size: int,
    *,
    field: str = "text",
    most: int = SAMPLE,
    cased: bool = False,
    byte_fallback: bool = False,
) -> None:
    """Train a BPE model with `vocab_size` ids, including the special ones, on a folder of text.

    Texts are NFKC-normalised and, unless `cased`, lower-cased. Every character has an id; with
    `byte_fallback`, the rarest characters are spelt in bytes instead. Training uses at most `most`
    sentences, sampled uniformly with a fixed seed. It runs in one thread and without shuffling, so
    equal text gives equal bytes.

    Raises UserError as `find_parts` and `read_sentences` do, or if the vocabulary size does not fit
    the text.
    """
    parts = find_parts(source, PIECE_BYTES)
    train_tokenizer(
        out,
        source.as_posix(),
        parts,
        vocab_size,
        field=field,
        most=most,
        cased=cased,
        byte_fallback=byte_fallback,
    )


def train_tokenizer(
    out: Path,
    source: str,
    parts: Sequence[Part],
    vocab_size: int,
    *,
    field: str,
    most: int = SAMPLE,
    cased: bool,
    byte_fallback: bool,
) -> None:
    """Train a model on parts of files and write it; `source` names them in messages."""
    if vocab_size <= SPECIAL:
        raise UserError(
            f"--vocab-size {vocab_size}: must be more than {SPECIAL}, the number of special ids"
        )
    if most < 1:
        raise UserError(f"--sentences {most}: must be at least 1")
    sentences, found = sample(_read(parts, field), most)
    if not sentences:
        raise UserError(f"{source}: all documents are empty: no text in any {field!r}")
    if found > _MANY:
        print(f"training on {len(sentences):,} of {found:,} lines", file=sys.stderr, flush=True)
    options = {"normalization_rule_name": "nmt_nfkc" if cased else "nmt_nfkc_cf"}
    try:
        model = _train(_pieces(sentences), vocab_size - 1, byte_fallback, **options)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{source}: cannot train {vocab_size} tokens on this text: {reason}"
        ) from None
    with written_whole(out) as temporary:
        (temporary / MODEL).write_bytes(model)
        write_meta(
            temporary,
            dataset=out.name,
            kind="tokenizer",
            source=source,
            vocab_size=vocab_size,
            sentences=len(sentences),
            **({"drawn_from": found} if found > len(sentences) else {}),
        )


def _read(parts: Sequence[Part], field: str) -> Iterator[str]:
    with progress_of("reading", len(parts), 0) as advance:
        for part in parts:
            for _, sentence in read_sentences(part, field):
                yield sentence
            advance(1)


def sample(sentences: Iterable[str], most: int) -> tuple[list[str], int]:
    """Sample at most `most` sentences uniformly, in order; return them and the total number."""
    random = Random(_SEED).random
    kept: list[tuple[int, str]] = []
    number = -1
    for number, sentence in enumerate(sentences):
        if number < most:
            kept.append((number, sentence))
        elif (place := int(random() * (number + 1))) < most:
            kept[place] = (number, sentence)
    return [sentence for _, sentence in sorted(kept)], number + 1


def _pieces(sentences: list[str]) -> Iterator[str]:
    """Yield the sentences, splitting those that are too long."""
    length = _LONGEST // 4  # characters of at most 4 bytes
    for sentence in sentences:
        for start in range(0, len(sentence), length):
            yield sentence[start : start + length]


def _train(sentences: Iterator[str], size: int, byte_fallback: bool, **options: Any) -> bytes:
    if byte_fallback:
        options |= {"byte_fallback": True}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        character_coverage=_COMMON if byte_fallback else 1.0,
        bos_id=START,
        pad_id=PADDING,
        eos_id=END,
        unk_id=UNKNOWN,
        num_threads=1,
        shuffle_input_sentence=False,
        max_sentence_length=_LONGEST,
        minloglevel=2,
        **options,
    )
    return model.getvalue()
