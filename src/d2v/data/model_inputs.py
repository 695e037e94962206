"""How files become inputs of a model; every checkpoint stores this with its weights."""

from typing import Annotated, Literal

from pydantic import Field

from d2v.params.base import Positive, Rate, Strict

RATE = 16_000  # samples per second that the models of the paper take


Resampling = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


class WaveInput(Strict):
    """How waveforms are made, and the names of the outputs."""

    kind: Literal["speech"] = "speech"
    normalise: bool = True  # zero mean and unit variance of each utterance
    eps: Rate = 1e-5  # added to the variance: fairseq 1e-5, transformers 1e-7
    rate: Positive = RATE  # samples per second
    letters: list[str] | None = None  # CTC: index = id, "<s>" is the blank, "|" ends a word
    classes: list[str] | None = None


class ImageInput(Strict):
    """How pixels are made, and the names of the outputs."""

    kind: Literal["vision"] = "vision"
    mean: list[float] | None = None  # per channel, for pixels in [0, 1]; None: unknown
    std: list[float] | None = None
    resize: Positive | None = None  # new length of the shorter side; then the centre is cropped
    # alternatively (height, width), ignoring the aspect ratio; a larger result is centre-cropped
    stretch: list[Positive] | None = None
    # torchvision (the reference): Pillow images are resized, centres are rounded to even
    sizing: Literal["torchvision", "transformers"] = "torchvision"
    resampling: Resampling = "bicubic"
    classes: list[str] | None = None


class TokenInput(Strict):
    """How texts become tokens, and the names of the outputs."""

    kind: Literal["text"] = "text"
    # sentencepiece: tokenizer.model; tokenizers: tokenizer.json; bpe: vocab.json and merges.txt
    tokenizer: Literal["sentencepiece", "tokenizers", "bpe"] | None = None
    max_tokens: Positive  # longest input, including boundary tokens
    # for a checkpoint without the tokenizer's files: their SHA-256, as in the meta.json of a
    # prepared set, and the SHA-256 over the pieces that the ids stand for
    sha256: str | None = None
    pieces: str | None = None
    classes: list[str] | None = None


Inputs = Annotated[WaveInput | ImageInput | TokenInput, Field(discriminator="kind")]
