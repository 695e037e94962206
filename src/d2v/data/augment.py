"""Image operations of torchvision, timm and Pillow, with separately seeded random numbers.

These libraries draw from the global generators. `drawing` seeds the generators and restores them
afterwards, so every view is a function of its seed, and the trainer's random numbers are unchanged.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from d2v import params
from d2v.util.errors import UserError

GREY = (128, 128, 128)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and PyTorch, and restore them on exit."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        _seed(seed)
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm uses the global one
    torch.default_generator.manual_seed(seed)


def seed_of(*numbers: int) -> int:
    """Combine several numbers into one 62-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 2


def crop(pixels: np.ndarray, size: int, rows: int = 0, columns: int = 0) -> np.ndarray:
    """Crop the centre (size, size, C) of pixels (H, W, C), shifted by rows and columns.

    The centre is the one of torchvision's `center_crop`, which rounds half a pixel to even. Images
    that are too small are first enlarged (bicubic) until the shorter side fits. Pixels outside the
    image are zero.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        scale = size / min(height, width)
        shape = (max(size, round(width * scale)), max(size, round(height * scale)))
        pixels = array(image(pixels).resize(shape, Image.Resampling.BICUBIC))
        height, width = pixels.shape[:2]
    top, left = round((height - size) / 2) + rows, round((width - size) / 2) + columns
    if 0 <= top <= height - size and 0 <= left <= width - size:
        return pixels[top : top + size, left : left + size]
    room = max(abs(rows), abs(columns))
    padded = np.pad(pixels, ((room, room), (room, room), (0, 0)))
    return padded[top + room : top + room + size, left + room : left + room + size]


def resized(
    picture: Image.Image,
    shorter: int,
    size: int,
    shape: tuple[int, int],
    by: int = 1,
    resampling: str = "bicubic",
) -> np.ndarray:
    """Resize a picture so that its shorter side is `shorter`; return its centre (size, size, C).

    `shape` (H, W) is the shape of the file, which was decoded `by` times smaller.
    """
    if by == 1:
        width, height = picture.size
        longer = int(shorter * max(width, height) / min(width, height))
        sides = (shorter, longer) if width <= height else (longer, shorter)
        whole = picture.resize(sides, Image.Resampling[resampling.upper()])
    else:  # use the aspect ratio of the file, since reduced sides are rounded up
        longer = int(shorter * max(shape) / min(shape))
        sides = (longer, shorter) if shape[1] >= shape[0] else (shorter, longer)
        edges = (0.0, 0.0, shape[1] / by, shape[0] / by)
        whole = picture.resize(sides, Image.Resampling.BICUBIC, edges)
    return _centre(array(whole), size)


def _centre(pixels: np.ndarray, size: int) -> np.ndarray:
    """Centre (size, size, C) of pixels (H, W, C), padded with zeros where they are too few.

    As torchvision's `center_crop`, it rounds half a pixel to even.
    """
    few = [max(size - length, 0) for length in pixels.shape[:2]]
    if any(few):
        pixels = np.pad(
            pixels, ((few[0] // 2, -(-few[0] // 2)), (few[1] // 2, -(-few[1] // 2)), (0, 0))
        )
    top, left = (round((length - size) / 2) for length in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def erase(images: Tensor, probability: float, seeds: Sequence[int]) -> None:
    """Fill a random rectangle of some images (B, C, H, W) with noise, in place (timm, mode pixel).

    The images must be standardised already, because the noise is.
    """
    from timm.data.random_erasing import RandomErasing

    eraser = RandomErasing(probability, mode="pixel", max_count=1, device="cpu")
    with drawing(0):  # save and restore only once, which takes longer than seeding
        for one, seed in zip(images, seeds, strict=True):
            _seed(seed)
            eraser(one)


def mixing(
    view: params.ImageAugment, task: params.Classify
) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    """Return a function of images (B, C, H, W), classes (B,) and a seed that mixes pairs of images.

    It returns images and soft, smoothed targets (B, classes). The whole batch, whose size must be
    even, shares one method, Mixup or CutMix, and one mixing weight (timm's Mixup, as BEiT uses it).
    """
    from timm.data.mixup import Mixup

    mixup = Mixup(
        mixup_alpha=view.mixup,
        cutmix_alpha=view.cutmix,
        prob=view.mix_prob,
        switch_prob=0.5,
        mode="batch",
        label_smoothing=task.label_smoothing,
        num_classes=task.classes,
    )

    def mix(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        if len(images) % 2:
            raise UserError(
                f"view.mixup and view.cutmix mix pairs, but a micro-batch has {len(images)}"
                " images: train.micro_batch must be even"
            )
        with drawing(seed):
            found: tuple[Tensor, Tensor] = mixup(images, labels)
        return found

    return mix


def image(pixels: np.ndarray) -> Image.Image:
    """Convert pixels (H, W, 1) or (H, W, 3) to a Pillow image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def array(picture: Image.Image) -> np.ndarray:
    """Return the pixels (H, W, C) of a Pillow image."""
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


@lru_cache(maxsize=4)
def rand_augment(name: str, size: int, fill: tuple[int, ...]) -> Any:
    """Build timm's RandAugment with BEiT's settings; raises UserError for an invalid name."""
    from timm.data.auto_augment import rand_augment_transform

    settings = {
        "translate_const": int(size * 0.45),
        "img_mean": fill,
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        change = rand_augment_transform(name, settings)
    except (AssertionError, ValueError):
        raise UserError(
            f"view.rand_augment: timm has no {name!r}; it is like rand-m9-mstd0.5-inc1"
        ) from None
    for operation in change.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return change


def _posterize(picture: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """Keep the first `bits` bits of each value; 0 bits, used at full magnitude, give black.

    Replaces timm's operation, which relies on Pillow accepting 0 bits; Pillow 13 rejects them.
    """
    if bits >= 8:
        return picture
    return ImageOps.posterize(picture, bits) if bits > 0 else picture.point(lambda _: 0)
