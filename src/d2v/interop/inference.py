"""Apply a loaded model to files and texts: hidden states, transcripts, classes.

Outputs are deterministic. Up to rounding, the outputs of an input do not depend on the other
inputs.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from d2v import params
from d2v.data.inputs import batches, count_of
from d2v.data.layout import progress as shown
from d2v.evaluation.ctc import BeamSearch, Language, greedy, letters_in
from d2v.interop.matching import places
from d2v.util.errors import UserError
from d2v.util.extras import named

if TYPE_CHECKING:  # whose `features` calls the function here
    from d2v.interop.module import Model

# paths, texts, arrays (samples or pairs of samples and rate, pixels, token ids), tensors, Pillow
# images, rows of data sets: a list, column, series or generator of them, or a single one
Inputs: TypeAlias = Iterable[Any]
Layers: TypeAlias = Literal["all"] | int | Sequence[int]
Pool: TypeAlias = Literal["mean", "first"]


# oneDNN keeps the kernels of 1,024 shapes by default. Memory that is freed between them does not
# return to the system: after 2,000 recordings of different lengths, a process took 400 MB more.
KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128"


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


@dataclass(frozen=True)
class Class:
    """Prediction for one input: the most probable class with all scores, or a number."""

    name: str
    prediction: str | float
    scores: dict[str, float]  # probability of each class; empty for a number


def features(
    model: "Model",
    inputs: Inputs,
    layers: Layers = "all",
    pool: Pool | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Iterator[Features]:
    """Hidden states and logits of each input, in order; inputs are read while results are used.

    `inputs` are paths, texts, arrays, tensors, Pillow images or rows of data sets, in a list, a
    column, a series or a generator; a path to a text file stands for its lines. `layers` are
    numbers, of which negative ones count from the last block. `pool` gives one vector (D,) for each
    layer: the mean over positions without class token, or the first position. By default, a batch
    is as large as its memory allows; the results do not depend on it, up to rounding. Raises
    UserError for a layer that the model does not have, and for an input that cannot be read or
    whose outputs are NaN, which it names.
    """
    chosen = layer_numbers(model, layers)
    if pool not in (None, "mean", "first"):
        raise UserError(f"pool {pool!r}: give mean or first, or leave it out")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size {batch_size}: give a number from 1 on")
    found = _features(model, inputs, chosen, pool, batch_size)
    return shown(found, "features", count_of(inputs)) if progress else found


def layer_numbers(model: "Model", layers: Layers) -> list[int]:
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
    model: "Model", inputs: Inputs, layers: list[int], pool: Pool | None, size: int | None
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
    model: "Model",
    names: list[str],
    batch: dict[str, Tensor],
    layers: list[int],
    pool: Pool | None,
) -> list[Features]:
    hidden, logits, padding = model.hidden(batch, alone=True)
    prefix = model.student.encoder.prefix
    lengths = [hidden[0].shape[1]] * len(names)
    if padding is not None:
        lengths = (prefix + (~padding).sum(1)).tolist()
    found = []
    for i, (name, length) in enumerate(zip(names, lengths, strict=True)):
        states = {
            layer: _pooled(hidden[layer][i, :length], pool, prefix).float().cpu()
            for layer in layers
        }
        row = _logits(logits, i, length - prefix)
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


def transcribe(
    model: "Model",
    inputs: Inputs,
    lm: str | Path | None = None,
    decode: params.Decode | None = None,
    batch_size: int | None = None,
) -> Iterator[tuple[str, str]]:
    """Name and transcript of each utterance, from the best path or from a beam search with `lm`.

    `lm` is a folder with lexicon, language model and letters. Raises UserError for a model without
    letters, and for an `lm` with other letters than the model's.
    """
    letters = check_transcribes(model)
    search = None
    if lm is not None:
        known = letters_in(lm)
        order = places(letters, known, f"{model.content.source}: letters")
        search = BeamSearch(Language(lm, known), decode or params.Decode())
    for found in features(model, inputs, -1, batch_size=batch_size):
        assert found.logits is not None
        log_probs = found.logits.log_softmax(-1)
        yield found.name, search(log_probs[:, order]) if search else greedy(log_probs, letters)


def check_transcribes(model: "Model") -> list[str]:
    """The letters of a model; raises UserError if it was not fine-tuned for transcription."""
    source, task = model.content.source, model.params.task
    if task is not None and not isinstance(task, params.CTC):
        raise UserError(
            f"{source}: fine-tuned for classification or regression, not for transcription; use"
            " `d2v classify`"
        )
    if task is None or model.letters is None:
        raise UserError(f"{source}: not fine-tuned for transcription, so it has no letters")
    return model.letters


def classify(model: "Model", inputs: Inputs, batch_size: int | None = None) -> Iterator[Class]:
    """Class or number of each input; for tags, the most probable tag and all scores.

    For tasks on pairs of texts, the two texts are separated by a tab. Raises UserError for a model
    without classes.
    """
    task = check_classifies(model)
    names = model.classes or [str(i) for i in range(model.params.outputs or 0)]
    for found in features(model, inputs, -1, batch_size=batch_size):
        assert found.logits is not None
        if isinstance(task, params.Regress):
            yield Class(found.name, found.logits.item() * task.scale, {})
            continue
        tags = isinstance(task, params.Tag)  # its outputs are log-probabilities
        scores = found.logits.exp() if tags else found.logits.softmax(-1)
        best = names[int(scores.argmax())]
        yield Class(found.name, best, dict(zip(names, scores.tolist(), strict=True)))


def check_classifies(model: "Model") -> params.Classify | params.Regress | params.Tag:
    """The task of a model; raises UserError if it is neither classification nor regression."""
    source, task = model.content.source, model.params.task
    if isinstance(task, params.CTC):
        raise UserError(
            f"{source}: fine-tuned for transcription, not for classification or regression; use"
            " `d2v transcribe`"
        )
    if task is None:
        raise UserError(
            f"{source}: not fine-tuned for classification or regression, so it has no such head"
        )
    return task


def save_features(
    model: "Model",
    inputs: Inputs,
    out: str | Path,
    layers: Layers = "all",
    progress: Callable[[Iterator[Features]], Iterator[Features]] = iter,
) -> int:
    """Write `i.hidden.l` and `i.logits` of the i-th input to a safetensors file.

    The file is written while the inputs are read, and appears only when it is complete. Its
    metadata holds the names of the inputs. Returns the number of inputs.
    """
    from d2v.data.inputs import expanded, single
    from d2v.interop.streaming import TensorFile

    inputs = list(single(inputs))
    names = [name for name, _ in expanded(model, inputs)]
    per_input = 1 + len(layer_numbers(model, layers))
    with TensorFile(Path(out), {"inputs": names}, len(names) * per_input) as file:
        count = 0
        for i, found in enumerate(progress(features(model, inputs, layers))):
            for layer, states in found.hidden.items():
                file.add(f"{i}.hidden.{layer}", states)
            if found.logits is not None:
                file.add(f"{i}.logits", found.logits)
            count += 1
    return count


def device(name: str | None) -> torch.device:
    """The requested device; by default a GPU if available. Raises UserError if it is missing."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()  # raises on the device `meta`, which has no values
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return found
