"""How files become what a model takes; every checkpoint keeps it with its weights."""

from typing import Annotated, Literal

from pydantic import Field

from d2v.params.base import Positive, Rate, Strict

RATE = 16_000  # samples a second that the models of the paper take


Resampling = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


class WaveInput(Strict):
    """How waveforms are made, and what the outputs are called."""

    kind: Literal["speech"] = "speech"
    normalise: bool = True  # zero mean and unit variance of each utterance
    eps: Rate = 1e-5  # added to the variance: fairseq 1e-5, transformers 1e-7
    rate: Positive = RATE  # samples a second
    letters: list[str] | None = None  # CTC: index = id, "<s>" the blank, "|" the end of a word
    classes: list[str] | None = None


class ImageInput(Strict):
    """How pixels are made, and what the outputs are called."""

    kind: Literal["vision"] = "vision"
    mean: list[float] | None = None  # of each channel, of pixels in [0, 1]; None: not known
    std: list[float] | None = None
    resize: Positive | None = None  # the shorter side is made this long, then the centre is cut out
    # or (height, width), whatever the image's shape; of what is larger the centre is cut out
    stretch: list[Positive] | None = None
    # torchvision: Pillow's pictures are resized, centres are rounded to even (the reference)
    sizing: Literal["torchvision", "transformers"] = "torchvision"
    resampling: Resampling = "bicubic"
    classes: list[str] | None = None


class TokenInput(Strict):
    """How texts become tokens, and what the outputs are called."""

    kind: Literal["text"] = "text"
    # sentencepiece: tokenizer.model; tokenizers: tokenizer.json; bpe: vocab.json and merges.txt
    tokenizer: Literal["sentencepiece", "tokenizers", "bpe"] | None = None
    max_tokens: Positive  # longest input, with its boundary tokens
    # of a checkpoint without the tokenizer's files: their SHA-256, as the meta.json of a prepared
    # set has it, and that over what each id stands for
    sha256: str | None = None
    pieces: str | None = None
    classes: list[str] | None = None


Inputs = Annotated[WaveInput | ImageInput | TokenInput, Field(discriminator="kind")]
