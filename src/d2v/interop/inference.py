"""Apply a loaded model to files and texts: hidden states, transcripts, classes.

Outputs are deterministic. Up to rounding, the outputs of an input do not depend on the other
inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from d2v import params
from d2v.data.inputs import batches
from d2v.evaluation.ctc import BeamSearch, Language, greedy, letters_in
from d2v.interop.matching import places
from d2v.interop.module import Model
from d2v.util.errors import UserError

Inputs = Sequence[str | Path]
Layers = Literal["all"] | int


@dataclass(frozen=True)
class Features:
    """Outputs for one input: `hidden` by layer, (T, D) float32 on the CPU, and optional `logits`.

    Layer 0 is the input of the first block, layer l the output of block l. A class token is the
    first position. Padding is removed. Logits have shape (outputs,), or (T, letters) for CTC; they
    are None without a head.
    """

    name: str
    hidden: dict[int, Tensor]
    logits: Tensor | None


@dataclass(frozen=True)
class Class:
    """Prediction for one input: the most probable class with all scores, or a number."""

    name: str
    prediction: str | float
    scores: dict[str, float]  # probability of each class; empty for a number


def features(model: Model, inputs: Inputs, layers: Layers = "all") -> Iterator[Features]:
    """Hidden states and logits of each input, in order.

    `inputs` are paths or texts; a path to a text file stands for its lines. Raises UserError for a
    layer that the model does not have, and for an input that cannot be read or whose outputs are
    NaN, which it names.
    """
    depth = model.params.backbone.depth
    if layers != "all" and not 0 <= layers <= depth:
        raise UserError(
            f"no layer {layers}: this model has layers 0 (the input of the first) to {depth}"
        )
    chosen = range(depth + 1) if layers == "all" else [layers]
    device = next(model.parameters()).device
    for names, batch in batches(model, inputs):
        batch = {key: tensor.to(device) for key, tensor in batch.items()}
        hidden, logits, padding = model.hidden(batch)
        prefix = model.student.encoder.prefix
        lengths = [hidden[0].shape[1]] * len(names)
        if padding is not None:
            lengths = (prefix + (~padding).sum(1)).tolist()
        for i, (name, length) in enumerate(zip(names, lengths, strict=True)):
            states = {layer: hidden[layer][i, :length].float().cpu() for layer in chosen}
            row = _logits(logits, i, length - prefix)
            _check_defined(name, hidden[-1][i, :length] if row is None else row)
            yield Features(name, states, row)


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
    model: Model,
    inputs: Inputs,
    lm: str | Path | None = None,
    decode: params.Decode | None = None,
) -> Iterator[tuple[str, str]]:
    """Name and transcript of each utterance, from the best path or from a beam search with `lm`.

    `lm` is a folder with lexicon, language model and letters. Raises UserError for a model without
    letters, and for an `lm` with other letters than the model's.
    """
    letters = model.letters
    if not isinstance(model.params.task, params.CTC) or letters is None:
        raise UserError(
            f"{model.content.source}: not fine-tuned for transcription, so it has no letters"
        )
    search = None
    if lm is not None:
        known = letters_in(lm)
        order = places(letters, known, f"{model.content.source}: letters")
        search = BeamSearch(Language(lm, known), decode or params.Decode())
    for found in features(model, inputs, model.params.backbone.depth):
        assert found.logits is not None
        log_probs = found.logits.log_softmax(-1)
        yield found.name, search(log_probs[:, order]) if search else greedy(log_probs, letters)


def classify(model: Model, inputs: Inputs) -> Iterator[Class]:
    """Class or number of each input; for tags, the most probable tag and all scores.

    For tasks on pairs of texts, the two texts are separated by a tab. Raises UserError for a model
    without classes.
    """
    task = model.params.task
    if task is None or isinstance(task, params.CTC):
        raise UserError(
            f"{model.content.source}: not fine-tuned for classification or regression, so it has no"
            " such head"
        )
    names = model.classes or [str(i) for i in range(model.params.outputs or 0)]
    for found in features(model, inputs, model.params.backbone.depth):
        assert found.logits is not None
        if isinstance(task, params.Regress):
            yield Class(found.name, found.logits.item() * task.scale, {})
            continue
        tags = isinstance(task, params.Tag)  # its outputs are log-probabilities
        scores = found.logits.exp() if tags else found.logits.softmax(-1)
        best = names[int(scores.argmax())]
        yield Class(found.name, best, dict(zip(names, scores.tolist(), strict=True)))


def save_features(
    model: Model,
    inputs: Inputs,
    out: str | Path,
    layers: Layers = "all",
    progress: Callable[[Iterator[Features]], Iterator[Features]] = iter,
) -> int:
    """Write `i.hidden.l` and `i.logits` of the i-th input to a safetensors file.

    The file is written while the inputs are read, and appears only when it is complete. Its
    metadata holds the names of the inputs. Returns the number of inputs.
    """
    from d2v.data.inputs import expanded
    from d2v.interop.streaming import TensorFile

    names = [name for name, _ in expanded(model, inputs)]
    per_input = 1 + (model.params.backbone.depth + 1 if layers == "all" else 1)
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
