"""Parameters of the model: encoder, backbone, targets, loss, teacher, masks (paper 3)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params.base import BelowOne, Count, Fraction, Positive, Rate, Strict


class PatchEncoder(Strict):
    """Images to patches (paper 3.1; BEiT patch embedding)."""

    kind: Literal["vision"]
    image_size: Positive
    patch_size: Positive
    channels: Positive = 3
    cls_token: bool = True  # prepended, never masked, dropped before targets and predictions
    absolute_positions: bool = False  # learned table; the released recipes use none

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @model_validator(mode="after")
    def _whole_patches(self) -> "PatchEncoder":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        return self


class WaveEncoder(Strict):
    """16 kHz waveform to 50 Hz frames (paper 4.2; wav2vec 2.0 front end, layer-norm variant)."""

    kind: Literal["speech"]
    conv_layers: list[Annotated[list[Positive], Field(min_length=3, max_length=3)]] = Field(
        min_length=1
    )  # (channels, kernel, stride)
    position_kernel: Positive = 95  # conv_pos: split over position_depth convolutions
    position_depth: Positive = 5  # pos_conv_depth
    position_groups: Positive = 16  # conv_pos_groups
    # padding is set to zero before the first of these convolutions only (once: fairseq, Hugging
    # Face), so that it leaks back into the last frames, or before each: then the outputs of an
    # example do not depend on its batch (transformers#25621)
    position_padding: Literal["once", "each"] = "once"
    dropout: BelowOne = 0.0  # after positions and norm, before the first block

    def samples(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        for _, kernel, stride in reversed(self.conv_layers):
            frames = (frames - 1) * stride + kernel
        return frames


class TokenEncoder(Strict):
    """Sub-word tokens with learned positions (paper 4.3; RoBERTa embeddings)."""

    kind: Literal["text"]
    vocab_size: Positive
    max_positions: Positive
    absolute_positions: bool = True  # the miniature uses relative ones in the backbone instead
    dropout: BelowOne = 0.0
    # full: the teacher reads the whole text (paper 3.3). masked_only: it reads only the masked
    # tokens, which is what the released fairseq task fed it (task masked_lm with
    # include_target_tokens; fairseq#4881).
    teacher_input: Literal["full", "masked_only"] = "full"


Encoder = Annotated[PatchEncoder | WaveEncoder | TokenEncoder, Field(discriminator="kind")]


class PositionBias(Strict):
    """Additive attention bias: none, a 2-D table for all blocks (BEiT), a 2-D or 1-D table a block.

    Released fine-tuned vision models on Hugging Face have a 2-D table a block
    (use_relative_position_bias).
    """

    kind: Literal["none", "shared_2d", "per_layer_2d", "per_layer_1d"] = "none"
    window: list[Positive] | None = None  # *_2d: patches (rows, columns)
    max_distance: Positive | None = None  # per_layer_1d: distances are clipped to +- this

    @model_validator(mode="after")
    def _complete(self) -> "PositionBias":
        if self.kind.endswith("_2d") and (self.window is None or len(self.window) != 2):
            raise ValueError(f"kind {self.kind} needs window: [rows, columns]")
        if self.kind == "per_layer_1d" and self.max_distance is None:
            raise ValueError("kind per_layer_1d needs max_distance")
        return self


class Init(Strict):
    """Initial values of the backbone's and the encoder's linear layers."""

    # normal: fairseq init_bert_params; trunc_normal: BEiT, truncated at one standard deviation
    kind: Literal["normal", "trunc_normal"] = "normal"
    std: Rate = 0.02
    embedding_std: Rate = 0.02
    rescale: bool = False  # divide attention output and fc2 by sqrt(2 * block number) (BEiT)
    head: bool = True  # the regression head too; fairseq's speech model keeps PyTorch's default


class Backbone(Strict):
    """The one Transformer (paper 3.1)."""

    dim: Positive
    depth: Positive
    heads: Positive
    ffn_dim: Positive
    norm_first: bool  # pre-LN (vision) or post-LN (speech and text Base)
    norm_eps: Rate = 1e-5
    final_norm: bool = False  # LayerNorm after the last block; pre-LN models only
    key_bias: bool = True  # BEiT has biases for query and value only
    # post-norm only: residuals times (2 * depth)^(1/4), initial values divided by (8 * depth)^(1/4)
    # (DeepNorm, Wang et al. 2022; paper 5.2, AudioSet)
    deep_norm: bool = False
    layer_scale: Rate | None = None  # initial value of gamma on both branches
    position_bias: PositionBias = PositionBias()
    dropout: BelowOne = 0.0
    attention_dropout: BelowOne = 0.0
    activation_dropout: BelowOne = 0.0
    layer_drop: BelowOne = 0.0  # probability that a whole block is skipped (fairseq layerdrop)
    drop_path: BelowOne = 0.0  # stochastic depth of the last block; linear in depth from 0
    init: Init = Init()

    @model_validator(mode="after")
    def _divides(self) -> "Backbone":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of heads {self.heads}")
        if self.deep_norm and self.norm_first:
            raise ValueError("deep_norm is for post-norm blocks: set norm_first: false")
        return self


class Target(Strict):
    """What the student regresses (paper 3.3): the mean of the teacher's top K layers."""

    top_k: Positive  # paper 3.3, K; average_top_k_layers, data2vec_vision: target_layers
    # What of each block (paper table 5). attention: output of the self-attention; ffn: output of
    # the feed-forward before its residual (paper 3.3; speech, text); ffn_residual: with its
    # residual, before the block's last norm; block: end of the block (vision:
    # end_of_block_targets, layer_results end), which in pre-norm models is ffn_residual
    feature: Literal["attention", "ffn", "ffn_residual", "block"]
    # instance: over time per example and channel; layer: over channels. Neither has parameters.
    # Of each layer, before the mean (paper 3.3): instance_norm_target_layer,
    # layer_norm_target_layer; data2vec_vision: target_layer_norm_last
    layer_norm: Literal["none", "instance", "layer"]
    # the teacher attends to at most so many positions on each side; None: to all (paper 5.4, figure
    # 3: targets that see less of their context are worse)
    context: Positive | None = None
    # After the mean (not in the paper): instance_norm_targets, layer_norm_targets;
    # data2vec_vision: post_target_layer_norm
    final_norm: Literal["none", "instance", "layer"] = "none"


