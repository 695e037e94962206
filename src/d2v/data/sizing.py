"""Images resized to a model's input size, as torchvision or transformers would."""

import numpy as np
import torch
import torch.nn.functional as F
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
    """Resize pixels (C, H, W) uint8; unchanged if no size is given or they already have it.

    The result is that of torchvision's `resize` with antialiasing, which is what transformers uses.
    """
    height, width = pixels.shape[1:]
    wanted = how.stretch
    if wanted is None and how.resize:
        longer = int(how.resize * max(height, width) / min(height, width))
        wanted = [longer, how.resize] if width <= height else [how.resize, longer]
    if wanted is None or wanted == [height, width]:
        return pixels
    if how.resampling == "nearest":  # as Pillow does it
        return F.interpolate(pixels[None], wanted, mode="nearest-exact")[0]
    # bilinear kernels for integers round differently without AVX2, so torchvision uses none there
    whole = how.resampling != "bilinear" or "AVX" in torch.backends.cpu.get_cpu_capability()
    changed = F.interpolate(
        _last(pixels if whole else pixels.float()),
        wanted,
        mode=how.resampling,
        align_corners=False,
        antialias=True,
    )[0]
    return changed if whole else changed.round().to(torch.uint8)


def _last(pixels: Tensor) -> Tensor:
    """Pixels (1, C, H, W) in the memory order of `pixels` (C, H, W), which decides the kernel."""
    return pixels[None].as_strided((1, *pixels.shape), (pixels.numel(), *pixels.stride()))


def _centre(pixels: Tensor, side: int) -> Tensor:
    """Crop the centre of pixels (C, H, W), rounding half a pixel down and padding with zeros.

    torchvision's center_crop rounds half a pixel to even instead.
    """
    height, width = (max(side - length, 0) for length in pixels.shape[1:])
    if height or width:
        edges = [width // 2, (width + 1) // 2, height // 2, (height + 1) // 2]
        pixels = F.pad(pixels, edges)
    top, left = ((length - side) // 2 for length in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]
