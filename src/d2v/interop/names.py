"""Two-way map between the parameter names of the reference implementations and this project's.

Every pair states which tensors of the reference, concatenated along the first dimension, form one
tensor here. For example, fairseq's q_proj, k_proj and v_proj weights are our `qkv.weight`, in this
order. Our names are those of `model.Data2Vec` (student.*, head.*, teacher.*). The reference's names
are those of its student, and of the sub-module that it averages as the teacher.

Sources: fairseq examples/data2vec/models/data2vec_{audio,text,vision}.py and data2vec_vision's
beit/modeling_cyclical.py.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from d2v import params

Family = Literal["fairseq_audio", "fairseq_text", "fairseq_vision", "data2vec_vision"]


class Sizes(Protocol):
    """Sizes that determine the pairs; `params.Pretrain` and any architecture have them."""

    @property
    def encoder(self) -> params.Encoder: ...
    @property
    def backbone(self) -> params.Backbone: ...
    @property
    def regression(self) -> str | None: ...


class Pair(NamedTuple):
    """One of our tensors and the reference tensors of which it consists."""

    ours: str
    theirs: tuple[str, ...]


def student(family: Family, p: Sizes) -> list[Pair]:
    """Pairs of all trained parameters: encoder, backbone and regression head."""
    return [
        Pair(_ours_of_student(pair.ours), pair.theirs)
        for pair in (*_encoder(family, p), *_backbone(family, p), *_head(family, p))
    ]


def teacher(family: Family, p: Sizes) -> list[Pair]:
    """Pairs of all tensors that the reference's teacher holds, under the teacher's names."""
    prefix = _TEACHER_PREFIX[family]
    return [
        Pair(f"teacher.{pair.ours}", tuple(name.removeprefix(prefix) for name in pair.theirs))
        for pair in (*_encoder(family, p), *_backbone(family, p))
        if all(name.startswith(prefix) for name in pair.theirs)
    ]


def head(family: Family, task: params.Task, name: str = "") -> list[Pair]:
    """Pairs of a fine-tuned head; fairseq's text model calls its head `name`."""
    if family == "fairseq_audio":
        return affine("head.out", "w2v_encoder.proj")
    if family == "fairseq_text":
        theirs = f"classification_heads.{name}"
        return [
            *affine("head.dense", f"{theirs}.dense"),
            *affine("head.out", f"{theirs}.out_proj"),
        ]
    norm = affine("head.norm", "fc_norm") if getattr(task, "norm", False) else []
    return [*norm, *affine("head.out", "head")]


def unused(family: Family) -> tuple[str, ...]:
    """Prefixes of reference tensors that do not affect its result and have no counterpart here."""
    return _UNUSED[family]


