"""Pictures of what was masked, and of the attention from one masked position."""

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from d2v.results.page import svg
from d2v.results.page.svg import WIDTH, Chart, Scale
from d2v.results.wording import number

SIDE, SPACE = 108, 14  # side of a picture and space between two, in pixels


def attention(name: str, found: dict[str, Any]) -> Chart:
    """Chart of the last block's attention from one masked position, averaged over heads."""
    place = f"{svg.slug(name)}-attention"
    title = f"{name.removeprefix('pretrain/')}: example {found['example']}"
    if found["image"] is None:
        return _bars(place, title, found)
    return _images(place, title, found)


def _images(place: str, title: str, found: dict[str, Any]) -> Chart:
    side = math.isqrt(len(found["mask"]))
    image = np.asarray(found["image"], float)  # (H, W), 0 to 1
    mask = np.asarray(found["mask"], bool).reshape(side, side)
    at = ((np.arange(len(image)) + 0.5) * side / len(image)).astype(int)  # patch of each pixel
    hidden = np.where(mask[np.ix_(at, at)], np.nan, image)
    weights = np.asarray(found["weights"], float).reshape(side, side)
    shown = (
        ("image", _grey(image)),
        ("masked", _grey(hidden)),
        ("attention", _grey(weights / (weights.max() or 1.0))),
    )
    parts = []
    for column_, (caption, picture) in enumerate(shown):
        x = column_ * (SIDE + SPACE)
        parts.append(
            svg.tag("image", href=picture, x=x, y=0, width=SIDE, height=SIDE, class_="pixels")
        )
        parts.append(svg.tag("rect", x=x, y=0, width=SIDE, height=SIDE, class_="frame"))
        parts.append(svg.words(x, SIDE + 15, caption))
    row, column = divmod(found["position"], side)
    cell = SIDE / side
    parts.append(
        svg.tag(
            "rect", x=2 * (SIDE + SPACE) + column * cell, y=row * cell, width=cell, height=cell,
            class_="position",
        )
    )  # fmt: skip
    label = (
        f"{title}: the image, the image with {int(mask.sum())} of {mask.size} patches hidden, and"
        f" the attention from the hidden patch in row {row + 1}, column {column + 1}."
    )
    note = "Attention of the last block, mean over heads, white is most; the frame: the masked"
    return Chart(place, title, svg.drawing(WIDTH, SIDE + 22, label, parts), f"{note} patch.")


def _bars(place: str, title: str, found: dict[str, Any]) -> Chart:
    """One bar per position of a sequence, with masked positions highlighted."""
    weights, mask = found["weights"], found["mask"]
    across = Scale(0, len(mask), 46, WIDTH - 10)
    up = Scale(0, max(*weights, 1e-9) * 1.06, 110, 6)
    width = max((across(1) - across(0)) * 0.8, 0.8)
    parts = svg.beside(up, 46, WIDTH - 10)
    for i, (weight, masked) in enumerate(zip(weights, mask, strict=True)):
        kind = "masked" if masked else "seen"
        parts.append(
            svg.tag(
                "rect",
                svg.tag("title", f"position {i + 1}, {kind}: {number(weight, '.3g')}"),
                x=across(i), y=up(weight), width=width, height=110 - up(weight),
                class_=f"bar {kind}",
            )
        )  # fmt: skip
    steps = Scale(0.5, len(mask) + 0.5, 46, WIDTH - 10)
    ticks = [t for t in steps.ticks() if t >= 1 and t == int(t)]
    parts += [svg.words(steps(t), 124, number(t), "middle") for t in ticks]
    parts.append(svg.words((46 + WIDTH) / 2, 140, "position", "middle"))
    label = (
        f"{title}: attention over {len(mask)} positions from the masked position"
        f" {found['position'] + 1}; {sum(mask)} positions are masked."
    )
    note = f"From the masked position {found['position'] + 1}; last block, mean over heads."
    key = (("bar seen", "position that is seen"), ("bar masked", "masked position"))
    return Chart(place, title, svg.drawing(WIDTH, 146, label, parts), note, key)


def _grey(values: np.ndarray) -> str:
    """A greyscale picture embedded in the page; NaN is transparent."""
    grey = (255 * np.nan_to_num(values).clip(0, 1)).round().astype(np.uint8)
    seen = np.where(np.isnan(values), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([grey, seen]), "LA").save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
