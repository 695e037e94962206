"""Files and texts as a loaded model takes them: waveforms, pixels, tokens.

An input's tensors do not depend on what else is in its batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from d2v import params
from d2v.data.imagefolder import decode, grey
from d2v.data.layout import lines
from d2v.data.speech import padded
from d2v.data.text import join
from d2v.data.tokenizer import PADDING
from d2v.data.vision import crop
from d2v.encoders.frames import frame_count
from d2v.errors import UserError
from d2v.interop.content import ImageInput, TokenInput, WaveInput
from d2v.interop.module import Model

RATE = 16000
# what a forward pass takes at most: samples or tokens with their padding, or images
PORTION = {"speech": 60 * RATE, "text": 4096, "vision": 16}


@dataclass(frozen=True)
class Input:
    """One input: what it is called, and its waveform (S,), pixels (C, H, W) or ids (T,)."""

    name: str
    value: np.ndarray


def batches(model: Model, inputs: Sequence[str | Path]) -> Iterator[tuple[list[str], Any]]:
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


def expanded(model: Model, inputs: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Name and file of each input; of texts, name and text: a file's lines, or the text itself.

    Raises UserError if there is none.
    """
    found: list[tuple[str, str]] = []
    for item in inputs:
        if model.params.encoder.kind != "text":
            found.append((str(item), str(item)))
        elif isinstance(item, Path) or Path(item[:255]).is_file():
            found += [(f"{item}:{n}", line) for n, line in lines(Path(item)) if line.strip()]
        else:
            found.append((item, item))
    if not found:
        raise UserError("no inputs: name files, or give texts")
    return found


def read(model: Model, inputs: Sequence[str | Path]) -> Iterator[Input]:
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
    try:
        wave, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: not a readable audio file ({error})") from None
    if (rate, wave.shape[1]) != (RATE, 1):
        raise UserError(
            f"{path}: {rate} Hz, {wave.shape[1]} channel(s); {RATE} Hz and one are needed: convert"
            f" it (for example `sox {path.name} -r {RATE} -c 1 out.wav`)"
        )
    wave = wave[:, 0]
    if frame_count(len(wave), encoder.conv_layers) < 1:
        raise UserError(f"{path}: {len(wave)} samples, too few for one frame")
    return normalised(wave, how.eps) if how.normalise else wave


def normalised(wave: np.ndarray, eps: float) -> np.ndarray:
    """A waveform (S,) float32 of zero mean and unit variance."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + np.float32(eps))).astype(np.float32)


# --- pixels -----------------------------------------------------------------------------------


def _pixels(path: Path, encoder: params.PatchEncoder, how: ImageInput) -> np.ndarray:
    if how.mean is None or how.std is None:
        raise UserError("mean and deviation of this checkpoint's pixels are not known")
    try:
        image = decode(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    pixels = _sized(image, encoder.image_size, how)
    if encoder.channels == 1:
        pixels = grey(pixels)[..., None]
    mean, std = (np.array(values, np.float32) * 255 for values in (how.mean, how.std))
    standardised = (pixels.astype(np.float32) - mean) / std
    return np.ascontiguousarray(standardised.transpose(2, 0, 1))


def _sized(image: np.ndarray, side: int, how: ImageInput) -> np.ndarray:
    """The centre of an image (H, W, 3), or all of it stretched: (side, side, 3)."""
    height, width = image.shape[:2]
    if how.stretch is not None:
        return image if [height, width] == [side, side] else _resized(image, (side, side), how)
    if how.resize is not None:
        scale = how.resize / min(height, width)
        size = (max(how.resize, int(height * scale)), max(how.resize, int(width * scale)))
        image = image if size == (height, width) else _resized(image, size, how)
    return crop(image, side)


def _resized(image: np.ndarray, size: tuple[int, int], how: ImageInput) -> np.ndarray:
    """An image of (height, width) `size`: as transformers' processors, which stretch, do it; else
    as Pillow does, which evaluation and data2vec_vision use.
    """
    if how.stretch is None:
        filters = Image.Resampling[how.resampling.upper()]
        return np.asarray(Image.fromarray(image).resize((size[1], size[0]), filters))
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    resized = resize(pixels, list(size), InterpolationMode(how.resampling), antialias=True)
    return resized.permute(1, 2, 0).contiguous().numpy()


# --- tokens -----------------------------------------------------------------------------------


def _ids(text: str, tokenizer: Any, how: TokenInput) -> np.ndarray:
    """Ids of a text, or of two with a tab between them, with their boundary tokens."""
    first, tab, second = text.partition("\t")
    pair = tokenizer(second) if tab else None
    return np.array(join(tokenizer(first), pair, how.max_tokens), np.int64)
