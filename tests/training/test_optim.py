"""Groups, clipping and the learning rate at every point that matters."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import OPTIMISER, Tiny
from torch import nn

from d2v import params
from d2v.model.data2vec import Student
from d2v.model.heads import build as build_head
from d2v.training import optim
from d2v.training.task import Finetuning, Named, Pretraining, Task

PAPER = Path(__file__).parents[2] / "params/paper.yaml"

# The reference's rate before update n + 1 (fairseq schedulers, traced). Left out are its values
# after the last update of a cosine, where it begins a second period with a tenth of the rate.
TRI_STAGE = {
    0: 5e-06,
    1: 5.04125e-06,
    2: 5.0825e-06,
    100: 9.125000000000002e-06,
    6000: 0.0002525,
    11999: 0.00049995875,
    12000: 0.0005,
    12001: 0.0005,
    100000: 0.0005,
    371999: 0.0005,
    372000: 0.0005,
    372001: 0.0004999177715803618,
    386000: 5.000000000000001e-05,
    399999: 5.000822419448891e-06,
    400000: 5.000000000000002e-06,
    400001: 5e-06,
}
TEXT_COSINE = {
    0: 0.0,
    1: 2e-08,
    100: 2e-06,
    9999: 0.00019998,
    10000: 0.0002,
    10001: 0.0001999999999994965,
    255000: 0.00017126941713788632,
    505000: 0.0001,
    999999: 5.034972438977547e-16,
}
VISION_COSINE = {
    0: 0.0,
    1: 3.996802557953637e-08,
    100: 3.996802557953637e-06,
    12509: 0.0004999600319744204,
    12510: 0.0005,
    12511: 0.0004999999999906265,
    100000: 0.0004316179325675711,
    200000: 0.00023681115913059785,
    375299: 9.373446463456503e-15,
}
CASES = [
    (params.TriStage(kind="tri_stage", phases=[0.03, 0.9, 0.07]), 5e-4, 400_000, TRI_STAGE),
    (params.Cosine(kind="cosine", warmup=0.01), 2e-4, 1_000_000, TEXT_COSINE),
    (params.Cosine(kind="cosine", warmup=12510 / 375300), 5e-4, 375_300, VISION_COSINE),
]


@pytest.mark.parametrize(("schedule", "peak", "steps", "expected"), CASES)
def test_rates_are_those_of_the_reference(
    schedule: params.Schedule, peak: float, steps: int, expected: dict[int, float]
) -> None:
    rate = optim.schedule(schedule, peak, steps)
    assert {n: rate(n) for n in expected} == pytest.approx(expected, rel=1e-12, abs=1e-19)


def test_cosine_ends_at_its_end_scale_and_stays_there() -> None:
    rate = optim.schedule(params.Cosine(kind="cosine", warmup=0.1, end_scale=0.05), 2.0, 100)
    assert rate(10) == 2.0
    assert rate(55) == pytest.approx((2.0 + 0.1) / 2)
    assert [rate(100), rate(101), rate(150)] == pytest.approx([0.1, 0.1, 0.1])


def beit_cosine(peak: float, end: float, steps: int, warmup: int) -> np.ndarray:
    """BEiT's cosine_scheduler (utils.py), written out: linspace has both of its ends."""
    falling = np.arange(steps - warmup)
    cosine = end + 0.5 * (peak - end) * (1 + np.cos(math.pi * falling / len(falling)))
    return np.concatenate([np.linspace(0, peak, warmup), cosine])


@pytest.mark.parametrize("warmup", [0, 1, 10, 200])
def test_the_warm_up_of_beit_ends_at_the_peak(warmup: int) -> None:
    p = params.Cosine(kind="cosine", warmup=warmup / 800, end_scale=0.005, warmup_reaches_peak=True)
    rate = optim.schedule(p, 2e-3, 800)
    found = [rate(n) for n in range(800)]
    assert found == pytest.approx(beit_cosine(2e-3, 1e-5, 800, warmup), rel=1e-12, abs=1e-19)
    fairseqs = optim.schedule(p.model_copy(update={"warmup_reaches_peak": False}), 2e-3, 800)
    if warmup > 1:
        assert found[warmup - 1] == 2e-3 > fairseqs(warmup - 1)


