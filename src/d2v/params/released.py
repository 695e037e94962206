"""Weights that somebody published, in place of training."""

from typing import Annotated

from pydantic import Field

from d2v.params.base import Strict


class Released(Strict):
    """A checkpoint on disk, in any format that `d2v convert` reads."""

    path: str  # file or folder
    url: str = ""  # where it can be had
    # of the file, or over all files of the folder; compared if given, noted in metrics.json anyway
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
