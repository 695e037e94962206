"""Files and texts as inputs of a loaded model: waveforms, pixels or tokens.

The tensors of an input do not depend on the other inputs in its batch.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from d2v import params
from d2v.data.augment import array
from d2v.data.layout import lines
from d2v.data.readers.imagefolder import picture
from d2v.data.sizing import sized
from d2v.data.sound import RATE
from d2v.data.sound import samples as samples_of_file
from d2v.data.speech import padded
from d2v.data.text import join
from d2v.data.tokenizer import PADDING
from d2v.model.frames import frame_count
from d2v.params import ImageInput, Inputs, TokenInput, WaveInput
from d2v.util.errors import UserError


class _Architecture(Protocol):
    """The part of a loaded model's architecture that inputs depend on."""

    @property
    def encoder(self) -> params.Encoder: ...


class Reading(Protocol):
    """What this module needs of a loaded model (d2v.interop.module.Model)."""

    @property
    def params(self) -> _Architecture: ...

    @property
    def inputs(self) -> Inputs: ...

    @property
    def tokenizer(self) -> Any: ...


# an argument that starts or ends like this is taken for a file name, not for a text
STARTS = ("/", "./", "../", "~/")
ENDS = (
    *(".txt", ".tsv", ".csv", ".json", ".jsonl", ".gz", ".zip", ".tar", ".md", ".xml", ".html"),
    *(".wav", ".flac", ".mp3", ".ogg", ".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".tiff"),
    *(".pdf", ".doc", ".docx", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".yaml", ".yml"),
)
# largest batch per forward pass: samples or tokens including padding, or images
PORTION = {"speech": 60 * RATE, "text": 4096, "vision": 16}


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
    kind, alike = model.params.encoder.kind, only_alike(model.params.encoder)
    group: list[Input] = []
    for item in read(model, inputs):
        sizes = [len(other.value) if kind != "vision" else 1 for other in (*group, item)]
        too_many = len(sizes) * max(sizes) > PORTION[kind]
        if group and (too_many or (alike and len(set(sizes)) > 1)):
            yield [other.name for other in group], _batch(kind, group)
            group = []
        group.append(item)
    if group:
        yield [other.name for other in group], _batch(kind, group)


def only_alike(encoder: params.Encoder) -> bool:
    """Whether padding would change the outputs, so that a batch must have inputs of equal length.

    If padding is zeroed only once, as in the released models, it leaks through the stacked
    convolutional position layers into the last frames of an utterance.
    """
    return (
        isinstance(encoder, params.WaveEncoder)
        and encoder.position_padding == "once"
        and encoder.position_depth > 1
    )


def expanded(model: Reading, inputs: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Return the name and the file of each input or, for a text model, the name and the text.

    A text file gives one text per non-blank line; any other argument is itself the text. Raises
    UserError if there are no inputs.
    """
    found: list[tuple[str, str]] = []
    for item in inputs:
        if model.params.encoder.kind != "text":
            found.append((str(item), str(item)))
        elif isinstance(item, Path) or os.path.isfile(item):
            rows = [(f"{item}:{n}", line) for n, line in lines(Path(item)) if line.strip()]
            if not rows:
                raise UserError(f"{item}: contains no text")
            found += rows
        else:
            _check_text(item)
            found.append((item, item))
    if not found:
        raise UserError("no inputs: name files, or give texts")
    return found


def _check_text(item: str) -> None:
    """Raise UserError for a text that is empty or looks like a file name."""
    if not item.strip():
        raise UserError("an empty text among the inputs; give a text or the name of a file")
    if os.path.isdir(item):
        raise UserError(f"{item}: a folder; name text files, or give texts")
    path_like = os.sep in item and not any(map(str.isspace, item))
    if path_like or item.startswith(STARTS) or item.rstrip().lower().endswith(ENDS):
        raise UserError(
            f"{item}: no such file; if it is a text, write it into a file and name that file"
        )


def read(model: Reading, inputs: Sequence[str | Path]) -> Iterator[Input]:
    """Yield the inputs one by one; raises UserError naming one that cannot be read."""
    encoder, how = model.params.encoder, model.inputs
    for name, content in expanded(model, inputs):
        match encoder, how:
            case params.WaveEncoder(), WaveInput():
                value = _wave(Path(content), encoder, how)
            case params.PatchEncoder(), ImageInput():
                value = _pixels(Path(content), encoder, how)
            case params.TokenEncoder(), TokenInput():
                value = _ids(content, model.tokenizer, how)
        yield Input(name, value)


def _batch(kind: str, group: list[Input]) -> dict[str, Tensor]:
    values = [item.value for item in group]
    if kind == "vision":
        return {"images": torch.from_numpy(np.stack(values))}
    if kind == "text":
        return {"tokens": torch.from_numpy(padded(values, PADDING, np.int64)[0])}
    waves, samples = padded(values, 0.0, np.float32)
    batch = {"waves": torch.from_numpy(waves)}
    if len(set(samples.tolist())) > 1:
        batch["samples"] = torch.from_numpy(samples)
    return batch


# --- waveforms --------------------------------------------------------------------------------


def _wave(path: Path, encoder: params.WaveEncoder, how: WaveInput) -> np.ndarray:
    if how.rate != RATE:
        raise UserError(f"this model takes {how.rate} Hz, but audio is read at {RATE} Hz")
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: not a readable audio file ({error.strerror})") from None
    wave = samples_of_file(payload, path)
    if frame_count(len(wave), encoder.conv_layers) < 1:
        raise UserError(f"{path}: {len(wave)} samples, too few for one frame")
    return normalised(wave, how.eps) if how.normalise else wave


def normalised(wave: np.ndarray, eps: float) -> np.ndarray:
    """Return the waveform (S,) as float32 with zero mean and unit variance."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + np.float32(eps))).astype(np.float32)


# --- pixels -----------------------------------------------------------------------------------


def _pixels(path: Path, encoder: params.PatchEncoder, how: ImageInput) -> np.ndarray:
    if how.mean is None or how.std is None:
        raise UserError(
            "the pixel mean and deviation for this checkpoint are unknown: a Hugging Face folder"
            " needs its preprocessor_config.json, a run its prepared data"
        )
    try:
        whole = picture(path.read_bytes(), path, upright=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    pixels = array(whole.convert("L") if encoder.channels == 1 else whole)
    pixels = sized(pixels, encoder.image_size, how)
    mean, std = (np.array(values, np.float32) * 255 for values in (how.mean, how.std))
    standardised = (pixels.astype(np.float32) - mean) / std
    return np.ascontiguousarray(standardised.transpose(2, 0, 1))


# --- tokens -----------------------------------------------------------------------------------


def _ids(text: str, tokenizer: Any, how: TokenInput) -> np.ndarray:
    """Return the token ids of a text, or of a tab-separated pair, with boundary tokens."""
    first, tab, second = text.partition("\t")
    pair = tokenizer(second) if tab else None
    return np.array(join(tokenizer(first), pair, how.max_tokens), np.int64)
