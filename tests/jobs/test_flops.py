"""Operations of data2vec 2.0: visible positions and decoder once per copy, the rest once."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import second_models
import tiny_models
import torch
from torch.utils.flop_counter import FlopCounterMode

from d2v import params
from d2v.jobs import flops

SIZES = {"vision": 1, "speech": 100, "text": 12}  # of the batches of tiny_models


def parameters(kind: str) -> params.Pretrain:
    first = {**tiny_models.COMMON, **tiny_models.SPECIAL[kind]}
    new = second_models.changes(kind, first["encoder"], tiny_models.BACKBONE)
    return params.Pretrain(**(first | new))


def counted(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny_models.KINDS)
@torch.no_grad()
def test_the_parts_of_a_step_are_those_that_run(kind: str) -> None:
    """Student and decoder with all copies of an example, and one pass of the teacher."""
    task, batch = second_models.make(kind)
    model = task.to("meta").eval().model
    assert model.decoder is not None
    one = {n: t[: len(t) // 2].to("meta") for n, t in batch.items() if n not in ("mask", "masked")}
    x, padding = model.student.encoder.local_features(one)
    # the number of hidden frames of speech is drawn
    one["visible"] = flops._visible(parameters(kind), x.shape[1]).to("meta")
    seen = model.student.see(x, padding, one)[0].x[:, model.student.encoder.prefix :]
    student = (
        lambda: model.student.encoder.local_features(one),
        lambda: model.student.see(x, padding, one),
        lambda: model.decoder(seen, one["visible"], x.shape[1]),
    )
    teacher = counted(lambda: model.teacher(x, padding, one))
    expected = 3 * sum(map(counted, student)) + teacher
    assert flops.pretraining(parameters(kind), SIZES[kind]) == expected


def test_images_have_the_operations_of_the_formula() -> None:
    p = parameters("vision")
    assert p.decoder is not None
    dim, depth, inner = p.backbone.dim, p.backbone.depth, p.backbone.ffn_dim
    patches, seen, copies = 9, 3, second_models.COPIES  # int(9 * (1 - .6)) patches are visible

    def block(tokens: int) -> int:
        return 2 * tokens * dim * (4 * dim + 2 * inner) + 4 * tokens**2 * dim

    embed = 2 * patches * 3 * 4**2 * dim
    d = p.decoder
    widths = [dim] + [d.dim] * d.layers
    convolutions = sum(
        2 * patches * before * after * d.kernel**2 // d.groups for before, after in pairwise(widths)
    )
    decoder = convolutions + 2 * patches * d.dim * dim
    student = embed + copies * (depth * block(1 + seen) + decoder)
    assert flops.pretraining(p, 1) == 3 * student + embed + depth * block(1 + patches)
