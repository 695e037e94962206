"""From a trace of data2vec 2.0 (the reference's option names) to this project's parameters."""

import ast
from typing import Any

from golden_config import _ema, _listed, _loss, _target

from d2v import params

LOCAL = {"text": ["features", "positions", "norm"], "audio": ["features"], "image": ["features"]}
BEFORE_BLOCKS = {"text": [], "audio": ["positions", "norm"], "image": ["norm"]}


def pretrain(trace: dict, copies: int) -> params.Pretrain:
    """Parameters of the run that `trace.json` describes; every size comes from there.

    `copies` is the number of rows of a cloned batch, on which the weight of the reference's class
    loss depends.
    """
    model, modality = trace["config"]["model"], trace["config"]["modality"]
    kind, optimiser = trace["modality"], trace["optimizer"]
    loss = _loss(model.get("loss_beta", 0), model.get("loss_scale"))
    weight = model.get("cls_loss", 0.0) * copies
    prenet = modality.get("prenet_depth", 4)
    return params.Pretrain(
        data="golden",
        seeds=[0],
        encoder=_encoder(kind, trace["config"], prenet > 0),
        backbone=_backbone(model, modality, prenet),
        regression="none",
        decoder=_decoder(modality["decoder"]),
        copies=model.get("clone_batch", 1),
        target=_target(model),
        loss=loss.model_copy(update={"class_weight": weight}),
        mask=_mask(kind, modality),
        ema=_ema(model, _shared(kind, model, modality, prenet)),
        view=_view(kind),
        optimiser=params.Optimiser(
            lr=optimiser["lr"],
            betas=optimiser["betas"],
            eps=optimiser["eps"],
            weight_decay=optimiser["weight_decay"],
            decay="dimensions",
        ),
        schedule=params.TriStage(kind="tri_stage", phases=[0.0, 1.0, 0.0]),
        train=params.Train(steps=len(trace["steps"]), batch=1, micro_batch=1),
    )


def _encoder(kind: str, config: dict, prenet: bool) -> params.Encoder:
    model, m = config["model"], config["modality"]
    common: dict[str, Any] = {"hidden": "removed", "extra_tokens": m.get("num_extra_tokens", 0)}
    if kind == "audio":
        layers = _listed(ast.parse(m["feature_encoder_spec"], mode="eval").body)
        return params.WaveEncoder(
            kind="speech",
            conv_layers=[list(layer) for layer in layers],
            position_kernel=m["conv_pos_width"],
            position_depth=m["conv_pos_depth"],
            position_groups=m["conv_pos_groups"],
            position_padding="never",
            **common,
        )
    if kind == "image":
        return params.PatchEncoder(
            kind="vision",
            image_size=m["input_size"],
            patch_size=m["patch_size"],
            cls_token=False,
            fixed_positions=True,
            input_norm=not model.get("layer_norm_first", False),
            **common,
        )
    return params.TokenEncoder(
        kind="text",
        vocab_size=config["vocab"],
        max_positions=m["max_source_positions"],
        input_norm=prenet,
        **common,
    )


def _backbone(model: dict, modality: dict, prenet: int) -> params.Backbone:
    bias = "alibi" if modality.get("use_alibi_encoder") else "none"
    return params.Backbone(
        dim=model["embed_dim"],
        depth=prenet + model["depth"],
        prenet_depth=prenet,
        heads=model["num_heads"],
        ffn_dim=int(model["embed_dim"] * model.get("mlp_ratio", 4)),
        norm_first=False,
        norm_eps=model.get("norm_eps", 1e-6),
        position_bias=params.PositionBias(kind=bias),
    )


def _decoder(m: dict) -> params.Decoder:
    layers = m.get("projection_layers", 1)
    return params.Decoder(
        layers=m.get("decoder_layers", 5),
        dim=m.get("decoder_dim", 384),
        kernel=m.get("decoder_kernel", 5),
        groups=m.get("decoder_groups", 16),
        residual=m.get("decoder_residual", True),
        projection_layers=layers,
        projection_ratio=float(m.get("projection_ratio", 2.0)) if layers > 1 else 1.0,
        noise=None,
    )


def _shared(kind: str, model: dict, modality: dict, prenet: int) -> list[str]:
    if model.get("ema_encoder_only", True):
        blocks = ["prenet"] if prenet or modality.get("use_alibi_encoder") else []
        front = [*BEFORE_BLOCKS[kind], *(["input_norm"] if kind == "text" and prenet else [])]
        tokens = ["cls"] if modality.get("num_extra_tokens") else []
        return [*LOCAL[kind], *front, *tokens, *blocks]
    return [] if modality.get("ema_local_encoder") else LOCAL[kind]


def _mask(kind: str, m: dict) -> params.Mask:
    if kind == "audio":
        return params.SpanMask(kind="span", prob=m["mask_prob"], length=m["mask_length"])
    return params.RandomMask(kind="random", prob=m["mask_prob"])


def _view(kind: str) -> params.View:
    if kind == "audio":
        return params.WaveAugment(kind="speech")
    if kind == "image":
        return params.ImageAugment(kind="vision")
    return params.TokenAugment(kind="text", max_tokens=5)
