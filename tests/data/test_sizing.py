"""Images resized without torchvision: the same bytes as with it."""

import numpy as np
import pytest
import torch
from PIL import Image

from d2v.data.augment import resized
from d2v.data.sizing import sized
from d2v.params import ImageInput

SHAPES = ((31, 47), (64, 20), (40, 40), (13, 90))


def noise(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [{"resize": 24}, {"stretch": [29, 36]}, {"resize": 60}, {}])
def test_tensors(shape, resampling, size) -> None:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import crop, pad, resize

    how = ImageInput(
        mean=[0.0] * 3, std=[1.0] * 3, sizing="transformers", resampling=resampling, **size
    )
    pixels, side = noise(*shape), 24
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    if size:
        name = "nearest-exact" if resampling == "nearest" else resampling
        wanted = how.stretch or [how.resize]
        expected = resize(expected, wanted, InterpolationMode(name), antialias=True)
    high, wide = (max(side - length, 0) for length in expected.shape[1:])
    expected = pad(expected, [wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2])
    top, left = ((length - side) // 2 for length in expected.shape[1:])
    expected = crop(expected, top, left, side, side).permute(1, 2, 0).numpy()
    assert np.array_equal(sized(pixels, side, how), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "resampling", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
)
@pytest.mark.parametrize(("shorter", "size"), [(24, 24), (30, 24), (25, 24), (20, 24), (19, 24)])
def test_pictures(shape, resampling, shorter, size) -> None:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as v2

    picture = Image.fromarray(noise(*shape))
    whole = v2.resize(picture, [shorter], InterpolationMode(resampling))
    expected = np.asarray(v2.center_crop(whole, [size, size]))
    found = resized(picture, shorter, size, shape, resampling=resampling)
    assert np.array_equal(found, expected)
