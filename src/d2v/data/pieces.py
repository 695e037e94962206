"""Large text files divided into runs of whole lines that processes can read independently."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from d2v.util.errors import UserError


class Piece(NamedTuple):
    """A run of whole lines of a file; by default, the whole file."""

    path: Path
    start: int = 0  # bytes
    stop: int | None = None  # bytes; None: to the end
    line: int = 1  # number of the first line in the file, from 1


def is_compressed(path: Path) -> bool:
    """Whether a file is read through gzip or Zstandard."""
    return path.suffix in (".gz", ".zst")


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
    with _opened(path) as file:
        if at:
            file.seek(at)
        number = piece.line
        try:
            while (piece.stop is None or at < piece.stop) and (raw := file.readline()):
                yield number, _decode(raw, at == 0, f"{path}:{number}")
                number, at = number + 1, at + len(raw)
        except _faults(path) as error:
            kind = "gzip" if path.suffix == ".gz" else "Zstandard"
            raise UserError(f"{path}:{number}: damaged {kind} file ({error}); replace it") from None


def _faults(path: Path) -> tuple[type[Exception], ...]:
    """What reading a damaged compressed file raises."""
    if path.suffix != ".zst":
        return gzip.BadGzipFile, EOFError, zlib.error
    import zstandard

    return EOFError, zstandard.ZstdError


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as unpacked:
            yield unpacked  # type: ignore[misc]  # it has all the methods used here
        return
    with open(path, "rb") as file:
        yield io.BufferedReader(_Zstandard(file), 2**20) if path.suffix == ".zst" else file


class _Zstandard(io.RawIOBase):
    """Decompressed content of a file; unlike zstandard's own reader, it notices a missing end.

    Raises EOFError for a truncated file, ZstdError for a damaged one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left, self.within = file, io.BytesIO(), False
        self.frame = self._new_frame()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one decompressed chunk goes; 0 at the end."""
        while not (count := self.left.readinto(buffer)):
            packed = self.file.read(2**16)
            if not packed:
                if self.within:
                    raise EOFError("it ends too early")
                return 0
            self.left = io.BytesIO(b"".join(self._decompressed(packed)))
        return count

    def _decompressed(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            yield self.frame.decompress(packed)
            packed, self.within = self.frame.unused_data, not self.frame.eof
            if self.frame.eof:
                self.frame = self._new_frame()

    @staticmethod
    def _new_frame() -> Any:
        import zstandard  # only for such files

        return zstandard.ZstdDecompressor().decompressobj()


def _decode(raw: bytes, first: bool, where: str) -> str:
    try:
        return raw.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason})") from None
