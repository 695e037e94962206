"""Recordings with more than 16 bits per sample: they are read with 16, which is reported."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from d2v.data.sound import opened

EXACT = ("PCM_16", "PCM_S8", "PCM_U8")  # formats whose samples 16 bits hold
NOTED = "rounded_to_16_bits"  # entry of a split in meta.json


def rounded(payload: bytes, name: Path | str) -> npt.NDArray[np.int64]:
    """Count (1,) of an example: 1 for a file whose samples lose bits when read, otherwise 0."""
    with opened(payload, name) as file:
        return np.array([file.subtype not in EXACT], np.int64)


def note_rounded(where: Path, counts: npt.NDArray[np.int64] | None, total: int) -> dict[str, Any]:
    """Warn of the files of a split that lose bits; return their entry for meta.json, if any."""
    count = 0 if counts is None else int(counts[-1])
    if not count:
        return {}
    print(
        f"warning: {where}: {count:,} of {total:,} files have more than 16 bits per sample; they"
        " are read with 16",
        file=sys.stderr,
    )
    return {NOTED: count}
