"""Check that weights and data match, by comparing their records of inputs and outputs."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from d2v.data import record
from d2v.interop.content import Content
from d2v.params import ImageInput, Inputs, TokenInput
from d2v.util.errors import UserError

# fields that are compared, with their names in messages; tokenizers are compared separately
INPUTS = {
    "mean": "mean of pixels",
    "std": "deviation of pixels",
    "normalise": "normalisation of waveforms",
    "rate": "sampling rate",
}
OUTPUTS = ("classes", "letters")  # fields that name the head's outputs, in order
COLOURS = ("mean", "std")
SHOWN = 5  # number of names that a message lists


def described(content: Content) -> Inputs:
    """Record of a checkpoint's inputs and outputs, with the hashes of its tokenizer."""
    inputs = content.inputs
    if not isinstance(inputs, TokenInput) or inputs.tokenizer is None or not content.files:
        return inputs
    kind = inputs.tokenizer
    hashes = {
        "sha256": record.files_hash(kind, content.files),
        "pieces": record.pieces_hash(kind, content.files),
    }
    return inputs.model_copy(update=hashes)


def check_inputs(weights: Inputs, data: Inputs, source: object, chosen: bool = False) -> list[str]:
    """Compare the inputs that weights were trained with to the data for further training.

    The mean and deviation of pixels may differ if the parameters set them (`chosen`), as in the
    released recipes of vision. Returns messages to print. Raises UserError with both values of
    every field that differs.
    """
    faults: list[str] = []
    lines: list[str] = []
    unknown: list[str] = []
    for name, words in INPUTS.items():
        if not hasattr(data, name):
            continue
        a, b = getattr(weights, name, None), getattr(data, name)
        if a is None or b is None:
            unknown.append(words)
        elif _equal(a, b):
            continue
        elif chosen and name in COLOURS:
            lines.append(f"{words} {_shown(a)} of the weights, {_shown(b)} of the data")
        else:
            faults.append(f"{words} is {_shown(a)} in the weights but {_shown(b)} in the data")
    if isinstance(data, TokenInput):
        _compare_tokenizers(weights, data, faults, unknown)
    if faults:
        hint = ""
        if isinstance(data, ImageInput):
            hint = "; set view.normalise to choose which are used"
        raise UserError(f"{source}: {'; '.join(faults)}{hint}")
    lines = [f"{source}: {line}, as view.normalise says" for line in lines]
    return lines + _untold(source, unknown)


def _compare_tokenizers(
    weights: Inputs, data: TokenInput, faults: list[str], unknown: list[str]
) -> None:
    """Accept equal tokenizer files, or files in two formats whose ids stand for the same pieces."""
    known = weights.sha256 if isinstance(weights, TokenInput) else None
    if known is None or data.sha256 is None:
        unknown.append("tokenizer")
        return
    pieces = weights.pieces if isinstance(weights, TokenInput) else None
    if known != data.sha256 and (pieces is None or pieces != data.pieces):
        faults.append(
            f"tokenizer is {known[:12]} in the weights but {data.sha256[:12]} in the data, so ids"
            " stand for different pieces; prepare the data with the tokenizer of the weights"
        )


def fitted(content: Content, data: Inputs) -> tuple[Content, list[str]]:
    """A fine-tuned checkpoint with its outputs reordered to match the data, and messages to print.

    Raises UserError with both values if the inputs differ, or if the names of the outputs differ by
    more than their order.
    """
    lines = check_inputs(described(content), data, content.source)
    unknown = []
    for name in OUTPUTS:
        theirs, ours = getattr(content.inputs, name, None), getattr(data, name, None)
        if ours is None or theirs == ours:
            continue
        if theirs is None:
            unknown.append(f"names of {name}")
            continue
        named = record.spelt_out(ours) if set(ours).isdisjoint(theirs) else ours
        if theirs == named:
            continue
        order = places(theirs, named, f"{content.source}: {name}")
        content = _reordered(content, name, ours, order)
        lines.append(f"{content.source}: the head's {name} are put into the data's order")
    return content, lines + _untold(content.source, unknown)


def places(theirs: Sequence[str], ours: Sequence[str], what: str) -> list[int]:
    """Index of each of our names among theirs; raises UserError if the sets of names differ."""
    if sorted(theirs) != sorted(ours) or len(set(ours)) < len(ours):
        other = [name for name in theirs if name not in set(ours)] or theirs
        own = [name for name in ours if name not in set(theirs)] or ours
        raise UserError(f"{what} are {_names(other)} in the weights but {_names(own)} in the data")
    return [theirs.index(name) for name in ours]


def _reordered(content: Content, name: str, names: list[str], order: list[int]) -> Content:
    rows = torch.tensor(order)
    head = {key: content.tensors[key][rows] for key in ("head.out.weight", "head.out.bias")}
    return Content(
        **{
            **vars(content),
            "tensors": {**content.tensors, **head},
            "inputs": content.inputs.model_copy(update={name: names}),
        }
    )


def _untold(source: object, unknown: list[str]) -> list[str]:
    return [f"{source}: not known, so not compared: {', '.join(unknown)}"] if unknown else []


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        close = [math.isclose(x, y, abs_tol=1e-5) for x, y in zip(a, b, strict=False)]
        return len(a) == len(b) and all(close)
    return bool(a == b)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{number:.4g}" for number in value)
    return str(value)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
