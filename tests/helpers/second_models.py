"""data2vec 2.0 in small: what differs from a pre-training of version 1, and tiny models of it."""

from typing import Any

import tiny_models
from torch import Tensor

from d2v import params
from d2v.data.examples import removing
from d2v.model.exact_masks import copied, removed_masks
from d2v.training.task import Pretraining

COPIES = 3
DECODER = params.Decoder(layers=2, dim=16, kernel=3, groups=2, dropout=0.1)
ENCODER: dict[str, dict[str, Any]] = {
    "vision": {
        "cls_token": False, "extra_tokens": 1, "fixed_positions": True, "input_norm": True,
    },
    "speech": {"position_padding": "never"},
    "text": {},
}  # fmt: skip
BACKBONE: dict[str, dict[str, Any]] = {
    "vision": {"prenet_depth": 1},
    "speech": {"position_bias": params.PositionBias(kind="alibi")},
    "text": {},
}
OTHER: dict[str, dict[str, Any]] = {
    "vision": {
        "mask": params.RandomMask(kind="random", prob=0.6),
        "target": params.Target(
            top_k=1, feature="ffn", layer_norm="instance", final_norm="layer"
        ),
        "loss": params.Loss(beta=0.0, reduction="sum_sqrt_dim", class_weight=2.5),
        "ema": params.EMA(start=0.5, end=0.9, anneal_steps=40),
    },
    "speech": {
        "mask": params.SpanMask(kind="span", prob=0.5, length=2),
        "ema": params.EMA(start=0.5, end=0.9, anneal_steps=40, shared=["features"]),
    },
    "text": {
        "mask": params.RandomMask(kind="random", prob=0.48),
        "ema": params.EMA(
            start=0.5, end=0.9, anneal_steps=40, shared=["features", "positions", "norm"]
        ),
    },
}  # fmt: skip


def changes(kind: str, encoder: params.Encoder, backbone: params.Backbone) -> dict[str, Any]:
    """Parameters of a pre-training of version 2, made from a model of version 1."""
    return {
        "encoder": encoder.model_copy(update={"hidden": "removed", **ENCODER[kind]}),
        "backbone": backbone.model_copy(update=BACKBONE[kind]),
        "regression": "none",
        "decoder": DECODER,
        "copies": COPIES,
        **OTHER[kind],
    }


def make(
    kind: str, backbone: params.Backbone = tiny_models.BACKBONE, **more: Any
) -> tuple[Pretraining, dict[str, Tensor]]:
    """As tiny_models.make, for version 2."""
    encoder: Any = tiny_models.SPECIAL[kind]["encoder"]
    task, batch = tiny_models.make(kind, **(changes(kind, encoder, backbone) | more))
    rows, length = batch.pop("mask").shape
    batch.pop("masked_tokens", None)
    keys = copied([(0, 0, index) for index in range(rows)], COPIES)
    mask = more.get("mask", OTHER[kind]["mask"])
    return task, batch | removing(removed_masks(mask, [length] * len(keys), keys))
