"""Images to patch embeddings with a class token (paper 4.1; BEiT)."""

import torch
from torch import Tensor, nn

from d2v import params
from d2v.model.encoders.base import (
    Batch,
    Encoder,
    Features,
    InputTargets,
    extra_tokens,
    with_tokens,
)
from d2v.model.encoders.sine import grid_positions
from d2v.model.transformer import fill, initialise


class VisionEncoder(Encoder):
    """Vision encoder: patch convolution, class or extra tokens, optional absolute positions."""

    def __init__(self, p: params.PatchEncoder, backbone: params.Backbone) -> None:
        super().__init__()
        self.dim = dim = backbone.dim
        self.prefix = int(p.cls_token) + p.extra_tokens
        self.length = p.length
        self.patch_size, self.channels = p.patch_size, p.channels
        self.features = nn.Conv2d(p.channels, dim, p.patch_size, p.patch_size)
        self.shape = (p.channels, p.image_size, p.image_size)
        self.mask_embedding = None
        if p.hidden == "replaced":
            self.mask_embedding = nn.Parameter(torch.zeros(1, 1, dim))
        self.cls = nn.Parameter(torch.zeros(1, 1, dim)) if p.cls_token else None
        self.positions = None
        if p.absolute_positions:
            self.positions = nn.Parameter(torch.zeros(1, self.prefix + p.grid**2, dim))
        fixed = grid_positions(p.grid, dim) if p.fixed_positions else None
        self.register_buffer("fixed", fixed, persistent=False)
        self.fixed: Tensor | None
        self.norm = nn.LayerNorm(dim, eps=backbone.norm_eps) if p.input_norm else None
        if p.hidden == "removed":
            nn.init.xavier_uniform_(self.features.weight.data.view(dim, -1))  # MAE; data2vec 2.0
        else:
            initialise(self, backbone.init)
        for token in (self.mask_embedding, self.cls, self.positions):
            if token is not None:
                fill(token.data, backbone.init, backbone.init.std)
        if p.extra_tokens:
            self.cls = extra_tokens(p.extra_tokens, dim)

    def local_features(self, batch: Batch) -> Features:
        """Embed `images` (B, C, H, W) as patches (B, T, D) in row-major order."""
        images = self.as_weights(batch["images"])
        return self.features(images).flatten(2).transpose(1, 2), None

    def example(self, size: int) -> Batch:
        """One image without values: `images` (1, C, H, W) on the meta device."""
        return {"images": torch.empty(1, *self.shape, device="meta")}

    def mask_features(self, x: Tensor, padding: Tensor | None, batch: Batch) -> Features:
        """Replace patches where `mask` (B, T) is True by the mask embedding."""
        assert self.mask_embedding is not None  # with hidden: removed, masks are for `seen`
        return torch.where(batch["mask"].unsqueeze(-1), self.mask_embedding, x), None

    def input_targets(self, p: params.InputTarget) -> InputTargets:
        """Pixels of the patches."""
        return PatchPixels(self.patch_size, self.channels)

    def placed(self, x: Tensor, padding: Tensor | None) -> Features:
        """Add the fixed positions, if there are any: (B, T, D)."""
        return x if self.fixed is None else x + self.fixed.to(x.dtype), None

    def enter(self, x: Tensor, padding: Tensor | None) -> Features:
        """Prepend the tokens, add learned positions and normalise: (B, P + T, D)."""
        x, _ = with_tokens(self.cls, x, None)
        x = x if self.positions is None else x + self.positions
        return x if self.norm is None else self.norm(x), None


class PatchPixels(InputTargets):
    """Pixels of each patch, normalised with the patch's own mean and variance (MAE, SimMIM)."""

    EPS = 1e-6  # MAE: norm_pix_loss

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        self.outputs = size * size * channels

    def forward(self, batch: Batch) -> Tensor:
        """Map `images` (B, C, H, W) to pixels (B, T, size * size * C), patches in row order."""
        images = batch["images"].float()
        shown = images.unfold(2, self.size, self.size).unfold(3, self.size, self.size)
        pixels = shown.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        spread, mean = torch.var_mean(pixels, -1, keepdim=True)
        return (pixels - mean) / (spread + self.EPS).sqrt()
