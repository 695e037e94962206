"""Checkpoints of fairseq: audio_base_ls.pt, vox_*.pt, nlp_base.pt, and fine-tuned variants.

A file holds `model` (tensors, with the teacher's under `_ema`) and `cfg` or, in older files,
`args`.
Sources: fairseq examples/data2vec/models/data2vec_{audio,text,vision}.py, checkpoint_utils.py,
models/wav2vec/wav2vec2_asr.py.
"""

import ast
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v import params
from d2v.interop import fairseq_inputs, grids, names
from d2v.interop.content import (
    Architecture,
    Content,
    configuration_of,
    refuse_more_modules,
    renamed,
)
from d2v.interop.hf_import import MAY_BE_ABSENT, fill_mask_embedding
from d2v.interop.module import empty
from d2v.interop.pickles import plain
from d2v.params import ImageInput
from d2v.util.errors import UserError

W2V = "w2v_encoder.w2v_model."
TEACHER = "_ema"
# names in older files, and their replacements
OLD_NAMES = (
    (r"^decoder\.", "encoder."),
    (r"\.emb_layer_norm\.", ".layernorm_embedding."),
    (r"^final_proj\.0\.", "final_proj."),
    (r"^encoder\.lm_head\.(\d)\.", r"encoder.regression_head.\1."),
)
# tensors that do not affect the result; in older text models, the teacher's names are unknown
UNUSED = {
    "fairseq_audio": (),
    "fairseq_text": (
        "encoder.sentence_encoder.version",
        "encoder.lm_head.",
        "encoder.target_model.",
    ),
    "fairseq_vision": ("final_proj.", "encoder.rel_pos_bias.relative_position_index"),
}


def recognised(state: dict[str, Any]) -> names.Family | None:
    """Which of fairseq's models the tensors belong to; None if they belong to none."""
    found = state.get("model")
    if not isinstance(found, dict):
        return None
    if any(name.startswith(W2V) for name in found):
        return "fairseq_audio"
    if "post_extract_proj.weight" in found:
        return "fairseq_audio"
    if any(re.match(r"(encoder|decoder)\.sentence_encoder\.", name) for name in found):
        return "fairseq_text"
    return "fairseq_vision" if "patch_embed.conv.weight" in found else None


def read(path: Path, state: dict[str, Any], family: names.Family) -> Content:
    """Content of a checkpoint, with the teacher's weights if they are stored.

    Raises UserError for a model that this project cannot express, for an incomplete configuration,
    and for tensors that do not fit, all of which are listed.
    """
    tensors, teacher = _split(state["model"])
    config = _config(state)
    name = (config.get("model") or {}).get("_name") or config.get("arch")
    if not _known(str(name), tensors):
        raise UserError(f"{path}: model {name} does not belong to data2vec's first version")
    build = {"fairseq_audio": _audio, "fairseq_text": _text, "fairseq_vision": _vision}[family]
    with configuration_of(path):
        architecture = build(path, tensors, config, teacher is not None)
    content = Content(
        format=family.replace("_", " "),
        source=path,
        architecture=architecture,
        inputs=ImageInput(),
        tensors={},
        provenance={"config": config},
    )
    content.tensors = _ours(content, family, tensors, teacher)
    content.inputs = fairseq_inputs.inputs(content, state)
    return content


def _known(name: str, tensors: dict[str, Tensor]) -> bool:
    """Whether the name is data2vec's, or RoBERTa's with a head, as after fine-tuning on GLUE."""
    if name.startswith("roberta"):
        return any(key.startswith("classification_heads.") for key in tensors)
    known = ("data2vec_audio", "data2vec_vision", "wav2vec_ctc", "None")
    return name in known or name.startswith("data2vec_text")


