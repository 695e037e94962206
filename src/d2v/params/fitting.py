"""Consistency checks within one pre-training or fine-tuning, including keys without effect.

Each function yields the errors that it finds, one sentence each. Checks that concern a single group
are part of that group (d2v.params.model, d2v.params.training).
"""

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from d2v.params import targets
from d2v.params.masks import BlockMask, Mask, SpanMask, TokenMask
from d2v.params.model import (
    EMA,
    Backbone,
    Encoder,
    PatchEncoder,
    TokenEncoder,
    WaveEncoder,
)
from d2v.params.training import ImageAugment, Portions, TokenAugment, View, WaveAugment
from d2v.util.errors import counted

if TYPE_CHECKING:
    from d2v.params.finetuning import Finetune
    from d2v.params.pretraining import Pretrain


class Kind(NamedTuple):
    """Masks, data, tasks and features that go with one kind of encoder."""

    # kinds of its masks, by what becomes of hidden positions (encoder.hidden)
    masks: dict[str, tuple[str, ...]]
    unlabelled: tuple[str, ...]  # contents of the prepared sets for pre-training
    labelled: dict[str, str]  # kinds of tasks, and the contents of the prepared sets that they read
    parts: tuple[str, ...]  # parts of the encoder, named as in ema.shared
    inputs: tuple[str, ...]  # targets that it can compute from its input (InputTarget.of)
    dropout: bool = True  # whether the encoder has dropout
    lengths: bool = True  # whether examples differ in length
    convolutions: bool = False  # whether it has convolutions that settings can freeze


KINDS = {
    "vision": Kind(
        masks={"replaced": ("block",), "removed": ("inverse_block", "random")},
        unlabelled=("images",),
        labelled={"classify": "images"},
        parts=("features", "cls", "mask_embedding", "positions"),
        inputs=("patches",),
        dropout=False,
        lengths=False,
    ),
    "speech": Kind(
        masks={"replaced": ("span",), "removed": ("span",)},
        unlabelled=("transcribed speech", "speech", "tagged sounds"),
        labelled={"ctc": "transcribed speech", "tag": "tagged sounds"},
        parts=("features", "mask_embedding", "positions", "norm"),
        inputs=("log_mel", "units"),
        convolutions=True,
    ),
    "text": Kind(
        masks={"replaced": ("token",), "removed": ("random",)},
        unlabelled=("corpus",),
        labelled={"classify": "sentences", "regress": "sentences"},
        parts=("features", "positions", "norm"),
        inputs=("tokens",),
    ),
}
# metrics of each kind of task, named as in metrics.METRICS
TASK_METRICS: dict[str, tuple[str, ...]] = {
    "classify": ("accuracy", "f1", "matthews"),
    "regress": ("pearson", "spearman", "squared_error"),
    "tag": ("map",),
    "ctc": ("wer", "cer", "greedy_wer", "greedy_cer"),
}
SPECIAL = 5  # number of special token ids: <s>, <pad>, </s>, <unk> and <mask>
# policy names of timm's RandAugment: magnitude, its standard deviation and maximum, number of
# operations, probability, set of operations
RAND_AUGMENT = re.compile(
    r"rand(-(m\d+|mstd\d+(\.\d+)?|mmax\d+|inc[01]|n\d+|p(0(\.\d+)?|1(\.0+)?)|t(weights|3aw?)))*"
)
# augmentation that is available only on the host, since its libraries need arrays or Pillow images
ON_HOST = ("shift", "rand_augment", "erase", "mixup", "cutmix")


# --- a pre-training ---------------------------------------------------------------------------


