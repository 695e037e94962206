"""Floating point operations of training, counted from the model itself.

The model is built without memory (PyTorch's meta device), with one block and with two, and run once
on one example; what the second block adds counts for every further one. A multiply and an add are
two operations. A backward pass counts as two forward passes, and nothing but matrix products,
attention and convolutions counts, as is usual.

It is an upper bound. Everything is counted at all positions, also where the masked ones would do:
the regression head, and the output projection and feed-forward of the last block. For Base that is
less than 7 % of the operations of text (15 % masked, a head of two layers), and less of the others.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from d2v import params
from d2v.experiment import runs
from d2v.interop.module import without_values
from d2v.model.data2vec import Student


@dataclass(frozen=True)
class Forward:
    """Operations of one forward pass over one example."""

    encoder: float  # local features
    backbone: float  # the rest of the student
    positions: int
    parameters: int  # of encoder and backbone

    def outputs(self, inputs: int, count: int) -> float:
        """Of a linear layer at every position."""
        return 2.0 * self.positions * inputs * count


def pretraining(p: params.Pretrain, size: int) -> float:
    """Operations of one example of `size` samples or tokens in an optimiser step of pre-training.

    The student forward and backward, the teacher forward; the teacher embeds the input anew where
    it does not share the features (params.EMA.shared), so speech pays once for its convolutions.
    """
    one = _counted(p, size)
    head = sum(one.outputs(i, o) for i, o in _linear_layers(p.regression, p.backbone.dim))
    teacher = one.backbone + (0.0 if "features" in p.ema.shared else one.encoder)
    return 3 * (one.encoder + one.backbone + head) + teacher


def finetuning(p: params.Pretrain, size: int, outputs: int, frozen: bool) -> float:
    """Operations of one example in an optimiser step of fine-tuning; `frozen`: local features.

    The head is counted as one linear layer with `outputs` for every position.
    """
    one = _counted(p, size)
    head = one.outputs(p.backbone.dim, outputs)
    return (1 if frozen else 3) * one.encoder + 3 * (one.backbone + head)


def parameter_count(p: params.Pretrain, size: int) -> int:
    """Parameters of the student: encoder and backbone."""
    return _counted(p, size).parameters


def _linear_layers(regression: str, dim: int) -> list[tuple[int, int]]:
    """Inputs and outputs of the regression head's layers (d2v.model.data2vec.regression_head)."""
    layers = {"none": [], "linear": [(dim, dim)], "mlp": [(dim, 2 * dim), (2 * dim, dim)]}
    return layers[regression]


_known: dict[str, Forward] = {}  # an experiment has few shapes and many runs


def _counted(p: params.Pretrain, size: int) -> Forward:
    without = dict.fromkeys(runs.OWN_DROPOUTS, 0.0)  # no matrix products, no parameters
    backbone = p.backbone.model_copy(update={**without, "deep_norm": False})
    key = f"{p.encoder.kind} {p.encoder.model_dump(exclude={'dropout'})} {backbone} {size}"
    if key not in _known:
        # blocks are alike: what a second one adds, every further one adds
        one, two = (
            _count(p.encoder, backbone.model_copy(update={"depth": depth}), size)
            for depth in (1, 2)
        )
        more = p.backbone.depth - 1
        _known[key] = Forward(
            one.encoder,
            one.backbone + more * (two.backbone - one.backbone),
            one.positions,
            one.parameters + more * (two.parameters - one.parameters),
        )
    return _known[key]


@torch.no_grad()
def _count(encoder: params.Encoder, backbone: params.Backbone, size: int) -> Forward:
    with without_values():
        student = Student(encoder, backbone).eval()
    with FlopCounterMode(display=False) as counter:
        x, padding = student.encoder.local_features(_input(encoder, size))
        features = counter.get_total_flops()
        student.see(x, padding, {})
        total = counter.get_total_flops()
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Forward(features, total - features, x.shape[1], parameters)


def _input(encoder: params.Encoder, size: int) -> dict[str, Tensor]:
    """One example of the encoder's kind, without memory."""
    if isinstance(encoder, params.PatchEncoder):
        side = encoder.image_size
        return {"images": torch.empty(1, encoder.channels, side, side, device="meta")}
    if isinstance(encoder, params.WaveEncoder):
        return {"waves": torch.empty(1, size, device="meta")}
    return {"tokens": torch.empty(1, size, dtype=torch.int64, device="meta")}
