"""Images of every mode as 8-bit RGB, with the same rules in preparation, training and inference.

| mode | rule |
|---|---|
| RGB, L, 1, P, CMYK, YCbCr, LAB, HSV | as Pillow converts them |
| RGBA, RGBX, LA, PA, P with transparency | as Pillow converts them, without transparency |
| several images in one file | the first one |
| 16-bit grey (I;16, and I of a PNG or PGM file) | value / 257, rounded |
| I of other files, F | rejected: their range is unknown |

For 16-bit colour files, Pillow itself reads only the upper 8 bits.
"""

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
REFUSED = ("I", "F")


def check_mode(picture: Image.Image) -> None:
    """Raise ValueError for a mode whose values have no known range."""
    if picture.mode in REFUSED and not _sixteen(picture):
        raise ValueError(
            f"mode {picture.mode} has no known range of values; save it with 8 or 16 bits"
        )


def as_rgb(picture: Image.Image, *, upright: bool = False) -> Image.Image:
    """Convert an opened image to RGB; `upright` rotates it according to its EXIF orientation.

    Raises ValueError for a rejected mode.
    """
    check_mode(picture)
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in SIXTEEN_BITS or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        # round(v / 257) in integers; no value is halfway between two, because 257 is odd
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _sixteen(picture: Image.Image) -> bool:
    return picture.mode in SIXTEEN_BITS or (
        picture.mode == "I" and picture.format in ("PNG", "PPM")
    )