def pretraining(p: "Pretrain") -> Iterator[str]:
    """Errors of a pre-training."""
    kind = KINDS[p.encoder.kind]
    if p.released is not None and (p.start_from is not None or len(p.seeds) > 1):
        yield "released weights allow only one seed and no start_from"
    yield from targets.faults(p, kind.inputs)
    yield from _model(p.encoder, p.backbone)
    yield from _shared(p.ema, p.encoder)
    if p.encoder.kind != p.view.kind:
        yield f"encoder.kind is {p.encoder.kind} but view.kind is {p.view.kind}"
    else:
        yield from seen_by(p.encoder, p.view)
        yield from _unlabelled(p.view)
        yield from _sizes(kind, p.train, _longest(p.view))
    masks = kind.masks[p.encoder.hidden]
    if p.mask.kind not in masks:
        how = " with hidden: removed" if p.encoder.hidden == "removed" else ""
        yield (
            f"mask.kind is {p.mask.kind}, but encoder.kind {p.encoder.kind}{how} needs"
            f" {' or '.join(masks)}"
        )
    else:
        yield from _masking(p.mask, p.encoder)
    if isinstance(p.encoder, WaveEncoder) and isinstance(p.view, WaveAugment):
        frames = 2 if targets.over_time(p.target) else 1
        least, most = p.encoder.samples(frames), p.view.max_samples
        if most is not None and most < least:
            enough = f"{counted(frames, 'frame')} need{'s' * (frames == 1)} {least} samples"
            yield f"view.max_samples {most} is too small: {enough}"


def _model(encoder: Encoder, backbone: Backbone) -> Iterator[str]:
    """Check that encoder and backbone fit together."""
    bias = backbone.position_bias
    grid = encoder.grid if isinstance(encoder, PatchEncoder) else None
    if bias.kind.endswith("_2d"):
        if grid is None:
            yield (
                f"backbone.position_bias.kind {bias.kind} needs a grid of patches, which"
                f" encoder.kind {encoder.kind} does not have"
            )
        elif bias.window != [grid, grid]:
            yield (
                f"backbone.position_bias.window is {bias.window}, but the grid is [{grid}, {grid}]"
            )
    elif bias.window is not None:
        yield f"backbone.position_bias.window has no effect with kind {bias.kind}; remove it"
    if bias.kind != "per_layer_1d" and bias.max_distance is not None:
        yield f"backbone.position_bias.max_distance has no effect with kind {bias.kind}; remove it"
    if backbone.layer_scale is not None and not backbone.norm_first:
        yield (
            "backbone.layer_scale applies only to pre-norm blocks; remove it, or set"
            " norm_first: true"
        )
    if isinstance(encoder, WaveEncoder) and backbone.norm_first:
        yield (
            "backbone.norm_first: true is not available for speech, because fairseq's"
            " layer_norm_first would also move the encoder's norm behind the last block; set it to"
            " false"
        )
    if isinstance(encoder, PatchEncoder) and encoder.fixed_positions and backbone.dim % 4:
        yield f"backbone.dim {backbone.dim}: encoder.fixed_positions needs a multiple of 4"
    if isinstance(encoder, WaveEncoder) and backbone.dim % encoder.position_groups:
        yield (
            f"backbone.dim {backbone.dim} is not a multiple of encoder.position_groups"
            f" {encoder.position_groups}"
        )
    if isinstance(encoder, TokenEncoder) and encoder.vocab_size <= SPECIAL:
        yield (
            f"encoder.vocab_size {encoder.vocab_size} is too small: {SPECIAL} tokens are special"
            " and have no text"
        )


def _shared(ema: EMA, encoder: Encoder) -> Iterator[str]:
    parts = [*KINDS[encoder.kind].parts]
    if encoder.extra_tokens and "cls" not in parts:
        parts.append("cls")
    if getattr(encoder, "input_norm", False):
        parts.append("norm" if isinstance(encoder, PatchEncoder) else "input_norm")
    if strange := [name for name in ema.shared if name not in (*parts, "prenet")]:
        yield (
            f"ema.shared: encoder.kind {encoder.kind} has no {', '.join(strange)}"
            f" (it has {', '.join(parts)})"
        )


def _masking(mask: Mask, encoder: Encoder) -> Iterator[str]:
    """Check that masks hide part of the input and leave part of it visible."""
    match mask, encoder:
        case BlockMask(), PatchEncoder(grid=grid):
            if mask.patches >= grid**2:
                yield (
                    f"mask.patches {mask.patches} of the {grid} x {grid} = {grid**2} patches leave"
                    " none visible; mask fewer"
                )
            if not blocks_fit(mask, grid):
                yield (
                    f"mask.min_block {mask.min_block}: no block of this size fits into"
                    f" {grid} x {grid} patches; lower it"
                )
        case SpanMask() | TokenMask(), _ if mask.prob == 0:
            yield "mask.prob is 0, so nothing would be masked and nothing learned; raise it"
        case TokenMask(), _ if mask.random_prob + mask.keep_prob >= 1:
            yield (
                f"mask.random_prob {mask.random_prob} and keep_prob {mask.keep_prob} leave no token"
                " masked: their sum must be less than 1"
            )


