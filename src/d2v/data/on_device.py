"""Image views made on the model's device: JPEG files decoded, cropped and jittered as tensors."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2v.data.pixels import orientation
from d2v.data.readers.imagefolder import decode
from d2v.data.views import Choice
from d2v.util.errors import UserError

JPEG = b"\xff\xd8"
# as d2v.data.pixels.TURNS, for tensors (3, H, W)
TURNS: dict[int, Callable[[Tensor], Tensor]] = {
    1: lambda image: image,
    2: lambda image: image.flip(-1),
    3: lambda image: image.flip(-2, -1),
    4: lambda image: image.flip(-2),
    5: lambda image: image.mT,
    6: lambda image: image.rot90(-1, (-2, -1)),
    7: lambda image: image.mT.flip(-2, -1),
    8: lambda image: image.rot90(1, (-2, -1)),
}


@dataclass(frozen=True)
class Files:
    """Files of a batch and the random choice for each, kept on the host until they are decoded.

    All files are in one tensor, so that a worker process transfers one block of memory. The class
    is not a tuple, because the loader would pin the items of a tuple one by one.
    """

    payload: Tensor  # (N,) uint8
    ends: list[int]
    choices: list[Choice]
    turns: list[int]  # EXIF orientations to apply; 1: none

    def split(self) -> list[Tensor]:
        """Return the bytes of each file."""
        return [self.payload[a:b] for a, b in zip([0, *self.ends], self.ends, strict=False)]


def joined(files: Sequence[np.ndarray], choices: list[Choice], *, upright: bool = False) -> Files:
    """Join the files, each (N,) uint8, and the choices of a batch; `upright` as in `picture`."""
    ends = np.cumsum([len(file) for file in files]).tolist()
    turns = [_turn(file.tobytes()) if upright else 1 for file in files]
    return Files(torch.from_numpy(np.concatenate(files)), ends, choices, turns)


def _turn(payload: bytes) -> int:
    """EXIF orientation of an image file; 1 for a broken one, which decoding will report."""
    try:
        with Image.open(io.BytesIO(payload)) as image:
            return orientation(image)
    except (OSError, SyntaxError, ValueError):
        return 1


def views(files: Files, ids: Sequence[str], size: int, device: torch.device) -> Tensor:
    """Make the views (B, 3, size, size) uint8 on the device.

    d2v.data.views makes nearly the same ones from the same choices. Here, images are always decoded
    whole and at full scale, and torchvision's tensor operations round differently from Pillow.
    """
    images = [
        TURNS[turn](image)
        for image, turn in zip(_decoded(files.split(), ids, device), files.turns, strict=True)
    ]
    return torch.stack([_view(i, c, size) for i, c in zip(images, files.choices, strict=True)])


def _view(image: Tensor, choice: Choice, size: int) -> Tensor:
    """Make a view (3, size, size) of an image (3, H, W)."""
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
    """Decode files to images (3, H, W) uint8 on the device.

    If the device's decoder rejects a file of the batch (CMYK or PNG: ImageNet has both), the host
    decodes the batch. Raises UserError naming an example whose file is broken.
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

    with warnings.catch_warnings():  # torchvision recommends TorchCodec, which is not used
        warnings.simplefilter("ignore")
        images: list[Tensor] = decode_jpeg(files, ImageReadMode.RGB, device)
    return images
