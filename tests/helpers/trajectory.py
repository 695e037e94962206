"""Fifty steps of pre-training on a small prepared set; as a script they may end by SIGKILL.

Dropout, skipped blocks, crops, masks, accumulation and epochs shorter than a batch are all there:
whatever draws a number must draw it again after a resume.
"""

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from small_builds import BLOCKS, CHOSEN, CONVS, PATCHES, SPANS, TEXT_VIEW, TOKENS, build

from d2v import params
from d2v.training.task import Pretraining
from d2v.training.trainer import Summary, fit

STEPS, KILLED_AFTER = 50, 23
BACKBONE = params.Backbone(
    dim=16, depth=2, heads=2, ffn_dim=32, norm_first=False,
    dropout=0.1, attention_dropout=0.1, layer_drop=0.1,
)  # fmt: skip
COMMON: dict[str, Any] = {
    "seeds": [0],
    "backbone": BACKBONE,
    "regression": "linear",
    "target": params.Target(top_k=2, feature="ffn", layer_norm="layer"),
    "loss": params.Loss(beta=0.0, reduction="sum_sqrt_dim"),
    "ema": params.EMA(start=0.9, end=0.99, anneal_steps=40, shared=["features"]),
    "optimiser": params.Optimiser(
        lr=2e-3, betas=[0.9, 0.98], eps=1e-6, weight_decay=0.01, clip=5.0
    ),
    "schedule": params.Cosine(kind="cosine", warmup=0.1),
    "train": params.Train(
        steps=STEPS, batch=4, micro_batch=2, log_every=10, checkpoint_every=KILLED_AFTER
    ),
}
KINDS: dict[str, dict[str, Any]] = {
    "vision": {
        "data": "images",
        "encoder": PATCHES,
        "mask": BLOCKS,
        "view": params.ImageAugment(
            kind="vision", shift=2, random_resized_crop=[0.3, 1.0], flip=True, color_jitter=0.4
        ),
        "target": params.Target(
            top_k=2, feature="block", layer_norm="layer", final_norm="layer"
        ),
        "ema": params.EMA(start=0.9, end=0.99, anneal_steps=40),
    },
    "speech": {
        "data": "speech",
        "encoder": params.WaveEncoder(
            kind="speech", conv_layers=CONVS, position_kernel=9, position_depth=3,
            position_groups=4, dropout=0.1,
        ),
        "mask": SPANS,
        "view": params.WaveAugment(kind="speech", max_samples=5000),
        "target": params.Target(top_k=2, feature="ffn", layer_norm="instance"),
    },
    "text": {
        "data": "corpus",
        "encoder": TOKENS,
        "mask": CHOSEN,
        "view": TEXT_VIEW,
        "regression": "mlp",
        "loss": params.Loss(beta=4.0, reduction="sum"),
    },
}  # fmt: skip


class Dying(Pretraining):
    """Kills its own process in the middle of the step after `lives`, whose checkpoint it awaits."""

    lives: int | None = None
    checkpoint: Path

    def after_step(self, step: int) -> dict[str, float]:
        if self.lives is not None and step > self.lives:
            late = time.monotonic() + 60
            while not self.checkpoint.exists() and time.monotonic() < late:
                time.sleep(0.01)  # it is written beside the next steps
            os.kill(os.getpid(), signal.SIGKILL)
        return super().after_step(step)


def train(prepared: Path, work: Path, kind: str, lives: int | None = None) -> Summary:
    """All steps that are left, or until `lives` are finished."""
    p = params.Pretrain(**{**COMMON, **KINDS[kind]})
    data = build(prepared / p.data, p.view, p.encoder, mask=p.mask, copies=p.copies)
    torch.manual_seed(5)
    task = Dying(p)
    task.lives, task.checkpoint = lives, work / "checkpoints" / f"step-{lives}"
    return fit(
        task, data, optimiser=p.optimiser, schedule=p.schedule, train=p.train, work=work, seed=7
    )


NO_ONEDNN = "--no-onednn"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prepared", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument(NO_ONEDNN, action="store_true")
    a = parser.parse_args()
    torch.backends.mkldnn.enabled = not a.no_onednn
    train(a.prepared, a.work, a.kind, lives=KILLED_AFTER)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
