"""Prepared data: shards, readers for the official layouts, and the trainer's data sets.

Imports: util, params, model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v.util.errors import UserError
from d2v.util.files import read_json

if TYPE_CHECKING:  # data preparation does not need torch
    from d2v import params
    from d2v.data.examples import Examples
    from d2v.data.files import Files, Reading


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
    from d2v.data import speech, staging, tags, text, vision
    from d2v.data.examples import Source

    source = Source(staging.local(Path(prepared)), split, seed, train, labels)
    found: Examples | None = None
    match view, encoder:
        case p.ImageAugment() as image, p.PatchEncoder() as patches:
            found = vision.dataset(source, image, patches, mask, task, copies)
        case p.WaveAugment() as wave, p.WaveEncoder() as frames if isinstance(task, p.Tag):
            found = None if mask else tags.TaggedSounds(source, wave, frames, dim, task)
        case p.WaveAugment() as wave, p.WaveEncoder() as frames:
            found = speech.dataset(source, wave, frames, dim, mask, task, copies)
        case p.TokenAugment() as words, p.TokenEncoder() as tokens:
            found = text.dataset(source, words, tokens, mask, task, copies)
    if found is None:
        kinds = ", ".join(group.kind for group in (view, encoder, mask, task) if group is not None)
        raise UserError(f"view, encoder, mask and task cannot be combined: {kinds}")
    return found


def inputs_of(
    prepared: Path,
    data: str,
    view: Mapping[str, Any],
    encoder: "params.Encoder",
    task: "params.Task | None" = None,
) -> "params.Inputs":
    """Describe how inputs are made from the set `prepared/data`, with `view` as plain values.

    Anything that its meta.json lacks is None; without a meta.json, that is everything it would
    give. `task` is the task of a fine-tuning run.
    """
    from d2v import params as p
    from d2v.data import speech, text, vision
    from d2v.data.files import Prepared

    meta = read_json(prepared / data / "meta.json") or {}
    known = Prepared(prepared, meta, view, task)
    match encoder:
        case p.PatchEncoder():
            return vision.inputs_of(known, encoder)
        case p.WaveEncoder():
            return speech.inputs_of(known)
        case p.TokenEncoder():
            return text.inputs_of(known)


def files_of(model: "Reading") -> "Files":
    """How files become inputs of a loaded model."""
    from d2v import params as p
    from d2v.data import speech, text, vision

    match model.params.encoder, model.inputs:
        case p.PatchEncoder() as patches, p.ImageInput() as how:
            return vision.ImageFiles(patches, how)
        case p.WaveEncoder() as frames, p.WaveInput() as how:
            return speech.WaveFiles(frames, how)
        case p.TokenEncoder(), p.TokenInput() as how:
            return text.Texts(model, how)
        case encoder, how:
            raise UserError(f"an encoder of kind {encoder.kind} cannot take {how.kind} inputs")


def labelled_for(
    model: "Reading", prepared: Path, split: str, labels: str | None = None
) -> "tuple[Examples, params.Inputs]":
    """Labelled examples of a prepared set as inputs of a loaded model, and how they were made.

    `labels` restricts them to a list. Raises UserError as `build_dataset`, and for a kind of set
    without classes.
    """
    from d2v import params as p
    from d2v.data import text, vision
    from d2v.data.examples import Source

    source = Source(prepared, split, 0, False, labels)
    match model.params.encoder, model.inputs:
        case p.PatchEncoder() as patches, p.ImageInput() as how:
            return vision.Pictures(source, vision.ImageFiles(patches, how)), how
        case p.TokenEncoder() as tokens, p.TokenInput():
            return text.labelled(source, tokens)
        case encoder, _:
            raise UserError(f"{prepared}: no set of classes for an encoder of kind {encoder.kind}")
