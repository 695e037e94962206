"""Parameters of waveforms: encoder, view, inputs, and the rules that they must obey."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params.base import BelowOne, Count, Fraction, Positive, Rate, Strict
from d2v.params.masks import SpanMask
from d2v.params.modality import Augment, Entry, Kind, Record, names_each
from d2v.params.model import Backbone
from d2v.util.errors import counted

KIND = Kind(
    name="speech",
    masks={"replaced": ("span",), "removed": ("span",)},
    unlabelled=("transcribed speech", "speech", "tagged sounds"),
    labelled={"ctc": "transcribed speech", "tag": "tagged sounds"},
    parts=("features", "mask_embedding", "positions", "norm"),
    inputs=("log_mel", "units"),
    convolutions=True,
)
RATE = 16_000  # samples per second that the models of the paper take
MEAN_S = 12.3  # mean utterance of LibriSpeech: 961 h / 281,241

Speed = Annotated[float, Field(ge=0.5, le=2.0)]


class ChannelMask(Strict):
    """Masks that set spans of channels to zero in all frames (wav2vec 2.0 fine-tuning)."""

    # share of channels that would be masked if spans never overlapped; mask_channel_prob
    prob: Fraction
    length: Positive  # channels per span; mask_channel_length


class WaveAugment(Augment):
    """Cropping of waveforms, and SpecAugment-like masking of features in fine-tuning."""

    kind: Literal["speech"]
    # samples to which longer utterances are randomly cropped; max_sample_size
    max_samples: Positive | None = None
    min_samples: Count = 0  # samples below which utterances are dropped; min_sample_size
    # number of lengths to which waveforms are cropped in pre-training, chosen so that each serves
    # as many of them. Batches then have few shapes, and most steps on a GPU are replayed from CUDA
    # graphs (train.cuda_graph). None: a batch is cropped to its shortest waveform only
    lengths: Positive | None = None
    mask: SpanMask | None = None  # frames replaced by the mask embedding, in fine-tuning
    mask_channels: ChannelMask | None = None  # channels set to zero, in fine-tuning
    # probability that another waveform is added, in fine-tuning (AudioSet)
    mixup: Fraction = 0.0
    # range of factors from which each waveform draws the one by which it is sped up, in
    # fine-tuning. Pitch and tempo change together, as if another voice spoke (Ko et al. 2015)
    speed: Annotated[list[Speed], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "WaveAugment":
        if self.speed is not None and self.speed[0] > self.speed[1]:
            raise ValueError(f"speed {self.speed} is not a range; give the lowest value first")
        return self

    @property
    def longest(self) -> int | None:
        """Length limit of the examples in samples; None if there is no limit."""
        return self.max_samples

    def usual_size(self, labelled: bool) -> int:
        """Typical length of an example in samples."""
        longest = self.max_samples if not labelled else None
        return min(round(MEAN_S * RATE), longest or round(MEAN_S * RATE))

    def without_labels(self) -> Iterator[str]:
        """Errors of keys that have no use in pre-training."""
        if self.mixup:
            yield "view.mixup mixes classes and is only for tasks of kind tag; remove it"
        for name in ("mask", "mask_channels", "speed"):
            if getattr(self, name) is not None:
                yield f"view.{name} is only for fine-tuning; remove it"

    def with_labels(self, task: str, micro_batch: int | str | None) -> Iterator[str]:
        """Errors of keys that a labelled task cannot use."""
        for name in ("max_samples", "lengths"):
            if getattr(self, name) is not None:
                yield (
                    f"view.{name} crops waveforms, which then do not match their labels; remove it"
                )
        if self.mixup and task != "tag":
            yield "view.mixup mixes classes and is only for tasks of kind tag; remove it"
        for name in ("mask", "mask_channels"):
            if (mask := getattr(self, name)) is not None and mask.prob == 0:
                yield f"view.{name}.prob is 0: remove view.{name}"


class WaveEncoder(Entry):
    """Encoder of 16 kHz waveforms as 50 Hz frames.

    Source: paper 4.2; wav2vec 2.0 front end, layer-norm variant.
    """

    kind: Literal["speech"]
    conv_layers: list[Annotated[list[Positive], Field(min_length=3, max_length=3)]] = Field(
        min_length=1
    )  # (channels, kernel, stride) of each convolution
    position_kernel: Positive = 95  # total kernel, split over position_depth convolutions; conv_pos
    position_depth: Positive = 5  # number of position convolutions; pos_conv_depth
    position_groups: Positive = 16  # groups of each position convolution; conv_pos_groups
    # when padding is set to zero. once: before the first position convolution only (fairseq,
    # Hugging Face), so that padding leaks back into the last frames. each: before every position
    # convolution, so that the outputs of an example do not depend on its batch
    # (transformers#25621). never: the convolutions see the features of padded frames (data2vec 2.0)
    position_padding: Literal["once", "each", "never"] = "once"
    dropout: BelowOne = 0.0  # dropout rate after positions and norm, before the first block

    def samples(self, frames: int) -> int:
        """Smallest number of samples that gives `frames` frames."""
        for _, kernel, stride in reversed(self.conv_layers):
            frames = (frames - 1) * stride + kernel
        return frames

    def positions(self, size: int) -> int:
        """Number of frames of `size` samples."""
        for _, kernel, stride in self.conv_layers:
            size = max(0, (size - kernel) // stride + 1)
        return size

    def fits(self, backbone: Backbone) -> Iterator[str]:
        """Check that encoder and backbone fit together."""
        if backbone.norm_first:
            yield (
                "backbone.norm_first: true is not available for speech, because fairseq's"
                " layer_norm_first would also move the encoder's norm behind the last block; set it"
                " to false"
            )
        if backbone.dim % self.position_groups:
            yield (
                f"backbone.dim {backbone.dim} is not a multiple of encoder.position_groups"
                f" {self.position_groups}"
            )

    def covers(self, view: Augment, positions: int) -> Iterator[str]:
        """Check that the longest waveform of a view gives as many frames as targets need."""
        least, most = self.samples(positions), view.longest
        if most is not None and most < least:
            enough = f"{counted(positions, 'frame')} need{'s' * (positions == 1)} {least} samples"
            yield f"view.max_samples {most} is too small: {enough}"


class WaveInput(Record):
    """How waveforms are made, and the names of the outputs."""

    kind: Literal["speech"] = "speech"
    normalise: bool = True  # zero mean and unit variance of each utterance
    eps: Rate = 1e-5  # added to the variance: fairseq 1e-5, transformers 1e-7
    rate: Positive = RATE  # samples per second
    letters: list[str] | None = None  # CTC: index = id, "<s>" is the blank, "|" ends a word

    def fits(self, encoder: Entry, outputs: int | None) -> Iterator[str]:
        """Errors of a record that does not belong to a model with this encoder."""
        yield from super().fits(encoder, outputs)
        yield from names_each("letters", self.letters, outputs)
