"""Masks of the student's input: BEiT blocks, wav2vec 2.0 spans, BERT tokens.

True means hidden, to be predicted. Every row is a function of its key (seed, epoch, index) alone,
so masks do not depend on workers, processes or the other examples of a batch. The one exception is
the thinning of `equal_counts`, which needs the smallest count of the batch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from d2v.params import BlockMask, ChannelMask, SpanMask, TokenMask
from d2v.params.masks import blocks_fit
from d2v.util.errors import UserError

Key = tuple[int, ...]  # seed, epoch, index of the example, and number of the copy if there are any
Keys = Sequence[Key] | npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

_TRIES = 10  # attempts to place a block before BEiT gives up
_LARGEST = np.uint64(2**64 - 1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # increment of SplitMix64
# random streams of one key, which must not share numbers
_STARTS, _ROUNDING, _THINNING, _BLOCKS, _KINDS = range(5)
_CHANNELS = 5  # offset of the streams of channel masks

NOT_CHOSEN, MASKED, RANDOM, KEPT = range(4)  # kinds of `token_masks`


def rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random generator for the augmentation of one example; it depends on the key only."""
    return np.random.default_rng([seed, epoch, index])


def block_masks(mask: BlockMask, grid: int, keys: Keys) -> Bools:
    """BEiT block-wise masks of square grids.

    Blocks of random area and aspect ratio are added until `mask.patches` patches are hidden or ten
    consecutive tries add nothing. A row may therefore hide a few patches fewer, but never more.

    Shapes: keys (B, 3) -> (B, grid * grid), row-major.
    Raises: UserError if no block of `min_block` patches is smaller than the grid.
    Source: paper 4.1; BEiT masking_generator.py.
    """
    most = min(mask.patches, mask.max_block or mask.patches)
    if not blocks_fit(mask, grid):
        raise UserError(
            f"mask.min_block {mask.min_block}: no block of this size fits into {grid} x {grid}"
            " patches; lower it"
        )
    state = _hash(keys, _BLOCKS)
    hidden = np.zeros((len(state), grid, grid), bool)
    active = np.arange(len(state))  # rows that are not finished
    turn = 0
    while active.size:
        counts = hidden[active].sum((1, 2))
        room = np.minimum(mask.patches - counts, most)
        numbers = _uniforms(state[active], 4 * _TRIES, start=4 * _TRIES * turn)
        blocks = _blocks(mask, grid, numbers.reshape(-1, _TRIES, 4), room)
        fits, first = _first_that_fits(hidden[active], blocks, room)
        active = active[fits]
        hidden[active] |= _filled(first[fits], grid)
        active = active[hidden[active].sum((1, 2)) < mask.patches]
        turn += 1
    return hidden.reshape(len(state), grid * grid)


def span_masks(mask: SpanMask, lengths: npt.ArrayLike, keys: Keys) -> Bools:
    """Union of spans of `mask.length` frames, drawn as in fairseq's compute_mask_indices.

    A row of T frames (without padding) receives floor(prob * T / length + U(0, 1)) spans, at least
    min_spans. Their starts are drawn without replacement from [0, T - length). If that range is too
    small (short rows), starts are drawn from [0, spans + 1) and spans are cut at T, as in fairseq.
    Where fairseq would raise an error because the whole row is hidden, one random frame stays
    visible; in a row of one frame, that frame is hidden. With `equal_counts`, each row keeps as
    many hidden frames, chosen at random, as the row with the fewest (require_same_masks).

    Shapes: lengths (B,), keys (B, 3) -> (B, max(lengths)).
    Source: paper 4.2; fairseq data_utils.compute_mask_indices.
    """
    return _spans(mask, np.asarray(lengths, np.int64), keys)


