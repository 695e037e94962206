"""Apply a loaded model to files and texts: hidden states, transcripts, classes.

Outputs are deterministic. Up to rounding, the outputs of an input do not depend on the other
inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from d2v import params
from d2v.evaluation.ctc import MODELS, BeamSearch, Language, greedy, letters_in
from d2v.interop.hidden_states import Features, Inputs, Layers, Pool, layer_numbers
from d2v.interop.matching import places
from d2v.interop.module import Model
from d2v.util.errors import UserError


@dataclass(frozen=True)
class Class:
    """Prediction for one input: the most probable class with all scores, or a number."""

    name: str
    prediction: str | float
    scores: dict[str, float]  # probability of each class; empty for a number


def features(
    model: Model,
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
    return model.features(inputs, layers, pool, batch_size, progress)


def transcribe(
    model: Model,
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
        _check_lm(Path(lm))
        known = letters_in(lm)
        order = places(letters, known, f"{model.content.source}: letters")
        search = BeamSearch(Language(lm, known), decode or params.Decode())
    for found in features(model, inputs, -1, batch_size=batch_size):
        assert found.logits is not None
        log_probs = found.logits.log_softmax(-1)
        yield found.name, search(log_probs[:, order]) if search else greedy(log_probs, letters)


def _check_lm(folder: Path) -> None:
    """Raise UserError for a folder that lacks a file of every prepared language model."""
    for names in (["lexicon.txt"], ["tokens.txt"], MODELS):
        if not any((folder / name).is_file() for name in names):
            raise UserError(
                f"{folder}: not a prepared language model (no {names[-1]}); make one with `d2v"
                " prepare set-lm` or `d2v prepare official-lm`"
            )


def check_transcribes(model: Model) -> list[str]:
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


def classify(model: Model, inputs: Inputs, batch_size: int | None = None) -> Iterator[Class]:
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


def check_classifies(model: Model) -> params.Classify | params.Regress | params.Tag:
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
