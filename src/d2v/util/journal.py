"""Journal of work that is done in pieces: one JSON line per finished piece, safe against kills."""

import json
import os
from pathlib import Path
from typing import Any

from d2v.util.files import write_bytes

Record = dict[str, Any]


class Journal:
    """Records of the finished pieces of `work`; records of other work are dropped.

    The first line identifies the work. Incomplete lines (the last one after a kill, or any that was
    damaged) are dropped, so that their pieces are done again.
    """

    def __init__(self, path: Path, work: Record) -> None:
        """Read the existing records of `work`, which names everything the pieces depend on."""
        self.path = path
        head, *lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        whole = lines[:-1]  # after the last line break there is nothing, or an incomplete line
        same = bool(lines) and _parse(head) == {"work": work}
        self.records = [r for r in map(_parse, whole) if r is not None] if same else []
        if not same or len(self.records) != len(whole) or lines[-1]:
            write_bytes(path, b"".join(map(_line, [{"work": work}, *self.records])))

    def add(self, record: Record) -> None:
        """Append a record; it is on disk when this method returns."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, _line(record))
            os.fsync(file)
        finally:
            os.close(file)
        self.records.append(record)


def _line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