def from_reference(tensors: Mapping[str, Tensor], pairs: Iterable[Pair]) -> dict[str, Tensor]:
    """Reference tensors under our names; pairs without tensors are left out."""
    found = {}
    for pair in pairs:
        parts = [tensors[name] for name in pair.theirs if name in tensors]
        if len(parts) == len(pair.theirs):
            found[pair.ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return found


def to_reference(tensors: Mapping[str, Tensor], pairs: Iterable[Pair]) -> dict[str, Tensor]:
    """Our tensors under the reference's names; pairs without tensors are left out."""
    found: dict[str, Tensor] = {}
    for pair in pairs:
        if pair.ours in tensors:
            found.update(zip(pair.theirs, tensors[pair.ours].chunk(len(pair.theirs)), strict=True))
    return found


# --- the table --------------------------------------------------------------------------------

_TEACHER_PREFIX: dict[Family, str] = {
    "fairseq_audio": "encoder.",
    "fairseq_text": "encoder.sentence_encoder.",
    "fairseq_vision": "encoder.",
    "data2vec_vision": "",  # the whole model is averaged as the teacher
}

_TABLE = "relative_position_bias_table"

_UNUSED: dict[Family, tuple[str, ...]] = {
    "fairseq_audio": (),
    "fairseq_text": (),
    # built but never applied
    "fairseq_vision": ("student.final_proj.",),
    # the teacher's own head and mask token are never used
    "data2vec_vision": ("teacher.lm_head.",),
}


def affine(ours: str, theirs: str) -> list[Pair]:
    """Pairs of a module's weight and bias."""
    return [Pair(f"{ours}.{part}", (f"{theirs}.{part}",)) for part in ("weight", "bias")]


def one(ours: str, theirs: str) -> list[Pair]:
    """The pair of a single tensor."""
    return [Pair(ours, (theirs,))]


def _encoder(family: Family, p: Sizes) -> list[Pair]:
    return _ENCODERS[family](p)


def _audio_encoder(p: Sizes) -> list[Pair]:
    assert isinstance(p.encoder, params.WaveEncoder)
    pairs = one("encoder.mask_embedding", "mask_emb")
    for i in range(len(p.encoder.conv_layers)):
        theirs = f"feature_extractor.conv_layers.{i}"
        pairs += one(f"encoder.features.convs.{i}.weight", f"{theirs}.0.weight")
        pairs += affine(f"encoder.features.norms.{i}", f"{theirs}.2.1")
    pairs += affine("encoder.features.norm", "layer_norm")
    pairs += affine("encoder.features.projection", "post_extract_proj")
    for i in range(p.encoder.position_depth):
        pairs += affine(f"encoder.positions.convs.{i}", f"encoder.pos_conv.{i}.0")
    return pairs + affine("encoder.norm", "encoder.layer_norm")


def _text_encoder(p: Sizes) -> list[Pair]:
    theirs = "encoder.sentence_encoder"
    return [
        *one("encoder.features.weight", f"{theirs}.embed_tokens.weight"),
        *one("encoder.positions.weight", f"{theirs}.embed_positions.weight"),
        *affine("encoder.norm", f"{theirs}.layernorm_embedding"),
    ]


def _vision_encoder(p: Sizes) -> list[Pair]:
    return [
        *one("encoder.cls", "cls_emb"),
        *one("encoder.mask_embedding", "mask_emb"),
        *affine("encoder.features", "patch_embed.conv"),
    ]


def _beit_encoder(p: Sizes) -> list[Pair]:
    assert isinstance(p.encoder, params.PatchEncoder)
    pairs = [
        *one("encoder.cls", "cls_token"),
        *one("encoder.mask_embedding", "mask_token"),
        *affine("encoder.features", "patch_embed.proj"),
    ]
    return pairs + (one("encoder.positions", "pos_embed") if p.encoder.absolute_positions else [])


_ENCODERS: dict[Family, Callable[[Sizes], list[Pair]]] = {
    "fairseq_audio": _audio_encoder,
    "fairseq_text": _text_encoder,
    "fairseq_vision": _vision_encoder,
    "data2vec_vision": _beit_encoder,
}


def _backbone(family: Family, p: Sizes) -> list[Pair]:
    pairs: list[Pair] = []
    prefix = _TEACHER_PREFIX[family]
    vision = family in ("fairseq_vision", "data2vec_vision")
    for i in range(p.backbone.depth):
        ours = f"backbone.blocks.{i}"
        if vision:
            mlp = ("mlp.0", "mlp.2") if family == "fairseq_vision" else ("mlp.fc1", "mlp.fc2")
            pairs += _beit_block(ours, f"{prefix}blocks.{i}", mlp, p.backbone)
        else:
            pairs += _fairseq_block(ours, f"{prefix}layers.{i}")
    if vision and p.backbone.position_bias.kind == "shared_2d":
        pairs += one("backbone.position_bias.table", f"{prefix}rel_pos_bias.{_TABLE}")
    if vision and p.backbone.final_norm:
        pairs += affine("backbone.norm", f"{prefix}norm")
    return pairs


def _fairseq_block(ours: str, theirs: str) -> list[Pair]:
    attention = f"{theirs}.self_attn"
    return [
        Pair(f"{ours}.attention.qkv.weight", tuple(f"{attention}.{x}_proj.weight" for x in "qkv")),
        *(Pair(f"{ours}.attention.{x}_bias", (f"{attention}.{x}_proj.bias",)) for x in "qkv"),
        *affine(f"{ours}.attention.out", f"{attention}.out_proj"),
        *affine(f"{ours}.norm1", f"{theirs}.self_attn_layer_norm"),
        *affine(f"{ours}.fc1", f"{theirs}.fc1"),
        *affine(f"{ours}.fc2", f"{theirs}.fc2"),
        *affine(f"{ours}.norm2", f"{theirs}.final_layer_norm"),
    ]


def _beit_block(
    ours: str, theirs: str, mlp: tuple[str, str], backbone: params.Backbone
) -> list[Pair]:
    pairs = [
        *affine(f"{ours}.norm1", f"{theirs}.norm1"),
        *one(f"{ours}.attention.qkv.weight", f"{theirs}.attn.qkv.weight"),
        *one(f"{ours}.attention.q_bias", f"{theirs}.attn.q_bias"),
        *one(f"{ours}.attention.v_bias", f"{theirs}.attn.v_bias"),
        *affine(f"{ours}.attention.out", f"{theirs}.attn.proj"),
        *affine(f"{ours}.norm2", f"{theirs}.norm2"),
        *affine(f"{ours}.fc1", f"{theirs}.{mlp[0]}"),
        *affine(f"{ours}.fc2", f"{theirs}.{mlp[1]}"),
    ]
    if backbone.layer_scale is not None:
        pairs += one(f"{ours}.gamma1", f"{theirs}.gamma_1")
        pairs += one(f"{ours}.gamma2", f"{theirs}.gamma_2")
    if backbone.position_bias.kind == "per_layer_2d":
        pairs += one(f"{ours}.attention.position_bias.table", f"{theirs}.attn.{_TABLE}")
    return pairs


def _head(family: Family, p: Sizes) -> list[Pair]:
    theirs = {
        "fairseq_audio": "final_proj",
        "fairseq_text": "encoder.regression_head",
        "data2vec_vision": "lm_head",
    }
    if p.regression in ("none", None):
        return []
    if p.regression == "linear":
        # the text model's head is a list, even with a single layer
        single = ".0" if family == "fairseq_text" else ""
        return affine("head", theirs[family] + single)
    return [pair for i in (0, 2) for pair in affine(f"head.{i}", f"{theirs[family]}.{i}")]


def _ours_of_student(name: str) -> str:
    return name if name.startswith("head") else f"student.{name}"
