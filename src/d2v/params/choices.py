"""What a parameter file chooses by `kind`: encoders, views and inputs of a modality, data sets."""

from typing import Annotated

from pydantic import Field

from d2v.params import speech, text, vision
from d2v.params.data import (
    AudioSet,
    CheckpointTokenizer,
    Cifar10,
    Digits,
    Glue,
    ImageNet,
    LibriLight,
    LibriSpeech,
    LibriSpeechLM,
    PlainText,
    SpokenDigits,
    Verses,
)
from d2v.params.speech import WaveAugment, WaveEncoder, WaveInput
from d2v.params.text import TokenAugment, TokenEncoder, TokenInput
from d2v.params.vision import ImageAugment, ImageInput, PatchEncoder

KINDS = {kind.name: kind for kind in (vision.KIND, speech.KIND, text.KIND)}
MODALITIES = tuple(KINDS)
Encoder = Annotated[PatchEncoder | WaveEncoder | TokenEncoder, Field(discriminator="kind")]
View = Annotated[ImageAugment | WaveAugment | TokenAugment, Field(discriminator="kind")]
Inputs = Annotated[WaveInput | ImageInput | TokenInput, Field(discriminator="kind")]
Data = Annotated[
    Digits
    | SpokenDigits
    | Verses
    | ImageNet
    | LibriSpeech
    | Cifar10
    | LibriSpeechLM
    | LibriLight
    | AudioSet
    | PlainText
    | CheckpointTokenizer
    | Glue,
    Field(discriminator="kind"),
]
