"""Content of a checkpoint of any format: sizes, tensors under our names, preparation of inputs.

The readers of all formats return a `Content`, and the writers take one. Tensors are named

    student.*     encoder and backbone            head.*         head of a fine-tuned model
    teacher.*     their moving average            regression.*   head from student to targets
                                                  decoder.*      the same of data2vec 2.0
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from d2v.interop.mapped import give_back
from d2v.interop.names import Pair
from d2v.params import Backbone, Encoder, Inputs, Task
from d2v.params.base import Positive, Strict
from d2v.params.decoder import Decoder
from d2v.params.model import SharedPart
from d2v.util.errors import UserError, counted


class Architecture(Strict):
    """Everything that is needed to build the modules."""

    encoder: Encoder
    backbone: Backbone
    task: Task | None = None  # task of a fine-tuned model
    outputs: Positive | None = None  # number of logits of its head
    regression: Literal["linear", "mlp", "none"] | None = None  # None: no regression head
    # None: no teacher; else the encoder modules that the teacher shares with the student
    shared: list[SharedPart] | None = None
    decoder: Decoder | None = None  # in place of a regression head (data2vec 2.0)


@dataclass
class Content:
    """A checkpoint; its tensors may be memory-mapped from a file."""

    format: str  # name of the source format, for display
    source: Path
    architecture: Architecture
    inputs: Inputs
    tensors: dict[str, Tensor]
    files: dict[str, bytes] = field(default_factory=dict)  # files of the tokenizer
    notes: list[str] = field(default_factory=list)  # anything that was left out or filled in
    provenance: dict[str, Any] = field(default_factory=dict)


@contextmanager
def configuration_of(path: Path) -> Iterator[None]:
    """Raise UserError with the file's name for settings that are missing or unsupported."""
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{path}: its configuration has no {error.args[0]}, which is needed to build the model"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: {first_fault(error)}") from None


def first_fault(error: Exception) -> str:
    """One sentence on why sizes or settings are invalid."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        return ": ".join(part for part in (".".join(map(str, first["loc"])), message) if part)
    return f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]


def renamed(
    tensors: Mapping[str, Tensor],
    pairs: Iterable[Pair],
    shapes: Mapping[str, torch.Size],
    where: Path,
    optional: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Tensors of another implementation under our names, as float32.

    `shapes` are those of our modules. Our names in `optional` may be absent. Raises UserError that
    lists every missing, surplus and wrongly shaped tensor, under the names in the file.
    """
    found: dict[str, Tensor] = {}
    faults: list[str] = []
    used: set[str] = set()
    copied: list[Tensor] = []
    for ours, theirs in pairs:
        wanted = _shares(shapes[ours], len(theirs))
        used.update(theirs)
        there = [name for name in theirs if name in tensors]
        if not there and ours in optional:
            continue
        faults += [f"{name}: missing" for name in theirs if name not in tensors]
        wrong = [name for name in there if tensors[name].shape != wanted]
        faults += [
            f"{name}: {list(tensors[name].shape)}, {list(wanted)} is expected" for name in wrong
        ]
        if len(there) == len(theirs) and not wrong:
            found[ours] = joined([tensors[name] for name in theirs])
            if len(theirs) > 1 or found[ours].dtype != tensors[theirs[0]].dtype:
                copied += [tensors[name] for name in theirs]
    give_back(copied)
    faults += [f"{name}: surplus" for name in tensors if name not in used]
    refuse_faults(where, faults)
    return found


def refuse_more_modules(a: Architecture, tensors: Mapping[str, Any], where: Path) -> None:
    """Raise UserError if the configuration has more layers than there are tensors.

    The check comes first, so that a wrong configuration does not build any number of modules for
    which the file has no weights.
    """
    front = [getattr(a.encoder, "position_depth", 0), len(getattr(a.encoder, "conv_layers", ()))]
    layers = a.backbone.depth + sum(front)
    if layers > len(tensors):
        raise UserError(
            f"{where}: {layers} layers in its configuration, but only {len(tensors)} tensors"
        )


def refuse_faults(where: Path, faults: list[str]) -> None:
    """Raise UserError with all errors in a checkpoint's tensors, one per line, if there are any."""
    if faults:
        head = f"{where}: {counted(len(faults), 'error')} in the tensors for this architecture"
        raise UserError(head + "\n  " + "\n  ".join(faults))


def joined(parts: list[Tensor]) -> Tensor:
    """Concatenate parts along the first dimension, as float32; a single part is not copied."""
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).float()


def _shares(shape: torch.Size, parts: int) -> torch.Size:
    return torch.Size((shape[0] // parts, *shape[1:])) if parts > 1 else shape
