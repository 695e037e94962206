"""Inputs that are in memory: arrays, tensors, pictures, rows of data sets, as a model's values."""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2v.data.pixels import as_rgb
from d2v.data.readers.imagefolder import picture
from d2v.data.sound import check_finite, samples
from d2v.util.errors import UserError


def payload_of(item: Any, name: str) -> bytes | None:
    """Content of a file: of a path, or of a data set's row that is not decoded; None for others.

    Raises OSError for a file that cannot be read.
    """
    if isinstance(item, str | Path):
        return Path(item).read_bytes()
    if isinstance(item, bytes):
        return item
    if isinstance(item, Mapping) and ("bytes" in item or "path" in item) and "array" not in item:
        held = item.get("bytes")
        if held is None and not item.get("path"):
            raise UserError(f"{name}: neither bytes nor a path")
        return bytes(held) if held is not None else Path(item["path"]).read_bytes()
    return None


def wave_of(item: Any, rate: int, name: str) -> np.ndarray:
    """Waveform (S,) float32 from -1 to 1 of a file, or of an array with or without a rate.

    `item` is what `samples_in` takes, at `rate` samples per second. int16 samples are scaled.
    Raises UserError with the name for another rate, several channels, or invalid samples.
    """
    payload = payload_of(item, name)
    if payload is not None:
        return samples(payload, name)
    wave, given = samples_in(item, rate, name)
    if given != rate:
        raise UserError(
            f"{name}: {given} Hz, but the model takes {rate} Hz; resample it first, for example"
            f" with soxr.resample(wave, {given}, {rate})"
        )
    if wave.dtype == np.int16:
        return wave.astype(np.float32) / np.float32(2**15)
    return wave.astype(np.float32)


def samples_in(item: Any, usual: int, name: str) -> tuple[np.ndarray, int]:
    """Samples (S,) int16 or floating-point of one channel, and their rate.

    `item` is an array or tensor of `usual` samples per second, a pair (array, rate), a mapping with
    `array` and `sampling_rate`, or a decoder with `get_all_samples`. Raises UserError with the name
    for several channels, another type, and samples that are not numbers or beyond full scale.
    """
    values, rate = _with_rate(item, usual, name)
    wave = array_of(values, name)
    if wave.ndim == 2 and 1 in wave.shape:
        wave = wave.reshape(-1)
    if wave.ndim != 1 or not len(wave):
        raise UserError(f"{name}: samples of shape {wave.shape}; (samples,) is needed, one channel")
    if wave.dtype == np.int16:
        return wave, rate
    if not np.issubdtype(wave.dtype, np.floating):
        raise UserError(f"{name}: samples are {wave.dtype}; give floating-point numbers or int16")
    check_finite(wave, name)
    return wave, rate


def _with_rate(item: Any, usual: int, name: str) -> tuple[Any, int]:
    """Samples and their rate, in whichever of the forms of `samples_in` they are given."""
    if hasattr(item, "get_all_samples"):
        decoded = item.get_all_samples()
        item = decoded.data, decoded.sample_rate
    elif isinstance(item, Mapping):
        if not {"array", "sampling_rate"} <= item.keys():
            raise UserError(f"{name}: a recording needs array and sampling_rate")
        item = item["array"], item["sampling_rate"]
    if not isinstance(item, tuple):
        return item, usual
    if len(item) != 2:
        raise UserError(f"{name}: give a pair of samples and rate, not {len(item)} values")
    values, rate = item
    if not isinstance(rate, Real) or not 1 <= float(rate) < np.inf:
        raise UserError(f"{name}: a rate of {rate!r}; give the samples per second as a number")
    return values, int(float(rate))


def picture_of(item: Any, name: str) -> Image.Image:
    """RGB picture of a file's content, a Pillow image, or 8-bit pixels.

    Arrays are (H, W) or (H, W, 3), tensors (3, H, W) or (1, H, W). Raises UserError with the name
    for other types and shapes, and for a broken file.
    """
    payload = payload_of(item, name)
    if payload is not None:
        return picture(payload, name, upright=True)
    if isinstance(item, Image.Image):
        if 0 in item.size:
            raise UserError(f"{name}: a picture without pixels ({item.width} x {item.height})")
        try:
            return as_rgb(item, upright=True)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
    pixels = array_of(item, name)
    if not isinstance(item, np.ndarray) and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if not pixels.size:
        raise UserError(f"{name}: a picture without pixels (of shape {pixels.shape})")
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise UserError(
            f"{name}: pixels {pixels.dtype} of shape {pixels.shape}; uint8 of shape (H, W, 3) is"
            " needed, of a tensor (3, H, W)"
        )
    return Image.fromarray(pixels).convert("RGB")


def ids_of(item: Any, size: int, name: str) -> np.ndarray | None:
    """Token ids (T,), with their boundary tokens; None for anything but an array or tensor.

    Raises UserError with the name for ids that are not below `size`, the number of tokens.
    """
    if not isinstance(item, np.ndarray) and not hasattr(item, "detach"):
        return None
    ids = array_of(item, name)
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"{name}: token ids must be integers of shape (T,), not {ids.shape}")
    if ids.min() < 0 or ids.max() >= size:
        raise UserError(f"{name}: token ids must be from 0 to {size - 1}")
    return ids.astype(np.int64)


def array_of(item: Any, name: str) -> np.ndarray:
    """A NumPy array, or a tensor or list as one; raises UserError with the name for others."""
    try:
        if hasattr(item, "detach"):  # a tensor, on any device
            item = item.detach().cpu().numpy()
        if isinstance(item, list):
            item = np.asarray(item)
    except (TypeError, ValueError) as error:  # bfloat16, a sparse tensor; rows of several lengths
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: not usable as an array ({said}); convert it, for example with .float()"
        ) from None
    if not isinstance(item, np.ndarray) or item.dtype == object:
        raise UserError(
            f"{name}: {type(item).__name__} cannot be an input; give a path, an array, a tensor, a"
            " Pillow image or a text"
        )
    return item
