"""Text in a folder, document by document: plain files or JSON lines, compressed or not.

    *.txt           one sentence or paragraph per line, a blank line between documents
    *.jsonl         one document per line, its text in one field; lines of the text are paragraphs
    wiki_00, ...    the same, as written by WikiExtractor with --json
    wiki.train.raw  WikiText: articles behind their titles (d2v.data.wikitext)

The first two may be compressed (.gz, .zst). Folders may be nested; files are read in the order of
their paths.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from d2v.data.pieces import Piece, cut_file, lines_of
from d2v.data.walk import refuse_dangling, walk, warn_unused
from d2v.data.wikitext import articles, cut_at_titles, is_wikitext
from d2v.util.errors import UserError

PIECE_BYTES = 4 * 2**20  # part of a file that one process reads at a time
_PACKED = 3  # approximate bytes of text per compressed byte
_WIKI = re.compile(r"wiki_\d+")


class Share(NamedTuple):
    """Documents whose names have a hash in [low, high) of [0, 1)."""

    seed: int
    low: float
    high: float

    def has(self, name: str) -> bool:
        """Whether the document called `name` belongs to the share."""
        digest = sha256(f"{self.seed} {name}".encode()).digest()
        return self.low <= int.from_bytes(digest[:8], "big") / 2**64 < self.high


class Part(NamedTuple):
    """Whole documents of one file; `name` is the file's path in the folder, without suffixes."""

    piece: Piece
    name: str
    share: Share | None = None  # the documents that count; None: all

    @property
    def size(self) -> int:
        """Approximate number of bytes of text."""
        start, stop = self.piece.start, self.piece.stop
        return self.piece.path.stat().st_size * _PACKED if stop is None else stop - start


def find_parts(source: Path, piece_bytes: int) -> list[Part]:
    """Divide the text of a folder, or of one file, into parts of whole documents of similar size.

    Raises UserError if the folder does not exist or has no text files, if a file has no text, or if
    two files have the same name.
    """
    if source.is_file():
        paths, top = [source], source.parent
    elif source.is_dir():
        paths, top = _files(source), source
    else:
        raise UserError(f"{source}: no such folder")
    parts: list[Part] = []
    named: dict[str, Path] = {}
    for path in paths:
        place = path.relative_to(top)
        kind = _kind(path)
        if kind is None:
            raise UserError(f"{path}: not a *.txt or *.jsonl file (or .gz or .zst of one)")
        name = place.as_posix()[: -len(kind)] if kind else place.as_posix()
        if named.setdefault(name, path) != path:
            raise UserError(
                f"{path}: its documents would have the same names as those of {named[name].name};"
                " rename it"
            )
        if not any(line.strip() for _, line in lines_of(Piece(path))):
            raise UserError(f"{path}: contains no text")
        if is_wikitext(path):
            parts += [Part(piece, name) for piece in cut_at_titles(path, piece_bytes)]
            continue
        ends = None if _is_json(path) else _blank
        parts += [Part(piece, name) for piece in cut_file(path, piece_bytes, ends)]
    if not parts:
        raise UserError(f"{source}: contains no *.txt or *.jsonl file (or .gz or .zst of one)")
    return parts


def read_sentences(part: Part, field: str) -> Iterator[tuple[str, str]]:
    """Yield the document name (FILE:LINE of its start) and the text of each non-blank line.

    Documents outside of the part's share are left out.

    Raises UserError naming a line that is not UTF-8, or not a JSON object with a text in `field`.
    """
    for name, sentence in _sentences(part, field):
        if part.share is None or part.share.has(name):
            yield name, sentence


def _sentences(part: Part, field: str) -> Iterator[tuple[str, str]]:
    if _is_json(part.piece.path):
        for number, line in lines_of(part.piece):
            if line.strip():
                text = _text(line, field, f"{part.piece.path}:{number}")
                for sentence in filter(None, map(str.strip, text.split("\n"))):
                    yield f"{part.name}:{number}", sentence
        return
    if is_wikitext(part.piece.path):
        for number, text in articles(part.piece):
            yield f"{part.name}:{number}", text
        return
    start = 0
    for number, line in lines_of(part.piece):
        if sentence := line.strip():
            start = start or number
            yield f"{part.name}:{start}", sentence
        else:
            start = 0


def _files(source: Path) -> list[Path]:
    """Return the text files of a folder, sorted by path; warns of other files."""
    tree = walk(source)
    refuse_dangling(tree.dangling)
    paths = sorted(map(Path, tree.files))
    warn_unused(source, [p for p in paths if _kind(p) is None], "not text files by their names")
    warn_unused(source, tree.repeated, "links to folders that were already read")
    return [path for path in paths if _kind(path) is not None]


def _text(line: str, field: str, where: str) -> str:
    try:
        document: Any = json.loads(line)
    except ValueError as error:
        hint = "; run WikiExtractor with --json" if line.startswith("<doc ") else ""
        raise UserError(f"{where}: not valid JSON ({error}){hint}") from None
    if not isinstance(document, dict) or not isinstance(document.get(field), str):
        raise UserError(f"{where}: no text in field {field!r}; name the field with --field")
    text: str = document[field]
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: half a character (a lone surrogate) in {field!r}") from None
    return text


def _kind(path: Path) -> str | None:
    """Return the suffix of a text file, `""` for WikiExtractor's names, None for other files."""
    for kind in (".txt", ".jsonl"):
        for packed in ("", ".gz", ".zst"):
            if path.name.endswith(kind + packed):
                return kind + packed
    return "" if _WIKI.fullmatch(path.name) else path.suffix if is_wikitext(path) else None


def _is_json(path: Path) -> bool:
    kind = _kind(path)
    return kind == "" or (kind is not None and kind.startswith(".jsonl"))


def _blank(line: bytes) -> bool:
    return not line.strip()
