"""What the parameters of all modalities have in common; one modality is one file beside this.

A file of a modality holds its encoder, its view, the record of its inputs, what goes with them
(`Kind`) and the rules that they must obey. `choices` lists the modalities.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from d2v.params.base import Count, Strict
from d2v.params.model import Backbone
from d2v.util.errors import counted


class Kind(NamedTuple):
    """Masks, data, tasks and features that go with one kind of encoder."""

    name: str  # of the modality: `kind` of its encoder, its view and its inputs
    # kinds of its masks, by what becomes of hidden positions (encoder.hidden)
    masks: dict[str, tuple[str, ...]]
    unlabelled: tuple[str, ...]  # contents of the prepared sets for pre-training
    labelled: dict[str, str]  # kinds of tasks, and the contents of the prepared sets that they read
    parts: tuple[str, ...]  # parts of the encoder, named as in ema.shared
    inputs: tuple[str, ...]  # targets that it can compute from its input (InputTarget.of)
    dropout: bool = True  # whether the encoder has dropout
    lengths: bool = True  # whether examples differ in length
    convolutions: bool = False  # whether it has convolutions that settings can freeze


class Augment(Strict):
    """What all views have in common: rules, with one sentence per error, and lengths."""

    @property
    def longest(self) -> int | None:
        """Length limit of the examples, in samples or tokens; None if there is no limit."""
        return None

    def usual_size(self, labelled: bool) -> int:
        """Typical length of an example in samples or tokens; 1 if all have one size."""
        return 1

    def without_labels(self) -> Iterator[str]:
        """Errors of keys that have no use in pre-training."""
        yield from ()

    def with_labels(self, task: str, micro_batch: int | str | None) -> Iterator[str]:
        """Errors of keys that a labelled task of the kind `task` cannot use."""
        yield from ()


class Record(Strict):
    """What the records of a checkpoint's inputs have in common: the names of classes, and rules."""

    classes: list[str] | None = None  # in the order of the head's outputs; None: unknown

    def fits(self, encoder: "Entry", outputs: int | None) -> Iterator[str]:
        """Errors of a record that does not belong to a model with this encoder.

        `outputs` is the number of outputs of the model's head; None if there is no head.
        """
        yield from names_each("classes", self.classes, outputs)


def names_each(what: str, names: list[str] | None, outputs: int | None) -> Iterator[str]:
    """An error if there are names, but not one for each output."""
    if names is not None and outputs is not None and len(names) != outputs:
        yield f"{what}: {counted(len(names), 'name')} for {counted(outputs, 'output')} of the head"


class Entry(Strict):
    """What all encoders have in common: how their features enter the first block, and rules.

    Each method that returns an iterator yields the errors that it finds, one sentence each.
    """

    # what the student gets in place of hidden positions. replaced: a learned mask embedding or the
    # mask token (paper 3.1). removed: nothing, its blocks see visible positions only, and a decoder
    # predicts the hidden ones (data2vec 2.0); where all positions are needed, as in fine-tuning,
    # hidden features are set to zero (encoder_zero_mask)
    hidden: Literal["replaced", "removed"] = "replaced"
    # learned tokens in front of the positions, without targets, initialised from N(0, 1);
    # num_extra_tokens with init_extra_token_zero: false (data2vec 2.0)
    extra_tokens: Count = 0

    @property
    def grid(self) -> int | None:
        """Number of positions along one side of a square grid; None if they are in a line."""
        return None

    @property
    def length(self) -> int | None:
        """Number of positions of every example; None if examples differ."""
        return None if self.grid is None else self.grid**2

    def positions(self, size: int) -> int:
        """Number of positions of an example of `size` samples or tokens."""
        return size

    def further_parts(self) -> Iterator[str]:
        """Parts that only some encoders of the modality have, besides Kind.parts."""
        if self.extra_tokens:
            yield "cls"

    def fits(self, backbone: Backbone) -> Iterator[str]:
        """Check that encoder and backbone fit together."""
        yield from ()

    def sees(self, view: Augment) -> Iterator[str]:
        """Check that the encoder can process the examples of a view of the same kind."""
        yield from ()

    def covers(self, view: Augment, positions: int) -> Iterator[str]:
        """Check that the longest example of a view gives as many positions as targets need."""
        yield from ()

    def removes(self) -> Iterator[str]:
        """Check that the encoder can work on visible positions only (hidden: removed)."""
        yield from ()
