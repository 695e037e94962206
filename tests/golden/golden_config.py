"""From a trace's configuration (the reference's option names) to this project's parameters."""

import ast
from typing import Any

from d2v import params


def pretrain(trace: dict) -> params.Pretrain:
    """Parameters of the run that `trace.json` describes; every size comes from there."""
    family = family_of(trace)
    build = {
        "fairseq_audio": _audio,
        "fairseq_text": _text,
        "fairseq_vision": _vision,
        "data2vec_vision": _beit,
    }[family]
    tables = build(trace["config"])
    optimiser = trace["optimizer"]
    return params.Pretrain(
        data="golden",
        seeds=[0],
        optimiser=params.Optimiser(
            lr=optimiser["lr"],
            betas=optimiser["betas"],
            eps=optimiser["eps"],
            weight_decay=optimiser["weight_decay"],
        ),
        schedule=params.TriStage(kind="tri_stage", phases=[0.0, 1.0, 0.0]),
        train=params.Train(steps=len(trace["steps"]), batch=1, micro_batch=1),
        **tables,
    )


def family_of(trace: dict) -> str:
    """Which reference code wrote the trace."""
    if "data2vec_vision beit" in trace["reference"]:
        return "data2vec_vision"
    return f"fairseq_{trace['modality']}"


def _loss(beta: float, scale: float | None) -> params.Loss:
    reduction = {None: "sum_sqrt_dim", 1.0: "sum"}[scale]
    return params.Loss(beta=beta, reduction=reduction)


def _norm(config: dict, where: str) -> str:
    """instance, layer or none, from fairseq's separate switches."""
    for kind in ("instance", "layer"):
        if config.get(f"{kind}_norm_{where}"):
            return kind
    return "none"


def _target(config: dict) -> params.Target:
    return params.Target(
        top_k=config["average_top_k_layers"],
        feature="block" if config.get("end_of_block_targets") else "ffn",
        layer_norm=_norm(config, "target_layer"),
        final_norm=_norm(config, "targets"),
    )


def _ema(config: dict, shared: list[str]) -> params.EMA:
    return params.EMA(
        start=config["ema_decay"],
        end=config["ema_end_decay"],
        anneal_steps=config["ema_anneal_end_step"],
        shared=shared,
    )


def _listed(node: ast.expr) -> Any:
    """The value of "[(32,10,5)] + [(32,3,2)]*4": lists, tuples, integers, sums and products."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_listed(part) for part in parts]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _listed(left) + _listed(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _listed(left) * _listed(right)
    raise ValueError(f"conv_feature_layers: {ast.unparse(node)} is no list of sizes")


def _audio(config: dict) -> dict:
    layers = _listed(ast.parse(config["conv_feature_layers"], mode="eval").body)
    positions = ["positions"] if config["ema_layers_only"] else []
    return {
        "encoder": params.WaveEncoder(
            kind="speech",
            conv_layers=[list(layer) for layer in layers],
            position_kernel=config["conv_pos"],
            position_depth=config["pos_conv_depth"],
            position_groups=config["conv_pos_groups"],
        ),
        "backbone": params.Backbone(
            dim=config["encoder_embed_dim"],
            depth=config["encoder_layers"],
            heads=config["encoder_attention_heads"],
            ffn_dim=config["encoder_ffn_embed_dim"],
            norm_first=config["layer_norm_first"],
        ),
        "regression": "linear",
        "target": _target(config),
        "loss": _loss(config["loss_beta"], config["loss_scale"]),
        "mask": params.SpanMask(
            kind="span", prob=config["mask_prob"], length=config["mask_length"]
        ),
        "ema": _ema(config, ["features", "mask_embedding", *positions]),
        "view": params.WaveAugment(kind="speech"),
    }


def _text(config: dict) -> dict:
    transformer = config["transformer"]
    encoder = transformer["encoder"]
    embeddings = ["features", "positions", "norm"] if config["ema_transformer_layers_only"] else []
    return {
        "encoder": params.TokenEncoder(
            kind="text", vocab_size=config["vocab_size"], max_positions=config["max_positions"]
        ),
        "backbone": params.Backbone(
            dim=encoder["embed_dim"],
            depth=encoder["layers"],
            heads=encoder["attention_heads"],
            ffn_dim=encoder["ffn_embed_dim"],
            norm_first=encoder["normalize_before"],
        ),
        "regression": {1: "linear", 2: "mlp"}[config["head_layers"]],
        "target": _target(config),
        "loss": _loss(config["loss_beta"], config["loss_scale"]),
        "mask": params.TokenMask(kind="token", prob=0.35, length=4),
        "ema": _ema(config, embeddings),
        "view": params.TokenAugment(kind="text", max_tokens=config["max_positions"]),
    }


def _vision_model(config: dict, eps: float) -> dict:
    grid = config["image_size"] // config["patch_size"]
    dim = config["embed_dim"]
    return {
        "encoder": params.PatchEncoder(
            kind="vision",
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            channels=config.get("in_channels", 3),
            absolute_positions=config.get("use_abs_pos_emb", False),
        ),
        "backbone": params.Backbone(
            dim=dim,
            depth=config["depth"],
            heads=config["num_heads"],
            ffn_dim=4 * dim,
            norm_first=True,
            norm_eps=eps,
            final_norm=True,
            key_bias=False,
            layer_scale=config["layer_scale_init_value"] or None,
            position_bias=params.PositionBias(kind="shared_2d", window=[grid, grid]),
        ),
        "mask": params.BlockMask(kind="block", patches=config["num_mask_patches"]),
        "view": params.ImageAugment(kind="vision"),
    }


def _vision(config: dict) -> dict:
    return {
        **_vision_model(config, eps=1e-5),
        "regression": "none",
        "target": _target(config),
        "loss": _loss(config["loss_beta"], config["loss_scale"]),
        "ema": _ema(config, ["features", "cls", "mask_embedding"]),
    }


def _beit(config: dict) -> dict:
    top = config["target_layers"]
    assert top == list(range(config["depth"] - len(top), config["depth"]))
    return {
        **_vision_model(config, eps=config["layer_norm_eps"]),
        "regression": "linear",
        "target": params.Target(
            top_k=len(top),
            feature="block" if config["layer_results"] == "end" else "ffn",
            layer_norm="layer" if config["target_layer_norm_last"] else "none",
            final_norm="layer" if config["post_target_layer_norm"] else "none",
        ),
        "loss": params.Loss(beta=0.0 if config["l2_loss"] else config["l1_beta"], reduction="mean"),
        "ema": params.EMA(
            start=config["ema_decay_init"],
            end=config["ema_decay"],
            anneal_steps=config["ema_start_at"],
            first=0,
        ),
    }
