"""Parameters of training: optimiser, schedule, number of steps, batches."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params.base import BelowOne, Count, Fraction, Positive, Rate, Share, Strict


class AdamW(Strict):
    """AdamW without a learning rate, for fine-tuning, whose settings contain it."""

    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)]
    eps: Rate
    weight_decay: Annotated[float, Field(ge=0.0)]
    # parameters to which weight decay applies. all: every parameter (fairseq); beit: all but 1-D
    # parameters, class token and positions, so also the mask embedding; matrices: no vectors of
    # any shape and no embeddings; dimensions: all but 1-D parameters (data2vec 2.0)
    decay: Literal["all", "beit", "matrices", "dimensions"] = "all"
    clip: Rate | None = None  # maximum global gradient norm; None: no clipping
    # factor by which the learning rate falls from each block to the block before it; None: 1
    layer_decay: Share | None = None
    # update of a parameter without a gradient, because its block was skipped or only the head is
    # trained. skip: the parameter stays unchanged (PyTorch); zero: moments, update count and weight
    # decay continue (fairseq's fp16)
    missing_gradients: Literal["skip", "zero"] = "skip"
    # add eps before the second moment's bias correction (fairseq) instead of after it (PyTorch)
    eps_before_correction: bool = False

    @model_validator(mode="after")
    def _counts_alike(self) -> "AdamW":
        if self.eps_before_correction and self.missing_gradients != "zero":
            raise ValueError(
                "eps_before_correction needs missing_gradients: zero, so that all parameters have"
                " the same number of updates, as in fairseq"
            )
        return self

    def at(self, lr: float) -> "Optimiser":
        """These parameters with the learning rate `lr`."""
        return Optimiser(lr=lr, **self.model_dump())


class Optimiser(AdamW):
    """AdamW with a learning rate."""

    lr: Rate  # peak learning rate


class TriStage(Strict):
    """Linear warm-up, constant phase and decay of the learning rate (wav2vec 2.0)."""

    kind: Literal["tri_stage"]
    # shares of all steps: warm-up, constant, decay
    phases: Annotated[list[Fraction], Field(min_length=3, max_length=3)]
    start_scale: Fraction = 0.01  # initial learning rate, as a fraction of the peak
    end_scale: Rate = 0.01  # final learning rate, as a fraction of the peak
    # shape of the decay: exponential in fairseq, linear according to the paper
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
    end_scale: Fraction = 0.0  # final learning rate, as a fraction of the peak
    # learning rate in step n = 0 ... W - 1 of W warm-up steps, as a fraction of the peak. true:
    # n / (W - 1) (BEiT); false: n / W
    warmup_reaches_peak: bool = False


class Polynomial(Strict):
    """Linear warm-up from zero, then a polynomial of the given power to zero."""

    kind: Literal["polynomial"]
    warmup: Fraction  # share of all steps
    power: Rate = 1.0


Schedule = Annotated[TriStage | Cosine | Polynomial, Field(discriminator="kind")]


class Sized(Strict):
    """Batches of examples of similar length, limited by total size (fairseq max_tokens)."""

    # maximum size of a micro-batch in samples or tokens: number of examples times the length of the
    # longest; max_tokens
    size: Positive
    # micro-batches per optimiser step, over all processes and accumulation steps; the reference's
    # GPUs x update_freq
    micro_batches: Positive


class Rebound(Strict):
    """Limit on the loss: the run stops when the running mean of its loss rises too far.

    The running mean is compared with the lowest value that it has had in the run.
    """

    # largest allowed ratio of the running mean to its lowest value
    factor: Annotated[float, Field(gt=1.0)]
    steps: Positive  # optimiser steps in the running mean


class Portions(Strict):
    """Batches, precision and checkpoints of training, without its number of steps.

    Fine-tuning uses this group, since its settings contain the number of steps.
    """

    # examples per optimiser step, over all processes and accumulation steps; give either batch and
    # micro_batch, or sized
    batch: Positive | None = None
    # examples per forward pass on one process. auto (pre-training): the largest power of two that
    # fits the memory of the device on which the run starts
    micro_batch: Positive | Literal["auto"] | None = None
    sized: Sized | None = None  # batches of similar length, instead of batch and micro_batch
    # mixed: matrix products in bfloat16 if the device supports it, everything else in float32
    # (autocast). bfloat16: activations and the weights that compute them in bfloat16 on any device;
    # the optimiser and the moving average work on float32 weights, statistics are float32
    precision: Literal["float32", "mixed", "bfloat16"] = "float32"
    log_every: Positive = 20  # optimiser steps between log entries
    checkpoint_every: Positive = 100  # optimiser steps between checkpoints
    # minutes since the last checkpoint after which another one is saved, in addition to
    # checkpoint_every
    checkpoint_minutes: Rate | None = None
    workers: Count = 0  # data-loading processes; 0: load data in the training process
    # use torch.compile on a GPU; eager execution is the reference. The name of a compiler compiles
    # on any device, for tests
    compile: bool | Literal["inductor", "aot_eager"] = False
    # replay the steps of a pre-training on a GPU from CUDA graphs, so that the host does not limit
    # them. auto: where possible; true: fail where it is not possible
    cuda_graph: bool | Literal["auto"] = "auto"
    # recompute the blocks in the backward pass instead of storing their activations (activation
    # checkpointing): less memory, a third more matrix products
    recompute: bool = False
    # shard the optimiser's moments, so that each process keeps its share (ZeRO, stage 1)
    shard: bool = False
    rebound: Rebound | None = None  # None: a rising loss does not stop the run

    @model_validator(mode="after")
    def _divides(self) -> "Portions":
        if self.sized is not None:
            if self.batch is not None or self.micro_batch is not None:
                raise ValueError("give either sized or batch and micro_batch")
            return self
        if self.batch is None or self.micro_batch is None:
            raise ValueError("give batch and micro_batch, or sized")
        if self.micro_batch != "auto" and self.batch % self.micro_batch:
            raise ValueError(
                f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}"
            )
        return self

    @property
    def portion(self) -> str:
        """Size of the batch of one optimiser step, as text for readers."""
        if self.sized is not None:
            return f"{self.sized.micro_batches} x {self.sized.size:,} samples or tokens"
        return f"{self.batch} examples"

    def suits(self, lengths: bool, longest: int | None) -> Iterator[str]:
        """Check that batches limited by size suit the examples; yields one sentence per error.

        `lengths` says whether examples differ in length, `longest` is their limit, if any.
        """
        if self.sized is None:
            return
        if not lengths:
            yield (
                "train.sized is only for sequences, but these examples all have one size; give"
                " train.batch and train.micro_batch"
            )
        elif longest is not None and self.sized.size < longest:
            yield (
                f"train.sized.size {self.sized.size} is less than the length of the view's longest"
                f" example, {longest}; raise it"
            )

    def lasting(self, steps: int) -> "Train":
        """These parameters with a number of optimiser steps."""
        return Train(steps=steps, **self.model_dump())


class Train(Portions):
    """Number of steps, batches, precision and checkpoints of training."""

    steps: Positive  # optimiser steps
    # optimiser steps between probes of a pre-training: the share of the targets' variance that
    # position explains and, if a task of kind classify starts from it, the accuracy of nearest
    # neighbours on frozen features; None: no probes
    probe_every: Positive | None = None


class Collapse(Strict):
    """Limits below which the run stops, because representations have collapsed.

    Source: paper 6; fairseq min_*_var.
    """

    target_std: Annotated[float, Field(ge=0.0)] = 0.1  # smallest standard deviation of targets
    prediction_std: Annotated[float, Field(ge=0.0)] = 0.01  # the same for predictions
    after: Count = 5000  # optimiser steps before the check starts
    # share of the targets' variance, explained by position alone, above which a probe warns
    position_share: Fraction = 0.8
