"""Parameters of training: optimiser, schedule, length and portions, views of examples."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params.base import BelowOne, Count, Fraction, Positive, Rate, Share, Strict
from d2v.params.model import SpanMask


class AdamW(Strict):
    """AdamW of a fine-tuning, whose settings say the rate."""

    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)]
    eps: Rate
    weight_decay: Annotated[float, Field(ge=0.0)]
    # all: fairseq decays every parameter; beit: all but 1-D ones, class token and positions, so the
    # mask embedding, too; matrices: no vector of any shape and no embedding
    decay: Literal["all", "beit", "matrices"] = "all"
    clip: Rate | None = None  # of the global gradient norm
    layer_decay: Share | None = None
    # a parameter that has no gradient, since its block was skipped or only the head is trained:
    # skip: it stays as it is (PyTorch); zero: moments, count and decay go on (fairseq's fp16)
    missing_gradients: Literal["skip", "zero"] = "skip"
    # eps is added before the second moment's bias correction (fairseq), not after (PyTorch)
    eps_before_correction: bool = False

    @model_validator(mode="after")
    def _counts_alike(self) -> "AdamW":
        if self.eps_before_correction and self.missing_gradients != "zero":
            raise ValueError(
                "eps_before_correction needs missing_gradients: zero, with which all parameters"
                " have the same count of updates, as in fairseq"
            )
        return self

    def at(self, lr: float) -> "Optimiser":
        """With a rate."""
        return Optimiser(lr=lr, **self.model_dump())


class Optimiser(AdamW):
    """AdamW."""

    lr: Rate  # peak


class TriStage(Strict):
    """Linear warm-up, hold, decay (wav2vec 2.0)."""

    kind: Literal["tri_stage"]
    phases: Annotated[list[Fraction], Field(min_length=3, max_length=3)]
    start_scale: Fraction = 0.01
    end_scale: Rate = 0.01
    # exponential is what fairseq does; linear is what the paper says
    decay: Literal["exponential", "linear"] = "exponential"

    @model_validator(mode="after")
    def _whole(self) -> "TriStage":
        if not math.isclose(sum(self.phases), 1.0, abs_tol=1e-6):
            raise ValueError(f"phases {self.phases} are shares of all steps: they must add up to 1")
        return self


class Cosine(Strict):
    """Linear warm-up from zero, then half a cosine to end_scale * lr."""

    kind: Literal["cosine"]
    warmup: Fraction  # share of all steps
    end_scale: Fraction = 0.0
    # of W steps of warm-up, numbers n = 0 ... W - 1: n / (W - 1) of the peak (BEiT), or n / W
    warmup_reaches_peak: bool = False


class Polynomial(Strict):
    """Linear warm-up from zero, then a polynomial of the given power to zero."""

    kind: Literal["polynomial"]
    warmup: Fraction
    power: Rate = 1.0


Schedule = Annotated[TriStage | Cosine | Polynomial, Field(discriminator="kind")]


class Sized(Strict):
    """Batches of examples of like length, by their total size (fairseq max_tokens)."""

    # a micro-batch holds at most this many samples or tokens: examples times the longest of them
    size: Positive  # max_tokens
    # micro-batches an optimiser step, over all processes and accumulation steps: GPUs x update_freq
    # of the reference
    micro_batches: Positive


class Rebound(Strict):
    """The run stops when its loss, averaged, is that much above the least it was."""

    factor: Annotated[float, Field(gt=1.0)]
    steps: Positive  # optimiser steps of the running mean


class Portions(Strict):
    """In which portions a fine-tuning runs; its settings say how long."""

    # either examples an optimiser step, over all processes and accumulation steps ...
    batch: Positive | None = None
    micro_batch: Positive | None = None  # examples a forward pass on one process
    sized: Sized | None = None  # ... or batches by length
    precision: Literal["float32", "mixed"] = "float32"  # mixed: bf16 where the device has it
    log_every: Positive = 20
    checkpoint_every: Positive = 100  # steps
    checkpoint_minutes: Rate | None = None  # besides: when this much time has passed since the last
    workers: Count = 0  # loader processes; 0 loads in the training process
    compile: bool = False  # on a GPU, with torch.compile; eager is the reference
    # keep nothing of the blocks for the backward pass, compute it again: less memory, a third more
    # products (activation checkpointing)
    recompute: bool = False
    shard: bool = False  # each process keeps its share of the optimiser's moments (ZeRO, stage 1)
    rebound: Rebound | None = None

    @model_validator(mode="after")
    def _divides(self) -> "Portions":
        if self.sized is not None:
            if self.batch is not None or self.micro_batch is not None:
                raise ValueError("give either sized or batch and micro_batch")
            return self
        if self.batch is None or self.micro_batch is None:
            raise ValueError("give batch and micro_batch, or sized")
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}")
        return self

    @property
    def portion(self) -> str:
        """What an optimiser step sees, for a reader."""
        if self.sized is not None:
            return f"{self.sized.micro_batches} x {self.sized.size:,} samples or tokens"
        return f"{self.batch} examples"

    def lasting(self, steps: int) -> "Train":
        """With a number of steps."""
        return Train(steps=steps, **self.model_dump())


class Train(Portions):
    """How long and in which portions."""

    steps: Positive  # optimiser steps


class Collapse(Strict):
    """Below these the run stops: representations have collapsed (paper 6; fairseq min_*_var)."""

    target_std: Annotated[float, Field(ge=0.0)] = 0.1
    prediction_std: Annotated[float, Field(ge=0.0)] = 0.01
    after: Count = 5000  # optimiser steps before the check starts


class ImageAugment(Strict):
    """Augmentation of images; all off by default."""

    kind: Literal["vision"]
    shift: Count = 0  # random translation by at most this many pixels, zero padded
    # least and greatest share of an image's area
    random_resized_crop: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    flip: bool = False
    color_jitter: Fraction = 0.0
    rand_augment: str | None = None  # timm's name, for example rand-m9-mstd0.5-inc1 (BEiT)
    erase: Fraction = 0.0  # probability that a random rectangle becomes noise (timm, mode pixel)
    mixup: Annotated[float, Field(ge=0.0)] = 0.0  # alpha of timm's Mixup; 0: off
    cutmix: Annotated[float, Field(ge=0.0)] = 0.0  # alpha; with both, one is drawn for each batch
    # where files are decoded in training: by the loader's processes, or where the model is. device:
    # JPEG only, and the same crops, flips and factors, but torchvision resizes and changes tensors
    # where Pillow does pictures: values differ by a few of 255. Evaluation is always on the host
    decode: Literal["host", "device"] = "host"
    # evaluation: the shorter side is made this long (bicubic) before the centre crop
    resize: Positive | None = None
    # dataset: the set's own mean and deviation; imagenet: .485 .456 .406 / .229 .224 .225;
    # half: all .5. The released fine-tuning commands used half, pre-training imagenet
    normalise: Literal["dataset", "imagenet", "half"] = "dataset"

    @model_validator(mode="after")
    def _ordered(self) -> "ImageAugment":
        crop = self.random_resized_crop
        if crop is not None and crop[0] > crop[1]:
            raise ValueError(f"random_resized_crop {crop} is no range, lowest first")
        return self


class ChannelMask(Strict):
    """Spans of channels set to zero, the same in all frames (wav2vec 2.0 fine-tuning)."""

    prob: Fraction  # mask_channel_prob
    length: Positive  # mask_channel_length


class WaveAugment(Strict):
    """Cropping of waveforms, and masking of features in fine-tuning (SpecAugment-like)."""

    kind: Literal["speech"]
    max_samples: Positive | None = None  # random crop (max_sample_size)
    min_samples: Count = 0  # shorter utterances are left out (min_sample_size)
    mask: SpanMask | None = None  # fine-tuning: frames replaced by the mask embedding
    mask_channels: ChannelMask | None = None  # fine-tuning
    mixup: Fraction = 0.0  # fine-tuning: probability that another waveform is added (AudioSet)


class TokenAugment(Strict):
    """How texts become blocks."""

    kind: Literal["text"]
    # longest block, with its boundary tokens; two texts have four of them
    max_tokens: Annotated[int, Field(ge=5)]


View = Annotated[ImageAugment | WaveAugment | TokenAugment, Field(discriminator="kind")]
