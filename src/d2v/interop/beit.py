"""Checkpoints of data2vec_vision: checkpoint-799.pth, and DeepSpeed's mp_rank_00_model_states.pt.

Pre-trained files hold `model`, `model_ema` (the teacher) and `args`. Fine-tuned files hold `module`
(float16) or `model`.
Source: data2vec_vision beit/{utils,run_cyclical,run_class_finetuning,modeling_finetune}.py.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from d2v import params
from d2v.data.record import NORMALISATIONS
from d2v.interop import grids, names
from d2v.interop.content import Architecture, Content, first_fault, renamed
from d2v.interop.hf_import import MAY_BE_ABSENT, fill_mask_embedding
from d2v.interop.module import empty
from d2v.interop.pickles import plain
from d2v.params import ImageInput
from d2v.util.errors import UserError

INDEX = "relative_position_index"  # recomputed from the window


def recognised(state: dict[str, Any]) -> bool:
    """Whether the tensors are those of a BEiT model."""
    found = state.get("module", state.get("model"))
    return isinstance(found, dict) and "patch_embed.proj.weight" in found


def read(path: Path, state: dict[str, Any]) -> Content:
    """Content of a checkpoint, with the teacher's weights if they are stored.

    Raises UserError for a model that this project cannot express, and for tensors that do not fit,
    all of which are listed.
    """
    tensors = _without_index(state.get("module", state.get("model")))
    teacher = state.get("model_ema")
    args = plain(state.get("args")) or {}
    try:
        encoder, backbone = grids.sizes(tensors, "data2vec_vision", norm_eps=1e-6)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: {first_fault(error)}") from None
    sizes: dict[str, Any] = {}
    if "head.weight" in tensors:
        outputs, pooled = len(tensors["head.weight"]), "fc_norm.weight" in tensors
        pool = "mean" if pooled else "first"
        sizes["task"] = params.Classify(
            kind="classify",
            classes=outputs,
            pool=pool,  # type: ignore[arg-type]
            norm=pooled,
        )
        sizes["outputs"] = outputs
    elif "lm_head.weight" in tensors:
        sizes["regression"] = "linear"
        sizes["shared"] = [] if isinstance(teacher, dict) else None
    content = Content(
        format="data2vec_vision",
        source=path,
        architecture=Architecture(encoder=encoder, backbone=backbone, **sizes),
        inputs=_inputs(args, encoder, "head.weight" in tensors),
        tensors={},
        provenance={"config": args} if args else {},
    )
    content.tensors = _ours(content, tensors, teacher)
    return content


def _ours(
    content: Content, tensors: dict[str, Tensor], teacher: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    a = content.architecture
    shapes = {name: t.shape for name, t in empty(a).state_dict().items()}
    pairs = [
        p._replace(ours=f"regression.{p.ours.removeprefix('head.')}")
        if p.ours.startswith("head.")
        else p
        for p in names.student("data2vec_vision", a)
    ]
    if a.task is not None:
        pairs += names.head("data2vec_vision", a.task)
    found = renamed(tensors, pairs, shapes, content.source, optional=MAY_BE_ABSENT)
    if a.shared is not None and teacher is not None:
        left = {k: t for k, t in _without_index(teacher).items() if not k.startswith("lm_head.")}
        where = Path(f"{content.source} (model_ema)")
        found |= renamed(left, names.teacher("data2vec_vision", a), shapes, where)
        content.notes.append("the teacher's lm_head, which is never used, is left out")
    elif teacher is not None:
        content.notes.append("model_ema of a fine-tuned model is left out")
    return fill_mask_embedding(content, found, shapes)


def _without_index(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(INDEX)}


def _inputs(args: dict[str, Any], encoder: params.PatchEncoder, fine_tuned: bool) -> ImageInput:
    """Preparation of pixels as in its evaluation; without `args`, as in its documented commands.

    Pre-training uses ImageNet's mean and standard deviation; the fine-tuning commands omit that
    switch.
    """
    imagenet = bool(args.get("imagenet_default_mean_and_std", not fine_tuned))
    mean, std = NORMALISATIONS["imagenet" if imagenet else "half"]
    side = encoder.image_size
    ratio = args.get("crop_pct") or 224 / 256
    return ImageInput(mean=mean, std=std, resize=int(side / ratio))
