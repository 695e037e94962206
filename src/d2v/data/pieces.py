"""Large text files divided into runs of whole lines that processes can read independently."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from d2v.util.errors import UserError


class Piece(NamedTuple):
    """A run of whole lines of a file; by default, the whole file."""

    path: Path
    start: int = 0  # bytes
    stop: int | None = None  # bytes; None: to the end
    line: int = 1  # number of the first line in the file, from 1


def is_compressed(path: Path) -> bool:
    """Whether a file is read through gzip."""
    return path.suffix == ".gz"


def cut_file(path: Path, size: int, ends: Callable[[bytes], bool] | None = None) -> list[Piece]:
    """Divide a file into pieces of at least `size` bytes that end after a line with `ends` true.

    A compressed file is one piece, because reading from the middle means decompressing all before.
    """
    if is_compressed(path):
        return [Piece(path)]
    pieces, line, start, total = [], 1, 0, path.stat().st_size
    with open(path, "rb") as file:
        while start < total:
            count = file.read(size - 1).count(b"\n")
            for number, raw in enumerate(file):  # the first is the rest of the current line
                count += 1
                if ends is None or (number and ends(raw)):
                    break
            stop = file.tell()
            pieces.append(Piece(path, start, stop, line))
            start, line = stop, line + count
    return pieces


def lines_of(piece: Piece) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of UTF-8 text, without line ends and byte-order mark.

    Raises UserError if the file does not exist, if a line is not UTF-8 (naming it), or if a
    compressed file is damaged.
    """
    path, at = piece.path, piece.start
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with gzip.open(path, "rb") if is_compressed(path) else open(path, "rb") as file:
        file.seek(at)
        number = piece.line
        try:
            while (piece.stop is None or at < piece.stop) and (raw := file.readline()):
                yield number, _decode(raw, at == 0, f"{path}:{number}")
                number, at = number + 1, at + len(raw)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}:{number}: damaged gzip file ({error}); replace it") from None


def _decode(raw: bytes, first: bool, where: str) -> str:
    try:
        return raw.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason})") from None
