"""fairseq's Adam: its formula over 200 steps of a fresh model, frozen steps, shares, resuming."""

import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import OPTIMISER, Tiny, curve, equal, train, weights
from torch import Tensor, nn

from d2v import params
from d2v.params import Optimiser
from d2v.training import optim
from d2v.training.adam import AdamW
from d2v.training.identity import identity
from d2v.training.task import Pretraining, Task

ROOT = Path(__file__).resolve().parents[2]
FAIRSEQ = {"missing_gradients": "zero", "eps_before_correction": True}
TORCHS = {"eps_before_correction": False}
LIKE_FAIRSEQ = OPTIMISER.model_copy(update=FAIRSEQ)


class Plain:
    """fairseq's adam.py on one flat copy of all parameters, written out."""

    def __init__(self, parameters: Iterable[nn.Parameter], p: Optimiser) -> None:
        self.parameters, self.p, self.count = list(parameters), p, 0
        self.m = torch.cat([x.detach().flatten() for x in self.parameters]).zero_()
        self.v = self.m.clone()

    def step(self, rate: float) -> None:
        p, (b1, b2) = self.p, self.p.betas
        gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in self.parameters]
        gradient = torch.cat([g.flatten() for g in gradients])
        self.count += 1
        self.m = b1 * self.m + (1 - b1) * gradient
        self.v = b2 * self.v + (1 - b2) * gradient**2
        size = rate * math.sqrt(1 - b2**self.count) / (1 - b1**self.count)
        moved = size * self.m / (self.v.sqrt() + p.eps)
        for x, d in zip(
            self.parameters, moved.split([x.numel() for x in self.parameters]), strict=True
        ):
            x.data = x.data * (1 - rate * p.weight_decay) - d.view_as(x)
            x.grad = None


def recipe() -> params.Pretrain:
    """Speech Base with few and small layers that are often skipped."""
    whole = params.load(ROOT / "params/paper.yaml").pretrain["speech-base"].model_dump()
    whole["encoder"]["conv_layers"] = [[16, 10, 5], [16, 3, 2], [16, 2, 2]]
    whole["encoder"]["position_kernel"] = 15
    whole["backbone"] |= {"dim": 32, "depth": 3, "heads": 2, "ffn_dim": 64, "layer_drop": 0.2}
    whole["target"]["top_k"] = 2
    return params.Pretrain.model_validate(whole)


def trained(steps: int, update: Callable[[Task, float, Tensor], None], p: params.Pretrain) -> Task:
    """A model of the recipe, in double precision, after steps of random waves; `update` moves it.

    The same starting values, waves, masks and dropout whatever the update is.
    """
    torch.manual_seed(0)
    task = Pretraining(p).double().train()
    rate = optim.schedule(p.schedule, p.optimiser.lr, steps)
    for step in range(steps):
        torch.manual_seed(1 + step)
        waves = torch.randn(2, 1200, dtype=torch.float64)
        frames = task.model.student.encoder.local_features({"waves": waves})[0].shape[1]
        out = task({"waves": waves, "mask": torch.rand(2, frames) < 0.5})
        (out["loss"] / out["count"]).backward()
        update(task, rate(step), out["loss"].detach())
        task.after_step(step + 1)
    return task


def by_formula(p: params.Pretrain) -> Callable[[Task, float, Tensor], None]:
    made: list[Plain] = []

    def update(task: Task, rate: float, loss: Tensor) -> None:
        if not made:
            made.append(Plain([g.parameter for g in task.named_groups()], p.optimiser))
        made[0].step(rate)

    return update


def by_optimiser(p: params.Pretrain) -> Callable[[Task, float, Tensor], None]:
    made: list[torch.optim.Optimizer] = []

    def update(task: Task, rate: float, loss: Tensor) -> None:
        if not made:
            made.append(optim.build(task, p.optimiser))
        optim.set_rate(made[0], rate)
        optim.update(made[0], torch.ones(()), loss)

    return update


def furthest(a: Task, b: Task, part: str = "") -> float:
    theirs = b.state_dict()
    return max((x - theirs[k]).abs().max().item() for k, x in a.state_dict().items() if part in k)


def with_optimiser(p: params.Pretrain, **changes: Any) -> params.Pretrain:
    return p.model_copy(update={"optimiser": p.optimiser.model_copy(update=changes)})


@pytest.mark.slow
def test_a_fresh_speech_model_learns_as_with_fairseqs_formula() -> None:
    p = recipe()
    assert p.optimiser.eps_before_correction
    expected = trained(200, by_formula(p), p)
    assert furthest(trained(200, by_optimiser(p), p), expected) < 1e-7
    fresh = trained(0, by_formula(p), p)
    assert furthest(fresh, expected, "qkv") > 1e-3


@pytest.mark.parametrize(
    "change",
    [{"eps_before_correction": False}, {**TORCHS, "missing_gradients": "skip"}],
    ids=["epsilon", "both"],
)
def test_pytorchs_own_update_is_another(change: dict[str, Any]) -> None:
    p = recipe()
    ours = trained(5, by_optimiser(with_optimiser(p, **change)), p)
    assert furthest(ours, trained(5, by_formula(p), p)) > 1e-4


