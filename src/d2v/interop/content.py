"""What a checkpoint of any format holds: sizes, tensors under our names, how inputs are made.

Readers of all formats make a `Content`, writers take one. Tensors are called

    student.*     encoder and backbone            head.*     of a fine-tuned model
    teacher.*     their moving average            regression.*   from student to targets
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from d2v.data.model_inputs import Inputs
from d2v.interop.mapped import give_back
from d2v.interop.names import Pair
from d2v.params import Backbone, Encoder, Task
from d2v.params.base import Positive, Strict
from d2v.util.errors import UserError

Shared = Literal["features", "positions", "norm", "cls", "mask_embedding"]


class Architecture(Strict):
    """All that the modules are built from."""

    encoder: Encoder
    backbone: Backbone
    task: Task | None = None  # of a fine-tuned model
    outputs: Positive | None = None  # logits of its head
    regression: Literal["linear", "mlp", "none"] | None = None  # None: no regression head here
    # None: no teacher here; else modules of the encoder that it shares with the student
    shared: list[Shared] | None = None


@dataclass
class Content:
    """A checkpoint; tensors may lie in a file that is mapped into memory."""

    format: str  # what it was read from, for people
    source: Path
    architecture: Architecture
    inputs: Inputs
    tensors: dict[str, Tensor]
    files: dict[str, bytes] = field(default_factory=dict)  # of the tokenizer
    notes: list[str] = field(default_factory=list)  # what was left out or filled in
    provenance: dict[str, Any] = field(default_factory=dict)


def first_fault(error: Exception) -> str:
    """One sentence of why sizes or settings are impossible."""
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        message = fault["msg"].removeprefix("Value error, ")
        return ": ".join(part for part in (".".join(map(str, fault["loc"])), message) if part)
    return f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]


def renamed(
    tensors: Mapping[str, Tensor],
    pairs: Iterable[Pair],
    shapes: Mapping[str, torch.Size],
    where: Path,
    optional: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Tensors of another implementation under our names, float32.

    `shapes` are those that our modules have. Names of ours in `optional` may be absent. Raises
    UserError that lists every missing, surplus and wrongly shaped tensor, under the names of the
    file.
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
    """Raise UserError for a configuration of more layers than there are tensors.

    Modules that the file has no weights for would be made in vain, however many they are.
    """
    front = [getattr(a.encoder, "position_depth", 0), len(getattr(a.encoder, "conv_layers", ()))]
    layers = a.backbone.depth + sum(front)
    if layers > len(tensors):
        raise UserError(f"{where}: {layers} layers in its configuration, {len(tensors)} tensors")


def refuse_faults(where: Path, faults: list[str]) -> None:
    """Raise UserError with all faults of a checkpoint's tensors, one a line, if there are any."""
    if faults:
        head = f"{where}: {len(faults)} tensor(s) do not fit the architecture"
        raise UserError(head + "\n  " + "\n  ".join(faults))


def joined(parts: list[Tensor]) -> Tensor:
    """One float32 tensor of parts along the first dimension; a single part is not copied."""
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).float()


def _shares(shape: torch.Size, parts: int) -> torch.Size:
    return torch.Size((shape[0] // parts, *shape[1:])) if parts > 1 else shape
