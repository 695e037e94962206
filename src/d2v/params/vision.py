"""Parameters of images: encoder, view, inputs, and the rules that they must obey."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params.base import Count, Fraction, Positive, Share
from d2v.params.modality import Augment, Entry, Kind, Record
from d2v.params.model import Backbone
from d2v.util.errors import counted

KIND = Kind(
    name="vision",
    masks={"replaced": ("block",), "removed": ("inverse_block", "random")},
    unlabelled=("images", "unlabelled images"),
    labelled={"classify": "images"},
    parts=("features", "cls", "mask_embedding", "positions"),
    inputs=("patches",),
    dropout=False,
    lengths=False,
)
# policy names of timm's RandAugment: magnitude, its standard deviation and maximum, number of
# operations, probability, set of operations
RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|mstd\d+(\.\d+)?|mmax\d+|inc[01]|n\d+|p(0(\.\d+)?|1(\.0+)?)|t(weights|3aw?)))*"
)
# augmentation that is available only on the host, since its libraries need arrays or Pillow images
ON_HOST = ("shift", "rand_augment", "erase", "mixup", "cutmix")
MOST_COLOUR = 1e6  # largest mean or deviation of pixels, and the inverse of the least deviation
Resampling = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


class ImageAugment(Augment):
    """Image augmentation, normalisation and decoding; all augmentation is off by default."""

    kind: Literal["vision"]
    shift: Count = 0  # largest random translation in pixels; edges are padded with zeros
    # smallest and largest share of the image's area that a random crop covers
    random_resized_crop: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    flip: bool = False  # random horizontal flips
    color_jitter: Fraction = 0.0  # strength of random colour changes; 0: off
    rand_augment: str | None = None  # timm's policy name, for example rand-m9-mstd0.5-inc1 (BEiT)
    # probability that a random rectangle is replaced by noise (timm, mode pixel)
    erase: Fraction = 0.0
    mixup: Annotated[float, Field(ge=0.0)] = 0.0  # alpha of timm's Mixup; 0: off
    # alpha of CutMix; 0: off. If mixup is on, too, one of the two is drawn for each batch
    cutmix: Annotated[float, Field(ge=0.0)] = 0.0
    # probability that a batch is mixed at all; mixup_prob (data2vec 2.0: .9)
    mix_prob: Share = 1.0
    # where files are decoded during training. host: in the data-loading processes; device: on the
    # model's device, for JPEG only. Crops, flips and factors are the same, but torchvision resizes
    # and changes tensors where Pillow does so with images, and values (0 to 255) differ by a few
    # units. Evaluation always decodes on the host
    decode: Literal["host", "device"] = "host"
    # whether JPEG files at least twice as large as needed are decoded at a half, a quarter or an
    # eighth of their size, also in evaluation. With false, they are decoded whole and then resized,
    # as in the released code, more slowly
    reduced: bool = True
    # length in pixels to which the shorter side is resized (bicubic) before the centre crop in
    # evaluation
    resize: Positive | None = None
    # mean / standard deviation for normalisation. dataset: those of the data set; imagenet: .485
    # .456 .406 / .229 .224 .225; half: .5 for all. The released commands use half for fine-tuning
    # and imagenet for pre-training
    normalise: Literal["dataset", "imagenet", "half"] = "dataset"

    @model_validator(mode="after")
    def _ordered(self) -> "ImageAugment":
        crop = self.random_resized_crop
        if crop is not None and crop[0] > crop[1]:
            raise ValueError(
                f"random_resized_crop {crop} is not a range; give the lowest value first"
            )
        return self

    def without_labels(self) -> Iterator[str]:
        """Errors of keys that have no use in pre-training."""
        if self.mixup or self.cutmix:
            yield "view.mixup and view.cutmix mix classes, but pre-training has none; remove them"

    def with_labels(self, task: str, micro_batch: int | str | None) -> Iterator[str]:
        """Errors of keys that a labelled task cannot use."""
        if (self.mixup or self.cutmix) and isinstance(micro_batch, int) and micro_batch % 2:
            yield (
                f"view.mixup and view.cutmix mix pairs: train.micro_batch {micro_batch} must be"
                " even"
            )


class PatchEncoder(Entry):
    """Encoder of images as patches (paper 3.1; BEiT patch embedding)."""

    kind: Literal["vision"]
    image_size: Positive
    patch_size: Positive
    channels: Positive = 3
    cls_token: bool = True  # class token: prepended, never masked, no target or prediction
    absolute_positions: bool = False  # learned position table; the released recipes have none
    # fixed 2-D sine-cosine positions, added to the patches before any is hidden (MAE; data2vec 2.0)
    fixed_positions: bool = False
    # LayerNorm before the first block, after the extra tokens (data2vec 2.0: context_encoder.norm)
    input_norm: bool = False

    @property
    def grid(self) -> int:
        """Number of patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def largest(self) -> int:
        """Length in pixels above which the centre of a resized image shows next to nothing."""
        return 32 * self.image_size

    @property
    def too_large(self) -> str:
        """What is wrong with a larger one."""
        return f"is more than 32 times the model's image_size {self.image_size}"

    @model_validator(mode="after")
    def _whole_patches(self) -> "PatchEncoder":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.cls_token and self.extra_tokens:
            raise ValueError("cls_token and extra_tokens exclude each other; set cls_token: false")
        return self

    def further_parts(self) -> Iterator[str]:
        """Parts that only some encoders of images have; `cls` is always known."""
        if self.input_norm:
            yield "norm"

    def fits(self, backbone: Backbone) -> Iterator[str]:
        """Check that encoder and backbone fit together."""
        if self.fixed_positions and backbone.dim % 4:
            yield f"backbone.dim {backbone.dim}: encoder.fixed_positions needs a multiple of 4"

    def sees(self, view: Augment) -> Iterator[str]:
        """Check that the encoder can process a view's images, and a device can decode them."""
        assert isinstance(view, ImageAugment)
        if self.channels not in (1, 3):
            yield f"encoder.channels is {self.channels}: images have 1 or 3"
        if self.channels == 1 and (view.normalise == "imagenet" or view.rand_augment):
            yield "view.normalise imagenet and view.rand_augment need encoder.channels 3"
        if view.rand_augment is not None and not RAND_AUGMENT.fullmatch(view.rand_augment):
            yield (
                f"view.rand_augment: timm has no {view.rand_augment!r}; a valid example is"
                " rand-m9-mstd0.5-inc1"
            )
        if view.shift >= self.image_size:
            yield (
                f"view.shift {view.shift} moves images of encoder.image_size {self.image_size} out"
                " of sight; lower it"
            )
        if view.resize is not None and view.resize < self.image_size:
            yield (
                f"view.resize {view.resize} is less than encoder.image_size {self.image_size}:"
                " images would have black edges"
            )
        if view.resize is not None and view.resize > self.largest:
            yield f"view.resize: {view.resize} {self.too_large}"
        if view.decode == "device":
            if used := [name for name in ON_HOST if getattr(view, name)]:
                yield f"view.decode device: view.{used[0]} needs view.decode host"
            if not view.random_resized_crop or self.channels != 3:
                yield (
                    "view.decode device needs view.random_resized_crop and encoder.channels 3; set"
                    " it to host"
                )

    def removes(self) -> Iterator[str]:
        """Check that the encoder can work on visible positions only (hidden: removed)."""
        if self.absolute_positions:
            yield "encoder.absolute_positions needs hidden: replaced; use fixed_positions"


class ImageInput(Record):
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

    def fits(self, encoder: Entry, outputs: int | None) -> Iterator[str]:
        """Errors of a record that does not belong to a model with this encoder."""
        assert isinstance(encoder, PatchEncoder)
        yield from super().fits(encoder, outputs)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != encoder.channels:
                yield (
                    f"{name}: {counted(len(values), 'value')}, but the model takes"
                    f" {counted(encoder.channels, 'channel')}"
                )
            # with others, pixels as float32 would be infinite
            if any(abs(value) > MOST_COLOUR for value in values or ()):
                yield f"{name}: {values} are not values for pixels between 0 and 1"
        if any(value < 1 / MOST_COLOUR for value in self.std or ()):
            yield f"std: {self.std} is not above 0"
        if self.stretch is not None and len(self.stretch) != 2:
            yield f"stretch: {counted(len(self.stretch), 'value')} instead of height and width"
        longest = max(self.stretch or [self.resize or 0])
        if longest > encoder.largest:
            yield f"{'stretch' if self.stretch else 'resize'}: {longest} {encoder.too_large}"