def blocks_fit(mask: BlockMask, grid: int) -> bool:
    """Whether a square block of the smallest allowed size is smaller than a square grid."""
    least = min(mask.min_block, mask.patches, mask.max_block or mask.patches)
    return round(math.sqrt(least)) < grid


def _unlabelled(view: View) -> Iterator[str]:
    """Check a view for keys that have no use in pre-training."""
    match view:
        case ImageAugment():
            if view.mixup or view.cutmix:
                yield (
                    "view.mixup and view.cutmix mix classes, but pre-training has none; remove them"
                )
        case WaveAugment():
            if view.mixup:
                yield "view.mixup mixes classes and is only for tasks of kind tag; remove it"
            for name in ("mask", "mask_channels"):
                if getattr(view, name) is not None:
                    yield f"view.{name} is only for fine-tuning; remove it"


# --- a fine-tuning ----------------------------------------------------------------------------


def finetuning(p: "Finetune") -> Iterator[str]:
    """Errors of a fine-tuning."""
    if p.released is not None and (len(p.seeds) > 1 or p.arms != ["data2vec"]):
        yield "released weights allow only one seed and arms: [data2vec]"
    if (p.dev_split == p.test_split) != p.chosen_on_test:
        yield (
            "dev_split and test_split are the same; confirm this with chosen_on_test: true"
            if p.dev_split == p.test_split
            else "chosen_on_test: true, but dev_split and test_split differ"
        )
    if (p.baseline is not None) != ("input" in p.arms):
        yield (
            "arms has input, but no baseline names its pre-training"
            if p.baseline is None
            else f"baseline {p.baseline} has no effect without input in arms; add it, or remove one"
        )
    yield from _settings(p)
    yield from _task(p)
    kind = KINDS[p.view.kind]
    if p.task.kind not in kind.labelled:
        yield (
            f"task.kind {p.task.kind} does not fit view.kind {p.view.kind}"
            f" (which supports {', '.join(kind.labelled)})"
        )
    if p.encoder_dropout is not None and not kind.dropout:
        yield f"encoder_dropout: an encoder of kind {p.view.kind} has no dropout; remove it"
    yield from _sizes(kind, p.train, _longest(p.view))
    yield from _only_pretraining(p.train)
    yield from _labelled(p)
    yield from _more(p)


def _more(p: "Finetune") -> Iterator[str]:
    """Check that no further split takes the name under which dev or test metrics are kept."""
    for heading, split in p.more.items():
        if split in ("dev", "test") and split != getattr(p, f"{split}_split"):
            yield (
                f"more.{heading}: the metrics of split {split} would replace those of"
                f" {split}_split {getattr(p, f'{split}_split')}; rename the split"
            )


def _settings(p: "Finetune") -> Iterator[str]:
    if (p.settings is None) == (p.grid is None):
        yield "give either settings (one for each arm) or grid"
    if p.settings is not None and set(p.settings) != set(p.arms):
        yield f"settings must have exactly these arms: {', '.join(p.arms)}"
    if p.grid and set(p.grid.seeds) & set(p.seeds):
        yield "grid.seeds and seeds overlap: settings must not be chosen on reported seeds"
    frozen: list[object] = [*(p.grid.freeze if p.grid else [])]
    frozen += [setting.freeze for setting in (p.settings or {}).values()]
    if "convolutions" in frozen and not KINDS[p.view.kind].convolutions:
        yield (
            f"freeze: convolutions, but an encoder of kind {p.view.kind} has none; use true to"
            " freeze all of its features"
        )


def _task(p: "Finetune") -> Iterator[str]:
    """Check that metrics and decoding fit the task."""
    known = TASK_METRICS[p.task.kind]
    if strange := [name for name in p.metrics if name not in known]:
        yield (
            f"metrics {', '.join(strange)} do not fit a {p.task.kind} task"
            f" (which supports {', '.join(known)})"
        )
    elif "f1" in p.metrics and getattr(p.task, "classes", 2) != 2:
        yield "metrics: f1 compares class 1 with class 0, but task.classes is not 2"
    if p.decode is not None and p.task.kind != "ctc":
        yield f"decode searches letters for words, but a {p.task.kind} task has none; remove it"
    if p.probe is not None and (p.task.kind != "classify" or p.released is not None):
        yield "probe: probes are for pre-trained features and tasks of kind classify; remove it"
    if p.decode is not None and p.decode.search and p.grid:
        yield "decode.search needs settings, not a grid"