def test_linear_decay_of_the_paper() -> None:
    schedule = params.TriStage(kind="tri_stage", phases=[0.1, 0.4, 0.5], decay="linear")
    rate = optim.schedule(schedule, 1.0, 100)
    assert [rate(n) for n in (10, 50, 75, 100)] == pytest.approx([1.0, 1.0, 0.505, 0.01])


def test_polynomial_falls_to_zero() -> None:
    rate = optim.schedule(params.Polynomial(kind="polynomial", warmup=0.06), 1e-5, 1000)
    assert [rate(n) for n in (0, 30, 60, 530, 1000, 1001)] == pytest.approx(
        [0.0, 5e-6, 1e-5, 5e-6, 0.0, 0.0], abs=1e-18
    )
    square = optim.schedule(params.Polynomial(kind="polynomial", warmup=0.0, power=2.0), 1.0, 10)
    assert [square(0), square(5)] == [1.0, 0.25]


@pytest.mark.parametrize(
    "schedule",
    [
        params.TriStage(kind="tri_stage", phases=[0.0, 1.0, 0.0]),
        params.Cosine(kind="cosine", warmup=1.0),
        params.Polynomial(kind="polynomial", warmup=1.0),
    ],
)
def test_phases_may_be_empty(schedule: params.Schedule) -> None:
    rate = optim.schedule(schedule, 1.0, 1)
    assert all(math.isfinite(rate(n)) for n in range(3))


