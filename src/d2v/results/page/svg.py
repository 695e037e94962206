"""Small static SVG drawings that are embedded in the page, use its colours and need no script.

A mark's class gives its meaning (assets/style.css defines the colours); its `<title>` holds the
value that is shown on hover.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from d2v.results.wording import number

WIDTH = 352  # width of a chart in pixels, which fits a phone without scaling
LETTER = 6.1  # mean width of a letter in pixels, at the font size of a chart
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Chart:
    """A drawing with its title, note and legend."""

    id: str
    title: str
    svg: str
    note: str = ""
    key: tuple[tuple[str, str], ...] = ()  # legend: class of a mark, and its meaning


@dataclass(frozen=True)
class Scale:
    """Linear scale that maps values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Position of a value in pixels."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values in the range, about `most` at most."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(s * power for s in STEPS if span / (s * power) <= most)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(i * step, 10) for i in range(first, last + 1)]


def fitted(values: Iterable[float], start: float, end: float, zero: bool = False) -> Scale:
    """A scale that covers all finite values (with `zero` also 0) with a small margin."""
    found = [v for v in values if math.isfinite(v)] + [0.0] * zero
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    room = 0.06 * (high - low) or max(abs(high) * 0.05, 0.5)
    return Scale(low - room, high + room, start, end)


def tag(name: str, *inside: str, **attributes: object) -> str:
    """An SVG element; `class_` becomes `class`, `stroke_width` becomes `stroke-width`."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{words}>{''.join(inside)}</{name}>" if inside else f"<{name}{words}/>"


def drawing(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """The complete drawing; `label` describes it for screen readers."""
    return tag(
        "svg", *parts, role="img", aria_label=label, width=width, height=height,
        viewBox=f"0 0 {_short(width)} {_short(height)}",
    )  # fmt: skip


def words(x: float, y: float, text: str, anchor: str = "start", kind: str = "words") -> str:
    """A line of text."""
    return tag("text", escape(text), x=x, y=y, text_anchor=anchor, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def path(points: Sequence[tuple[float, float]], kind: str, title: str = "") -> str:
    """A line through points, broken where a value is undefined (NaN)."""
    parts, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            parts.append(f"{pen}{_short(x)} {_short(y)}")
        pen = "L" if math.isfinite(y) else "M"
    told = [tag("title", escape(title))] * bool(title)
    return tag("path", *told, d="".join(parts), class_=f"curve {kind}")


def mark(kind: str, x: float, y: float, title: str = "") -> str:
    """A mean: a square if trained from scratch, a diamond for data2vec, a tick for other methods.

    A hollow diamond is a reported value. `large` in `kind` draws a triangle instead, `seed` and
    `dot` a small dot.
    """
    kinds = kind.split()
    if "seed" in kinds or ("dot" in kinds and "large" not in kinds):
        shape = f"M{_short(x - 2.4)} {_short(y)}a2.4 2.4 0 1 0 4.8 0a2.4 2.4 0 1 0 -4.8 0z"
    elif "large" in kinds:
        shape = f"M{_short(x)} {_short(y - 5)}l5 9h-10z"
    elif "scratch" in kinds:
        shape = f"M{_short(x - 4)} {_short(y - 4)}h8v8h-8z"
    elif "other" in kinds:
        shape = f"M{_short(x - 1)} {_short(y - 5)}h2v10h-2z"
    elif "ours" in kinds:
        shape = f"M{_short(x)} {_short(y - 5.5)}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"
    else:
        shape = f"M{_short(x - 4)} {_short(y)}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"
    return tag("path", *[tag("title", escape(title))] * bool(title), d=shape, class_=f"mark {kind}")


def whisker(kind: str, low: float, high: float, y: float) -> str:
    """A horizontal interval with end caps, in pixels."""
    ends = f"M{_short(low)} {_short(y)}H{_short(high)}"
    caps = "".join(f"M{_short(x)} {_short(y - 4)}v8" for x in (low, high))
    return tag("path", d=ends + caps, class_=f"whisker {kind}")


def glyph(kind: str) -> str:
    """A mark or line for a legend, where the text beside it gives its meaning."""
    kinds = kind.split()
    if "curve" in kinds:
        shape = tag("path", d="M0 7H22", class_=kind)
    elif "whisker" in kinds:
        shape = whisker(kind, 1, 21, 7)
    elif "bar" in kinds:
        shape = tag("rect", x=8, y=1, width=6, height=12, class_=kind)
    else:
        shape = mark(kind, 11, 7)
    return tag("svg", shape, aria_hidden="true", width=22, height=14)


def below(scale: Scale, top: float, bottom: float, title: str, most: int = 5) -> list[str]:
    """Vertical grid lines with their values below, and the title of the axis."""
    parts = [line(scale(t), top, scale(t), bottom, "grid") for t in scale.ticks(most)]
    parts += [words(scale(t), bottom + 14, number(t), "middle") for t in scale.ticks(most)]
    middle = (scale.start + scale.end) / 2
    room = LETTER * len(title) / 2
    at = min(max(middle, room + 2), WIDTH - room - 2)
    return [*parts, words(at, bottom + 30, title, "middle")]


def beside(scale: Scale, left: float, right: float) -> list[str]:
    """Horizontal grid lines with their values to the left."""
    parts = [line(left, scale(t), right, scale(t), "grid") for t in scale.ticks()]
    return parts + [words(left - 6, scale(t) + 4, number(t), "end") for t in scale.ticks()]


def slug(text: str) -> str:
    """An HTML id made from a text."""
    return re.sub(r"\W+", "-", text).strip("-")


def _short(value: object) -> str:
    """A coordinate with at most one decimal: a tenth of a pixel is precise enough."""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(value)