def _split(model: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Tensors under fairseq's current names, and separately those of the teacher, if any."""
    tensors, teacher = {}, None
    for name, value in model.items():
        if name.split(".")[-1] == TEACHER and isinstance(value, dict):
            teacher = value
            continue
        name = name.removeprefix(W2V)
        for old, new in OLD_NAMES:
            name = re.sub(old, new, name)
        tensors[name] = value
    return tensors, teacher


def _config(state: dict[str, Any]) -> dict[str, Any]:
    """`cfg` as plain values, or the older `args` in the same structure."""
    if state.get("cfg") is not None:
        return plain(state["cfg"])
    args = plain(state.get("args"))
    return {"model": args, "task": args, "arch": args.get("arch")} if args else {}


def _model(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of the pre-trained model; a fine-tuned model stores them as w2v_args."""
    model = config.get("model") or {}
    inner = model.get("w2v_args")
    if isinstance(inner, dict):
        return inner["model"] if isinstance(inner.get("model"), dict) else inner
    return model


def _ours(
    content: Content,
    family: names.Family,
    tensors: dict[str, Tensor],
    teacher: dict[str, Tensor] | None,
) -> dict[str, Tensor]:
    a = content.architecture
    refuse_more_modules(a, tensors, content.source)
    pairs = names.student(family, a)
    pairs = [
        p._replace(ours=f"regression.{p.ours.removeprefix('head.')}")
        if p.ours.startswith("head.")
        else p
        for p in pairs
    ]
    if a.task is not None:
        pairs += names.head(family, a.task, _head_name(tensors))
    unused = UNUSED[family]
    dropped = [name for name in tensors if name.startswith(unused)]
    if a.regression is None:
        dropped += [name for name in tensors if name.startswith(("final_proj.", "encoder.regress"))]
    if dropped:
        content.notes.append("left out (no effect on results): " + ", ".join(sorted(set(dropped))))
    left = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    shapes = {name: t.shape for name, t in empty(a).state_dict().items()}
    found = renamed(left, pairs, shapes, content.source, optional=MAY_BE_ABSENT)
    if teacher is not None:
        found |= _teacher(content, family, teacher, shapes)
    return fill_mask_embedding(content, found, shapes)


def _teacher(
    content: Content, family: names.Family, teacher: dict[str, Tensor], shapes: dict[str, Any]
) -> dict[str, Tensor]:
    """The teacher's tensors; those that it shares with the student may be missing."""
    a = content.architecture
    pairs = names.teacher(family, a)
    absent = {name for pair in pairs if pair.ours not in shapes for name in pair.theirs}
    left = {
        name: tensor
        for name, tensor in teacher.items()
        # the former are replaced by the student's tensors; the latter are not weights
        if name not in absent and not name.endswith(("version", "relative_position_index"))
    }
    pairs = [pair for pair in pairs if pair.ours in shapes]
    shared = tuple(f"teacher.encoder.{module}" for module in a.shared or ())
    optional = tuple(pair.ours for pair in pairs if pair.ours.startswith(shared or ("-",)))
    return renamed(left, pairs, shapes, Path(f"{content.source} ({TEACHER})"), optional=optional)


# --- sizes ------------------------------------------------------------------------------------


def _audio(
    path: Path, tensors: dict[str, Tensor], config: dict[str, Any], teacher: bool
) -> Architecture:
    m = _model(config)
    wrong = {
        "extractor_mode": m["extractor_mode"] != "layer_norm",
        "conv_bias": m["conv_bias"],
        "layer_norm_first": m["layer_norm_first"],
        "pos_conv_depth": m["pos_conv_depth"] < 2,
        "activation_fn": m.get("activation_fn", "gelu") != "gelu",
        "layer_type": m.get("layer_type", "transformer") != "transformer",
    }
    _refuse(m, wrong)
    encoder = params.WaveEncoder(
        kind="speech",
        conv_layers=[list(layer) for layer in sizes_of(m["conv_feature_layers"])],
        position_kernel=m["conv_pos"],
        position_depth=m["pos_conv_depth"],
        position_groups=m["conv_pos_groups"],
        dropout=m["dropout"],
    )
    backbone = params.Backbone(
        dim=m["encoder_embed_dim"],
        depth=m["encoder_layers"],
        heads=m["encoder_attention_heads"],
        ffn_dim=m["encoder_ffn_embed_dim"],
        norm_first=False,
        dropout=m["dropout"],
        attention_dropout=m["attention_dropout"],
        activation_dropout=m["activation_dropout"],
        layer_drop=m["encoder_layerdrop"],
    )
    extra: dict[str, Any] = {}
    if "w2v_encoder.proj.weight" in tensors:
        dropout = (config.get("model") or {}).get("final_dropout") or 0.0
        extra = {
            "task": params.CTC(kind="ctc", dropout=dropout),
            "outputs": len(tensors["w2v_encoder.proj.weight"]),
        }
    elif "final_proj.weight" in tensors:
        extra = {"regression": "linear"}
    if teacher:
        positions = ["positions"] if m["ema_layers_only"] else []
        extra["shared"] = ["features", "mask_embedding", *positions]
    return Architecture(encoder=encoder, backbone=backbone, **extra)


def _text(
    path: Path, tensors: dict[str, Tensor], config: dict[str, Any], teacher: bool
) -> Architecture:
    m = _model(config)
    t = m["transformer"] if "transformer" in m else _old_text(m)
    e = t["encoder"]
    wrong = {
        "normalize_before": e["normalize_before"],
        "learned_pos": not e.get("learned_pos", True),
        "layernorm_embedding": not t.get("layernorm_embedding", True),
        "no_scale_embedding": not t.get("no_scale_embedding", True),
        "activation_fn": str(t.get("activation_fn", "gelu")) != "gelu",
    }
    _refuse({**t, **e}, wrong)
    encoder = params.TokenEncoder(
        kind="text",
        vocab_size=len(tensors["encoder.sentence_encoder.embed_tokens.weight"]),
        max_positions=len(tensors["encoder.sentence_encoder.embed_positions.weight"]) - 2,
        dropout=t["dropout"],
    )
    backbone = params.Backbone(
        dim=e["embed_dim"],
        depth=e["layers"],
        heads=e["attention_heads"],
        ffn_dim=e["ffn_embed_dim"],
        norm_first=False,
        dropout=t["dropout"],
        attention_dropout=t["attention_dropout"],
        activation_dropout=t.get("activation_dropout", 0.0),
        layer_drop=e.get("layerdrop", 0.0),
    )
    extra: dict[str, Any] = {}
    if name := _head_name(tensors):
        outputs = len(tensors[f"classification_heads.{name}.out_proj.weight"])
        task: params.Task
        head = {"pool": "first", "hidden": True, "dropout": t.get("pooler_dropout", 0.0)}
        if outputs == 1:
            task = params.Regress(kind="regress", **head)
        else:
            task = params.Classify(kind="classify", classes=outputs, **head)
        extra = {"task": task, "outputs": outputs}
    elif "encoder.regression_head.0.weight" in tensors:
        kind = "mlp" if "encoder.regression_head.2.weight" in tensors else "linear"
        extra = {"regression": kind}
    if teacher:
        shared = ["features", "positions", "norm"] if m["ema_transformer_layers_only"] else []
        extra["shared"] = shared
    return Architecture(encoder=encoder, backbone=backbone, **extra)


def _vision(
    path: Path, tensors: dict[str, Tensor], config: dict[str, Any], teacher: bool
) -> Architecture:
    encoder, backbone = grids.sizes(tensors, "fairseq_vision", norm_eps=1e-5)
    shared = ["features", "cls", "mask_embedding"] if teacher else None
    return Architecture(
        encoder=encoder,
        backbone=backbone,
        regression="none",
        shared=shared,  # type: ignore[arg-type]
    )


def _old_text(m: dict[str, Any]) -> dict[str, Any]:
    """Flat settings from `args`, rearranged into the groups of the current configuration."""
    names_of_encoder = {
        "embed_dim": "encoder_embed_dim",
        "ffn_embed_dim": "encoder_ffn_embed_dim",
        "layers": "encoder_layers",
        "attention_heads": "encoder_attention_heads",
    }
    encoder = {key: m[old] for key, old in names_of_encoder.items()}
    encoder["normalize_before"] = m.get("encoder_normalize_before", False)
    encoder["layerdrop"] = m.get("encoder_layerdrop", 0.0)
    encoder["learned_pos"] = m.get("encoder_learned_pos", True)
    return {**m, "encoder": encoder}


def _head_name(tensors: dict[str, Tensor]) -> str:
    """Name of the classification head, or ""; raises ValueError for more than one."""
    found = {name.split(".")[1] for name in tensors if name.startswith("classification_heads.")}
    if len(found) > 1:
        raise ValueError(f"{len(found)} classification heads, but only one can be read")
    return next(iter(found), "")


def _refuse(settings: dict[str, Any], wrong: dict[str, bool]) -> None:
    faults = [f"{key} {settings.get(key)!r}" for key, is_wrong in wrong.items() if is_wrong]
    if faults:
        raise ValueError(f"this project does not support models with {', '.join(faults)}")


def sizes_of(text: Any) -> list[Any]:
    """Value of a string such as "[(512,10,5)] + [(512,3,2)]*4".

    fairseq evaluates this string as Python. Here only lists, tuples, integers, sums and products
    are accepted; anything else raises ValueError.
    """
    if not isinstance(text, str):
        return list(text)
    try:
        found = _value(ast.parse(text, mode="eval").body)
    except SyntaxError:
        found = None
    if not isinstance(found, list):
        raise ValueError(f"conv_feature_layers {text!r} is not a list of sizes")
    return found


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part) for part in parts]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left) * min(_value(right), 100)
    raise ValueError(f"conv_feature_layers: {ast.unparse(node)} is not a list of sizes")
