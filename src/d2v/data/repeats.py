"""Examples with the same content: repeated within a split, or in two splits (a leak)."""

import itertools
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BYTES = 16  # of a content's hash; two of 10^9 contents share one with a chance below 10^-20


class Leak(NamedTuple):
    """Examples of one split whose content another split has, too; `example` is the first one."""

    split: str
    other: str
    shared: int
    example: int


def content_hash(payload: bytes) -> bytes:
    """Hash of an example's content."""
    return blake2b(payload, digest_size=BYTES).digest()


def repeated(hashes: npt.NDArray[np.void]) -> int:
    """Number of examples (N,) whose content an earlier example of the split has."""
    return len(hashes) - len(np.unique(hashes))


def leaks(hashes: Mapping[str, npt.NDArray[np.void]]) -> list[Leak]:
    """All pairs of splits that share content, smallest split first."""
    order = sorted(hashes, key=lambda name: (len(hashes[name]), name))
    found = []
    for split, other in itertools.combinations(order, 2):
        same = np.flatnonzero(np.isin(hashes[split], hashes[other]))
        if len(same):
            found.append(Leak(split, other, len(same), int(same[0])))
    return found
