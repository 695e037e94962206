"""Floating-point operations of training, counted from the model itself.

The model is built without memory (PyTorch's meta device), once with one block and once with two,
and run on one example. The cost of the second block is used for every further block. A multiply and
an add are two operations. A backward pass counts as two forward passes. As usual, only matrix
products, attention and convolutions are counted.

The count is an upper bound. Everything is counted at all positions, including parts for which the
masked positions would suffice: the regression head, and the output projection and feed-forward
network of the last block. For Base, these parts are less than 7 % of the operations of text (15 %
masked, a head of two layers), and less for the other modalities.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from d2v import params
from d2v.experiment.task_runs import OWN_DROPOUTS
from d2v.interop.module import without_values
from d2v.model import encoders
from d2v.model.data2vec import Student, build_decoder
from d2v.model.exact_masks import copied, removed_masks


@dataclass(frozen=True)
class Forward:
    """Operations of one forward pass over one example."""

    encoder: float  # operations of the local features
    backbone: float  # operations of the rest of the student
    positions: int
    parameters: int  # of encoder and backbone

    def outputs(self, inputs: int, count: int) -> float:
        """Operations of a linear layer that is applied at every position."""
        return 2.0 * self.positions * inputs * count


def pretraining(p: params.Pretrain, size: int) -> float:
    """Operations of one example of `size` samples or tokens in an optimiser step of pre-training.

    Counted are the forward and backward pass of the student and the forward pass of the teacher.
    The teacher embeds the input again unless it shares the features (params.EMA.shared), so speech
    pays only once for its convolutions. With a decoder, the student and the decoder run once per
    copy, on the positions that they see; local features and teacher once per example.
    """
    one = _counted(p, size)
    if isinstance(p.target, params.InputTarget):
        passes = one.backbone if p.decoder is None else _of_copies(p, p.decoder, size)
        return 3 * (one.encoder + passes + _input_head(p, p.copies * one.positions))
    head = sum(one.outputs(i, o) for i, o in _linear_layers(p.regression, p.backbone.dim))
    teacher = one.backbone + (0.0 if "features" in p.ema.shared else one.encoder)
    if p.decoder is not None:
        return 3 * (one.encoder + _of_copies(p, p.decoder, size)) + teacher
    return 3 * (one.encoder + one.backbone + head) + teacher


def finetuning(p: params.Pretrain, size: int, outputs: int, frozen: bool) -> float:
    """Operations of one example in an optimiser step of fine-tuning.

    `frozen` means that the local features are not trained. The head is counted as one linear layer
    with `outputs` outputs at every position.
    """
    one = _counted(p, size)
    head = one.outputs(p.backbone.dim, outputs)
    return (1 if frozen else 3) * one.encoder + 3 * (one.backbone + head)


def parameter_count(p: params.Pretrain, size: int) -> int:
    """Number of parameters of the student: encoder and backbone."""
    return _counted(p, size).parameters


def _linear_layers(regression: str, dim: int) -> list[tuple[int, int]]:
    """Input and output sizes of the regression head's layers (model.data2vec.regression_head)."""
    layers = {"none": [], "linear": [(dim, dim)], "mlp": [(dim, 2 * dim), (2 * dim, dim)]}
    return layers[regression]


class _SameShape(TorchFunctionMode):
    """Replaces norms, activations and dropout, which are not counted, by their input.

    PyTorch determines the shapes of their results in Python, which took most of the time.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if args and getattr(func, "__name__", "") in UNCOUNTED:
            return args[0]
        return func(*args, **(kwargs or {}))


UNCOUNTED = {"layer_norm", "group_norm", "instance_norm", "gelu", "dropout", "normal_"}


@torch.no_grad()
def _input_head(p: params.Pretrain, positions: int) -> float:
    """Operations of the head that predicts targets of the input, at every position."""
    assert isinstance(p.target, params.InputTarget)
    with without_values():
        encoder = encoders.build(p.encoder, p.backbone)
        head = encoder.input_head(encoder.input_targets(p.target).outputs)
    with _SameShape(), FlopCounterMode(display=False) as counter:
        encoder.predict_input(head, torch.empty(positions, p.backbone.dim, device="meta"))
    return counter.get_total_flops()


_known: dict[str, Forward] = {}  # cache: an experiment has few shapes and many runs


def _counted(p: params.Pretrain, size: int) -> Forward:
    backbone = _bare(p.backbone, p.backbone.depth)
    key = f"{p.encoder.kind} {p.encoder.model_dump(exclude={'dropout'})} {backbone} {size}"
    if key not in _known:
        # all blocks are alike, so every further block costs what the second one adds
        one, two = (_count(p.encoder, _bare(p.backbone, depth), size) for depth in (1, 2))
        more = p.backbone.depth - 1
        _known[key] = Forward(
            one.encoder,
            one.backbone + more * (two.backbone - one.backbone),
            one.positions,
            one.parameters + more * (two.parameters - one.parameters),
        )
    return _known[key]


def _of_copies(p: params.Pretrain, decoder: params.Decoder, size: int) -> float:
    """Operations of student and decoder for all copies of an example, without local features."""
    one, two = (_bare(p.backbone, depth) for depth in (1, 2))
    with without_values():
        students = [Student(p.encoder, backbone).eval().to("meta") for backbone in (one, two)]
        head = build_decoder(decoder, p.encoder, p.backbone)
    assert head is not None
    batch = students[0].encoder.example(size)
    with torch.no_grad():
        x, padding = students[0].encoder.local_features(batch)
        seen = _visible(p, x.shape[1]).to("meta")
        batch |= {"visible": seen}
        costs = [_cost(partial(student.see, x, padding, batch)) for student in students]
        features = torch.empty(*seen.shape, p.backbone.dim, device="meta")
        decoding = _cost(partial(head.eval(), features, seen, x.shape[1]))
    return costs[0] + (p.backbone.depth - 1) * (costs[1] - costs[0]) + decoding


def _visible(p: params.Pretrain, length: int) -> Tensor:
    """Visible positions (copies, V) of an example of `length` positions, drawn once."""
    keys = copied([(0, 0, 0)], p.copies)
    return torch.from_numpy(removed_masks(p.mask, [length] * p.copies, keys).visible)


def _cost(run: Callable[[], object]) -> float:
    with _SameShape(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _bare(backbone: params.Backbone, depth: int) -> params.Backbone:
    """A backbone of `depth` blocks without what adds no operations."""
    without = dict.fromkeys(OWN_DROPOUTS, 0.0)
    changes = {**without, "deep_norm": False, "depth": depth, "prenet_depth": 0}
    return backbone.model_copy(update=changes)


@torch.no_grad()
def _count(encoder: params.Encoder, backbone: params.Backbone, size: int) -> Forward:
    with without_values():
        student = Student(encoder, backbone).eval().to("meta")
    with _SameShape(), FlopCounterMode(display=False) as counter:
        x, padding = student.encoder.local_features(student.encoder.example(size))
        features = counter.get_total_flops()
        student.see(x, padding, {})
        total = counter.get_total_flops()
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Forward(features, total - features, x.shape[1], parameters)
