"""Rows of tables that people write: CSV, TSV, JSON lines and Parquet, with named columns.

*.csv[.gz]      comma-separated, quoted as in RFC 4180, with a header
*.tsv[.gz]      tab-separated, quotation marks are ordinary characters, with a header
*.jsonl[.gz]    one JSON object per line
*.parquet       needs the package pyarrow
"""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from d2v.util.errors import UserError, quoted

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LARGEST = 2**27  # characters in one cell


@dataclass(frozen=True)
class Row:
    """One row; `where` is FILE:LINE (Parquet: the number of the row), for messages."""

    where: str
    cells: dict[str, str]
    nested: frozenset[str] = frozenset()  # columns whose value is no text or number

    def __getitem__(self, column: str) -> str:
        """Return the cell of a column; raises UserError if it is missing, null or nested."""
        found = self.get(column)
        if found is None:
            raise UserError(f"{self.where}: no value in column {column!r}")
        return found

    def get(self, column: str) -> str | None:
        """Return the cell of a column, None if it is missing; raises UserError if it is nested."""
        if column in self.nested:
            raise UserError(
                f"{self.where}: the value in column {column!r} is a list or an object; give a text"
                " or a number"
            )
        return self.cells.get(column)


def is_table(name: str) -> bool:
    """Whether a file is read as a table, by its name."""
    return name.removesuffix(".gz").endswith(SUFFIXES)


@contextmanager
def longest_cell(characters: int) -> Iterator[None]:
    """Limit the cells that Python's CSV reader takes.

    The limit belongs to the whole process, and other libraries move it: it is set for each file and
    then given back.
    """
    usual = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(usual)


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Return the columns and all rows of a table; blank lines do not count.

    Raises UserError naming file and line for: a missing or unreadable file, a line that is not
    UTF-8, too few or too many cells, a header with a repeated or empty name, invalid JSON, a
    repeated key, no rows.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".parquet":
        rows = list(_parquet(path))
    elif kind == ".jsonl":
        rows = list(_json_lines(path))
    elif kind in (".csv", ".tsv"):
        with longest_cell(LARGEST):
            rows = list(_separated(path, "," if kind == ".csv" else "\t"))
    else:
        raise UserError(f"{path}: not a table by its name ({', '.join(SUFFIXES)})")
    if not rows:
        raise UserError(f"{path}: contains no rows")
    columns = dict.fromkeys(name for row in rows for name in row.cells)
    return list(columns), rows


def column_of(path: Path, columns: Sequence[str], given: str | None, usual: Sequence[str]) -> str:
    """Return the column that is `given` or, without one, the first of the `usual` names there is.

    Raises UserError with the columns of the table if there is none.
    """
    for name in (given,) if given is not None else usual:
        if name in columns:
            return str(name)
    wanted = repr(given) if given is not None else " or ".join(usual)
    key = "" if given is not None else "; name the column in the parameter file"
    known = ", ".join(quoted(c, 30) for c in columns)
    raise UserError(f"{path}:1: no column {wanted} (there are {known}){key}")


def _text(path: Path) -> str:
    """Return the decompressed text of a file, without its byte-order mark."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); replace it") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def _separated(path: Path, separator: str) -> Iterator[Row]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    text = io.StringIO(_text(path), newline="")
    reader = csv.reader(text, delimiter=separator, strict=True, quoting=quoting)
    header: list[str] = []
    start = 1  # line on which the current row starts
    try:
        for cells in reader:
            where, start = f"{path}:{start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(cells, where)
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} cells, but the header has {len(header)} columns;"
                    f" {_hint(separator)}"
                )
            yield Row(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{path}:{start}: not valid CSV ({error})") from None


def _hint(separator: str) -> str:
    if separator == ",":
        return 'put a text that contains commas in quotation marks ("...")'
    return "a text must not contain tabs"


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names:
        raise UserError(f"{where}: column {names.index('') + 1} of the header has no name")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where}: the header has the column {quoted(doubled[0])} twice")
    return names


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        pairs: list[tuple[str, Any]] = []
        try:
            found = json.loads(line, object_pairs_hook=partial(_kept, pairs))
        except ValueError as error:
            raise UserError(f"{where}: not valid JSON ({error})") from None
        if not isinstance(found, dict):
            raise UserError(f"{where}: not a JSON object with named values")
        if doubled := [name for name, count in Counter(k for k, _ in pairs).items() if count > 1]:
            raise UserError(f"{where}: the key {quoted(doubled[0])} twice; remove one")
        yield _row(where, found)


def _kept(last: list[tuple[str, Any]], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; `last` gets its pairs, in the end those of the outermost object."""
    last[:] = pairs
    return dict(pairs)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f'{path}: reading Parquet needs the package pyarrow: pip install "d2v[train]"'
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for found in batch.to_pylist():
                    number += 1
                    yield _row(f"{path}: row {number}", found)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable Parquet file ({reason}); replace it") from None


def _row(where: str, found: Mapping[Any, Any]) -> Row:
    """A row of values of any type; nested ones are noted, since most are in columns not used."""
    cells = {str(k): _cell(v) for k, v in found.items() if v is not None}
    nested = (str(k) for k, v in found.items() if isinstance(v, list | tuple | dict | bytes))
    return Row(where, cells, frozenset(nested))


def _cell(value: Any) -> str:
    """A value as text: numbers and booleans as JSON writes them, whole floats without .0."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str)
