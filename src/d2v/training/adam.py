"""AdamW as in fairseq, where it differs from PyTorch's."""

import inspect
import math
from typing import Any

import torch


class Uncompiled(torch.optim.Optimizer):
    """PyTorch's methods without the wrappers that keep them out of compiled functions.

    No optimiser is compiled here, and these wrappers import PyTorch's compiler: two seconds at the
    start of every process.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(Uncompiled, torch.optim.AdamW):
    """PyTorch's AdamW, which does not import PyTorch's compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class FairseqAdamW(AdamW):
    """PyTorch's AdamW, but with the same number of updates for every parameter.

    A parameter without a gradient is updated with a gradient of zero: its moments and its count
    advance, and weight decay applies. fairseq's mixed precision does the same, because it keeps one
    flat copy of all parameters (fp16_optimizer.py). The difference shows in skipped blocks and
    while only the head is trained.

    `eps_before_correction`: epsilon is added to the square root of the second moment v before its
    bias correction (fairseq adam.py). Apart from weight decay, the update is then

        rate * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps).

    PyTorch adds epsilon after the correction. With eps / sqrt(1 - beta2^t) its update is the same.
    """

    def __init__(self, params: Any, *, eps_before_correction: bool, **options: Any) -> None:
        super().__init__(params, **options)
        self.eps_before_correction = eps_before_correction

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        if not self.eps_before_correction:
            return super().step(closure)
        given = [group["eps"] for group in self.param_groups]
        correction = self._correction()
        try:
            for group, eps in zip(self.param_groups, given, strict=True):
                group["eps"] = eps / correction
            return super().step(closure)
        finally:
            for group, eps in zip(self.param_groups, given, strict=True):
                group["eps"] = eps

    @property
    def settled(self) -> bool:
        """Whether the update no longer needs a number of the device on the host."""
        return self._settled or not self.eps_before_correction

    def _correction(self) -> float:
        """sqrt(1 - beta2^t) of the next update.

        The count of past updates is read from the device, where it excludes skipped updates. The
        host waits for it only until beta2^t has no more effect: for 1,819 updates with beta2 = .98.
        """
        if self._settled:
            return 1.0
        count = next((int(state["step"]) for state in self.state.values()), 0)
        left = 1.0 - float(self.defaults["betas"][1]) ** (count + 1)
        self._settled = left == 1.0
        return math.sqrt(left)

    _settled = False
