"""A folder of plain text to blocks of tokens: one sentence a line, blank line between documents."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from d2v.data.documents import read_documents
from d2v.data.layout import progress
from d2v.data.shards import ShardWriter, write_meta, written_whole
from d2v.data.tokenizer import END, START, Tokenizer
from d2v.errors import UserError

SPLIT = "train"  # the only split of a corpus


def prepare_corpus(source: Path, tokenizer: Path, out: Path, block: int) -> None:
    """Write blocks of at most `block` token ids, <s> and </s> with them.

    Raises UserError naming a line that is not UTF-8, a folder without text, or an impossible size.
    """
    if block < 4:
        raise UserError(f"--block {block}: at least 4 tokens are needed")
    model = Tokenizer(tokenizer)
    tokens = 0
    with written_whole(out) as temporary:
        writer = ShardWriter(temporary / SPLIT)
        for document in progress(read_documents(source), SPLIT):
            encoded = ([*model.encode(s), END] for s in document.sentences)
            for number, ids in enumerate(pack(encoded, block - 1)):
                row = np.array([START, *ids], model.dtype)
                tokens += len(row)
                writer.add(row.tobytes(), id=f"{document.name}#{number}", tokens=len(row))
        writer.close()
        write_meta(
            temporary,
            dataset=out.name,
            kind="corpus",
            source=source.as_posix(),
            splits={SPLIT: {"examples": len(writer), "tokens": tokens}},
            block=block,
            dtype=model.dtype.str,
            vocab_size=model.size,
            tokenizer=model.meta["sha256"],
        )


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
