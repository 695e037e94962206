"""Parameters of the model: encoder, backbone, targets, loss, teacher, masks (paper 3)."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from d2v.params.base import BelowOne, Count, Fraction, Positive, Rate, Strict


class PatchEncoder(Strict):
    """Encoder of images as patches (paper 3.1; BEiT patch embedding)."""

    kind: Literal["vision"]
    image_size: Positive
    patch_size: Positive
    channels: Positive = 3
    cls_token: bool = True  # class token: prepended, never masked, no target or prediction
    absolute_positions: bool = False  # learned position table; the released recipes have none

    @property
    def grid(self) -> int:
        """Number of patches along one side of the image."""
        return self.image_size // self.patch_size

    @model_validator(mode="after")
    def _whole_patches(self) -> "PatchEncoder":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        return self


class WaveEncoder(Strict):
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
    # convolution, so that the outputs of an example do not depend on its batch (transformers#25621)
    position_padding: Literal["once", "each"] = "once"
    dropout: BelowOne = 0.0  # dropout rate after positions and norm, before the first block

    def samples(self, frames: int) -> int:
        """Smallest number of samples that gives `frames` frames."""
        for _, kernel, stride in reversed(self.conv_layers):
            frames = (frames - 1) * stride + kernel
        return frames


class TokenEncoder(Strict):
    """Encoder of sub-word tokens with learned positions (paper 4.3; RoBERTa embeddings)."""

    kind: Literal["text"]
    vocab_size: Positive
    max_positions: Positive
    # learned position table; the miniature has relative positions in the backbone instead
    absolute_positions: bool = True
    dropout: BelowOne = 0.0
    # input of the teacher. full: the whole text (paper 3.3). masked_only: only the masked tokens,
    # as in the released fairseq task (masked_lm with include_target_tokens; fairseq#4881)
    teacher_input: Literal["full", "masked_only"] = "full"


Encoder = Annotated[PatchEncoder | WaveEncoder | TokenEncoder, Field(discriminator="kind")]


class PositionBias(Strict):
    """Additive attention bias: none, one 2-D table for all blocks (BEiT), or one table per block.

    A table per block is 2-D or 1-D. Released fine-tuned vision models on Hugging Face have a 2-D
    table per block (use_relative_position_bias).
    """

    kind: Literal["none", "shared_2d", "per_layer_2d", "per_layer_1d"] = "none"
    window: list[Positive] | None = None  # for *_2d: size of the grid in patches, [rows, columns]
    # for per_layer_1d: distance, in positions, to which larger distances are clipped
    max_distance: Positive | None = None

    @model_validator(mode="after")
    def _complete(self) -> "PositionBias":
        if self.kind.endswith("_2d") and (self.window is None or len(self.window) != 2):
            raise ValueError(f"kind {self.kind} needs window: [rows, columns]")
        if self.kind == "per_layer_1d" and self.max_distance is None:
            raise ValueError("kind per_layer_1d needs max_distance")
        return self


class Init(Strict):
    """Initialisation of the backbone's and the encoder's linear layers."""

    # normal: fairseq init_bert_params; trunc_normal: BEiT, truncated at one standard deviation
    kind: Literal["normal", "trunc_normal"] = "normal"
    std: Rate = 0.02
    embedding_std: Rate = 0.02
    # divide the weights of the attention output and fc2 by sqrt(2 * block number) (BEiT)
    rescale: bool = False
    # initialise the regression head, too; fairseq's speech model keeps PyTorch's default there
    head: bool = True


class Backbone(Strict):
    """The one Transformer (paper 3.1)."""

    dim: Positive
    depth: Positive
    heads: Positive
    ffn_dim: Positive
    norm_first: bool  # true: pre-norm blocks (vision); false: post-norm (speech and text Base)
    norm_eps: Rate = 1e-5
    final_norm: bool = False  # LayerNorm after the last block; for pre-norm models only
    key_bias: bool = True  # learn a bias for keys; BEiT has biases for queries and values only
    # for post-norm models only: residuals are multiplied by (2 * depth)^(1/4), initial values
    # divided by (8 * depth)^(1/4) (DeepNorm, Wang et al. 2022; paper 5.2, AudioSet)
    deep_norm: bool = False
    # initial value of LayerScale's gamma on both branches; None: no LayerScale
    layer_scale: Rate | None = None
    position_bias: PositionBias = PositionBias()
    dropout: BelowOne = 0.0
    attention_dropout: BelowOne = 0.0
    activation_dropout: BelowOne = 0.0
    layer_drop: BelowOne = 0.0  # probability that a whole block is skipped (fairseq layerdrop)
    # stochastic-depth rate of the last block; the rate rises linearly from 0 at the first block
    drop_path: BelowOne = 0.0
    init: Init = Init()

    @model_validator(mode="after")
    def _divides(self) -> "Backbone":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.deep_norm and self.norm_first:
            raise ValueError("deep_norm applies only to post-norm blocks; set norm_first: false")
        return self


class Target(Strict):
    """Targets that the student predicts (paper 3.3): the mean of the teacher's top K layers."""

    kind: Literal["teacher"] = "teacher"
    # number of averaged layers (K in paper 3.3); average_top_k_layers, data2vec_vision:
    # target_layers
    top_k: Positive
    # feature of each block that is averaged (paper table 5). attention: output of the
    # self-attention; ffn: output of the feed-forward before its residual (paper 3.3; speech, text);
    # ffn_residual: the same plus its residual, before the block's last norm; block: output of the
    # block (vision: end_of_block_targets, layer_results end), equal to ffn_residual in pre-norm
    # models
    feature: Literal["attention", "ffn", "ffn_residual", "block"]
    # normalisation of each layer before averaging (paper 3.3). instance: over time, per example and
    # channel; layer: over channels; neither has parameters. instance_norm_target_layer,
    # layer_norm_target_layer; data2vec_vision: target_layer_norm_last
    layer_norm: Literal["none", "instance", "layer"]
    # maximum number of positions on each side to which the teacher attends; None: all (paper 5.4,
    # figure 3: targets that see less context are worse)
    context: Positive | None = None
    # normalisation after averaging (not in the paper): instance_norm_targets, layer_norm_targets;
    # data2vec_vision: post_target_layer_norm
    final_norm: Literal["none", "instance", "layer"] = "none"


