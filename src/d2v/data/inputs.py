"""Files, texts and arrays as inputs of a loaded model: waveforms, pixels or tokens.

The tensors of an input do not depend on the other inputs in its batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2v.data import files_of
from d2v.data.files import Files, Reading
from d2v.util.errors import UserError

WASTE = 1.1  # most positions of a batch, relative to those that are not padding


@dataclass(frozen=True)
class Input:
    """One input: its name, and its waveform (S,), pixels (C, H, W) or token ids (T,)."""

    name: str
    value: np.ndarray


class Group(NamedTuple):
    """A batch with the names of its inputs, and their places among those read with them."""

    names: list[str]
    batch: dict[str, Any]
    places: list[int]
    last: bool  # whether all inputs that were read together have been yielded


def batches(
    model: Reading, inputs: Iterable[Any], size: int | None = None, cpu: bool = False
) -> Iterator[Group]:
    """Yield the batches of successive inputs, `size` of them each.

    Without a size, a portion of the inputs is read, and those of similar length are put into one
    batch, so that the model computes little padding; for a CPU, batches can be smaller. Only this
    portion is in memory. Raises UserError naming an input that cannot be read, after the batches of
    those before.
    """
    files = files_of(model)
    most = files.portion_on_cpu if cpu else None
    held: list[Input] = []
    fault: UserError | None = None
    items = read(model, inputs)
    while fault is None:
        try:
            item = next(items)
        except StopIteration:
            break
        except UserError as error:
            fault = error
            break
        if held and _full(files, [*held, item], size):
            yield from _grouped(files, held, size, most)
            held = []
        held.append(item)
    if held:
        yield from _grouped(files, held, size, most)
    if fault is not None:
        raise fault


def _full(files: Files, held: list[Input], size: int | None) -> bool:
    if size is not None:
        return len(held) > size
    return sum(files.size(item.value) for item in held) > files.portion


def _grouped(
    files: Files, held: list[Input], size: int | None, most: int | None
) -> Iterator[Group]:
    sizes = [files.size(item.value) for item in held]
    order = sorted(range(len(held)), key=sizes.__getitem__, reverse=True)
    groups: list[list[int]] = []
    for place in order:
        if groups and (size or _fits([sizes[other] for other in (*groups[-1], place)], most)):
            groups[-1].append(place)
        else:
            groups.append([place])
    for group in groups:
        places = sorted(group)
        values = [held[place].value for place in places]
        names = [held[place].name for place in places]
        yield Group(names, files.batch(values), places, group is groups[-1])


def _fits(sizes: list[int], most: int | None) -> bool:
    padded = len(sizes) * max(sizes)
    return padded <= WASTE * sum(sizes) and (most is None or padded <= most)


def expanded(model: Reading, inputs: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the content of each input: a path, a text, or what is in memory.

    For a text model, a text file gives one text per non-blank line; any other string is itself the
    text. What is in memory is named by its number, from 0. Raises UserError if there are no inputs.
    """
    files = files_of(model)
    number = 0
    for item in single(inputs):
        pairs = files.expanded(item) if isinstance(item, str | Path) else [(str(number), item)]
        number += len(pairs)
        yield from pairs
    if not number:
        raise UserError("no inputs: name files, or give texts")


def single(inputs: Iterable[Any]) -> Iterable[Any]:
    """The inputs; a path, a text or a picture that is given without a list is the only one."""
    alone = isinstance(inputs, str | Path | bytes) or hasattr(inputs, "getexif")
    if not alone and not isinstance(inputs, Iterable) and not hasattr(inputs, "__getitem__"):
        raise UserError(f"{type(inputs).__name__} cannot be inputs; give a list of them")
    return chain([inputs]) if alone else inputs


def count_of(inputs: Any) -> int | None:
    """Number of inputs, if it is known without reading them."""
    return len(inputs) if isinstance(inputs, Sequence) or hasattr(inputs, "__len__") else None


def read(model: Reading, inputs: Iterable[Any]) -> Iterator[Input]:
    """Yield the inputs one by one; raises UserError naming one that cannot be read."""
    files = files_of(model)
    for name, content in expanded(model, inputs):
        yield Input(name, files.read(content, name))