class Mixed(Task):
    """One parameter of every kind that decay treats on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 4)
        self.tokens = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.cls = nn.Parameter(torch.zeros(1, 1, 4))
        self.mask_embedding = nn.Parameter(torch.zeros(1, 1, 4))
        self.positions = nn.Parameter(torch.zeros(1, 3, 4))
        self.table = nn.Parameter(torch.zeros(9, 2))

    def named_groups(self) -> list[Named]:
        return [Named(name, parameter, 0) for name, parameter in self.named_parameters()]


def decayed(decay: str) -> set[str]:
    found = optim.groups(Mixed(), OPTIMISER.model_copy(update={"decay": decay}))
    assert {group["weight_decay"] for group in found} <= {0.0, 0.01}
    return {name for group in found if group["weight_decay"] for name in group["names"]}


def test_decay_of_all_of_matrices_only_or_as_in_beit() -> None:
    assert decayed("all") == {name for name, _ in Mixed().named_parameters()}
    assert decayed("matrices") == {"dense.weight", "table"}
    assert decayed("beit") == {"dense.weight", "tokens.weight", "mask_embedding", "table"}


def test_layer_decay_by_depth_and_groups_without_it() -> None:
    task = Tiny()
    plain = optim.build(task, OPTIMISER)
    assert [group["scale"] for group in plain.param_groups] == [1.0]
    p = OPTIMISER.model_copy(update={"layer_decay": 0.5})
    optimiser = optim.build(task, p)
    scales = {name: g["scale"] for g in optimiser.param_groups for name in g["names"]}
    assert scales["head.weight"] == 1.0
    assert [scales[f"blocks.{i}.bias"] for i in range(3)] == [0.125, 0.25, 0.5]
    optim.set_rate(optimiser, 0.2)
    assert {g["lr"] for g in optimiser.param_groups} == {0.2, 0.1, 0.05, 0.025}


@pytest.mark.parametrize("clip", [None, 0.1, 1e6])
def test_scaling_and_clipping_equal_doing_one_after_the_other(clip: float | None) -> None:
    torch.manual_seed(0)
    ours = [
        nn.Parameter(torch.randn(5, 3)),
        nn.Parameter(torch.randn(7)),
        nn.Parameter(torch.ones(2)),
    ]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    for mine, other in zip(ours[:2], theirs[:2], strict=True):  # the third has no gradient
        mine.grad = torch.randn_like(mine)
        other.grad = mine.grad / 37
    norm = optim.scale_and_clip(ours, torch.tensor(1 / 37), clip)
    expected = nn.utils.clip_grad_norm_(theirs, clip or float("inf"))
    torch.testing.assert_close(norm, expected)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    assert ours[2].grad is None


def test_the_optimiser_is_adamw() -> None:
    task = Tiny()
    optimiser = optim.build(task, OPTIMISER)
    defaults = optimiser.defaults
    assert (defaults["betas"], defaults["eps"]) == ((0.9, 0.98), 1e-6)
    reference = torch.optim.AdamW(
        [nn.Parameter(p.detach().clone()) for p in task.parameters()],
        lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, foreach=False,
    )  # fmt: skip
    for _ in range(3):
        mine = [p for g in optimiser.param_groups for p in g["params"]]
        for p, q in zip(mine, reference.param_groups[0]["params"], strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimiser.step()
        reference.step()
    for p, q in zip(mine, reference.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p, q)


def beit_layer(name: str, depth: int) -> int:
    """Which layer of depth + 2 BEiT gives a parameter (optim_factory.py), under our names."""
    if name.startswith("student.encoder."):  # cls_token, mask_token, patch_embed
        return 0
    if name.startswith("student.backbone.blocks."):
        return int(name.split(".")[3]) + 1
    return depth + 1  # rel_pos_bias, which all blocks share; norm, fc_norm, head


def test_layer_decay_is_beits() -> None:
    """layer_decay ** (depth + 1 - layer), no decay of 1-D tensors; groups always (fairseq#4333)."""
    depth = 3
    backbone = params.Backbone(
        dim=8, depth=depth, heads=2, ffn_dim=16, norm_first=True, layer_scale=1e-4, key_bias=False,
        position_bias=params.PositionBias(kind="shared_2d", window=[2, 2]),
    )  # fmt: skip
    encoder = params.PatchEncoder(kind="vision", image_size=8, patch_size=4)
    task = params.Classify(kind="classify", classes=2, pool="mean", norm=True)
    p = params.Finetune.model_construct(task=task, freeze_steps=0)
    tuning = Finetuning(p, Student(encoder, backbone), 8, 2)
    for weight_decay in (0.05, 0.0):
        recipe = OPTIMISER.model_copy(
            update={"layer_decay": 0.65, "decay": "beit", "weight_decay": weight_decay}
        )
        found = {n: g for g in optim.groups(tuning, recipe) for n in g["names"]}
        assert found.keys() == {name for name, _ in tuning.named_parameters()}
        for name, parameter in tuning.named_parameters():
            scale = 0.65 ** (depth + 1 - beit_layer(name, depth))
            assert found[name]["scale"] == pytest.approx(scale), name
            exempt = parameter.ndim == 1 or name.endswith("encoder.cls")
            assert found[name]["weight_decay"] == (0.0 if exempt else weight_decay), name


@pytest.mark.slow
def test_the_mask_embedding_of_the_vision_recipe_is_decayed() -> None:
    p = params.load(PAPER).pretrain["vision-base"]
    p = p.model_copy(update={"backbone": p.backbone.model_copy(update={"depth": 6})})
    groups = optim.groups(Pretraining(p), p.optimiser)
    decays = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert decays["model.student.encoder.mask_embedding"] == 0.05
    assert decays["model.student.encoder.cls"] == 0.0
    assert decays["model.student.backbone.position_bias.table"] == 0.05


def test_the_output_layers_initial_values_are_scaled() -> None:
    """BEiT: head.weight and head.bias times .001, nothing else."""
    heads = []
    for scale in (1.0, 0.001):
        torch.manual_seed(0)
        task = params.Classify(kind="classify", classes=5, pool="mean", norm=True, init_scale=scale)
        heads.append(build_head(task, 8, 5))
    plain, scaled = (dict(head.named_parameters()) for head in heads)
    for name, parameter in plain.items():
        expected = 0.001 * parameter if name.startswith("out.") else parameter
        assert torch.allclose(scaled[name], expected), name


def test_the_head_for_letters_starts_as_fairseqs() -> None:
    """Xavier's uniform values and no bias (wav2vec2_asr.py, Linear); else PyTorch's."""
    task = params.CTC(kind="ctc", xavier=True)
    torch.manual_seed(0)
    weight, bias = build_head(task, 96, 32).parameters()
    limit = math.sqrt(6 / (96 + 32))
    assert 0.95 * limit < weight.abs().max() <= limit
    assert not bias.any()
    weight, bias = build_head(params.CTC(kind="ctc"), 96, 32).parameters()
    assert weight.abs().max() <= math.sqrt(1 / 96) < 0.95 * limit
    assert bias.all()
