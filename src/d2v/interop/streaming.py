"""Write a safetensors file tensor by tensor, so that memory use stays small."""

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from d2v.util.errors import UserError
from d2v.util.files import whole

ENTRY = 160  # maximum bytes per tensor in the header
LONGEST = 100_000_000  # maximum header size that readers of the format accept, in bytes


class TensorFile:
    """Context manager for a file of named float32 tensors; it appears when all are written.

    An existing file is replaced unless it has changed meanwhile, which raises UserError.

    The header comes first in the file but is known last, so space for `tensors` entries is
    reserved.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], tensors: int) -> None:
        self.path, self.metadata = path, {k: json.dumps(v) for k, v in metadata.items()}
        self.room = -(-(len(json.dumps(self.metadata)) + 64 + tensors * ENTRY) // 64) * 64
        if self.room > LONGEST:
            raise UserError(
                f"{path}: {tensors} tensors are too many for one file; pass fewer inputs, or"
                " select one layer"
            )
        self.header: dict[str, Any] = {"__metadata__": self.metadata}
        self.end = 0
        self.before = _state(path)

    def __enter__(self) -> "TensorFile":
        with ExitStack() as stack:
            draft = stack.enter_context(whole(self.path))
            self.file = stack.enter_context(draft.open("wb"))
            self.file.seek(8 + self.room)
            self.ending = stack.pop_all()
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor, converted to float32, under its name."""
        data = tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4")
        self.file.write(data.tobytes())
        start, self.end = self.end, self.end + data.nbytes
        self.header[name] = {
            "dtype": "F32",
            "shape": list(data.shape),
            "data_offsets": [start, self.end],
        }

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.ending:
            if error is not None:
                raise error
            text = json.dumps(self.header, separators=(",", ":")).encode()
            self.file.seek(0)
            self.file.write(self.room.to_bytes(8, "little") + text.ljust(self.room))
            if _state(self.path) != self.before:
                raise UserError(
                    f"{self.path}: appeared or changed while d2v was computing, and stays as it is;"
                    " run the command again with another path"
                )


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes if another file is put in a place, or other content into the file."""
    try:
        found = path.lstat()
    except OSError:  # there is none; other errors are those of writing, too
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
