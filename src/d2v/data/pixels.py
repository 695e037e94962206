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

import struct

import numpy as np
from PIL import ExifTags, Image

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
REFUSED = ("I", "F")
# how Pillow turns an image that was stored with an EXIF orientation
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def check_mode(picture: Image.Image) -> None:
    """Raise ValueError for a mode whose values have no known range."""
    if picture.mode in REFUSED and not _sixteen(picture):
        raise ValueError(
            f"mode {picture.mode} has no known range of values; save it with 8 or 16 bits"
        )


def orientation(picture: Image.Image) -> int:
    """EXIF orientation of an opened image, 1 to 8; 1 if it has none, or damaged EXIF data.

    Pillow's exif_transpose fails for damaged EXIF data, which say nothing about the pixels.
    """
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return 1
    return found if found in TURNS else 1


def as_rgb(picture: Image.Image, *, upright: bool = False) -> Image.Image:
    """Convert an opened image to RGB; `upright` rotates it according to its EXIF orientation.

    Raises ValueError for a rejected mode.
    """
    check_mode(picture)
    turn = orientation(picture) if upright else 1
    if turn in TURNS:
        picture = picture.transpose(TURNS[turn])
    if picture.mode in SIXTEEN_BITS or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        # round(v / 257) in integers; no value is halfway between two, because 257 is odd
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _sixteen(picture: Image.Image) -> bool:
    return picture.mode in SIXTEEN_BITS or (
        picture.mode == "I" and picture.format in ("PNG", "PPM")
    )
