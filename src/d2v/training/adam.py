"""AdamW as fairseq computes it, where that differs from PyTorch's."""

import math
from typing import Any

import torch


class FairseqAdamW(torch.optim.AdamW):
    """PyTorch's AdamW, all of whose parameters have made the same number of updates.

    A parameter without a gradient is updated with zeros, so its moments and its count go on, and
    weight decay does. That is what fairseq's mixed precision does with its one flat copy of all
    parameters (fp16_optimizer.py), in blocks that are skipped and while only the head is trained.

    `eps_before_correction`: epsilon is added to the root of the second moment v before its bias
    correction (fairseq adam.py), so that the update is, but for weight decay,

        rate * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps).

    PyTorch adds it afterwards. Its update with eps / sqrt(1 - beta2^t) is the same.
    """

    def __init__(self, params: Any, *, eps_before_correction: bool, **options: Any) -> None:
        super().__init__(params, **options)
        self.eps_before_correction = eps_before_correction

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter."""
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

    def _correction(self) -> float:
        """sqrt(1 - beta2^t) of the update to come.

        How many there were is read from the device, which leaves out the updates that it skipped,
        and is waited for only until beta2^t has no effect: 1,819 updates with .98.
        """
        if self._settled:
            return 1.0
        count = next((int(state["step"]) for state in self.state.values()), 0)
        left = 1.0 - float(self.defaults["betas"][1]) ** (count + 1)
        self._settled = left == 1.0
        return math.sqrt(left)

    _settled = False
