"""Checkpoints of data2vec 2.0 in fairseq's layout, pre-trained and fine-tuned.

A file holds `model` (tensors, with the teacher's under `_ema`) and `cfg`. Fine-tuned models store
the configuration of the pre-training as `w2v_args` (letters) or `pretrained_model_args` (images).
Hugging Face has no class for these models.
Sources: fairseq examples/data2vec/models/data2vec2.py, models/modalities/{base,audio,images,text,
modules}.py, models/mae_image_classification.py, whose defaults apply to what a file does not say.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v import params
from d2v.interop import fairseq_inputs, names, second_names
from d2v.interop.content import (
    Architecture,
    Content,
    configuration_of,
    refuse_more_modules,
    renamed,
)
from d2v.interop.fairseq import sizes_of
from d2v.interop.module import empty
from d2v.interop.names import Pair
from d2v.interop.pickles import plain
from d2v.interop.second_names import MODALITIES
from d2v.params import ImageInput
from d2v.params.model import SharedPart

MARK = "modality_encoders."
TEACHER = "_ema"
PREFIXES = ("w2v_encoder.w2v_model.", "model.")  # of the pre-trained model in a fine-tuned one
KINDS = {theirs.lower(): ours for ours, theirs in MODALITIES.items()}
# our names of what a fine-tuned model has besides, and the reference's
HEADS = {
    "speech": (("head.out", "w2v_encoder.proj"),),
    "vision": (("head.norm", "fc_norm"), ("head.out", "head")),
}
# options that this project has at these values only
ONLY = {
    "layer_norm_first": False, "mae_init": False, "shared_decoder": None, "recon_loss": 0.0,
}  # fmt: skip
ONLY_MODALITY = {
    "learned_alibi": False, "learned_alibi_scale_per_layer": False, "conv_pos_pre_ln": False,
    "extractor_mode": "layer_norm", "learned_pos": True, "layernorm_embedding": True,
    "no_scale_embedding": True, "no_token_positional_embeddings": False, "in_chans": 3,
    "fixed_positions": True, "local_grad_mult": 1.0,
}  # fmt: skip


def recognised(state: Mapping[str, Any]) -> bool:
    """Whether the tensors are those of data2vec 2.0."""
    found = state.get("model")
    return isinstance(found, dict) and any(_bare(name).startswith(MARK) for name in found)


def read(path: Path, state: Mapping[str, Any]) -> Content:
    """Content of a checkpoint, with the teacher's weights if they are stored.

    Raises UserError for a model that this project cannot express, for an incomplete configuration,
    and for tensors that do not fit, all of which are listed.
    """
    tensors, teacher = _split(state["model"])
    config = plain(state.get("cfg")) or {}
    model = _model(config)
    with configuration_of(path):
        kind = _kind(tensors)
        theirs = _modality(model, kind)
        _refuse({**theirs, **model}, {**ONLY, **ONLY_MODALITY})
        architecture = _architecture(tensors, model, theirs, kind, teacher is not None)
    content = Content(
        format="fairseq data2vec 2.0",
        source=path,
        architecture=architecture,
        inputs=ImageInput(),
        tensors={},
        provenance={"config": config},
    )
    blocks_only = teacher is not None and bool(model.get("ema_encoder_only", True))
    content.tensors = _ours(content, tensors, teacher, blocks_only)
    content.inputs = fairseq_inputs.inputs(content, dict(state))
    return content


def _bare(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _split(model: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Tensors under the pre-trained model's names, and separately those of the teacher, if any."""
    tensors, teacher = {}, None
    for name, value in model.items():
        if name.split(".")[-1] == TEACHER and isinstance(value, dict):
            teacher = second_names.separate(value)
        else:
            tensors[_bare(name)] = value
    return second_names.separate(tensors), teacher


def _kind(tensors: Mapping[str, Tensor]) -> str:
    """vision, speech or text; raises ValueError for a model of several modalities."""
    found = {name.split(".")[1].lower() for name in tensors if name.startswith(MARK)}
    if len(found) != 1 or not found <= KINDS.keys():
        raise ValueError(f"modalities {', '.join(sorted(found))}: exactly one can be read")
    return KINDS[found.pop()]


