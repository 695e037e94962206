"""Compare what the project computed with a trace of data2vec 2.0, at the tolerances of its README.

- predictions, targets and everything inside the networks: 4e-5, absolute;
- losses: 3e-6, relative; gradient norms: 1e-5, relative;
- parameters: 2e-5, absolute; 2e-4 for key biases (their true gradient is zero) and for the few
  elements whose steps are round-off (see `compare`);
- counts and EMA decays: equal (decays to 1e-12).
"""

import torch
from compare import KEY_BIASES, LOSS, NORM, PARAMETERS
from second_replay import INPUTS, Case
from torch import Tensor

GROUPS = {
    "local features": (".local_features",),
    "teacher blocks": (".input", ".ffn_out", ".block_end"),
    "student blocks": (".student_in", ".student_out"),
    "decoder": (".decoder_in", ".decoder_out"),
    "targets": (".target", ".target_var"),
    "predictions": (".prediction", ".pred_var"),
    "class loss": (".cls_prediction", ".cls_target", ".losses_summed.cls"),
    "loss": (".loss", "_regression", ".sample_size"),
    "gradients": (".grad_norm",),
    "decay": (".ema_decay_applied_after_step",),
    "after each step": (),
    "after all steps": (),
    "features": ("features.x",),
}
NUMBERS = ("sample_size", "loss", "grad_norm", "target_var", "pred_var",
           "ema_decay_applied_after_step")  # fmt: skip


def group_of(name: str) -> str:
    """The group a quantity belongs to."""
    if ".after." in name:
        return "after each step"
    if name.startswith("final."):
        return "after all steps"
    return next(group for group, ends in GROUPS.items() if ends and name.endswith(ends))


def expected(case: Case) -> dict[str, Tensor | float]:
    """Everything the case says, except its inputs and constants of the reference."""
    found: dict[str, Tensor | float] = {
        name: tensor for name, tensor in case.tensors.items() if name.split(".", 1)[1] not in INPUTS
    }
    found |= {f"final.{n}": t for n, t in case.final.items() if not n.endswith(".positions")}
    for step in case.trace["steps"]:
        prefix = f"step{step['step']}"
        found |= {f"{prefix}.{key}": step[key] for key in NUMBERS}
        for part, loss in step["losses_summed"].items():
            found[f"{prefix}.losses_summed.{part}"] = loss
    return found


def groups(case: Case) -> list[str]:
    """The groups that a case holds anything of."""
    held = {group_of(name) for name in expected(case)}
    return [group for group in GROUPS if group in held]


def faults(case: Case, record: dict, group: str | None = None) -> list[str]:
    """What differs by more than its tolerance, one line each."""
    lines = []
    for name, reference in expected(case).items():
        if group is None or group_of(name) == group:
            if name.endswith((".student_in", ".student_out")):
                reference = _ordered(case, record, reference)
            found = _fault(record, name, reference)
            lines += [f"{case.folder.name} {name}: {found}"] if found else []
    return lines


def _ordered(case: Case, record: dict, reference: Tensor) -> Tensor:
    """Rows of the reference's visible positions in our order; unchanged if they do not match.

    The reference sorts a mask with an unstable algorithm, so its visible positions are in any
    order, which attention does not see. What leaves the blocks shows the order.
    """
    theirs, ours = case.tensors["step0.student_out"], record["step0.student_out"]
    order = torch.cdist(ours.double(), theirs.double()).argmin(2)
    if not torch.equal(order.sort(1).values, torch.arange(order.shape[1]).expand_as(order)):
        return reference
    return reference.gather(1, order.unsqueeze(2).expand_as(reference))


def _fault(record: dict, name: str, reference: Tensor | float) -> str | None:
    if name not in record:
        return "is not computed"
    value = record[name]
    if not isinstance(reference, Tensor):
        right = abs(value - reference) <= _limit_of_number(name, reference)
        return None if right else f"{value} instead of {reference}"
    if value.shape != reference.shape:
        return f"shape {tuple(value.shape)} instead of {tuple(reference.shape)}"
    away = (value.double() - reference.double()).abs()
    if bool((away <= _limit(record, name, reference)).all()):
        return None
    return f"largest difference {away.max().item():.1e}"


def _limit_of_number(name: str, reference: float) -> float:
    group = group_of(name)
    if name.endswith("sample_size"):
        return 0.0
    if group == "decay":
        return 1e-12
    if group in ("loss", "class loss"):
        return LOSS * abs(reference)
    return NORM * reference if group == "gradients" else 1e-5  # standard deviations


def _limit(record: dict, name: str, reference: Tensor) -> Tensor | float:
    if group_of(name) not in ("after each step", "after all steps"):
        return 4e-5
    limits = torch.full(reference.shape, PARAMETERS, dtype=torch.float64)
    if name.endswith("attn.qkv.bias"):
        limits.chunk(3)[1].fill_(KEY_BIASES)
    noise = record.get(f"noise.{name.split('.', 1)[1].removeprefix('after.')}")
    return limits if noise is None else limits.masked_fill(noise, KEY_BIASES)
