"""Files and texts as inputs of a loaded model: waveforms, pixels or tokens.

The tensors of an input do not depend on the other inputs in its batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2v.data import files_of
from d2v.data.files import Reading
from d2v.util.errors import UserError


@dataclass(frozen=True)
class Input:
    """One input: its name, and its waveform (S,), pixels (C, H, W) or token ids (T,)."""

    name: str
    value: np.ndarray


def batches(model: Reading, inputs: Sequence[str | Path]) -> Iterator[tuple[list[str], Any]]:
    """Yield the names and the batch of successive inputs, in their order.

    Inputs are padded only where padding does not change the outputs. Raises UserError naming an
    input that cannot be read.
    """
    files = files_of(model)
    group: list[Input] = []
    for item in read(model, inputs):
        sizes = [files.size(other.value) for other in (*group, item)]
        too_many = len(sizes) * max(sizes) > files.portion
        if group and (too_many or (files.alike and len(set(sizes)) > 1)):
            yield [other.name for other in group], files.batch([i.value for i in group])
            group = []
        group.append(item)
    if group:
        yield [other.name for other in group], files.batch([i.value for i in group])


def expanded(model: Reading, inputs: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Return the name and the file of each input or, for a text model, the name and the text.

    A text file gives one text per non-blank line; any other argument is itself the text. Raises
    UserError if there are no inputs.
    """
    files = files_of(model)
    found = [pair for item in inputs for pair in files.expanded(item)]
    if not found:
        raise UserError("no inputs: name files, or give texts")
    return found


def read(model: Reading, inputs: Sequence[str | Path]) -> Iterator[Input]:
    """Yield the inputs one by one; raises UserError naming one that cannot be read."""
    files = files_of(model)
    for name, content in expanded(model, inputs):
        yield Input(name, files.read(content))
