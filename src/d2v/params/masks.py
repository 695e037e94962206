"""Parameters of masks (paper 4; data2vec 2.0, 3.2)."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from d2v.params.base import Count, Fraction, Positive, Rate, Strict


class BlockMask(Strict):
    """BEiT block-wise masks of a square grid of patches (paper 4.1)."""

    kind: Literal["block"]
    patches: Positive  # target number of masked patches; num_mask_patches
    min_block: Positive = 16  # smallest block, in patches; min_mask_patches_per_block
    # largest block, in patches; None: limited only by the number of patches left to mask
    max_block: Positive | None = None
    min_aspect: Rate = 0.3  # smallest aspect ratio of a block; the largest is its inverse


class SpanMask(Strict):
    """wav2vec 2.0 span masks (paper 4.2)."""

    kind: Literal["span"]
    prob: Fraction  # share of frames that would be masked if spans never overlapped; mask_prob
    length: Positive  # frames per span; mask_length
    min_spans: Count = 1  # smallest number of spans per example
    # thin the masks of a batch so that all its rows have the same number of masked frames, the
    # smallest of the batch; require_same_masks
    equal_counts: bool = True


class TokenMask(Strict):
    """Masks of single tokens, as in BERT, or of spans of tokens (paper 4.3)."""

    kind: Literal["token"]
    prob: Fraction  # share of tokens that would be chosen if spans never overlapped
    length: Positive = 1  # tokens per span; mask_multiple_length
    # share of the chosen tokens that are replaced by a random token and have no target
    random_prob: Fraction = 0.0
    # share of the chosen tokens that stay unchanged and have no target (fairseq#4229)
    keep_prob: Fraction = 0.0


class InverseBlockMask(Strict):
    """Masks that keep square blocks of a grid of patches visible (data2vec 2.0, 3.2)."""

    kind: Literal["inverse_block"]
    prob: Fraction  # share of hidden patches; exactly int(patches * (1 - prob)) stay visible
    # share by which more is covered with blocks before single patches are hidden again;
    # mask_prob_adjust
    adjust: Fraction = 0.0
    length: Positive  # side of a visible block, in patches; mask_length


class RandomMask(Strict):
    """Masks of single positions, drawn uniformly (data2vec 2.0, text; MAE)."""

    kind: Literal["random"]
    # share of hidden positions; exactly int(T * (1 - prob)) of T stay visible; mask_prob with
    # mask_length 1
    prob: Fraction


Mask = Annotated[
    BlockMask | SpanMask | TokenMask | InverseBlockMask | RandomMask, Field(discriminator="kind")
]


# --- rules: each yields the errors that it finds, one sentence each


def learnable(mask: Mask, grid: int | None) -> Iterator[str]:
    """Check that masks hide part of the input and leave part of it visible.

    `grid` is the number of positions along one side, if they are in a square grid.
    """
    match mask:
        case BlockMask() if grid is not None:
            if mask.patches >= grid**2:
                yield (
                    f"mask.patches {mask.patches} of the {grid} x {grid} = {grid**2} patches leave"
                    " none visible; mask fewer"
                )
            if not blocks_fit(mask, grid):
                yield (
                    f"mask.min_block {mask.min_block}: no block of this size fits into"
                    f" {grid} x {grid} patches; lower it"
                )
        case SpanMask() | TokenMask() if mask.prob == 0:
            yield "mask.prob is 0, so nothing would be masked and nothing learned; raise it"
        case TokenMask() if mask.random_prob + mask.keep_prob >= 1:
            yield (
                f"mask.random_prob {mask.random_prob} and keep_prob {mask.keep_prob} leave no token"
                " masked: their sum must be less than 1"
            )


def sufficient(mask: Mask, longest: int | None) -> Iterator[str]:
    """Check that masks hide as much of most examples as their parameters say.

    `longest` is the number of positions of the longest example, if it is known.
    """
    match mask:
        case BlockMask() if mask.min_block > most(mask):
            key = "patches" if most(mask) == mask.patches else "max_block"
            yield (
                f"mask.min_block {mask.min_block} is more than mask.{key} {most(mask)}, so that few"
                " blocks would fit; lower it"
            )
        case SpanMask() | TokenMask() if longest is not None and expected(mask, longest) < 1:
            yield (
                f"mask.prob {mask.prob} masks {expected(mask, longest):.2g} of the {longest}"
                " positions of the longest example on average; raise it until it is at least 1"
            )


def most(mask: BlockMask) -> int:
    """Largest number of patches in one block."""
    return min(mask.patches, mask.max_block or mask.patches)


def expected(mask: SpanMask | TokenMask, length: int) -> float:
    """Masked positions of an example of this length, if spans never overlapped, on average."""
    if isinstance(mask, SpanMask):
        return max(mask.prob * length, mask.min_spans * mask.length)
    return mask.prob * length * (1 - mask.random_prob - mask.keep_prob)


def blocks_fit(mask: BlockMask, grid: int) -> bool:
    """Whether a square block of the smallest allowed size is smaller than a square grid."""
    least = min(mask.min_block, mask.patches, mask.max_block or mask.patches)
    return round(math.sqrt(least)) < grid


def exact(mask: Mask, grid: int | None) -> Iterator[str]:
    """Check that masks leave equally many positions visible in all rows, and at least one."""
    match mask:
        case SpanMask(equal_counts=False):
            yield "encoder.hidden: removed needs mask.equal_counts: true"
        case InverseBlockMask() if grid is not None:
            visible = int(grid**2 * (1 - mask.prob))
            if not 0 < visible < grid**2:
                yield (
                    f"mask.prob {mask.prob} leaves {visible} of {grid**2} patches visible; at least"
                    " one must be visible and one hidden"
                )
            if mask.length > grid or not centres(mask, grid):
                yield (
                    f"mask: no block of {mask.length} x {mask.length} visible patches fits into"
                    f" {grid} x {grid} patches with prob {mask.prob} and adjust {mask.adjust}; use"
                    " a smaller length, or more patches"
                )
        case RandomMask(prob=prob) if not 0 < prob < 1:
            yield f"mask.prob {prob} must be above 0 and below 1"


def centres(mask: InverseBlockMask, grid: int) -> int:
    """Number of blocks that are drawn for a square grid."""
    return int(grid**2 * ((1 - mask.prob + mask.adjust) / mask.length**2))
