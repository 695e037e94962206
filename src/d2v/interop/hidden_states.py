"""Hidden states of a loaded model for inputs of any number, batch by batch."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor, nn

from d2v.data.files import Reading
from d2v.data.inputs import batches, count_of
from d2v.data.layout import progress as shown
from d2v.interop.content import Architecture
from d2v.util.errors import UserError
from d2v.util.extras import named

# paths, texts, arrays (samples or pairs of samples and rate, pixels, token ids), tensors, Pillow
# images, rows of data sets: a list, column, series or generator of them, or a single one
Inputs: TypeAlias = Iterable[Any]
Layers: TypeAlias = Literal["all"] | int | Sequence[int]
Pool: TypeAlias = Literal["mean", "first"]

# oneDNN keeps 1,024 kernels by default, one for each operation and shape. With new shapes all the
# time, memory then grows: by 400 MB over 2,000 recordings of different lengths.
KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"


@dataclass(frozen=True)
class Features:
    """Outputs for one input: `hidden` by layer, (T, D) float32 on the CPU, and optional `logits`.

    Layer 0 is the input of the first block, layer l the output of block l. A class token is the
    first position. Padding is removed. With pooling, the states are (D,). Logits have shape
    (outputs,), or (T, letters) for CTC; they are None without a head.
    """

    name: str
    hidden: dict[int, Tensor]
    logits: Tensor | None

    @property
    def states(self) -> Tensor:
        """The hidden states of the only layer; raises ValueError if there are several."""
        (only,) = self.hidden.values()
        return only


class Loaded(Reading, Protocol):
    """What this module needs of a loaded model (d2v.interop.module.Model)."""

    @property
    def params(self) -> Architecture: ...

    @property
    def prefix(self) -> int: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def hidden(
        self, batch: dict[str, Tensor], alone: bool = False
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]: ...


def hidden_states(
    model: Loaded,
    inputs: Inputs,
    layers: Layers,
    pool: Pool | None,
    batch_size: int | None,
    progress: bool,
) -> Iterator[Features]:
    """What `d2v.features` returns."""
    chosen = layer_numbers(model, layers)
    if pool not in (None, "mean", "first"):
        raise UserError(f"pool {pool!r}: give mean or first, or leave it out")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size {batch_size}: give a number from 1 on")
    found = _features(model, inputs, chosen, pool, batch_size)
    return shown(found, "features", count_of(inputs)) if progress else found


def layer_numbers(model: Loaded, layers: Layers) -> list[int]:
    """Numbers of the layers, from 0; raises UserError for one that the model does not have."""
    depth = model.params.backbone.depth
    if isinstance(layers, str):
        if layers != "all":
            raise UserError(f'layers {layers!r}: give "all", a number, or a list of numbers')
        return list(range(depth + 1))
    numbers = [layers] if isinstance(layers, int) else list(layers)
    for number in numbers:
        if not -depth - 1 <= number <= depth:
            raise UserError(
                f"no layer {number}: this model has layers 0 (the input of the first) to {depth};"
                " -1 is the last"
            )
    return [number % (depth + 1) for number in numbers]


def _features(
    model: Loaded, inputs: Inputs, layers: list[int], pool: Pool | None, size: int | None
) -> Iterator[Features]:
    os.environ.setdefault(*KERNELS)  # has no effect after the process's first product
    parameter = next(model.parameters())
    waiting: dict[int, Features] = {}  # by the place among inputs that were read together
    with named():
        cpu = parameter.device.type == "cpu"
        for names, batch, places, last in batches(model, inputs, size, cpu):
            moved = {key: _moved(tensor, parameter) for key, tensor in batch.items()}
            found = _of_batch(model, names, moved, layers, pool)
            waiting.update(zip(places, found, strict=True))
            if last:
                yield from (waiting[place] for place in sorted(waiting))
                waiting.clear()


def _moved(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor on the model's device, with its precision if it has fractions."""
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)


def _of_batch(
    model: Loaded,
    names: list[str],
    batch: dict[str, Tensor],
    layers: list[int],
    pool: Pool | None,
) -> list[Features]:
    hidden, logits, padding = model.hidden(batch, alone=True)
    prefix = model.prefix
    lengths = [hidden[0].shape[1]] * len(names)
    if padding is not None:
        lengths = (prefix + (~padding).sum(1)).tolist()
    undefined = bool((hidden[-1] if logits is None else logits).isnan().any())
    found = []
    for i, (name, length) in enumerate(zip(names, lengths, strict=True)):
        states = {
            layer: _pooled(hidden[layer][i, :length], pool, prefix).float().cpu()
            for layer in layers
        }
        row = _logits(logits, i, length - prefix)
        if undefined:  # in this row, or in the padding of one
            _check_defined(name, hidden[-1][i, :length] if row is None else row)
        found.append(Features(name, states, row))
    return found


def _pooled(states: Tensor, pool: Pool | None, prefix: int) -> Tensor:
    """States (P + T, D), their mean (D,) without the P leading positions, or the first one (D,)."""
    if pool is None:
        return states.clone()  # not a view, which would keep the whole batch
    return states[0].clone() if pool == "first" else states[prefix:].float().mean(0)


def _check_defined(name: str, outputs: Tensor) -> None:
    """Raise UserError for NaN, from which a class or a transcript could still be derived."""
    if bool(outputs.isnan().any()):
        raise UserError(
            f"{name}: the model's outputs are not numbers (NaN), because its weights are damaged or"
            " its training diverged; use another checkpoint"
        )


def _logits(logits: Tensor | None, i: int, length: int) -> Tensor | None:
    if logits is None:
        return None
    row = logits[i].float().cpu()
    return row[:length] if row.ndim == 2 else row
