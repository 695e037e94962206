"""The teacher: an exponential moving average of the student (paper 3.3)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from d2v import params
from d2v.model.encoders import Encoder
from d2v.model.transformer import Output


class Teacher(nn.Module):
    """Copy of the student's encoder and backbone that follows it slowly.

    Modules in `shared` are not averaged: they are copies of the student's, renewed at each update
    (fairseq: skip_keys). Shared `features` are not even kept: the student's are used.
    """

    def __init__(self, encoder: Encoder, backbone: nn.Module, p: params.EMA) -> None:
        super().__init__()
        self.shared = tuple(p.shared)
        shared = "features" in self.shared
        # not copied only to be deleted: an embedding of words is as large as half of the blocks
        self.encoder = copy.deepcopy(
            encoder, {id(encoder.features): encoder.features} if shared else None
        )
        if shared:
            del self.encoder.features
        self.backbone = copy.deepcopy(backbone)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode: the teacher has no dropout (paper 3.3)."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, x: Tensor, padding: Tensor | None, batch: dict[str, Tensor], **wanted: Any
    ) -> Output:
        """See the unmasked input: the student's local features (B, T, D), or embed it anew.

        `wanted` says what to keep, and where, as for Transformer.
        """
        if "features" not in self.shared:
            x, padding = self.encoder.local_features(batch)
        h, padding = self.encoder(x, padding)
        output: Output = self.backbone(h, padding, **wanted)
        return output

    @torch.no_grad()
    def update(self, encoder: Encoder, backbone: nn.Module, decay: float) -> None:
        """teacher = decay * teacher + (1 - decay) * student; shared modules become equal."""
        averaged, copied = self._pairs(encoder, backbone)
        if averaged:
            mine, theirs = zip(*averaged, strict=True)
            torch._foreach_lerp_(list(mine), list(theirs), 1.0 - decay)
        if copied:
            mine, theirs = zip(*copied, strict=True)
            torch._foreach_copy_(list(mine), list(theirs))

    def _pairs(
        self, encoder: Encoder, backbone: nn.Module
    ) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """(teacher, student) tensors that are averaged, and those that are copied."""
        student = dict(encoder.named_parameters())
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for name, mine in self.encoder.named_parameters():
            shared = name.split(".")[0] in self.shared
            (copied if shared else averaged).append((mine, student[name]))
        averaged += zip(self.backbone.parameters(), backbone.parameters(), strict=True)
        return averaged, copied


def decay(p: params.EMA, updates: int) -> float:
    """Decay of the EMA update after `updates` optimiser steps (1, 2, ...).

    Linear from start to end over anneal_steps, then constant (fairseq get_annealed_rate); BEiT's
    code counts the same steps from 0 (params.EMA.first).
    """
    step = updates - 1 + p.first
    if step >= p.anneal_steps:
        return p.end
    return p.end - (p.end - p.start) * (1 - step / p.anneal_steps)
