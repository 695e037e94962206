"""Consistency checks of pre-trainings whose student does not see hidden positions (data2vec 2.0).

Each function yields the errors that it finds, one sentence each.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from d2v.params.masks import InverseBlockMask, RandomMask, SpanMask
from d2v.params.model import PatchEncoder, TokenEncoder

if TYPE_CHECKING:
    from d2v.params.pretraining import Pretrain


def pretraining(p: "Pretrain") -> Iterator[str]:
    """Errors of a pre-training that concern hidden positions, the decoder and copies."""
    removed = p.encoder.hidden == "removed"
    if p.released is None and removed and p.decoder is None:
        yield "encoder.hidden: removed needs a decoder, which predicts the hidden positions"
    if not removed:
        if p.decoder is not None:
            yield "decoder needs encoder.hidden: removed; set it, or remove decoder"
        if p.copies > 1:
            yield f"copies {p.copies} needs encoder.hidden: removed and a decoder"
    else:
        yield from _removing(p)
        yield from _exact(p)
    if p.loss.class_weight and not (removed and p.encoder.extra_tokens):
        yield "loss.class_weight needs encoder.hidden: removed and encoder.extra_tokens"
    bias = p.backbone.position_bias.kind
    if "prenet" in p.ema.shared and not p.backbone.prenet_depth and bias != "alibi":
        yield (
            "ema.shared: prenet has no effect without backbone.prenet_depth and position_bias alibi"
        )


def _removing(p: "Pretrain") -> Iterator[str]:
    """Check that encoder and backbone can work on visible positions only."""
    if p.regression != "none":
        yield (
            f"regression {p.regression} would not be used, because the decoder predicts; set it to"
            " none"
        )
    bias = p.backbone.position_bias.kind
    if bias not in ("none", "alibi"):
        yield (
            f"backbone.position_bias.kind {bias} needs all positions, but hidden ones are removed;"
            " use none or alibi"
        )
    if isinstance(p.encoder, PatchEncoder) and p.encoder.absolute_positions:
        yield "encoder.absolute_positions needs hidden: replaced; use fixed_positions"
    if isinstance(p.encoder, TokenEncoder) and p.encoder.teacher_input != "full":
        yield "encoder.hidden: removed needs teacher_input: full"
    if p.decoder is not None and p.backbone.dim % p.decoder.groups:
        yield (
            f"backbone.dim {p.backbone.dim} is not a multiple of decoder.groups {p.decoder.groups}"
        )


def _exact(p: "Pretrain") -> Iterator[str]:
    """Check that masks leave equally many positions visible in all rows, and at least one."""
    match p.mask, p.encoder:
        case SpanMask(equal_counts=False), _:
            yield "encoder.hidden: removed needs mask.equal_counts: true"
        case InverseBlockMask() as mask, PatchEncoder(grid=grid):
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
        case RandomMask(prob=prob), _ if not 0 < prob < 1:
            yield f"mask.prob {prob} must be above 0 and below 1"


def centres(mask: InverseBlockMask, grid: int) -> int:
    """Number of blocks that are drawn for a square grid."""
    return int(grid**2 * ((1 - mask.prob + mask.adjust) / mask.length**2))