class InputTarget(Strict):
    """Targets that are computed from the input itself, without a teacher.

    They are the targets that the paper compares its own with: everything else (masks, steps,
    batches, seeds, fine-tuning) stays the same. `regression` and `ema` are then not used; `loss` is
    the loss of values, and classes are predicted with cross-entropy.
    """

    kind: Literal["input"]
    # patches: pixels of a patch, normalised per patch (MAE, SimMIM). log_mel: 80 log-mel bands per
    # frame, normalised per utterance and band. units: the nearest of k-means centres of MFCCs, a
    # class (HuBERT, first iteration). tokens: the token itself, a class, with RoBERTa's head
    # (masked language modelling)
    of: Literal["patches", "log_mel", "units", "tokens"]
    units: Positive | None = None  # number of k-means centres, for `of: units` only (HuBERT: 100)

    @property
    def classes(self) -> bool:
        """Whether a target is a class rather than a vector of values."""
        return self.of in ("units", "tokens")

    @model_validator(mode="after")
    def _counted(self) -> "InputTarget":
        if (self.units is None) == (self.of == "units"):
            raise ValueError(
                "of: units needs units, the number of k-means centres"
                if self.of == "units"
                else f"units has no effect with of: {self.of}; remove it"
            )
        return self


def _kind_of(target: Any) -> str | None:
    """`kind` of a target; files from before there was a choice have none, and mean a teacher."""
    kind = target.get("kind", "teacher") if isinstance(target, dict) else target.kind
    return kind if isinstance(kind, str) else None


Targets = Annotated[
    Annotated[Target, Tag("teacher")] | Annotated[InputTarget, Tag("input")],
    Discriminator(_kind_of),
]


class Loss(Strict):
    """Regression loss on masked positions (paper 3.4)."""

    # transition point of the smooth L1 loss (paper 3.4); 0: squared error (paper 4.2). loss_beta;
    # data2vec_vision: l1_beta, l2_loss
    beta: Annotated[float, Field(ge=0.0)]
    # reduction over the channels of one position (not in the paper): sum / sqrt(dim) (loss_scale
    # null), sum (loss_scale 1), or mean (data2vec_vision)
    reduction: Literal["sum_sqrt_dim", "sum", "mean"]


class EMA(Strict):
    """Moving average of the teacher's weights (paper 3.3).

    The decay rises linearly from `start` to `end` over `anneal_steps`, then stays constant.
    """

    start: Fraction  # initial decay (tau_0); ema_decay, data2vec_vision: ema_decay_init
    end: Fraction  # final decay (tau_e); ema_end_decay, data2vec_vision: ema_decay
    # optimiser steps until the final decay (tau_n); 0: constant at end. ema_anneal_end_step,
    # data2vec_vision: ema_start_at
    anneal_steps: Count
    first: Literal[0, 1] = 1  # number of the first update: 1 in fairseq, 0 in data2vec_vision
    # modules of the encoder that the teacher shares with the student instead of averaging them
    # (paper 3.3: the feature encoder and the positional encoder are shared). Speech:
    # ema_layers_only, which shares positions, too; text: ema_transformer_layers_only;
    # data2vec_vision averages all modules
    shared: list[Literal["features", "positions", "norm", "cls", "mask_embedding"]] = Field(
        default_factory=list
    )


class BlockMask(Strict):
    """BEiT block-wise masks of a square grid of patches (paper 4.1)."""

    kind: Literal["block"]
    patches: Positive  # target number of masked patches; num_mask_patches
    min_block: Positive = 16  # smallest block, in patches; min_mask_patches_per_block
    # largest block, in patches; None: limited only by the number of patches left to mask
    max_block: Positive | None = None
    min_aspect: Rate = 0.3  # smallest aspect ratio of a block; the largest is its inverse


class SpanMask(Strict):
    """wav2vec 2.0 span masks (paper 4.2)."""

    kind: Literal["span"]
    prob: Fraction  # share of frames that would be masked if spans never overlapped; mask_prob
    length: Positive  # frames per span; mask_length
    min_spans: Count = 1  # smallest number of spans per example
    # thin the masks of a batch so that all its rows have the same number of masked frames, the
    # smallest of the batch; require_same_masks
    equal_counts: bool = True


class TokenMask(Strict):
    """Masks of single tokens, as in BERT, or of spans of tokens (paper 4.3)."""

    kind: Literal["token"]
    prob: Fraction  # share of tokens that would be chosen if spans never overlapped
    length: Positive = 1  # tokens per span; mask_multiple_length
    # share of the chosen tokens that are replaced by a random token and have no target
    random_prob: Fraction = 0.0
    # share of the chosen tokens that stay unchanged and have no target (fairseq#4229)
    keep_prob: Fraction = 0.0


Mask = Annotated[BlockMask | SpanMask | TokenMask, Field(discriminator="kind")]
