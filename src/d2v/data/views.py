"""Random views of images: drawn before there are pixels, so that only what they show is made.

What torchvision draws, and what Pillow makes of it, stays what it is to the last bit; the exception
are crops from JPEG files of twice their size or more, which are decoded at a half, a quarter or an
eighth (`reduction`).
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
Jitter = tuple[tuple[str, float], ...]  # changes of colour and their factors, in their order
Edges = tuple[float, float, float, float]  # left, top, right, bottom


class Box(NamedTuple):
    """Part of an image, in pixels of the whole file."""

    top: int
    left: int
    height: int
    width: int


class Choice(NamedTuple):
    """All that is random about a view."""

    jitter: Jitter = ()
    box: Box | None = None  # is made as large as the view
    shift: tuple[int, int] = (0, 0)  # rows, columns
    flip: bool = False
    seed: int | None = None  # of RandAugment


def draw(
    view: params.ImageAugment,
    shape: tuple[int, int],
    size: int,
    generator: np.random.Generator,
) -> Choice:
    """The choice for an image of shape (H, W); depends on the generator only."""
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
    """A random view of pixels (H, W, C) uint8: (size, size, C).

    Colour jitter, a random resized crop or a shifted centre crop, a flip, then RandAugment, which
    fills what it uncovers with a colour (BEiT's order). Depends on the generator only.
    """
    choice = draw(view, pixels.shape[:2], size, generator)
    if choice.jitter or choice.box:
        pixels = array(part(image(pixels), choice, size))
    return finished(pixels, choice, view, size, fill)


def part(picture: Image.Image, choice: Choice, size: int, reduced: int = 1) -> Image.Image:
    """A picture after jitter and crop; its sides are those of the file by `reduced`, rounded up."""
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
    """What follows jitter and crop: pixels (H, W, C) to (size, size, C)."""
    pixels = crop(pixels, size, *choice.shift)
    if choice.flip:  # torch reverses rows ten times as fast as NumPy copies a reversed view
        pixels = torch.from_numpy(np.array(pixels)).flip(1).numpy()
    if view.rand_augment is not None:
        change = rand_augment(view.rand_augment, size, fill)
        assert choice.seed is not None
        with drawing(choice.seed):
            pixels = array(change(image(pixels)))
    return pixels


def reduction(side: int, wanted: int) -> int:
    """How many times smaller a JPEG file may be decoded so that `side` stays `wanted` or more."""
    return next((by for by in (8, 4, 2) if side >= by * wanted), 1)


def jittered(picture: Image.Image, jitter: Jitter, box: tuple[int, int, int, int]) -> Image.Image:
    """Part of a picture after the jitter of the whole, as torchvision.ColorJitter gives it.

    Only contrast looks beyond a pixel: it draws values towards the mean grey of the whole. So what
    comes before it is done to the whole picture, the rest to the part.
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
    """A picture after one change; `mean` is the grey from which contrast is counted."""
    if name == "saturation":
        return ImageEnhance.Color(picture).enhance(factor)
    towards = mean if name == "contrast" else 0
    # Pillow blends each of 256 values with that grey once, instead of every pixel
    table = Image.blend(Image.new("L", (256, 1), towards), _ramp(), factor).tobytes()
    return picture.point(list(table) * len(picture.getbands()))


@lru_cache(maxsize=1)
def _ramp() -> Image.Image:
    """All values once."""
    return Image.frombytes("L", (256, 1), bytes(range(256)))


@lru_cache(maxsize=4)
def _transforms(strength: float, scale: tuple[float, ...], size: int) -> tuple[Any, Any]:
    """torchvision's transforms, which draw; None for one that is off."""
    from torchvision.transforms import v2

    jittering = v2.ColorJitter(strength, strength, strength) if strength else None
    return jittering, v2.RandomResizedCrop(size, scale) if scale else None


def _jitter(found: dict[str, Any]) -> Jitter:
    order = (CHANGES.get(number) for number in found["fn_idx"].tolist())
    chosen = ((name, found[f"{name}_factor"]) for name in order if name)
    return tuple((name, factor) for name, factor in chosen if factor is not None)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's generator as by `drawing`, whose other two torchvision leaves alone."""
    kept = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(kept)
