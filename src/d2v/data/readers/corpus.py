"""Text to blocks of tokens: as many whole sentences of a document as fit (complete_doc)."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from d2v.data.documents import PIECE_BYTES, Part, find_parts, read_sentences
from d2v.data.shards import write_meta, written_whole
from d2v.data.tokenizer import END, START, Tokenizer
from d2v.data.writing import Example, write_split
from d2v.util.errors import UserError

SPLIT = "train"  # the only split of a corpus
SHARD_BYTES = 64 * 2**20  # about a minute of work for one process


def prepare_corpus(
    source: Path,
    tokenizer: Path,
    out: Path,
    block: int,
    field: str = "text",
    workers: int | None = None,
) -> None:
    """Write blocks of at most `block` token ids, including <s> and </s>, named FILE:LINE#BLOCK.

    `field` is the field of a JSON line that contains the text. Documents without text give no
    block. Raises UserError naming a line that is not UTF-8 or not JSON with a text, for a folder
    without text, and for a block size that is too small.
    """
    parts = find_parts(source, PIECE_BYTES)
    write_corpus(out, source.as_posix(), {SPLIT: parts}, tokenizer, block, field, workers)


def write_corpus(
    out: Path,
    source: str,
    splits: Mapping[str, list[Part]],
    tokenizer: Path,
    block: int,
    field: str,
    workers: int | None,
) -> None:
    """Write the blocks of every split, and meta.json; `source` is only recorded there."""
    if block < 4:
        raise UserError(f"--block {block}: must be at least 4 tokens")
    model = Tokenizer(tokenizer)
    meta = {}
    with written_whole(out) as temporary:
        for split, parts in splits.items():
            shards, _ = write_split(
                temporary / split,
                parts,
                partial(_blocks, model, block, field),
                # about 4 bytes of text become one token
                sizes=[part.size * model.dtype.itemsize // 4 for part in parts],
                label=split,
                workers=workers,
                shard_bytes=SHARD_BYTES,
            )
            if not len(shards):
                if len(splits) > 1:
                    raise UserError(f"{source}: split {split} has no text; give it a larger part")
                raise UserError(f"{source}: all documents are empty: no text in any {field!r}")
            tokens = int(shards.numbers("tokens").sum())
            meta[split] = {"examples": len(shards), "tokens": tokens}
        write_meta(
            temporary,
            dataset=out.name,
            kind="corpus",
            source=source,
            splits=meta,
            block=block,
            dtype=model.dtype.str,
            vocab_size=model.size,
            tokenizer=model.meta["sha256"],
        )


def _blocks(model: Tokenizer, block: int, field: str, part: Part) -> Iterator[Example]:
    for name, sentences in groupby(read_sentences(part, field), itemgetter(0)):
        encoded = ([*model.encode(sentence), END] for _, sentence in sentences)
        for number, ids in enumerate(pack(encoded, block - 1)):
            row = np.array([START, *ids], model.dtype)
            yield Example(row.tobytes(), {"id": f"{name}#{number}", "tokens": len(row)})


def pack(sentences: Iterable[list[int]], block: int) -> Iterator[list[int]]:
    """Pack the sentences of one document, in order, into blocks of at most `block` ids.

    A sentence that fits into a block is never split (fairseq's complete_doc). A longer one fills
    the current block and continues in the next ones.
    """
    room: list[int] = []
    for sentence in sentences:
        if len(room) + len(sentence) > block >= len(sentence):
            yield room
            room = []
        room = room + sentence
        while len(room) > block:
            yield room[:block]
            room = room[block:]
    if room:
        yield room