def channel_masks(mask: ChannelMask, channels: int, keys: Keys) -> Bools:
    """Spans of channels that are set to zero in all frames, drawn as in `span_masks`.

    Shapes: keys (B, 3) -> (B, channels).
    Source: wav2vec 2.0 fine-tuning; fairseq wav2vec2.py, apply_mask (mask_channel_prob).
    """
    spans = SpanMask(kind="span", prob=mask.prob, length=mask.length, min_spans=0)
    return _spans(spans, np.full(len(keys), channels), keys, _CHANNELS)


def _spans(mask: SpanMask, sizes: npt.NDArray[np.int64], keys: Keys, stream: int = 0) -> Bools:
    """Spans within rows of `sizes` (B,) positions; `stream` offsets the random streams."""
    inside = np.arange(sizes.max(initial=0)) < sizes[:, None]
    rounding = _uniforms(_hash(keys, stream + _ROUNDING), 1)[:, 0]
    spans = (mask.prob * sizes / mask.length + rounding).astype(np.int64)
    spans = np.maximum(spans, mask.min_spans)
    starts = np.where(sizes - mask.length > spans, sizes - mask.length, spans + 1)
    starts = np.minimum(starts, sizes)
    allowed = np.arange(inside.shape[1]) < starts[:, None]
    chosen = _draw(_words(_hash(keys, stream + _STARTS), inside.shape[1]), allowed, spans)
    hidden = _dilate(chosen, mask.length) & inside
    counts = hidden.sum(1)
    kept = np.where(sizes > 1, np.minimum(counts, sizes - 1), counts)
    if mask.equal_counts:
        kept = np.full_like(kept, kept.min(initial=hidden.shape[1]))
    if (kept == counts).all():
        return hidden
    return _draw(_words(_hash(keys, stream + _THINNING), inside.shape[1]), hidden, kept)


def token_masks(
    mask: TokenMask, lengths: npt.ArrayLike, keys: Keys
) -> tuple[Bools, npt.NDArray[np.int8]]:
    """BERT masking of single tokens or of spans of `mask.length` tokens.

    A row of T tokens (without padding, but with its boundary tokens, which may be chosen) receives
    floor(prob * T / length + U(0, 1)) starts, drawn without replacement from all its positions.
    Spans are cut at T. A chosen token is replaced by a random one with probability `random_prob`,
    kept with probability `keep_prob`, and masked otherwise. In very short rows, possibly no token
    is chosen.

    Shapes: lengths (B,), keys (B, 3) -> chosen (B, max(lengths)) bool and kind (B, max(lengths))
    int8: 0 not chosen, 1 masked, 2 random, 3 kept.
    Source: paper 4.3; fairseq data/mask_tokens_dataset.py.
    """
    sizes = np.asarray(lengths, np.int64)
    inside = np.arange(sizes.max(initial=0)) < sizes[:, None]
    rounding = _uniforms(_hash(keys, _ROUNDING), 1)[:, 0]
    spans = (mask.prob * sizes / mask.length + rounding).astype(np.int64)
    starts = _draw(_words(_hash(keys, _STARTS), inside.shape[1]), inside, spans)
    chosen = _dilate(starts, mask.length) & inside
    kind = np.where(chosen, np.int8(MASKED), np.int8(NOT_CHOSEN))
    if mask.random_prob or mask.keep_prob:
        dice = _uniforms(_hash(keys, _KINDS), inside.shape[1])
        kind[chosen & (dice < mask.random_prob + mask.keep_prob)] = KEPT
        kind[chosen & (dice < mask.random_prob)] = RANDOM
    return chosen, kind


# --- random numbers from keys -----------------------------------------------------------------


def _hash(keys: Keys, stream: int) -> Words:
    """One 64-bit state per row from (seed, epoch, index[, copy]) and the stream: (B, 3) -> (B,)."""
    width = len(keys[0]) if len(keys) else 3
    columns = np.asarray(keys, np.int64).reshape(-1, width).astype(np.uint64)
    state = np.full(len(columns), stream + 1, np.uint64)
    for column in columns.T:
        state = _mix(state * _GOLDEN + column + _GOLDEN)
    return state


