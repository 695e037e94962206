"""Two-way map between the parameter names of fairseq's data2vec 2.0 and this project's.

The reference has one class for all modalities; everything specific to one is below
`modality_encoders.<AUDIO, IMAGE or TEXT>`. Pairs and their use are those of `names`. Three biases
of a block and the scales of ALiBi have other shapes there, see `separate`.

Source: fairseq examples/data2vec/models/data2vec2.py and models/modalities/.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from d2v import params
from d2v.interop.names import Pair, affine, one

MODALITIES = {"speech": "AUDIO", "vision": "IMAGE", "text": "TEXT"}
QKV = ".attn.qkv.bias"
SCALE = "alibi_scale"
# tensors without a counterpart: the fixed positions of images are computed
UNUSED = ("modality_encoders.IMAGE.fixed_positional_encoder.positions",)


class Sizes(Protocol):
    """Sizes that determine the pairs; `params.Pretrain` and any architecture have them."""

    @property
    def encoder(self) -> params.Encoder: ...
    @property
    def backbone(self) -> params.Backbone: ...
    @property
    def decoder(self) -> params.Decoder | None: ...


def student(p: Sizes) -> list[Pair]:
    """Pairs of all trained parameters: encoder, backbone and decoder."""
    parts = [
        Pair(f"student.{pair.ours}", pair.theirs) for pair in (*_encoder(p), *_backbone(p, ""))
    ]
    return parts + _decoder(p)


def teacher(p: Sizes, shared: tuple[str, ...], blocks_only: bool) -> list[Pair]:
    """Pairs of the tensors that the reference's teacher holds, under the teacher's names.

    `shared` are the parts that it does not hold (params.EMA.shared). With `blocks_only`
    (ema_encoder_only), it consists of the shared blocks.
    """
    if blocks_only:
        return [
            Pair(f"teacher.{pair.ours}", tuple(n.removeprefix("blocks.") for n in pair.theirs))
            for pair in _backbone(p, "blocks.")
        ]
    left_out = tuple(f"encoder.{name}." for name in shared)
    return [
        Pair(f"teacher.{pair.ours}", pair.theirs)
        for pair in (*_encoder(p), *_backbone(p, ""))
        if not pair.ours.startswith(left_out or ("-",))
    ]


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference's tensors with one tensor per bias, and the scales of ALiBi as (heads,).

    `x.attn.qkv.bias` becomes `x.attn.q.bias`, `x.attn.k.bias` and `x.attn.v.bias`.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(QKV):
            stem = name.removesuffix("qkv.bias")
            found |= {f"{stem}{x}.bias": t for x, t in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor.flatten() if name.endswith(SCALE) else tensor
    return found


def together(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `separate`."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".attn.q.bias"):
            stem = name.removesuffix("q.bias")
            found[f"{stem}qkv.bias"] = torch.cat([tensors[f"{stem}{x}.bias"] for x in "qkv"])
        elif not name.endswith((".attn.k.bias", ".attn.v.bias")):
            found[name] = tensor.view(1, 1, -1, 1, 1) if name.endswith(SCALE) else tensor
    return found


# --- the table --------------------------------------------------------------------------------


def _encoder(p: Sizes) -> list[Pair]:
    theirs = f"modality_encoders.{MODALITIES[p.encoder.kind]}"
    pairs = one("encoder.cls", f"{theirs}.extra_tokens") if p.encoder.extra_tokens else []
    match p.encoder:
        case params.WaveEncoder():
            return pairs + _speech(p.encoder, theirs)
        case params.PatchEncoder(input_norm=norm):
            pairs += affine("encoder.features", f"{theirs}.local_encoder.proj")
            ours = "encoder.norm"
        case params.TokenEncoder(input_norm=norm):
            local = f"{theirs}.local_encoder"
            pairs += one("encoder.features.weight", f"{local}.embed_tokens.weight")
            pairs += one("encoder.positions.weight", f"{local}.embed_positions.weight")
            pairs += affine("encoder.norm", f"{local}.layernorm_embedding")
            ours = "encoder.input_norm"
    return pairs + (affine(ours, f"{theirs}.context_encoder.norm") if norm else [])


def _speech(encoder: params.WaveEncoder, theirs: str) -> list[Pair]:
    pairs: list[Pair] = []
    for i in range(len(encoder.conv_layers)):
        conv = f"{theirs}.local_encoder.conv_layers.{i}"
        pairs += one(f"encoder.features.convs.{i}.weight", f"{conv}.0.weight")
        pairs += affine(f"encoder.features.norms.{i}", f"{conv}.2.1")
    pairs += affine("encoder.features.norm", f"{theirs}.project_features.1")
    pairs += affine("encoder.features.projection", f"{theirs}.project_features.2")
    for i in range(encoder.position_depth):
        conv = f"{theirs}.relative_positional_encoder.{i + 1}.0"
        pairs += affine(f"encoder.positions.convs.{i}", conv)
    return pairs + affine("encoder.norm", f"{theirs}.context_encoder.norm")


def _backbone(p: Sizes, only: str) -> list[Pair]:
    """Pairs of the blocks and of ALiBi whose names in the reference start with `only`."""
    theirs = f"modality_encoders.{MODALITIES[p.encoder.kind]}"
    pairs: list[Pair] = []
    if p.backbone.position_bias.kind == "alibi":
        pairs += one("backbone.position_bias.scale", f"{theirs}.{SCALE}")
    prenet = p.backbone.prenet_depth
    for i in range(p.backbone.depth):
        block = f"context_encoder.blocks.{i}" if i < prenet else f"blocks.{i - prenet}"
        block = f"{theirs}.{block}" if i < prenet else block
        pairs += _block(f"backbone.blocks.{i}", block)
    return [pair for pair in pairs if pair.theirs[0].startswith(only)]


def _block(ours: str, theirs: str) -> list[Pair]:
    return [
        *affine(f"{ours}.norm1", f"{theirs}.norm1"),
        *one(f"{ours}.attention.qkv.weight", f"{theirs}.attn.qkv.weight"),
        *(Pair(f"{ours}.attention.{x}_bias", (f"{theirs}.attn.{x}.bias",)) for x in "qkv"),
        *affine(f"{ours}.attention.out", f"{theirs}.attn.proj"),
        *affine(f"{ours}.norm2", f"{theirs}.norm2"),
        *affine(f"{ours}.fc1", f"{theirs}.mlp.fc1"),
        *affine(f"{ours}.fc2", f"{theirs}.mlp.fc2"),
    ]


def _decoder(p: Sizes) -> list[Pair]:
    if p.decoder is None:
        return []
    theirs = f"modality_encoders.{MODALITIES[p.encoder.kind]}.decoder"
    pairs: list[Pair] = []
    for i in range(p.decoder.layers):
        pairs += affine(f"decoder.convs.{i}", f"{theirs}.blocks.{i}.0")
    for i in range(p.decoder.projection_layers):
        # a single layer is no list in the reference
        place = f".{2 * i}" if p.decoder.projection_layers > 1 else ""
        pairs += affine(f"decoder.projection.{2 * i}", f"{theirs}.proj{place}")
    return pairs