def moves(optimiser: torch.optim.Optimizer, x: nn.Parameter, gradient: float | None) -> float:
    """How far a step with that gradient moves a number, in units of the rate."""
    before = x.detach().clone()
    x.grad = None if gradient is None else torch.full_like(x, gradient)
    optimiser.step()
    return float((before - x.detach()).abs() / optimiser.param_groups[0]["lr"])


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["zero", "skip"])
def test_the_counter_of_frozen_parameters_runs_on(missing: str) -> None:
    """A constant gradient after 2,000 steps without one: 0.71, 0.95 ... of the rate, or 1."""
    task = Tiny()
    changes = {**TORCHS, "missing_gradients": missing, "weight_decay": 0.0}
    p = OPTIMISER.model_copy(update=changes)
    optimiser, x = optim.build(task, p), task.head.bias
    task.head.weight.grad = torch.ones_like(task.head.weight)
    assert {moves(optimiser, x, None) for _ in range(2000)} == {0.0}
    found = [moves(optimiser, x, 1.0) for _ in range(100)]
    for n in (1, 2, 5, 10, 20, 50, 100):
        m, v = 1 - 0.9**n, 1 - 0.98**n
        expected = m / v**0.5 if missing == "zero" else 1.0
        assert found[n - 1] == pytest.approx(expected, abs=2e-3), n
    if missing == "zero":
        shown = [round(found[n - 1], 2) for n in (1, 10, 20, 100)]
        assert shown == [0.71, 1.52, 1.52, 1.07]


def test_a_skipped_update_does_not_count() -> None:
    """The correction follows the updates that were made, as found on the device."""
    torch.manual_seed(0)
    tasks = [Tiny().double(), Tiny().double()]
    ours = optim.build(tasks[0], LIKE_FAIRSEQ)
    plain = Plain(tasks[1].parameters(), LIKE_FAIRSEQ)
    for step in range(4):
        for x, y in zip(tasks[0].parameters(), tasks[1].parameters(), strict=True):
            x.grad = 1e-6 * torch.randn_like(x)
            y.grad = x.grad.clone()
        lost = torch.tensor(math.nan if step == 1 else 1.0)
        optim.update(ours, torch.ones(()), lost)
        if step != 1:
            plain.step(LIKE_FAIRSEQ.lr)
    assert furthest(*tasks) < 1e-9
    assert [group["eps"] for group in ours.param_groups] == [LIKE_FAIRSEQ.eps]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With blocks skipped, so that gradients are missing."""
    options: dict[str, Any] = {"optimiser": LIKE_FAIRSEQ}
    train(tmp_path / "whole", Tiny(skip=0.4), **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "step-24")
    train(tmp_path / "again", Tiny(skip=0.4), **options)
    assert "resuming after step 20 of 24" in capsys.readouterr().out
    assert curve(tmp_path / "again") == curve(tmp_path / "whole")
    assert equal(weights(tmp_path / "again"), weights(tmp_path / "whole"))
    train(tmp_path / "other", Tiny(skip=0.4))
    assert not equal(weights(tmp_path / "other"), weights(tmp_path / "whole"))


def test_without_the_options_it_is_pytorchs_and_old_runs_go_on() -> None:
    assert type(optim.build(Tiny(), OPTIMISER)) is AdamW
    now = OPTIMISER.model_dump(mode="json")
    before = {k: v for k, v in now.items() if k not in FAIRSEQ}
    assert identity({"Optimiser": now}) == identity({"Optimiser": before})
    for key, value in FAIRSEQ.items():
        assert identity({"Optimiser": {**now, key: value}}) != identity({"Optimiser": before})


def test_epsilon_before_the_correction_needs_equal_counts() -> None:
    with pytest.raises(ValueError, match="needs missing_gradients: zero"):
        Optimiser.model_validate({**OPTIMISER.model_dump(), "eps_before_correction": True})


def test_updates_and_states_are_pytorchs() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(5), torch.randn(4, 5)
    found = {}
    for kind in (AdamW, torch.optim.AdamW):
        weight = torch.nn.Parameter(start.clone())
        optimiser = kind([{"params": [weight]}], lr=0.1, weight_decay=0.1, fused=True)
        for i, gradient in enumerate(gradients):
            weight.grad = gradient.clone()
            optimiser.step()
            optimiser.zero_grad()
            assert weight.grad is None
            if i == 1:
                optimiser.load_state_dict(optimiser.state_dict())
        found[kind] = (weight.detach(), optimiser.state_dict()["state"][0]["exp_avg"])
    for a, b in zip(*found.values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_a_run_does_not_import_the_compiler(tmp_path: Path) -> None:
    code = "import pathlib, sys, tiny; tiny.train(pathlib.Path(sys.argv[1]));"
    code += " sys.exit('torch._dynamo' in sys.modules)"
    helpers = Path(__file__).parents[1] / "helpers"
    subprocess.run([sys.executable, "-c", code, tmp_path / "run"], cwd=helpers, check=True)
