"""Convert config.json of Hugging Face's Data2Vec models to this project's parameters and back.

Source: transformers, models/data2vec/configuration_data2vec_{audio,text,vision}.py.
"""

from pathlib import Path
from typing import Any

from d2v import params
from d2v.interop.content import Architecture, first_fault
from d2v.util.errors import UserError

TYPES = {"data2vec-audio": "speech", "data2vec-vision": "vision", "data2vec-text": "text"}
# defaults of transformers' configuration classes, for keys that a config.json omits
_COMMON = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "data2vec-audio": {
        **_COMMON,
        "hidden_dropout": 0.1,
        "activation_dropout": 0.1,
        "attention_dropout": 0.1,
        "final_dropout": 0.1,
        "layerdrop": 0.1,
        "layer_norm_eps": 1e-5,
        "feat_extract_activation": "gelu",
        "conv_dim": [512] * 7,
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_bias": False,
        "num_conv_pos_embedding_groups": 16,
        "conv_pos_kernel_size": 19,
        "num_conv_pos_embeddings": 5,
        "pad_token_id": 0,
        "add_adapter": False,
    },
    "data2vec-vision": {
        **_COMMON,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-12,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": False,
        "layer_scale_init_value": 0.1,
        "drop_path_rate": 0.1,
        "use_mean_pooling": True,
    },
    "data2vec-text": {
        **_COMMON,
        "vocab_size": 30522,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "is_decoder": False,
        "add_cross_attention": False,
    },
}


def architecture(raw: dict[str, Any], where: Path) -> tuple[Architecture, dict[str, Any]]:
    """Encoder and backbone that a config.json describes, and its content with defaults filled in.

    Raises UserError for another kind of model, or for one that this project cannot express.
    """
    kind = raw.get("model_type")
    if kind not in TYPES:
        raise UserError(
            f"{where}: model_type {kind!r} is not a data2vec model; supported are"
            f" {', '.join(TYPES)}"
        )
    config = {**_DEFAULTS[kind], **raw}
    build = {"speech": _audio, "vision": _vision, "text": _text}[TYPES[kind]]
    try:
        wrong, made = build(config)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {first_fault(error)}") from None
    if config["hidden_act"] != "gelu":
        wrong["hidden_act"] = True
    faults = [f"{key} {config[key]!r}" for key, is_wrong in wrong.items() if is_wrong]
    if faults:
        raise UserError(f"{where}: this project does not support models with {', '.join(faults)}")
    return made, config


def _audio(c: dict[str, Any]) -> tuple[dict[str, bool], Architecture]:
    layers = zip(c["conv_dim"], c["conv_kernel"], c["conv_stride"], strict=True)
    depth = c["num_conv_pos_embeddings"]
    encoder = params.WaveEncoder(
        kind="speech",
        conv_layers=[list(layer) for layer in layers],
        position_kernel=depth * c["conv_pos_kernel_size"],
        position_depth=depth,
        position_groups=c["num_conv_pos_embedding_groups"],
        dropout=c["hidden_dropout"],
    )
    backbone = params.Backbone(
        **_sizes(c),
        norm_first=False,
        norm_eps=c["layer_norm_eps"],
        dropout=c["hidden_dropout"],
        attention_dropout=c["attention_dropout"],
        activation_dropout=c["activation_dropout"],
        layer_drop=c["layerdrop"],
    )
    wrong = {
        "conv_bias": c["conv_bias"],
        "feat_extract_activation": c["feat_extract_activation"] != "gelu",
        "add_adapter": c["add_adapter"],
        "conv_pos_kernel_size": c["conv_pos_kernel_size"] < 3,
        "layer_norm_eps": c["layer_norm_eps"] != 1e-5,
    }
    return wrong, Architecture(encoder=encoder, backbone=backbone)


def _vision(c: dict[str, Any]) -> tuple[dict[str, bool], Architecture]:
    both = c["use_relative_position_bias"] and c["use_shared_relative_position_bias"]
    square = all(isinstance(c[key], int) for key in ("image_size", "patch_size"))
    if not square:
        raise ValueError(
            "image_size and patch_size must be single numbers, because images here are square"
        )
    encoder = params.PatchEncoder(
        kind="vision",
        image_size=c["image_size"],
        patch_size=c["patch_size"],
        channels=c["num_channels"],
        absolute_positions=c["use_absolute_position_embeddings"],
    )
    kind = "per_layer_2d" if c["use_relative_position_bias"] else "none"
    kind = "shared_2d" if c["use_shared_relative_position_bias"] else kind
    window = None if kind == "none" else [encoder.grid] * 2
    backbone = params.Backbone(
        **_sizes(c),
        norm_first=True,
        norm_eps=c["layer_norm_eps"],
        final_norm=not c["use_mean_pooling"],
        key_bias=False,
        layer_scale=c["layer_scale_init_value"] or None,
        position_bias=params.PositionBias(kind=kind, window=window),  # type: ignore[arg-type]
        dropout=c["hidden_dropout_prob"],
        attention_dropout=c["attention_probs_dropout_prob"],
        drop_path=c["drop_path_rate"],
    )
    wrong = {"use_relative_position_bias": both}
    return wrong, Architecture(encoder=encoder, backbone=backbone)