def _words(state: Words, count: int, start: int = 0) -> Words:
    """Numbers `start` to `start + count` of each row's SplitMix64 sequence: (B,) -> (B, count)."""
    steps = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    return _mix(state[:, None] + steps * _GOLDEN)


def _uniforms(state: Words, count: int, start: int = 0) -> Floats:
    """Numbers of `_words` as floats, uniform in [0, 1): (B,) -> (B, count)."""
    return (_words(state, count, start) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: Words) -> Words:
    """SplitMix64's output function (Steele, Lea, Flood 2014), modulo 2**64; `z` is overwritten."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


# --- spans ------------------------------------------------------------------------------------


def _draw(words: Words, allowed: Bools, counts: npt.NDArray[np.integer]) -> Bools:
    """Choose counts[b] allowed positions in each row b: those with the smallest words."""
    words = np.where(allowed, words, _LARGEST)
    order = np.sort(words, axis=1)
    last = np.clip(counts - 1, 0, max(words.shape[1] - 1, 0))[:, None]
    limit = np.take_along_axis(order, last, axis=1)
    return allowed & (words <= limit) & (counts > 0)[:, None]


def _dilate(starts: Bools, length: int) -> Bools:
    """Positions covered by spans of `length` that begin at `starts`."""
    hidden = starts.copy()
    done = 1
    while done < length:
        # spans of length `done`, joined with themselves shifted by `step` <= `done`, are spans of
        # length `done + step`
        step = min(done, length - done)
        hidden[:, step:] |= hidden[:, :-step].copy()
        done += step
    return hidden


# --- blocks -----------------------------------------------------------------------------------


def _blocks(
    mask: BlockMask, grid: int, numbers: Floats, room: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Candidate blocks (B, tries, 4): top, left, height, width; blocks too large are empty."""
    area = mask.min_block + (room[:, None] - mask.min_block) * numbers[..., 0]
    root = np.exp(0.5 * (1 - 2 * numbers[..., 1]) * np.log(mask.min_aspect))
    height, width = np.rint(np.sqrt(area) * root), np.rint(np.sqrt(area) / root)
    small = (height < grid) & (width < grid)
    height, width = height * small, width * small
    top = np.floor(numbers[..., 2] * (grid - height + 1))
    left = np.floor(numbers[..., 3] * (grid - width + 1))
    return np.stack([top, left, height, width], axis=-1).astype(np.int64)


def _first_that_fits(
    hidden: Bools, blocks: npt.NDArray[np.int64], room: npt.NDArray[np.integer]
) -> tuple[Bools, npt.NDArray[np.int64]]:
    """For each row, whether any candidate fits, and the first that does.

    A candidate fits if it hides at least one and at most `room` patches that are still visible.
    """
    rows, grid, _ = hidden.shape
    # integral image: the number of hidden patches above and to the left of each corner
    sums = np.zeros((rows, grid + 1, grid + 1), np.int64)
    sums[:, 1:, 1:] = hidden.cumsum(1).cumsum(2)
    top, left, height, width = np.moveaxis(blocks, -1, 0)
    row = np.arange(rows)[:, None]
    bottom, right = top + height, left + width
    already = (
        sums[row, bottom, right]
        - sums[row, top, right]
        - sums[row, bottom, left]
        + sums[row, top, left]
    )
    new = height * width - already
    fits = (new > 0) & (new <= room[:, None])
    return fits.any(1), blocks[row[:, 0], fits.argmax(1)]


def _filled(blocks: npt.NDArray[np.int64], grid: int) -> Bools:
    """Draw blocks (B, 4) into empty grids (B, grid, grid)."""
    place = np.arange(grid)
    top, left, height, width = blocks.T[:, :, None]
    vertical = (place >= top) & (place < top + height)
    horizontal = (place >= left) & (place < left + width)
    return vertical[:, :, None] & horizontal[:, None, :]
