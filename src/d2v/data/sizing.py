"""Pixels of any size as a model takes them, by torchvision's transforms or transformers'."""

import numpy as np
import torch
from torch import Tensor

from d2v.data.augment import crop, image, resized
from d2v.data.model_inputs import ImageInput


def sized(pixels: np.ndarray, side: int, how: ImageInput) -> np.ndarray:
    """The centre of pixels (H, W, C) after resizing, or all of them stretched: (side, side, C)."""
    if how.sizing == "transformers" or how.stretch is not None:
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        return _centre(_resized(tensor, how), side).permute(1, 2, 0).contiguous().numpy()
    if how.resize is not None:
        shape = pixels.shape[0], pixels.shape[1]
        return resized(image(pixels), how.resize, side, shape, resampling=how.resampling)
    return crop(pixels, side)


def _resized(pixels: Tensor, how: ImageInput) -> Tensor:
    """Pixels (C, H, W) uint8 of another size; as they are if that is theirs, or none is given."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    wanted = how.stretch or ([how.resize] if how.resize else None)
    if wanted is None or wanted == list(pixels.shape[1:]):
        return pixels
    name = "nearest-exact" if how.resampling == "nearest" else how.resampling  # as Pillow's
    changed: Tensor = resize(pixels, wanted, InterpolationMode(name), antialias=True)
    return changed


def _centre(pixels: Tensor, side: int) -> Tensor:
    """The centre of (C, H, W), half a pixel rounded down; what lies outside of it is zero.

    torchvision's center_crop rounds half a pixel to even instead.
    """
    from torchvision.transforms.v2.functional import crop, pad

    height, width = (max(side - length, 0) for length in pixels.shape[1:])
    if height or width:
        edges = [width // 2, height // 2, (width + 1) // 2, (height + 1) // 2]
        pixels = pad(pixels, edges, fill=0)
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    found: Tensor = crop(pixels, top, left, side, side)
    return found
