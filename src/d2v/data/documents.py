"""Plain text in a folder of *.txt: one sentence a line, blank line between documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from d2v.data.layout import lines
from d2v.errors import UserError


@dataclass(frozen=True)
class Document:
    """Sentences that belong together; `name` is FILE:LINE of the first."""

    name: str
    sentences: list[str]


def read_documents(source: Path) -> Iterator[Document]:
    """Documents of all *.txt in a folder, files in the order of their names.

    Raises UserError naming a line that is not UTF-8, or a folder without text.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    paths = sorted(source.glob("*.txt"))
    if not paths:
        raise UserError(f"{source}: no *.txt in it")
    for path in paths:
        empty = True
        for document in _documents(path):
            empty = False
            yield document
        if empty:
            raise UserError(f"{path}: no text in it")


def _documents(path: Path) -> Iterator[Document]:
    start, sentences = 0, list[str]()
    for number, line in lines(path):
        if line.strip():
            start = start if sentences else number
            sentences.append(line.strip())
        elif sentences:
            yield Document(f"{path.stem}:{start}", sentences)
            sentences = []
    if sentences:
        yield Document(f"{path.stem}:{start}", sentences)
