"""WikiText's files: articles one after the other, each behind a line ` = Title = `.

Words are split as by the Moses tokenizer: ` @-@ `, ` @,@ ` and ` @.@ ` join what belongs together.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from d2v.data.pieces import Piece, lines_of

_FILE = re.compile(r"wiki\.\w+\.(raw|tokens)")
_TITLE = re.compile(r" = (?!= ).*[^=] = ?")
_JOINED = re.compile(r" @([-,.])@ ")


def is_wikitext(path: Path) -> bool:
    """Whether a file is called as in WikiText (wiki.train.raw, wiki.valid.tokens)."""
    return bool(_FILE.fullmatch(path.name))


def cut_at_titles(path: Path, size: int) -> list[Piece]:
    """Divide a file into pieces of whole articles of at least `size` bytes."""
    pieces, start, first, at = [], 0, 1, 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            if at - start >= size and _is_title(raw.decode("utf-8", "replace")):
                pieces.append(Piece(path, start, at, first))
                start, first = at, number
            at += len(raw)
    return [*pieces, Piece(path, start, at, first)] if at > start else pieces


def articles(piece: Piece) -> Iterator[tuple[int, str]]:
    """Yield the line of the article's title, and the text of each line, with words rejoined.

    Raises UserError as `lines_of` does.
    """
    start = 0
    for number, line in lines_of(piece):
        if not start or _is_title(line):
            start = number
        text = _JOINED.sub(r"\1", line).strip()
        if text:
            yield start, text.strip("= ") if text.startswith("=") else text


def _is_title(line: str) -> bool:
    return bool(_TITLE.fullmatch(line.rstrip("\r\n")))
