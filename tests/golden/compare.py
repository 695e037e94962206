"""Compare what the project computed with a case's trace, at the tolerances of the golden README.

- predictions and targets: 4e-5 (vision: 8e-6), absolute;
- everything inside the networks: 4e-5 (vision: 2e-5), absolute. The reference itself differs by up
  to 1.5e-5 (vision: 1.0e-5) there between two back ends: values reach 10, where float32 has steps
  of 1e-6, while vision's targets and final outputs are normalised;
- loss: 3e-6, relative; gradient norms: 1e-5, relative (of one parameter: 1e-4 + 1e-6);
- parameters: 2e-5, absolute; 2e-4 for key biases (their true gradient is zero) and, for the same
  reason, for the few elements whose gradient was in some step of the size of Adam's eps: there even
  a float64 run is 2.2e-5 away from the trace;
- integers, masks and EMA decays: equal (decays to 1e-12).
"""

from replay import INPUTS, Case
from torch import Tensor

PARAMETERS, KEY_BIASES = 2e-5, 2e-4
LOSS, NORM = 3e-6, 1e-5

INSIDE = ("student input", "teacher input", "teacher blocks", "features")

GROUPS = {
    "student input": ("step0.student_encoder_input", "step0.conv_out"),
    "teacher input": (
        "step0.teacher_input",
        "step0.teacher_layers.input",
        "step0.teacher_rel_pos_bias",
        ".frame_padding_mask",
    ),
    "teacher blocks": (".ffn_out", ".block_end"),
    "student output": ("step0.student_encoder_output",),
    "targets": (".target", ".target_all_positions", ".target_var"),
    "predictions": (".prediction", ".pred_var"),
    "loss": (".loss", ".loss_sum_scaled", ".loss_sum", ".sample_size"),
    "gradients": (".grad_norm",),
    "decay": (".ema_decay_applied_after_step",),
    "after each step": (".after.",),
    "after all steps": ("final.",),
    "features": ("features.",),
    "released teacher input": ("quirk_step0.",),
}


def group_of(name: str) -> str:
    """The group a quantity belongs to; the most special ones first."""
    for group in ("released teacher input", "features", "after each step", "after all steps"):
        if name.startswith(GROUPS[group]) or (group == "after each step" and ".after." in name):
            return group
    if ".grad_norm" in name:
        return "gradients"
    for group, patterns in GROUPS.items():
        if name.endswith(patterns):
            return group
    raise AssertionError(f"{name}: belongs to no group")


def groups(case: Case) -> list[str]:
    """The groups that a case holds anything of."""
    held = {group_of(name) for name in expected(case)}
    return [group for group in GROUPS if group in held]


def expected(case: Case) -> dict[str, Tensor | float]:
    """Everything the case says, except its inputs and what has no effect in the reference."""
    found: dict[str, Tensor | float] = {
        name: tensor
        for name, tensor in case.tensors.items()
        if name.startswith("quirk") or name.split(".", 1)[1] not in INPUTS
    }
    found |= {f"final.{name}": t for name, t in case.final.items() if not case.ignored(name)}
    for step in case.trace["steps"]:
        prefix = f"step{step['step']}"
        for key in ("loss_sum_scaled", "sample_size", "target_var", "pred_var", "grad_norm"):
            if key in step:
                found[f"{prefix}.{key}"] = step[key]
        key = "ema_decay_applied_after_step"
        found[f"{prefix}.{key}"] = step[key]
        for name, norm in (step.get("grad_norm_per_param") or {}).items():
            if norm is not None and not case.ignored(f"student.{name}"):
                found[f"{prefix}.grad_norm.{name}"] = norm
    return found


def faults(case: Case, record: dict, group: str | None = None) -> list[str]:
    """What differs by more than its tolerance, one line each."""
    lines = []
    for name, reference in expected(case).items():
        if group is not None and group_of(name) != group:
            continue
        line = _fault(case, record, name, reference)
        if line:
            lines.append(f"{case.folder.name} {name}: {line}")
    return lines


def _fault(case: Case, record: dict, name: str, reference: Tensor | float) -> str | None:
    if name not in record:
        return "is not computed"
    value = record[name]
    if not isinstance(reference, Tensor):
        limit = _limit_of_number(name, reference)
        away = abs(value - reference)
        return f"{value} instead of {reference}" if not away <= limit else None
    if value.shape != reference.shape:
        return f"shape {tuple(value.shape)} instead of {tuple(reference.shape)}"
    away = (value.double() - reference.double()).abs()
    limits = _limit_of_tensor(case, record, name, reference)
    if bool((away <= limits).all()):
        return None
    return f"largest difference {away.max().item():.1e}"


def _limit_of_number(name: str, reference: float) -> float:
    kind = name.split(".")[1]
    if kind == "grad_norm":
        one = name.count(".") > 1
        return 1e-4 * reference + 1e-6 if one else NORM * reference
    if kind == "loss_sum_scaled":
        return LOSS * abs(reference)
    if kind == "sample_size":
        return 0.0
    if kind.startswith("ema_decay"):
        return 1e-12
    return 1e-5  # standard deviations


def _limit_of_tensor(case: Case, record: dict, name: str, reference: Tensor) -> Tensor | float:
    if not reference.is_floating_point():
        return 0.0
    if name.endswith((".loss", ".loss_sum")):
        return LOSS * reference.abs()
    if name.startswith("final.") or ".after." in name:
        if name.endswith(("k_proj.bias", "key.bias")):
            return KEY_BIASES
        noise = record.get(f"noise.{name.split('.', 1)[1].removeprefix('after.')}")
        if noise is None:
            return PARAMETERS
        return noise.double() * (KEY_BIASES - PARAMETERS) + PARAMETERS
    if case.kind != "vision":
        return 4e-5
    return 2e-5 if group_of(name) in INSIDE else 8e-6
