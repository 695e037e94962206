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
    Holds,
    ImageNet,
    LibriLight,
    LibriSpeech,
    LibriSpeechLM,
    PlainText,
    SpokenDigits,
    Verses,
)
from d2v.params.own import AudioFolder, ImageFolder, LabelledText, Own, TextFolder
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
    | Glue
    | ImageFolder
    | AudioFolder
    | TextFolder
    | LabelledText,
    Field(discriminator="kind"),
]


def sets_of(name: str, group: Data) -> dict[str, Holds]:
    """Return the prepared sets that the group `data.<name>` makes, and their contents."""
    if not isinstance(group, Own):
        return group.makes
    splits = group.splits.names
    match group:
        case ImageFolder():
            content = "images" if group.classes else "unlabelled images"
            return {name: Holds(content, splits, group.classes)}
        case AudioFolder(transcribed=False):
            return {name: Holds("speech", splits)}
        case AudioFolder():
            lm = {f"{name}_lm": Holds("language model")} if group.ngram else {}
            return {name: Holds("transcribed speech", splits)} | lm
        case TextFolder():
            tokenizer = {"tokenizer": Holds("tokenizer")} if group.vocab_size else {}
            return {name: Holds("corpus", splits)} | tokenizer
        case LabelledText():
            return {name: Holds("sentences", splits, group.count)}
    raise AssertionError(f"no prepared set for {group.kind}")
