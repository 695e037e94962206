"""Parameters of the model: backbone, targets, loss, teacher (paper 3)."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from d2v.params.base import BelowOne, Count, Fraction, Positive, Rate, Strict


class PositionBias(Strict):
    """Additive attention bias: none, one 2-D table for all blocks (BEiT), or one table per block.

    A table per block is 2-D or 1-D. Released fine-tuned vision models on Hugging Face have a 2-D
    table per block (use_relative_position_bias). `alibi` is linear in the distance and shared by
    all blocks; the fixed slope of each head is multiplied by a learned scale (data2vec 2.0, speech:
    use_alibi_encoder, learned_alibi_scale, learned_alibi_scale_per_head).
    """

    kind: Literal["none", "shared_2d", "per_layer_2d", "per_layer_1d", "alibi"] = "none"
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
    # how many of the first blocks belong to the modality: they are never targets, and the teacher
    # may share them (EMA.shared: prenet). data2vec 2.0: prenet_depth, whose `depth` counts only the
    # blocks after them
    prenet_depth: Count = 0
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
        if self.prenet_depth >= self.depth:
            raise ValueError(
                f"prenet_depth {self.prenet_depth} must be less than depth {self.depth}, which"
                " counts all blocks"
            )
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
    """`kind` of a target; files from before there was a choice have none, and mean a teacher.

    None, which pydantic reports, for what is no target at all.
    """
    if isinstance(target, dict):
        kind = target.get("kind", "teacher")
    else:
        kind = getattr(target, "kind", None)
    return kind if isinstance(kind, str) else None


Targets = Annotated[
    Annotated[Target, Tag("teacher")] | Annotated[InputTarget, Tag("input")],
    Discriminator(
        _kind_of,
        custom_error_type="kind",
        custom_error_message="kind: teacher or kind: input is expected",
    ),
]


class Loss(Strict):
    """Regression loss on masked positions (paper 3.4)."""

    # transition point of the smooth L1 loss (paper 3.4); 0: squared error (paper 4.2). loss_beta;
    # data2vec_vision: l1_beta, l2_loss
    beta: Annotated[float, Field(ge=0.0)]
    # reduction over the channels of one position (not in the paper): sum / sqrt(dim) (loss_scale
    # null), sum (loss_scale 1), or mean (data2vec_vision)
    reduction: Literal["sum_sqrt_dim", "sum", "mean"]
    # weight of the last extra token's loss, relative to the mean loss of a hidden position: its
    # output predicts the mean target of all positions. In data2vec 2.0, it is cls_loss times the
    # copies per GPU (.01 x 16 x 16 = 2.56 for Base), so it depends on the number of GPUs; here it
    # depends on neither GPUs nor accumulation
    class_weight: Annotated[float, Field(ge=0.0)] = 0.0


SharedPart = Literal[
    "features", "positions", "norm", "input_norm", "cls", "mask_embedding", "prenet"
]


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
    # data2vec_vision averages all modules. data2vec 2.0: features without ema_local_encoder;
    # everything before the shared blocks with ema_encoder_only, including `prenet`, the first
    # backbone.prenet_depth blocks and the scale of ALiBi; cls are the extra tokens
    shared: list[SharedPart] = Field(default_factory=list)
