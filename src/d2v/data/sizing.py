"""Images resized to a model's input size, with torchvision's or transformers' transforms."""

import numpy as np
import torch
from torch import Tensor

from d2v.data.augment import crop, image, resized
from d2v.params import ImageInput


def sized(pixels: np.ndarray, side: int, how: ImageInput) -> np.ndarray:
    """Resize and centre-crop, or stretch, pixels (H, W, C) to (side, side, C)."""
    if how.sizing == "transformers" or how.stretch is not None:
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        return _centre(_resized(tensor, how), side).permute(1, 2, 0).contiguous().numpy()
    if how.resize is not None:
        shape = pixels.shape[0], pixels.shape[1]
        return resized(image(pixels), how.resize, side, shape, resampling=how.resampling)
    return crop(pixels, side)


def _resized(pixels: Tensor, how: ImageInput) -> Tensor:
    """Resize pixels (C, H, W) uint8; unchanged if no size is given or they already have it."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    wanted = how.stretch or ([how.resize] if how.resize else None)
    if wanted is None or wanted == list(pixels.shape[1:]):
        return pixels
    name = "nearest-exact" if how.resampling == "nearest" else how.resampling  # as Pillow does it
    changed: Tensor = resize(pixels, wanted, InterpolationMode(name), antialias=True)
    return changed


def _centre(pixels: Tensor, side: int) -> Tensor:
    """Crop the centre of pixels (C, H, W), rounding half a pixel down and padding with zeros.

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
