"""What torchvision, timm and Pillow make of images, from random numbers of their own.

Those libraries draw from the global generators. `drawing` seeds them and puts them back, so every
view is a function of its seed, and the trainer's random numbers stay as they are.
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
    """Python's, NumPy's and PyTorch's global generators seeded; as they were when it ends."""
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
    """One seed of 62 bits from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 2


def crop(pixels: np.ndarray, size: int, rows: int = 0, columns: int = 0) -> np.ndarray:
    """The centre of pixels (H, W, C), moved by rows and columns: (size, size, C).

    The centre lies where torchvision's `center_crop` has it: half a pixel is rounded to even.
    Images too small are first enlarged (bicubic) until the shorter side fits. What lies outside of
    the image is zero.
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
    """The centre (size, size, C) of a picture whose shorter side is made `shorter` long.

    `shape` (H, W) is that of the file, which was decoded `by` times smaller.
    """
    from torchvision.transforms.v2 import functional as v2

    if by == 1:
        whole = v2.resize(picture, [shorter], v2.InterpolationMode(resampling))
    else:  # the file's own ratio: reduced sides were rounded up
        longer = int(shorter * max(shape) / min(shape))
        sides = (longer, shorter) if shape[1] >= shape[0] else (shorter, longer)
        edges = (0.0, 0.0, shape[1] / by, shape[0] / by)
        whole = picture.resize(sides, Image.Resampling.BICUBIC, edges)
    return array(v2.center_crop(whole, [size, size]))


def erase(images: Tensor, probability: float, seeds: Sequence[int]) -> None:
    """Fill a random rectangle of some images (B, C, H, W) with noise, in place (timm, mode pixel).

    Images are standardised already, as the noise is.
    """
    from timm.data.random_erasing import RandomErasing

    eraser = RandomErasing(probability, mode="pixel", max_count=1, device="cpu")
    with drawing(0):  # kept and put back once: that takes longer than seeding
        for one, seed in zip(images, seeds, strict=True):
            _seed(seed)
            eraser(one)


def mixing(
    view: params.ImageAugment, task: params.Classify
) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    """A function of images (B, C, H, W), classes (B,) and a seed that mixes each with another.

    It gives images and soft targets (B, classes), smoothed. Mixup or CutMix, one of them and one
    share for the whole batch, which must be even (timm's Mixup, as BEiT uses it).
    """
    from timm.data.mixup import Mixup

    mixup = Mixup(
        mixup_alpha=view.mixup,
        cutmix_alpha=view.cutmix,
        prob=1.0,
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
    """Pixels (H, W, 1) or (H, W, 3) as Pillow has them."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def array(picture: Image.Image) -> np.ndarray:
    """Pixels (H, W, C) of a picture."""
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


@lru_cache(maxsize=4)
def rand_augment(name: str, size: int, fill: tuple[int, ...]) -> Any:
    """timm's RandAugment with BEiT's settings; raises UserError for a name that timm has not."""
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
    """Keep so many bits of each value; 0, which full magnitude asks for, leaves black.

    Pillow 13 refuses 0; with earlier versions timm's own did this.
    """
    if bits >= 8:
        return picture
    return ImageOps.posterize(picture, bits) if bits > 0 else picture.point(lambda _: 0)
