"""Text to blocks of tokens: whole sentences of one document, as many as fit (complete_doc)."""

from collections.abc import Iterable, Iterator
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
SHARD_BYTES = 64 * 2**20  # a minute's work for one process


def prepare_corpus(
    source: Path,
    tokenizer: Path,
    out: Path,
    block: int,
    field: str = "text",
    workers: int | None = None,
) -> None:
    """Write blocks of at most `block` token ids, <s> and </s> with them; FILE:LINE#BLOCK are ids.

    `field` holds the text of a JSON line. Documents without text give no block. Raises UserError
    naming a line that is not UTF-8 or no JSON with a text, a folder without text, or an impossible
    size.
    """
    if block < 4:
        raise UserError(f"--block {block}: at least 4 tokens are needed")
    model = Tokenizer(tokenizer)
    parts = find_parts(source, PIECE_BYTES)
    with written_whole(out) as temporary:
        shards, _ = write_split(
            temporary / SPLIT,
            parts,
            partial(_blocks, model, block, field),
            # about 4 bytes of text become one token
            sizes=[part.size * model.dtype.itemsize // 4 for part in parts],
            label=SPLIT,
            workers=workers,
            shard_bytes=SHARD_BYTES,
        )
        if not len(shards):
            raise UserError(f"{source}: all documents are empty: no text in any {field!r}")
        tokens = int(shards.numbers("tokens").sum())
        write_meta(
            temporary,
            dataset=out.name,
            kind="corpus",
            source=source.as_posix(),
            splits={SPLIT: {"examples": len(shards), "tokens": tokens}},
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
    """Sentences of one document, in order, packed into blocks of at most `block` ids.

    A sentence that fits into a block is never cut (fairseq's complete_doc); a longer one fills up
    the open block and goes on in the next ones.
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
