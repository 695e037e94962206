"""Masks that leave an exact number of positions visible in every row (data2vec 2.0, 3.2).

The student's blocks see visible positions only, so all rows of a batch need the same number of
them. True means hidden, as in `masking`. Every row is a function of its key (seed, epoch, index,
copy) alone.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from d2v.model.masking import (
    Bools,
    Key,
    Keys,
    Words,
    _draw,
    _hash,
    _uniforms,
    _words,
    span_masks,
)
from d2v.params import InverseBlockMask, Mask, RandomMask, SpanMask
from d2v.params.masks import centres

Places = npt.NDArray[np.int64]

# random streams of one key; masking.py uses numbers up to 9
_CENTRES, _FILLING, _SINGLES = 10, 11, 12
_LAST = np.uint64(1 << 63)


class Removed(NamedTuple):
    """Masks of R rows, and the V positions of each row that the student sees, in order."""

    hidden: Bools  # (R, T), True at hidden positions that have a target
    visible: Places  # (R, V)


def copied(keys: list[Key], copies: int) -> list[Key]:
    """Keys of `copies` rows per example, next to each other: (B, 3) -> (B * copies, 4)."""
    return [(*key, copy) for key in keys for copy in range(copies)]


def removed_masks(mask: Mask, lengths: npt.ArrayLike, keys: Keys) -> Removed:
    """Masks of any kind that leaves equally many positions visible in all rows.

    `lengths` (R,) are the positions of each row: for blocks, those of a square grid; for spans, the
    same in all rows. Raises ValueError for other kinds of masks.
    """
    sizes = np.asarray(lengths, np.int64)
    match mask:
        case InverseBlockMask():
            return without_padding(inverse_block_masks(mask, math.isqrt(sizes.max()), keys))
        case SpanMask():
            return without_padding(span_masks(mask, sizes, keys))
        case RandomMask():
            return random_masks(mask, sizes, keys)
    raise ValueError(f"{mask.kind} masks do not leave equally many positions visible")


def without_padding(hidden: Bools) -> Removed:
    """Masks `hidden` (R, T) of rows without padding, each with the same number of hidden ones."""
    return Removed(hidden, places(~hidden))


def inverse_block_masks(mask: InverseBlockMask, grid: int, keys: Keys) -> Bools:
    """Masks of square grids in which blocks of patches stay visible.

    Blocks around random centres are made visible and cut at the border of the grid. Single patches
    are then hidden again, or added, until exactly int(patches * (1 - prob)) are visible.

    Shapes: keys (R, 4) -> (R, grid * grid), row-major.
    Source: data2vec 2.0, 3.2; fairseq data_utils.compute_block_mask_2d with inverse_mask.
    """
    rows, patches = len(keys), grid * grid
    drawn = _uniforms(_hash(keys, _CENTRES), centres(mask, grid)) * patches
    chosen = np.zeros((rows, patches), bool)
    np.put_along_axis(chosen, drawn.astype(np.int64), True, axis=1)
    blocks = chosen.reshape(rows, grid, grid)
    for axis in (1, 2):
        blocks = _widened(blocks, mask.length, axis)
    kept = int(patches * (1 - mask.prob))
    return ~_first(_words(_hash(keys, _FILLING), patches), blocks.reshape(rows, patches), kept)


def random_masks(mask: RandomMask, lengths: npt.ArrayLike, keys: Keys) -> Removed:
    """Masks of positions drawn uniformly, and what the student sees.

    Of a row of n positions (without padding), int(n * (1 - prob)) stay visible, at least one. In
    rows that are shorter than the longest, padding fills up the visible positions; the rest of it
    is hidden, but has no target.

    Shapes: lengths (R,), keys (R, 4) -> hidden (R, max(lengths)), visible (R, V).
    Source: fairseq examples/data2vec/models/modalities/base.py, random_masking, which also predicts
    padding.
    """
    sizes = np.asarray(lengths, np.int64)
    inside = np.arange(sizes.max(initial=0)) < sizes[:, None]
    kept = np.maximum((sizes * (1 - mask.prob)).astype(np.int64), 1)
    seen = _draw(_words(_hash(keys, _SINGLES), inside.shape[1]), inside, kept)
    padding = (~inside).cumsum(1) <= (kept.max(initial=0) - kept)[:, None]
    return Removed(inside & ~seen, places(seen | (padding & ~inside)))


def places(seen: Bools) -> Places:
    """Positions (R, V) of the V true values in each row of `seen` (R, T), in order."""
    return np.flatnonzero(seen).reshape(len(seen), -1) % max(seen.shape[1], 1)


def _widened(centre: Bools, length: int, axis: int) -> Bools:
    """Lines of `length` cells around the true cells of (R, grid, grid), cut at the border."""
    found = np.zeros_like(centre)
    into, cells = np.moveaxis(found, axis, 2), np.moveaxis(centre, axis, 2)
    grid = cells.shape[2]
    for shift in range(-(length // 2), length - length // 2):
        into[..., max(shift, 0) : grid + min(shift, 0)] |= cells[
            ..., max(-shift, 0) : grid - max(shift, 0)
        ]
    return found


def _first(words: Words, preferred: Bools, count: int) -> Bools:
    """Choose `count` positions of each row, preferred ones first, otherwise at random."""
    ranked = (words >> np.uint64(1)) | np.where(preferred, np.uint64(0), _LAST)
    return _draw(ranked, np.ones_like(preferred), np.full(len(preferred), count))