def _text(c: dict[str, Any]) -> tuple[dict[str, bool], Architecture]:
    encoder = params.TokenEncoder(
        kind="text",
        vocab_size=c["vocab_size"],
        max_positions=c["max_position_embeddings"] - 2,
        dropout=c["hidden_dropout_prob"],
    )
    backbone = params.Backbone(
        **_sizes(c),
        norm_first=False,
        norm_eps=c["layer_norm_eps"],
        dropout=c["hidden_dropout_prob"],
        attention_dropout=c["attention_probs_dropout_prob"],
    )
    wrong = {
        "pad_token_id": c["pad_token_id"] != 1,
        "bos_token_id": c["bos_token_id"] != 0,
        "eos_token_id": c["eos_token_id"] != 2,
        "is_decoder": c["is_decoder"],
        "add_cross_attention": c["add_cross_attention"],
    }
    return wrong, Architecture(encoder=encoder, backbone=backbone)


def _sizes(c: dict[str, Any]) -> dict[str, Any]:
    return {
        "dim": c["hidden_size"],
        "depth": c["num_hidden_layers"],
        "heads": c["num_attention_heads"],
        "ffn_dim": c["intermediate_size"],
    }


# --- from our parameters to config.json -------------------------------------------------------


def config(a: Architecture) -> dict[str, Any]:
    """config.json of the bare model, without the entries for head and inputs."""
    b, e = a.backbone, a.encoder
    common = {
        "hidden_size": b.dim,
        "num_hidden_layers": b.depth,
        "num_attention_heads": b.heads,
        "intermediate_size": b.ffn_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": b.norm_eps,
        "dtype": "float32",
    }
    if isinstance(e, params.WaveEncoder):
        return {"model_type": "data2vec-audio", **common, **_of_audio(e, b)}
    if isinstance(e, params.PatchEncoder):
        return {"model_type": "data2vec-vision", **common, **_of_vision(e, b)}
    return {"model_type": "data2vec-text", **common, **_of_text(e, b)}


def _of_audio(e: params.WaveEncoder, b: params.Backbone) -> dict[str, Any]:
    channels, kernels, strides = zip(*e.conv_layers, strict=True)
    return {
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": False,
        "feat_extract_activation": "gelu",
        "num_conv_pos_embeddings": e.position_depth,
        "conv_pos_kernel_size": max(3, e.position_kernel // e.position_depth),
        "num_conv_pos_embedding_groups": e.position_groups,
        "hidden_dropout": b.dropout,
        "attention_dropout": b.attention_dropout,
        "activation_dropout": b.activation_dropout,
        "feat_proj_dropout": 0.0,
        "layerdrop": b.layer_drop,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mask_time_prob": 0.05,  # if it were 0, there would be no mask embedding
    }


def _of_vision(e: params.PatchEncoder, b: params.Backbone) -> dict[str, Any]:
    return {
        "image_size": e.image_size,
        "patch_size": e.patch_size,
        "num_channels": e.channels,
        "use_mask_token": True,
        "use_absolute_position_embeddings": e.absolute_positions,
        "use_relative_position_bias": b.position_bias.kind == "per_layer_2d",
        "use_shared_relative_position_bias": b.position_bias.kind == "shared_2d",
        "layer_scale_init_value": b.layer_scale or 0.0,
        "use_mean_pooling": not b.final_norm,
        "hidden_dropout_prob": b.dropout,
        "attention_probs_dropout_prob": b.attention_dropout,
        "drop_path_rate": b.drop_path,
    }


def _of_text(e: params.TokenEncoder, b: params.Backbone) -> dict[str, Any]:
    return {
        "vocab_size": e.vocab_size,
        "max_position_embeddings": e.max_positions + 2,
        "type_vocab_size": 1,
        "hidden_dropout_prob": b.dropout,
        "attention_probs_dropout_prob": b.attention_dropout,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
