"""16 kHz waveforms to 50 Hz frames (paper 4.2; wav2vec 2.0 front end with layer norms)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v import params
from d2v.model.encoders.base import (
    Batch,
    Encoder,
    Features,
    Freeze,
    InputTargets,
    extra_tokens,
    flags,
    with_tokens,
)
from d2v.model.encoders.spectra import LogMel, Units
from d2v.model.frames import frame_count
from d2v.model.kernels.dropout import dropout
from d2v.model.kernels.linear import Linear
from d2v.model.kernels.windows import Runs, WindowConv, chain, norm_gelu
from d2v.model.kernels.windows import visible as visible_frames
from d2v.model.visible import gathered, hidden_of


class SpeechEncoder(Encoder):
    """Speech encoder: convolutional front end, convolutional positions, LayerNorm."""

    def __init__(self, p: params.WaveEncoder, backbone: params.Backbone) -> None:
        super().__init__()
        self.dim = dim = backbone.dim
        self.conv_layers = p.conv_layers
        self.features = FrontEnd(p, dim)
        self.mask_embedding = nn.Parameter(torch.rand(dim)) if p.hidden == "replaced" else None
        self.positions = ConvPositions(p, dim)
        self.zeroed = p.position_padding != "never"
        self.norm = nn.LayerNorm(dim, eps=1e-5 if p.hidden == "replaced" else backbone.norm_eps)
        self.dropout = p.dropout
        self.prefix, self.cls = p.extra_tokens, extra_tokens(p.extra_tokens, dim)

    def local_features(self, batch: Batch) -> Features:
        """Embed `waves` (B, S) as frames (B, T, D), with padding (B, T) or None.

        `samples` (B,) are the real lengths; without them, the waveforms have no padding. Frames
        that `mask` (B, T) hides give the front end no gradient: the student does not see them, and
        the teacher is not trained by gradients.
        """
        mask, waves = batch.get("mask"), self.as_weights(batch["waves"])
        if mask is None or mask.device.type != "cpu" or self.features.compiled:
            x = self.features(waves)
        else:
            hidden = mask.view(len(waves), -1, mask.shape[1]).all(1)  # in all copies
            x = self.features(waves, visible_frames(hidden))
        if "samples" not in batch:
            return x, None
        frames = frame_count(batch["samples"], self.conv_layers)
        return x, torch.arange(x.shape[1], device=x.device) >= frames.unsqueeze(1)

    def example(self, size: int) -> Batch:
        """One waveform without values: `waves` (1, size) on the meta device."""
        return {"waves": torch.empty(1, size, device="meta")}

    def mask_features(self, x: Tensor, padding: Tensor | None, batch: Batch) -> Features:
        """Replace frames where `mask` (B, T) is True by the mask embedding, if any, or by zero.

        Then set channels where `channel_mask` (B, D) is True to zero in all frames (wav2vec 2.0
        fine-tuning; fairseq apply_mask).
        """
        if "mask" in batch:
            hidden = batch["mask"].unsqueeze(-1)
            if self.mask_embedding is None:
                x = x.masked_fill(hidden, 0.0)
            else:
                x = torch.where(hidden, self.mask_embedding, x)
        if "channel_mask" in batch:
            x = x.masked_fill(batch["channel_mask"].unsqueeze(1), 0.0)
        return x, padding

    def freeze(self, which: Freeze) -> None:
        """Stop training all of `features`, or the convolutions and their norms (wav2vec 2.0)."""
        if which == "convolutions":
            self.features.convs.requires_grad_(False)
            self.features.norms.requires_grad_(False)
        else:
            super().freeze(which)

    @contextmanager
    def without_padding(self) -> Iterator[None]:
        """In the block, padding is zero in every convolution, as if an utterance were alone."""
        kept = self.zeroed, self.positions.padding
        self.zeroed, self.positions.padding = True, "each"
        try:
            yield
        finally:
            self.zeroed, self.positions.padding = kept

    def input_targets(self, p: params.InputTarget) -> InputTargets:
        """Log-mel bands or k-means units of MFCCs, one target per frame."""
        if p.of == "log_mel":
            return LogMel(self.conv_layers)
        assert p.units is not None
        return Units(self.conv_layers, p.units)

    def placed(self, x: Tensor, padding: Tensor | None) -> Features:
        """Zero the padding and add convolutional positions: (B, T, D)."""
        if padding is not None and self.zeroed:
            x = x.masked_fill(padding.unsqueeze(-1), 0.0)
        return x + self.positions(x, padding), padding

    def enter(self, x: Tensor, padding: Tensor | None) -> Features:
        """Prepend the extra tokens and normalise: (B, P + T, D)."""
        x, padding = with_tokens(self.cls, x, padding)
        return dropout(self.norm(x), self.dropout, self.training), padding

    def seen(self, x: Tensor, padding: Tensor | None, visible: Tensor) -> Features:
        """Input of the first block (R, P + V, D) at the positions `visible` (R, V) only.

        The positions of a copy are computed from its frames, with hidden frames set to zero.
        """
        copies, hidden = len(visible) // len(x), hidden_of(visible, x.shape[1])
        x = x.repeat_interleave(copies, 0).masked_fill(hidden.unsqueeze(-1), 0.0)
        if padding is not None:
            padding = padding.repeat_interleave(copies, 0)
        x, padding = self.placed(x, padding)
        return self.enter(gathered(x, visible), flags(padding, visible))


class FrontEnd(nn.Module):
    """Convolutions, each with LayerNorm and GELU, then LayerNorm and a projection to D."""

    compiled = False

    def __init__(self, p: params.WaveEncoder, dim: int) -> None:
        super().__init__()
        channels = [1] + [c for c, _, _ in p.conv_layers]
        self.convs = nn.ModuleList(
            WindowConv(before, after, kernel, stride)
            for before, (after, kernel, stride) in zip(channels, p.conv_layers, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels[1:])
        self.norm = nn.LayerNorm(channels[-1])
        self.projection = Linear(channels[-1], dim)

    def compile(self, *how: Any, **more: Any) -> None:
        """Compile as any module; `needed` is not passed from then on.

        Lists of frames would become constants of the compiled graph.
        """
        self.compiled = True
        super().compile(*how, **more)

    def convolve(self, waves: Tensor, needed: list[Runs] | None = None) -> Tensor:
        """Map waveforms (B, S) to channels (B, T, C), before norm and projection."""
        x = waves.unsqueeze(-1)
        every = [None] * len(self.convs) if needed is None else chain(self.convs, needed)
        for conv, norm, runs in zip(self.convs, self.norms, every, strict=True):
            assert isinstance(norm, nn.LayerNorm)
            x = norm_gelu(conv(x, runs), norm, runs)
        return x

    def forward(self, waves: Tensor, needed: list[Runs] | None = None) -> Tensor:
        """Map waveforms (B, S) to local features (B, T, D).

        `needed` lists the frames of each example whose gradient is not zero (on a CPU); None means
        all frames.
        """
        return self.projection(self.norm(self.convolve(waves, needed)))


class ConvPositions(nn.Module):
    """Stacked grouped convolutions, each with LayerNorm (no parameters) and GELU.

    They follow fairseq's `make_conv_pos` with pos_conv_depth > 1; the kernel is
    max(3, position_kernel // depth).
    """

    def __init__(self, p: params.WaveEncoder, dim: int) -> None:
        super().__init__()
        self.kernel = max(3, p.position_kernel // p.position_depth)
        self.padding: Literal["once", "each", "never"] = p.position_padding
        self.convs = nn.ModuleList(
            nn.Conv1d(dim, dim, self.kernel, padding=self.kernel // 2, groups=p.position_groups)
            for _ in range(p.position_depth)
        )

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Position embeddings (B, T, D) of `x` (B, T, D), which is zero at padding (B, T)."""
        length = x.shape[1]
        for conv in self.convs:
            if self.padding == "each" and padding is not None:
                x = x.masked_fill(padding.unsqueeze(-1), 0.0)
            x = conv(x.transpose(1, 2))[..., :length].transpose(1, 2)
            x = F.gelu(F.layer_norm(x, x.shape[-1:]))
        return x
