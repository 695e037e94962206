"""Prepared data: shards, readers for the official layouts, and the trainer's data sets.

Imports: util, params, model.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from d2v.util.errors import UserError

if TYPE_CHECKING:  # data preparation does not need torch
    from d2v import params
    from d2v.data.examples import Examples


def build_dataset(
    prepared: Path | str,
    split: str,
    view: "params.View",
    *,
    encoder: "params.Encoder",
    seed: int,
    train: bool,
    mask: "params.Mask | None" = None,
    task: "params.Task | None" = None,
    labels: str | None = None,
    dim: int = 0,
    copies: int = 1,
) -> "Examples":
    """Build the data set of one split, or of several joined by a plus sign (a+b).

    `labels` restricts it to the examples listed in prepared/lists/<labels>.txt. Without a task, the
    examples are for pre-training and have masks if `mask` is given; with a task, they have labels.
    `train` enables augmentation; pre-training masks are drawn either way. `dim` is the width of the
    encoder's outputs, which channel masks need; `copies` the number of differently masked copies of
    each example, if hidden positions are removed.

    Raises UserError if the folder, the split or the list is missing, or if the parameters do not
    match the data (kind, classes, vocabulary, lengths).
    """
    from d2v import params as p
    from d2v.data.examples import Source
    from d2v.data.speech import Utterances
    from d2v.data.tags import TaggedSounds
    from d2v.data.text import Blocks, Sentences
    from d2v.data.vision import Images

    source = Source(Path(prepared), split, seed, train, labels)
    match view, encoder, mask, task:
        case (
            p.ImageAugment() as image,
            p.PatchEncoder() as patches,
            (None | p.BlockMask() | p.InverseBlockMask() | p.RandomMask()) as blocks,
            (None | p.Classify()) as classes,
        ):
            return Images(source, image, patches, blocks, classes, copies)
        case (
            p.WaveAugment() as wave,
            p.WaveEncoder() as frames,
            (None | p.SpanMask()) as spans,
            (None | p.CTC()) as letters,
        ):
            return Utterances(source, wave, frames, dim, spans, letters, copies)
        case p.WaveAugment() as wave, p.WaveEncoder() as frames, None, p.Tag() as tags:
            return TaggedSounds(source, wave, frames, dim, tags)
        case p.TokenAugment() as text, p.TokenEncoder() as tokens, choice, None if (
            choice is None or isinstance(choice, p.TokenMask | p.RandomMask)
        ):
            return Blocks(source, text, tokens, choice, copies)
        case (
            p.TokenAugment() as text,
            p.TokenEncoder() as tokens,
            None,
            (p.Classify() | p.Regress()) as labelled,
        ):
            return Sentences(source, text, tokens, labelled)
    kinds = ", ".join(group.kind for group in (view, encoder, mask, task) if group is not None)
    raise UserError(f"view, encoder, mask and task cannot be combined: {kinds}")