def _labelled(p: "Finetune") -> Iterator[str]:
    """Check a view for keys that a labelled task cannot use."""
    match p.view:
        case ImageAugment(mixup=mixup, cutmix=cutmix) if mixup or cutmix:
            if isinstance(p.train.micro_batch, int) and p.train.micro_batch % 2:
                yield (
                    f"view.mixup and view.cutmix mix pairs: train.micro_batch"
                    f" {p.train.micro_batch} must be even"
                )
        case WaveAugment() as view:
            if view.max_samples is not None:
                yield (
                    "view.max_samples crops waveforms, which then do not match their labels; remove"
                    " it"
                )
            if view.mixup and p.task.kind != "tag":
                yield "view.mixup mixes classes and is only for tasks of kind tag; remove it"
            for name in ("mask", "mask_channels"):
                if (mask := getattr(view, name)) is not None and mask.prob == 0:
                    yield f"view.{name}.prob is 0: remove view.{name}"


def _only_pretraining(train: Portions) -> Iterator[str]:
    """Check for values that fine-tuning does not support."""
    if train.micro_batch == "auto":
        yield "train.micro_batch auto is only for pre-training; give a number"
    if train.precision == "bfloat16":
        yield "train.precision bfloat16 is only for pre-training; use mixed or float32"
    if train.cuda_graph is True:
        yield "train.cuda_graph true is only for pre-training; use auto or false"


# --- both -------------------------------------------------------------------------------------


def seen_by(encoder: Encoder, view: View) -> Iterator[str]:
    """Check that an encoder can process the examples of a view."""
    match encoder, view:
        case PatchEncoder(), ImageAugment():
            yield from _images(encoder, view)
        case TokenEncoder(absolute_positions=True), TokenAugment():
            if view.max_tokens > encoder.max_positions:
                yield (
                    f"view.max_tokens {view.max_tokens} is more than encoder.max_positions"
                    f" {encoder.max_positions}"
                )


def _images(encoder: PatchEncoder, view: ImageAugment) -> Iterator[str]:
    """Check that an encoder can process the images of a view, and a device can decode them."""
    if encoder.channels not in (1, 3):
        yield f"encoder.channels is {encoder.channels}: images have 1 or 3"
    if encoder.channels == 1 and (view.normalise == "imagenet" or view.rand_augment):
        yield "view.normalise imagenet and view.rand_augment need encoder.channels 3"
    if view.rand_augment is not None and not RAND_AUGMENT.fullmatch(view.rand_augment):
        yield (
            f"view.rand_augment: timm has no {view.rand_augment!r}; a valid example is"
            " rand-m9-mstd0.5-inc1"
        )
    if view.resize is not None and view.resize < encoder.image_size:
        yield (
            f"view.resize {view.resize} is less than encoder.image_size {encoder.image_size}:"
            " images would have black edges"
        )
    if view.decode == "device":
        if used := [name for name in ON_HOST if getattr(view, name)]:
            yield f"view.decode device: view.{used[0]} needs view.decode host"
        if not view.random_resized_crop or encoder.channels != 3:
            yield (
                "view.decode device needs view.random_resized_crop and encoder.channels 3; set it"
                " to host"
            )


def _longest(view: View) -> int | None:
    """Length limit of a view's examples, in samples or tokens; None if there is no limit."""
    match view:
        case WaveAugment():
            return view.max_samples
        case TokenAugment():
            return view.max_tokens
    return None


def _sizes(kind: Kind, train: Portions, longest: int | None) -> Iterator[str]:
    """Check that batches limited by size suit the lengths of the examples."""
    if train.sized is None:
        return
    if not kind.lengths:
        yield (
            "train.sized is only for sequences, but these examples all have one size; give"
            " train.batch and train.micro_batch"
        )
    elif longest is not None and train.sized.size < longest:
        yield (
            f"train.sized.size {train.sized.size} is less than the length of the view's longest"
            f" example, {longest}; raise it"
        )
