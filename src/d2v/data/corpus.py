"""A folder of plain text to blocks of tokens: one sentence a line, blank line between documents."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from d2v.data.documents import read_documents
from d2v.data.shards import write_meta, written_whole
from d2v.data.tokenizer import END, START, Tokenizer
from d2v.data.writing import Example, write_split
from d2v.errors import UserError

SPLIT = "train"  # the only split of a corpus


def prepare_corpus(source: Path, tokenizer: Path, out: Path, block: int) -> None:
    """Write blocks of at most `block` token ids, <s> and </s> with them.

    Raises UserError naming a line that is not UTF-8, a folder without text, or an impossible size.
    """
    if block < 4:
        raise UserError(f"--block {block}: at least 4 tokens are needed")
    model = Tokenizer(tokenizer)
    documents = [(d.name, tuple(d.sentences)) for d in read_documents(source)]
    with written_whole(out) as temporary:
        shards, _ = write_split(
            temporary / SPLIT,
            documents,
            partial(_blocks, model, block),
            sizes=[sum(map(len, sentences)) for _, sentences in documents],
            label=SPLIT,
        )
        write_meta(
            temporary,
            dataset=out.name,
            kind="corpus",
            source=source.as_posix(),
            splits={
                SPLIT: {"examples": len(shards), "tokens": int(shards.numbers("tokens").sum())}
            },
            block=block,
            dtype=model.dtype.str,
            vocab_size=model.size,
            tokenizer=model.meta["sha256"],
        )


def _blocks(
    model: Tokenizer, block: int, document: tuple[str, tuple[str, ...]]
) -> Iterator[Example]:
    name, sentences = document
    encoded = ([*model.encode(s), END] for s in sentences)
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
