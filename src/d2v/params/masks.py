"""Parameters of masks (paper 4; data2vec 2.0, 3.2)."""

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