class Loss(Strict):
    """Regression loss on masked positions (paper 3.4)."""

    # smooth L1 (paper 3.4); 0 means squared error (paper 4.2). loss_beta; data2vec_vision: l1_beta,
    # l2_loss
    beta: Annotated[float, Field(ge=0.0)]
    # of one position over its channels (not in the paper): sum / sqrt(dim) (loss_scale null), sum
    # (loss_scale 1), or mean (data2vec_vision)
    reduction: Literal["sum_sqrt_dim", "sum", "mean"]


class EMA(Strict):
    """Teacher weights: decay rises linearly from start to end over anneal_steps (paper 3.3)."""

    start: Fraction  # tau_0: ema_decay; data2vec_vision: ema_decay_init
    end: Fraction  # tau_e: ema_end_decay; data2vec_vision: ema_decay
    # tau_n: ema_anneal_end_step; data2vec_vision: ema_start_at. 0: constant at end
    anneal_steps: Count
    first: Literal[0, 1] = 1  # how the first update is counted: 1 fairseq, 0 data2vec_vision
    # modules of the encoder that the teacher shares with the student instead of averaging them
    # (paper 3.3: feature encoder and positional encoder are shared). Speech: ema_layers_only shares
    # positions too; text: ema_transformer_layers_only; data2vec_vision averages all
    shared: list[Literal["features", "positions", "norm", "cls", "mask_embedding"]] = Field(
        default_factory=list
    )


class BlockMask(Strict):
    """BEiT block-wise masks of a square grid of patches (paper 4.1)."""

    kind: Literal["block"]
    patches: Positive  # masked patches aimed at (num_mask_patches)
    min_block: Positive = 16  # min_mask_patches_per_block
    max_block: Positive | None = None  # None: no more than what is left to mask
    min_aspect: Rate = 0.3


class SpanMask(Strict):
    """wav2vec 2.0 spans (paper 4.2)."""

    kind: Literal["span"]
    prob: Fraction  # mask_prob: share of frames in spans if spans never overlapped
    length: Positive  # mask_length
    min_spans: Count = 1
    equal_counts: bool = True  # require_same_masks: each row keeps the smallest count of its batch


class TokenMask(Strict):
    """Single tokens as in BERT, or spans of tokens (paper 4.3)."""

    kind: Literal["token"]
    prob: Fraction
    length: Positive = 1  # mask_multiple_length
    random_prob: Fraction = 0.0  # of the chosen: replaced by a random token, not regressed
    keep_prob: Fraction = 0.0  # of the chosen: left as they are, not regressed (fairseq#4229)


Mask = Annotated[BlockMask | SpanMask | TokenMask, Field(discriminator="kind")]
