"""The teacher: an exponential moving average of the student (paper 3.3)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from d2v import params
from d2v.model.encoders import Encoder
from d2v.model.transformer import Output, Transformer


class Teacher(nn.Module):
    """Copy of the student's encoder and backbone that follows the student slowly.

    Modules in `shared` are not averaged: the teacher holds copies of the student's modules, renewed
    at each update (fairseq: skip_keys). If `features` is shared, the teacher holds no copy and uses
    the student's features. `prenet` stands for the first blocks of the backbone (prenet_depth) and
    the position bias.
    """

    def __init__(self, encoder: Encoder, backbone: Transformer, p: params.EMA) -> None:
        super().__init__()
        self.shared = tuple(p.shared)
        shared = "features" in self.shared
        # do not copy features only to delete them: a token embedding is half as large as all blocks
        self.encoder = copy.deepcopy(
            encoder, {id(encoder.features): encoder.features} if shared else None
        )
        if shared:
            del self.encoder.features
        self.backbone, self.prenet_depth = copy.deepcopy(backbone), backbone.prenet_depth
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode: the teacher has no dropout (paper 3.3)."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, x: Tensor, padding: Tensor | None, batch: dict[str, Tensor], **wanted: Any
    ) -> Output:
        """Outputs for the unmasked input, from the student's local features `x` (B, T, D).

        If `features` is not shared, the teacher embeds `batch` itself. `wanted` is passed to
        Transformer: which features to keep, and at which positions.
        """
        if "features" not in self.shared:
            x, padding = self.encoder.local_features(batch)
        h, padding = self.encoder(x, padding)
        output: Output = self.backbone(h, padding, prefix=self.encoder.prefix, **wanted)
        return output

    @torch.no_grad()
    def update(self, encoder: Encoder, backbone: nn.Module, decay: float | Tensor) -> None:
        """Set teacher = decay * teacher + (1 - decay) * student; copy shared modules.

        A 0-dim `decay` on the device is read there.
        """
        averaged, copied = self._pairs(encoder, backbone)
        if averaged:
            mine, theirs = zip(*averaged, strict=True)
            if isinstance(decay, Tensor):
                weight = (1.0 - decay).to(mine[0].dtype)
                torch._foreach_lerp_(list(mine), list(theirs), [weight] * len(mine))
            else:
                torch._foreach_lerp_(list(mine), list(theirs), 1.0 - decay)
        if copied:
            mine, theirs = zip(*copied, strict=True)
            torch._foreach_copy_(list(mine), list(theirs))

    def _pairs(
        self, encoder: Encoder, backbone: nn.Module
    ) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """Pairs of (teacher, student) tensors to average, and pairs to copy."""
        student = dict(encoder.named_parameters())
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for name, mine in self.encoder.named_parameters():
            shared = name.split(".")[0] in self.shared
            (copied if shared else averaged).append((mine, student[name]))
        pairs = zip(self.backbone.named_parameters(), backbone.parameters(), strict=True)
        for (name, mine), theirs in pairs:
            shared = "prenet" in self.shared and is_prenet(name, self.prenet_depth)
            (copied if shared else averaged).append((mine, theirs))
        return averaged, copied


def is_prenet(name: str, depth: int) -> bool:
    """Whether a parameter of a backbone belongs to `prenet`: its first `depth` blocks, its bias."""
    kind, *rest = name.split(".")
    return kind == "position_bias" or (kind == "blocks" and int(rest[0]) < depth)


def decay(p: params.EMA, updates: int) -> float:
    """Decay of the EMA update after `updates` optimiser steps (1, 2, ...).

    The decay is linear from start to end over anneal_steps, then constant (fairseq
    get_annealed_rate). BEiT's code counts the same steps from 0 (params.EMA.first).
    """
    step = updates - 1 + p.first
    if step >= p.anneal_steps:
        return p.end
    return p.end - (p.end - p.start) * (1 - step / p.anneal_steps)
