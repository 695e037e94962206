"""Pre-trainings of a few thousand parameters, one for each modality."""

import torch
from torch import nn

from d2v import params
from d2v.model import ema
from d2v.training.task import Pretraining

KINDS = ("vision", "speech", "text")


COMMON = {
    "data": "none",
    "seeds": [0],
    "optimiser": params.Optimiser(lr=1e-3, betas=[0.9, 0.98], eps=1e-6, weight_decay=0.01),
    "schedule": params.Cosine(kind="cosine", warmup=0.1),
    "train": params.Train(steps=1, batch=2, micro_batch=2),
    "target": params.Target(top_k=2, feature="ffn", layer_norm="layer"),
    "loss": params.Loss(beta=0.0, reduction="sum_sqrt_dim"),
}


BACKBONE = params.Backbone(dim=16, depth=3, heads=2, ffn_dim=32, norm_first=False, dropout=0.1)


SPECIAL = {
    "vision": {
        "encoder": params.PatchEncoder(kind="vision", image_size=12, patch_size=4),
        "view": params.ImageAugment(kind="vision"),
        "mask": params.BlockMask(kind="block", patches=4, min_block=1),
        "regression": "linear",
        "ema": params.EMA(start=0.5, end=0.9, anneal_steps=4, shared=["features", "cls"]),
    },
    "speech": {
        "encoder": params.WaveEncoder(
            kind="speech",
            conv_layers=[[8, 10, 5], [8, 3, 2]],
            position_kernel=9,
            position_depth=3,
            position_groups=2,
        ),
        "view": params.WaveAugment(kind="speech"),
        "mask": params.SpanMask(kind="span", prob=0.5, length=2),
        "regression": "linear",
        "ema": params.EMA(
            start=0.5, end=0.9, anneal_steps=4, shared=["features", "positions", "mask_embedding"]
        ),
    },
    "text": {
        "encoder": params.TokenEncoder(kind="text", vocab_size=30, max_positions=12),
        "view": params.TokenAugment(kind="text", max_tokens=12),
        "mask": params.TokenMask(kind="token", prob=0.3),
        "regression": "mlp",
        "ema": params.EMA(
            start=0.5, end=0.9, anneal_steps=4, shared=["features", "positions", "norm"]
        ),
    },
}


HIDDEN, SHOWN = 2, 5  # positions that are and are not masked in both rows of the batches


def make(kind, **changes):
    """A small task with weights large enough to see effects, and a batch."""
    torch.manual_seed(0)
    p = params.Pretrain(**{**COMMON, "backbone": BACKBONE, **SPECIAL[kind], **changes})
    task = Pretraining(p)
    with torch.no_grad():
        for part in task.modules():
            if isinstance(part, nn.Linear | nn.Embedding | nn.Conv2d):
                part.weight.normal_(std=0.3)
    task.model.teacher = ema.Teacher(task.model.student.encoder, task.model.student.backbone, p.ema)
    return task, batch(kind)


def batch(kind):
    mask = torch.zeros(2, {"vision": 9, "speech": 9, "text": 12}[kind], dtype=torch.bool)
    mask[:, HIDDEN] = mask[0, 7] = mask[1, 8] = True
    if kind == "vision":
        return {"images": torch.randn(2, 3, 12, 12), "mask": mask}
    if kind == "speech":
        return {"waves": torch.randn(2, 100), "mask": mask}
    tokens = torch.randint(4, 29, (2, 12))
    return {"tokens": tokens, "masked_tokens": tokens.masked_fill(mask, 29), "mask": mask}
