"""One example of a pre-training: what was masked, and what the student looked at to fill it in."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v import devices
from d2v.feeding import Examples
from d2v.task import Pretraining
from d2v.transformer import Attention

PIXELS = 56  # of an image that is kept, at most


@torch.no_grad()
def attention(task: Pretraining, dataset: Examples) -> dict[str, Any]:
    """The first training example: mask (T,), and attention of the last block, mean over heads.

    `weights` (T,) are those of the query at `position`, a masked one. An input that is an image is
    kept as grey values (H, W), at most PIXELS wide.
    """
    device = next(task.parameters()).device
    batch = dataset.finish(devices.move(dataset.collate([dataset[0, 0]]), device), device)
    block: Any = task.backbone().blocks[-1]  # type: ignore[index]
    seen: list[Tensor] = []

    def keep(module: Attention, inputs: tuple[Any, ...]) -> None:
        seen.append(module.weights(*inputs[:3]).mean(1)[0])

    hook = block.attention.register_forward_pre_hook(keep)
    training = task.training
    task.eval()
    student = task.model.student
    student(batch)
    task.train(training)
    hook.remove()
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
    """The first of (B, C, H, W) as values from 0 to 1."""
    grey = images[:1].float().mean(1, keepdim=True)
    if grey.shape[-1] > PIXELS:
        grey = F.adaptive_avg_pool2d(grey, PIXELS)
    low, high = grey.min(), grey.max()
    return _rounded(((grey - low) / (high - low).clamp(min=1e-6))[0, 0])


def _rounded(x: Tensor) -> list[Any]:
    """Five digits are more than a picture shows."""
    found: list[Any] = (x.double() * 1e5).round().div(1e5).tolist()
    return found
