"""One pre-training example: what was masked, and where the student attended to predict it."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v.model.transformer import Attention
from d2v.training import devices
from d2v.training.loader import Examples
from d2v.training.task import Pretraining

PIXELS = 56  # maximum width of the image that is kept
TRIES = 100  # examples searched for one with a masked position


@torch.no_grad()
def attention(task: Pretraining, dataset: Examples) -> dict[str, Any] | None:
    """Mask (T,) and attention (T,) of the first training example with a masked position.

    The attention is that of the last block, averaged over its heads. Returns None if none of the
    first TRIES examples has a masked position, or if the student does not see masked positions
    (data2vec 2.0), which then have no attention.

    `weights` (T,) are the attention weights of the query at `position`, which is masked. An image
    is kept as grey values (H, W), at most PIXELS wide.
    """
    device = next(task.parameters()).device
    for index in range(min(TRIES, len(dataset))):
        batch = dataset.finish(devices.move(dataset.collate([dataset[0, index]]), device), device)
        if batch["mask"][0].any():
            break
    else:
        return None
    if "visible" in batch:
        return None
    # Compiled blocks do not call the hooks of their parts, but a copy of a module is not compiled.
    student = copy.deepcopy(task.model.student).eval()
    block: Any = student.backbone.blocks[-1]
    seen: list[Tensor] = []

    def keep(module: Attention, inputs: tuple[Any, ...]) -> None:
        seen.append(module.weights(*inputs[:3]).mean(1)[0])

    block.attention.register_forward_pre_hook(keep)
    student(batch)
    mask = batch["mask"][0]
    hidden = mask.nonzero().flatten()
    position = int(hidden[len(hidden) // 2])
    prefix = student.encoder.prefix
    weights = seen[-1][prefix + position, prefix:]
    return {
        "example": batch["ids"][0],
        "mask": mask.int().tolist(),
        "position": position,
        "weights": _rounded(weights),
        "image": _grey(batch["images"]) if "images" in batch else None,
    }


def _grey(images: Tensor) -> list[Any]:
    """The first image of (B, C, H, W) as grey values from 0 to 1."""
    grey = images[:1].float().mean(1, keepdim=True)
    if grey.shape[-1] > PIXELS:
        grey = F.adaptive_avg_pool2d(grey, PIXELS)
    low, high = grey.min(), grey.max()
    return _rounded(((grey - low) / (high - low).clamp(min=1e-6))[0, 0])


def _rounded(x: Tensor) -> list[Any]:
    """Values rounded to five decimals, which is more than a picture shows."""
    found: list[Any] = (x.double() * 1e5).round().div(1e5).tolist()
    return found
