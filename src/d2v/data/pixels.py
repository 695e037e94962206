"""Images of every mode as 8-bit RGB, by one rule for preparation, training and inference.

| mode | rule |
|---|---|
| RGB, L, 1, P, CMYK, YCbCr, LAB, HSV | as Pillow converts them |
| RGBA, RGBX, LA, PA, P with transparency | as Pillow converts them, without transparency |
| 16-bit grey (I;16, and I of a PNG or PGM file) | value / 257, rounded |
| I of other files, F | refused: their range is not known |

Pillow itself reads 16-bit colour files as their upper 8 bits.
"""

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
REFUSED = ("I", "F")


def check_mode(picture: Image.Image) -> None:
    """Raises ValueError for a mode whose values have no known range."""
    if picture.mode in REFUSED and not _sixteen(picture):
        raise ValueError(
            f"mode {picture.mode} has no known range of values; save it with 8 or 16 bits"
        )


def as_rgb(picture: Image.Image, *, upright: bool = False) -> Image.Image:
    """An opened image as RGB; `upright` turns it as its EXIF orientation says.

    Raises ValueError for a mode that is refused.
    """
    check_mode(picture)
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in SIXTEEN_BITS or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        # round(v / 257) in integers; no value lies halfway, since 257 is odd
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _sixteen(picture: Image.Image) -> bool:
    return picture.mode in SIXTEEN_BITS or (
        picture.mode == "I" and picture.format in ("PNG", "PPM")
    )
