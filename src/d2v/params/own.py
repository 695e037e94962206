"""Parameters of data sets of one's own: images, recordings, texts, and sentences with labels."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from d2v.params.base import Count, Positive, Rate, Share, Strict

KINDS = frozenset({"image_folder", "audio_folder", "text_folder", "labelled_text"})
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


def own_stages(experiment: str) -> str:
    """DVC file that d2v writes for the data sets of one's own in an experiment of this name."""
    return f"workflow/own/{experiment}/dvc.yaml"


class Splits(Strict):
    """Division of a data set into splits: by place, by a column, or by chance; give one of these.

    One split must be called train.
    """

    # split to the folder that holds it, or to the file that lists it, relative to source
    folders: dict[SplitName, str] | None = None
    column: str | None = None  # column of the manifest or table that gives the split of an example
    values: dict[SplitName, str] | None = None  # split to its value in the column
    fractions: dict[SplitName, Share] | None = None  # split to its share of the examples
    seed: Count = 0  # seed of the division by fractions
    # column whose equal values stay in one split, such as the speaker; only for fractions
    by: str | None = None

    @model_validator(mode="after")
    def _one(self) -> "Splits":
        given = [name for name in ("folders", "column", "fractions") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"give one of folders, column (with values) and fractions, not"
                f" {' and '.join(given) or 'none of them'}"
            )
        if (self.column is None) != (self.values is None):
            raise ValueError("column and values belong together; give both")
        if self.fractions is None and (self.by is not None or self.seed):
            raise ValueError("by and seed have no effect without fractions; remove them")
        if self.fractions is not None and not math.isclose(sum(self.fractions.values()), 1.0):
            raise ValueError(f"fractions add up to {sum(self.fractions.values()):g}, not to 1")
        if "lists" in self.names:
            raise ValueError("no split can be called lists, the folder of label lists")
        if "train" not in self.names:
            raise ValueError("no split is called train; name the training split so")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits, in the order of the file."""
        return tuple(self.folders or self.values or self.fractions or {})


class Own(Strict):
    """A data set of one's own, which is only read; its prepared set has the group's name."""

    # the prepared sets depend on the group's name: see d2v.params.choices.sets_of
    makes: ClassVar[dict[str, object]] = {}

    source: str  # folder that contains it
    splits: Splits
    # leave out unusable files instead of reporting them as errors; they are listed in left_out.tsv
    skip_bad: bool = False


class ImageFolder(Own):
    """Images in any folder, with classes from their folders or from a manifest, or without."""

    kind: Literal["image_folder"]
    # number of classes; None: without classes, for pre-training only
    classes: Annotated[int, Field(ge=2)] | None = None
    # CSV, TSV, JSONL or Parquet file with a path and a class per row, in source or in the folder of
    # each split; None: the folder that contains an image is its class
    manifest: str | None = None
    path: str | None = None  # column of the path; None: path, file_name, file or image
    label: str | None = None  # column of the class; None: label, class or category


class Transcripts(Strict):
    """Normalisation of transcripts, for training and for the error rates alike."""

    # upper-casing writes ß as SS; lower-casing loses no letter
    case: Literal["lower", "upper", "keep"] = "lower"
    keep: str = "'"  # punctuation marks and symbols that stay; all others become spaces
    # Unicode form: NFKC also writes ligatures, wide letters and superscripts as ordinary letters
    form: Literal["NFC", "NFKC"] = "NFKC"


class AudioFolder(Own):
    """Recordings in any folder, with transcripts from a manifest, or without."""

    kind: Literal["audio_folder"]
    # CSV, TSV, JSONL or Parquet file with a path and a text per row, in source or in the folder of
    # each split; or a pattern such as "*.trans.txt" for LibriSpeech's files of NAME TEXT lines;
    # None: without transcripts, for pre-training only
    manifest: str | None = None
    audio: str | None = None  # folder of the manifest's paths, relative to source; None: its own
    path: str | None = None  # column of the path; None: path, file_name, file or audio
    text: str | None = None  # column of the text; None: text, transcription, transcript or sentence
    speaker: str | None = None  # column of the speaker; None: unknown
    # convert recordings of other rates, or with several channels, to 16 kHz mono
    resample: bool = False
    min_seconds: Rate = 0.1  # shorter recordings are unusable
    # longest example: longer recordings without transcripts are cut at pauses, others are unusable
    max_seconds: Rate = 30.0
    # letters of a CTC model. auto: those of the training transcripts; librispeech: A to Z and '
    letters: Literal["auto", "librispeech"] = "auto"
    transcripts: Transcripts = Transcripts()
    # order of the language model of the training transcripts, prepared as <name>_lm; None: none
    ngram: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "AudioFolder":
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} is not less than max_seconds")
        if self.manifest is None:
            for name in ("audio", "path", "text", "speaker", "ngram"):
                if getattr(self, name) is not None and not self._listed:
                    raise ValueError(f"{name} needs a manifest")
        if self.letters == "librispeech" and self.transcripts.case != "upper":
            raise ValueError("letters: librispeech needs transcripts: {case: upper}")
        return self

    @property
    def _listed(self) -> bool:
        """Whether splits are files that list recordings, so that no manifest needs a name."""
        return any(_is_table(place) for place in (self.splits.folders or {}).values())

    @property
    def transcribed(self) -> bool:
        """Whether the recordings have transcripts."""
        return self.manifest is not None or self._listed


class TextFolder(Own):
    """A corpus: *.txt or *.jsonl files in any folder, compressed (.gz, .zst) or not."""

    kind: Literal["text_folder"]
    field: str = "text"  # JSON key of the text
    block: Annotated[int, Field(ge=4)]  # tokens per block
    # ids of the tokenizer that is trained on the train split and prepared as `tokenizer`; None: use
    # the tokenizer that another group prepares
    vocab_size: Positive | None = None
    cased: bool = True  # keep upper case
    byte_fallback: bool = False  # encode rare characters as bytes, for text in many scripts

    @model_validator(mode="after")
    def _consistent(self) -> "TextFolder":
        if self.splits.column is not None or self.splits.by is not None:
            raise ValueError("splits: a text_folder has no columns; use folders or fractions")
        if self.skip_bad:
            raise ValueError("skip_bad has no effect on a text_folder; remove it")
        return self


class LabelledText(Own):
    """Sentences, or pairs of sentences, with a class or a number; tokens by `tokenizer`."""

    kind: Literal["labelled_text"]
    # CSV, TSV, JSONL or Parquet file in source, unless splits.folders gives one file per split
    file: str | None = None
    texts: Annotated[list[str], Field(min_length=1, max_length=2)]  # one column or two
    label: str = "label"  # column of the label; a split without it has no labels
    # number of classes, or their names in the order of their ids; None: labels are numbers
    classes: Annotated[int, Field(ge=2)] | Annotated[list[str], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "LabelledText":
        if (self.file is None) == (self.splits.folders is None):
            raise ValueError("give either file, or splits.folders with one file per split")
        if isinstance(self.classes, list) and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a name is given twice")
        return self

    @property
    def count(self) -> int | None:
        """Number of classes; None if labels are numbers."""
        return len(self.classes) if isinstance(self.classes, list) else self.classes


def _is_table(name: str) -> bool:
    return name.removesuffix(".gz").endswith((".csv", ".tsv", ".jsonl", ".parquet"))
