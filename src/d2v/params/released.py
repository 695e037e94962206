"""Published weights that are used instead of training."""

from typing import Annotated

from pydantic import Field

from d2v.params.base import Strict


class Released(Strict):
    """A checkpoint on disk, in any format that `d2v convert` reads."""

    path: str  # file or folder
    url: str = ""  # download address
    # checksum of the file, or over all files of the folder; verified if given, and always recorded
    # in metrics.json
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
