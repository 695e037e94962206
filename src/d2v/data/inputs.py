"""Files and texts as a loaded model takes them: waveforms, pixels, tokens.

An input's tensors do not depend on what else is in its batch.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from d2v import params
from d2v.data.augment import array
from d2v.data.layout import lines
from d2v.data.model_inputs import ImageInput, TokenInput, WaveInput
from d2v.data.readers.imagefolder import picture
from d2v.data.sizing import sized
from d2v.data.sound import RATE
from d2v.data.sound import samples as samples_of_file
from d2v.data.speech import padded
from d2v.data.text import join
from d2v.data.tokenizer import PADDING
from d2v.model.frames import frame_count
from d2v.util.errors import UserError

if TYPE_CHECKING:  # what has weights lies above data
    from d2v.interop.module import Model


# beginnings and ends of what is the name of a file, whatever lies between
STARTS = ("/", "./", "../", "~/")
ENDS = (
    *(".txt", ".tsv", ".csv", ".json", ".jsonl", ".gz", ".zip", ".tar", ".md", ".xml", ".html"),
    *(".wav", ".flac", ".mp3", ".ogg", ".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".tiff"),
    *(".pdf", ".doc", ".docx", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".yaml", ".yml"),
)
# what a forward pass takes at most: samples or tokens with their padding, or images
PORTION = {"speech": 60 * RATE, "text": 4096, "vision": 16}


@dataclass(frozen=True)
class Input:
    """One input: what it is called, and its waveform (S,), pixels (C, H, W) or ids (T,)."""

    name: str
    value: np.ndarray


def batches(model: "Model", inputs: Sequence[str | Path]) -> Iterator[tuple[list[str], Any]]:
    """Names and batch, in the order of the inputs; padded where that changes nothing.

    Raises UserError naming the input that cannot be read.
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
    """Whether padding would change the outputs, so that only equal lengths go together.

    Where padding is zeroed once, as in the released models, it leaks through stacked convolutional
    positions into an utterance's last frames.
    """
    return (
        isinstance(encoder, params.WaveEncoder)
        and encoder.position_padding == "once"
        and encoder.position_depth > 1
    )


def expanded(model: "Model", inputs: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Name and file of each input; of texts, name and text: a file's lines, or the text itself.

    Raises UserError if there is none.
    """
    found: list[tuple[str, str]] = []
    for item in inputs:
        if model.params.encoder.kind != "text":
            found.append((str(item), str(item)))
        elif isinstance(item, Path) or os.path.isfile(item):
            rows = [(f"{item}:{n}", line) for n, line in lines(Path(item)) if line.strip()]
            if not rows:
                raise UserError(f"{item}: no text in it")
            found += rows
        else:
            _check_text(item)
            found.append((item, item))
    if not found:
        raise UserError("no inputs: name files, or give texts")
    return found


def _check_text(item: str) -> None:
    """Raises UserError for a text that looks like the name of a file."""
    if not item.strip():
        raise UserError("an empty text among the inputs; give a text or the name of a file")
    if os.path.isdir(item):
        raise UserError(f"{item}: a folder; name files of text, or give texts")
    path_like = os.sep in item and not any(map(str.isspace, item))
    if path_like or item.startswith(STARTS) or item.rstrip().lower().endswith(ENDS):
        raise UserError(
            f"{item}: no such file; if it is a text, write it into a file and name that file"
        )


def read(model: "Model", inputs: Sequence[str | Path]) -> Iterator[Input]:
    """The inputs, one after another; raises UserError naming one that cannot be read."""
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
        raise UserError(f"this model takes {how.rate} Hz, and sounds are read at {RATE} Hz")
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: not a readable audio file ({error.strerror})") from None
    wave = samples_of_file(payload, path)
    if frame_count(len(wave), encoder.conv_layers) < 1:
        raise UserError(f"{path}: {len(wave)} samples, too few for one frame")
    return normalised(wave, how.eps) if how.normalise else wave


def normalised(wave: np.ndarray, eps: float) -> np.ndarray:
    """A waveform (S,) float32 of zero mean and unit variance."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + np.float32(eps))).astype(np.float32)


# --- pixels -----------------------------------------------------------------------------------


def _pixels(path: Path, encoder: params.PatchEncoder, how: ImageInput) -> np.ndarray:
    if how.mean is None or how.std is None:
        raise UserError(
            "mean and deviation of this checkpoint's pixels are not known: a Hugging Face folder"
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
    """Ids of a text, or of two with a tab between them, with their boundary tokens."""
    first, tab, second = text.partition("\t")
    pair = tokenizer(second) if tab else None
    return np.array(join(tokenizer(first), pair, how.max_tokens), np.int64)
