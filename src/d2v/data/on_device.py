"""The rest of a view where the model is: JPEG files decoded, cropped and changed as tensors."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v.data.readers.imagefolder import decode
from d2v.data.views import Choice
from d2v.util.errors import UserError

JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Files:
    """Files of a batch and what was drawn for each; all stays on the host until it is decoded.

    Files lie in one tensor, so that a worker hands over one piece of memory. No tuple: the loader
    would go through its items to pin them.
    """

    payload: Tensor  # (N,) uint8
    ends: list[int]
    choices: list[Choice]

    def split(self) -> list[Tensor]:
        """Bytes of each file."""
        return [self.payload[a:b] for a, b in zip([0, *self.ends], self.ends, strict=False)]


def joined(files: Sequence[np.ndarray], choices: list[Choice]) -> Files:
    """Files (N,) uint8 and choices of a batch."""
    ends = np.cumsum([len(file) for file in files]).tolist()
    return Files(torch.from_numpy(np.concatenate(files)), ends, choices)


def views(files: Files, ids: Sequence[str], size: int, device: torch.device) -> Tensor:
    """Views (B, 3, size, size) uint8 on the device.

    As d2v.data.views makes them from the same choices, but all of an image is decoded at full
    scale, and torchvision's changes of tensors round otherwise than Pillow's of pictures.
    """
    images = _decoded(files.split(), ids, device)
    return torch.stack([_view(i, c, size) for i, c in zip(images, files.choices, strict=True)])


def _view(image: Tensor, choice: Choice, size: int) -> Tensor:
    """A view (3, size, size) of an image (3, H, W)."""
    from torchvision.transforms import v2

    change: dict[str, Any] = {
        "brightness": v2.functional.adjust_brightness,
        "contrast": v2.functional.adjust_contrast,
        "saturation": v2.functional.adjust_saturation,
    }
    for name, factor in choice.jitter:
        image = change[name](image, factor)
    assert choice.box is not None
    bicubic = v2.InterpolationMode.BICUBIC
    image = v2.functional.resized_crop(image, *choice.box, [size, size], bicubic, antialias=True)
    return image.flip(-1) if choice.flip else image


def _decoded(files: list[Tensor], ids: Sequence[str], device: torch.device) -> list[Tensor]:
    """Images (3, H, W) uint8 on the device.

    What its decoder refuses (CMYK, PNG: ImageNet has both) is decoded on the host. Raises UserError
    naming the example whose file is broken.
    """
    try:
        return _decode(files, device)
    except RuntimeError:
        return [_on_host(*pair).to(device) for pair in zip(files, ids, strict=True)]


def _on_host(file: Tensor, name: str) -> Tensor:
    payload = file.numpy().tobytes()
    if payload[:2] != JPEG:
        return torch.from_numpy(decode(payload, name).copy()).permute(2, 0, 1).contiguous()
    try:
        (image,) = _decode([file], torch.device("cpu"))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: corrupt image ({reason}); replace it") from None
    return image


def _decode(files: list[Tensor], device: torch.device) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():  # torchvision points to TorchCodec, which is not installed
        warnings.simplefilter("ignore")
        images: list[Tensor] = decode_jpeg(files, ImageReadMode.RGB, device)
    return images