def _model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the pre-trained model, wherever a fine-tuned model stores them."""
    model: Any = config.get("model") or {}
    for key in ("w2v_args", "pretrained_model_args"):
        inner = model.get(key)
        if isinstance(inner, dict):
            model = inner.get("model") or inner
    return dict(model)


def _modality(model: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return dict(model["modalities"][MODALITIES[kind].lower()])


def _refuse(settings: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    faults = [f"{key} {settings[key]!r}" for key, value in only.items()
              if key in settings and settings[key] not in (value, None)]  # fmt: skip
    if faults:
        raise ValueError(f"this project does not support models with {', '.join(faults)}")


# --- sizes ------------------------------------------------------------------------------------


def _architecture(
    tensors: Mapping[str, Tensor],
    model: dict[str, Any],
    theirs: dict[str, Any],
    kind: str,
    teacher: bool,
) -> Architecture:
    head = tensors.get(f"{dict(HEADS.get(kind, ())).get('head.out')}.weight")
    prenet = theirs.get("prenet_depth", 4)
    extra: dict[str, Any] = {}
    if head is not None:
        task = TASKS[kind](len(head), "fc_norm.weight" in tensors)
        extra = {"task": task, "outputs": len(head)}
    elif theirs.get("decoder") and any(".decoder." in name for name in tensors):
        extra = {"regression": "none", "decoder": _decoder(theirs["decoder"])}
    if teacher:
        extra["shared"] = _shared(model, theirs, kind, prenet)
    backbone = _backbone(model, theirs, prenet)
    return Architecture(encoder=_encoder(tensors, theirs, kind, prenet), backbone=backbone, **extra)


def _classify(classes: int, norm: bool) -> params.Task:
    return params.Classify(kind="classify", classes=classes, pool="mean", norm=norm)


def _letters(classes: int, norm: bool) -> params.Task:
    return params.CTC(kind="ctc")


TASKS = {"speech": _letters, "vision": _classify}  # of fine-tuned models, by kind of encoder


def _encoder(
    tensors: Mapping[str, Tensor], theirs: dict[str, Any], kind: str, prenet: int
) -> params.Encoder:
    local = f"{MARK}{MODALITIES[kind]}.local_encoder."
    own = {name.removeprefix(local): w for name, w in tensors.items() if name.startswith(local)}
    extra_tokens = theirs.get("num_extra_tokens", 0)
    return ENCODERS[kind](own, theirs, prenet, {"hidden": "removed", "extra_tokens": extra_tokens})


def _waves(
    own: Mapping[str, Tensor], theirs: dict[str, Any], prenet: int, common: dict[str, Any]
) -> params.Encoder:
    default = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    layers = sizes_of(theirs.get("feature_encoder_spec", default))
    return params.WaveEncoder(
        kind="speech",
        conv_layers=[list(layer) for layer in layers],
        position_kernel=theirs.get("conv_pos_width", 95),
        position_depth=theirs.get("conv_pos_depth", 5),
        position_groups=theirs.get("conv_pos_groups", 16),
        position_padding="never",
        dropout=theirs.get("prenet_dropout", 0.0),
        **common,
    )


def _patches(
    own: Mapping[str, Tensor], theirs: dict[str, Any], prenet: int, common: dict[str, Any]
) -> params.Encoder:
    return params.PatchEncoder(
        kind="vision",
        image_size=theirs.get("input_size", 224),
        patch_size=own["proj.weight"].shape[-1],
        cls_token=False,
        fixed_positions=True,
        input_norm=True,
        **common,
    )


def _tokens(
    own: Mapping[str, Tensor], theirs: dict[str, Any], prenet: int, common: dict[str, Any]
) -> params.Encoder:
    return params.TokenEncoder(
        kind="text",
        vocab_size=len(own["embed_tokens.weight"]),
        max_positions=len(own["embed_positions.weight"]) - 2,
        input_norm=prenet > 0,
        dropout=theirs.get("dropout", 0.1),
        **common,
    )


ENCODERS = {"speech": _waves, "vision": _patches, "text": _tokens}


def _backbone(model: dict[str, Any], theirs: dict[str, Any], prenet: int) -> params.Backbone:
    dim = model.get("embed_dim", 768)
    alibi = bool(theirs.get("use_alibi_encoder"))
    return params.Backbone(
        dim=dim,
        depth=prenet + model["depth"],
        prenet_depth=prenet,
        heads=model.get("num_heads", 12),
        ffn_dim=int(dim * model.get("mlp_ratio", 4)),
        norm_first=False,
        norm_eps=model.get("norm_eps", 1e-6),
        position_bias=params.PositionBias(kind="alibi" if alibi else "none"),
        dropout=model.get("encoder_dropout", 0.1),
        attention_dropout=model.get("attention_dropout", 0.1),
        activation_dropout=model.get("activation_dropout", 0.0),
        layer_drop=model.get("layerdrop", 0.0),
    )


def _decoder(theirs: dict[str, Any]) -> params.Decoder:
    layers = theirs.get("projection_layers", 1)
    return params.Decoder(
        layers=theirs.get("decoder_layers", 5),
        dim=theirs.get("decoder_dim", 384),
        kernel=theirs.get("decoder_kernel", 5),
        groups=theirs.get("decoder_groups", 16),
        residual=theirs.get("decoder_residual", True),
        projection_layers=layers,
        projection_ratio=float(theirs.get("projection_ratio", 2.0)) if layers > 1 else 1.0,
        dropout=theirs.get("input_dropout", 0.1),
    )


def _shared(
    model: dict[str, Any], theirs: dict[str, Any], kind: str, prenet: int
) -> list[SharedPart]:
    """What the teacher does not average (params.EMA.shared)."""
    embedded: dict[str, list[SharedPart]] = {"text": ["positions", "norm"]}
    local: list[SharedPart] = ["features", *embedded.get(kind, [])]
    if not model.get("ema_encoder_only", True):
        return [] if theirs.get("ema_local_encoder") else local
    before: dict[str, list[SharedPart]] = {"speech": ["positions", "norm"], "vision": ["norm"]}
    local += before.get(kind, ["input_norm"] if prenet else [])
    local += ["cls"] if theirs.get("num_extra_tokens") else []
    return [*local, "prenet"] if prenet or theirs.get("use_alibi_encoder") else local


# --- tensors ----------------------------------------------------------------------------------


def _ours(
    content: Content,
    tensors: dict[str, Tensor],
    teacher: dict[str, Tensor] | None,
    blocks_only: bool,
) -> dict[str, Tensor]:
    a = content.architecture
    refuse_more_modules(a, tensors, content.source)
    pairs = second_names.student(a)
    if a.task is not None:
        pairs += [
            pair
            for ours, theirs in HEADS[a.encoder.kind]
            if ours != "head.norm" or getattr(a.task, "norm", False)
            for pair in names.affine(ours, theirs)
        ]
    left_out = sorted(n for n in tensors if n.endswith(second_names.UNUSED) or _is_decoder(n, a))
    if left_out:
        content.notes.append("left out (no effect on results): " + ", ".join(left_out))
    shapes = {name: t.shape for name, t in empty(a).state_dict().items()}
    left = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    found = renamed(left, pairs, shapes, content.source)
    if teacher is not None:
        held = second_names.teacher(a, tuple(a.shared or ()), blocks_only)
        found |= _teacher(content, teacher, held, shapes)
    return found


def _is_decoder(name: str, a: Architecture) -> bool:
    return a.decoder is None and name.startswith(MARK) and ".decoder." in name


def _teacher(
    content: Content, teacher: dict[str, Tensor], pairs: list[Pair], shapes: dict[str, Any]
) -> dict[str, Tensor]:
    """The teacher's tensors; what it shares with the student, its file does not hold."""
    left = {n: t for n, t in teacher.items() if not n.endswith(second_names.UNUSED)}
    return renamed(left, pairs, shapes, Path(f"{content.source} ({TEACHER})"))
