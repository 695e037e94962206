"""Random views of images, drawn before any pixels exist, so that only visible pixels are made.

Views are bit-identical to those that torchvision draws and Pillow renders. The only exceptions are
crops from JPEG files that are at least twice their size: these files are decoded at a half, a
quarter or an eighth of their scale (`reduction`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageStat

from d2v import params
from d2v.data.augment import GREY, array, crop, drawing, image, rand_augment

CHANGES = {0: "brightness", 1: "contrast", 2: "saturation"}  # torchvision's numbers
Jitter = tuple[tuple[str, float], ...]  # colour changes and their factors, in order of use
Edges = tuple[float, float, float, float]  # left, top, right, bottom


class Box(NamedTuple):
    """Part of an image, in pixels of the file at full scale."""

    top: int
    left: int
    height: int
    width: int


class Choice(NamedTuple):
    """All random choices of a view."""

    jitter: Jitter = ()
    box: Box | None = None  # resized to the size of the view
    shift: tuple[int, int] = (0, 0)  # rows, columns
    flip: bool = False
    seed: int | None = None  # for RandAugment


def draw(
    view: params.ImageAugment,
    shape: tuple[int, int],
    size: int,
    generator: np.random.Generator,
) -> Choice:
    """Draw the choice for an image of shape (H, W); depends only on the generator."""
    jitter: Jitter = ()
    box = shift = seed = None
    if view.color_jitter or view.random_resized_crop:
        scale = tuple(view.random_resized_crop or ())
        jittering, cropping = _transforms(view.color_jitter, scale, size)
        with _seeded(int(generator.integers(2**62))):
            if jittering is not None:
                jitter = _jitter(jittering.make_params([]))
            if cropping is not None:
                found = cropping.make_params([torch.empty(1).expand(1, *shape)])
                box = Box(*(found[key] for key in ("top", "left", "height", "width")))
    if view.shift:
        shift = tuple(generator.integers(-view.shift, view.shift + 1, 2).tolist())
    flip = view.flip and bool(generator.random() < 0.5)
    if view.rand_augment is not None:
        seed = int(generator.integers(2**62))
    return Choice(jitter, box, shift or (0, 0), flip, seed)


def augment(
    pixels: np.ndarray,
    view: params.ImageAugment,
    size: int,
    generator: np.random.Generator,
    fill: tuple[int, ...] = GREY,
) -> np.ndarray:
    """Make a random view (size, size, C) of pixels (H, W, C) uint8.

    The steps are colour jitter, a random resized crop or a shifted centre crop, a flip, and
    RandAugment, which fills uncovered areas with the colour `fill` (BEiT's order). The view depends
    only on the generator.
    """
    choice = draw(view, pixels.shape[:2], size, generator)
    if choice.jitter or choice.box:
        pixels = array(part(image(pixels), choice, size))
    return finished(pixels, choice, view, size, fill)


def part(picture: Image.Image, choice: Choice, size: int, reduced: int = 1) -> Image.Image:
    """Jitter and crop a picture, whose sides are those of the file / `reduced`, rounded up."""
    if choice.box is None:
        return jittered(picture, choice.jitter, (0, 0, *picture.size))
    top, left, height, width = choice.box
    edges = [n / reduced for n in (left, top, left + width, top + height)]
    outer = int(edges[0]), int(edges[1]), ceil(edges[2]), ceil(edges[3])
    inside: Edges = tuple(n - outer[i % 2] for i, n in enumerate(edges))  # type: ignore[assignment]
    cropped = jittered(picture, choice.jitter, outer)
    return cropped.resize((size, size), Image.Resampling.BICUBIC, inside)


def finished(
    pixels: np.ndarray,
    choice: Choice,
    view: params.ImageAugment,
    size: int,
    fill: tuple[int, ...] = GREY,
) -> np.ndarray:
    """Apply the steps after jitter and crop: pixels (H, W, C) to (size, size, C)."""
    pixels = crop(pixels, size, *choice.shift)
    if choice.flip:  # torch reverses rows ten times faster than NumPy copies a reversed view
        pixels = torch.from_numpy(np.array(pixels)).flip(1).numpy()
    if view.rand_augment is not None:
        change = rand_augment(view.rand_augment, size, fill)
        assert choice.seed is not None
        with drawing(choice.seed):
            pixels = array(change(image(pixels)))
    return pixels


def reduction(side: int, wanted: int) -> int:
    """Largest factor by which JPEG decoding may shrink `side` without going below `wanted`."""
    return next((by for by in (8, 4, 2) if side >= by * wanted), 1)


def jittered(picture: Image.Image, jitter: Jitter, box: tuple[int, int, int, int]) -> Image.Image:
    """Crop a picture as if torchvision's ColorJitter had been applied to the whole of it.

    Only contrast depends on other pixels: it moves values towards the mean grey of the whole
    picture. So the changes before contrast are applied to the whole picture, the others to the
    crop.
    """
    names = [name for name, _ in jitter]
    before = names.index("contrast") if "contrast" in names else 0
    for name, factor in jitter[:before]:
        picture = _changed(picture, name, factor)
    mean = 0
    if "contrast" in names:
        mean = int(ImageStat.Stat(picture.convert("L")).mean[0] + 0.5)  # as ImageEnhance.Contrast
    found = picture.crop(box)
    for name, factor in jitter[before:]:
        found = _changed(found, name, factor, mean)
    return found


def _changed(picture: Image.Image, name: str, factor: float, mean: int = 0) -> Image.Image:
    """Apply one colour change to a picture; `mean` is the grey that contrast blends with."""
    if name == "saturation":
        return ImageEnhance.Color(picture).enhance(factor)
    towards = mean if name == "contrast" else 0
    # blend each of the 256 values with that grey once, instead of every pixel
    table = Image.blend(Image.new("L", (256, 1), towards), _ramp(), factor).tobytes()
    return picture.point(list(table) * len(picture.getbands()))


@lru_cache(maxsize=1)
def _ramp() -> Image.Image:
    """Return an image (1, 256) that contains each 8-bit value once, in order."""
    return Image.frombytes("L", (256, 1), bytes(range(256)))


@lru_cache(maxsize=4)
def _transforms(strength: float, scale: tuple[float, ...], size: int) -> tuple[Any, Any]:
    """Return torchvision's jitter and crop, which do the drawing; None for one that is off."""
    from torchvision.transforms import v2

    jittering = v2.ColorJitter(strength, strength, strength) if strength else None
    return jittering, v2.RandomResizedCrop(size, scale) if scale else None


def _jitter(found: dict[str, Any]) -> Jitter:
    order = (CHANGES.get(number) for number in found["fn_idx"].tolist())
    chosen = ((name, found[f"{name}_factor"]) for name in order if name)
    return tuple((name, factor) for name, factor in chosen if factor is not None)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator as `drawing` does; torchvision does not use the other two."""
    kept = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(kept)
