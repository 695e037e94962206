"""Run the project's model through a case and collect what the trace holds, under its names."""

import json
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import golden_config
import torch
from safetensors.torch import load_file
from torch import Tensor

from d2v.interop import names
from d2v.model.encoders.text import PAD, position_ids
from d2v.model.running_stats import channel_std
from d2v.model.transformer import Kept
from d2v.training import optim
from d2v.training.task import Pretraining

CASES = Path(__file__).parent / "cases"  # those the repository keeps
INPUTS = ("wav", "wav_padding_mask", "img", "src_tokens", "target_tokens", "mask")


class Case:
    """One folder of the golden data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trace = json.loads((folder / "trace.json").read_text())
        self.family = golden_config.family_of(self.trace)
        self.params = golden_config.pretrain(self.trace)
        self.kind = self.params.encoder.kind

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / "trace.safetensors")

    @cached_property
    def initial(self) -> dict[str, Tensor]:
        return load_file(self.folder / "params_initial.safetensors")

    @cached_property
    def final(self) -> dict[str, Tensor]:
        return load_file(self.folder / "params_final.safetensors")

    def ignored(self, name: str) -> bool:
        """Whether a tensor of the reference has no effect on its result."""
        return name.startswith(names.unused(self.family))

    def batch(self, step: int, masked: bool = True) -> dict[str, Tensor]:
        """The inputs of a step, with its mask, in the project's form."""
        part = {key: self.tensors.get(f"step{step}.{key}") for key in INPUTS}
        batch = {"mask": part["mask"].flatten(1)}
        if self.kind == "vision":
            batch["images"] = part["img"].float()
        elif self.kind == "text":
            batch |= {"tokens": part["target_tokens"], "masked_tokens": part["src_tokens"]}
        else:
            batch["waves"] = part["wav"]
            if part["wav_padding_mask"] is not None:
                batch["samples"] = (~part["wav_padding_mask"]).sum(1)
        if not masked:
            del batch["mask"]
        return batch

    def load(self, task: Pretraining) -> None:
        """Give the task the case's initial values; nothing may be left over on either side.

        The file may leave out teacher tensors that equal the student's.
        """
        student, teacher = names.student(self.family, self.params), self._teacher()
        ours = names.from_reference(_part(self.initial, "student."), student)
        ours |= {
            name: ours[name.replace("teacher.", "student.", 1)]
            for name in task.model.state_dict()
            if name.startswith("teacher.")
        }
        for name, value in names.from_reference(_part(self.initial, "teacher."), teacher).items():
            if name in task.model.state_dict():
                ours[name] = value
            else:  # the project's teacher uses the student's
                assert torch.equal(value, ours[name.replace("teacher.", "student.", 1)])
        task.model.load_state_dict(ours, strict=True)
        known = {f"student.{name}" for pair in student for name in pair.theirs}
        known |= {f"teacher.{name}" for pair in teacher for name in pair.theirs}
        left = [
            name
            for name in self.initial
            if name not in known and not self.ignored(name) and not name.startswith("buffer.")
        ]
        assert not left, f"tensors of the reference without a place here: {left}"

    def state(self, task: Pretraining) -> dict[str, Tensor]:
        """The task's present parameters under the reference's names."""
        ours = {name: t.detach().clone() for name, t in task.model.state_dict().items()}
        student = names.to_reference(ours, names.student(self.family, self.params))
        used = {n.replace("student.", "teacher.", 1): t for n, t in ours.items()} | ours
        teacher = names.to_reference(used, self._teacher())
        return {f"student.{k}": v for k, v in student.items()} | {
            f"teacher.{k}": v for k, v in teacher.items()
        }

    def gradients(self, task: Pretraining) -> dict[str, Tensor]:
        """The student's gradients under the reference's names."""
        ours = {n: p.grad for n, p in task.model.named_parameters() if p.grad is not None}
        return names.to_reference(ours, names.student(self.family, self.params))

    def noise(self, task: Pretraining, smallest: dict) -> dict[str, Tensor]:
        """Elements whose steps are round-off (see Smallest), under the reference's names."""
        limit = 3 * self.params.optimiser.eps
        ours = {n: smallest[p] for n, p in task.model.named_parameters() if p in smallest}
        ours = {n: (t > 0) & (t < limit) for n, t in ours.items()}
        ours |= {n.replace("student.", "teacher.", 1): t for n, t in ours.items()}
        student = names.to_reference(ours, names.student(self.family, self.params))
        teacher = names.to_reference(ours, self._teacher())
        return {f"student.{k}": v for k, v in student.items()} | {
            f"teacher.{k}": v for k, v in teacher.items()
        }

    def _teacher(self) -> list[names.Pair]:
        return names.teacher(self.family, self.params)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def replay(case: Case) -> dict[str, Tensor | float]:
    """All of the trace's quantities as this project computes them, under the trace's names.

    Tensors have the names of trace.safetensors, `final.*` those of params_final, numbers are
    `stepN.<key of trace.json>`; `noise.*` says which elements of `final.*` round-off decides.
    """
    torch.manual_seed(0)
    task = Pretraining(case.params)
    case.load(task)
    task.train()
    optimiser = optim.build(task, case.params.optimiser)
    smallest = Smallest()
    found: dict[str, Tensor | float] = {}
    for step in range(len(case.trace["steps"])):
        if step == 0:
            found |= _first_step(case, task)
        found |= _train(case, task, optimiser, step)
        smallest.update(optimiser)
    found |= {f"final.{name}": value for name, value in case.state(task).items()}
    found |= {f"noise.{k}": v for k, v in case.noise(task, smallest.roots).items()}
    found |= _features(case, task)
    return found | _quirk(case)


class Smallest:
    """The smallest root of Adam's second moment that each element ever had.

    Where that is of the order of eps, Adam makes a step of round-off: a gradient of 1e-7 and one of
    2e-7, which float32 cannot tell apart, give steps of 1e-4 and 1.7e-4.
    """

    def __init__(self) -> None:
        self.roots: dict[torch.nn.Parameter, Tensor] = {}

    def update(self, optimiser: torch.optim.Optimizer) -> None:
        """Look at the state after a step."""
        decay = optimiser.defaults["betas"][1]
        for parameter, state in optimiser.state.items():
            now = (state["exp_avg_sq"] / (1 - decay ** state["step"])).sqrt()
            self.roots[parameter] = torch.minimum(self.roots.get(parameter, now), now)


def _train(case: Case, task: Pretraining, optimiser: torch.optim.AdamW, step: int) -> dict:
    """One optimiser step and what the trace says of it."""
    name = f"step{step}"
    batch = case.batch(step)
    with _watch(task.model.head, task.model) as (head, model):
        out = task(batch)
    found = {
        f"{name}.prediction": head["output"].detach(),
        f"{name}.target": model["output"].target,
        f"{name}.loss_sum_scaled": out["loss"].item(),
        f"{name}.sample_size": out["count"].item(),
        # the reference logs standard deviations
        f"{name}.target_var": channel_std(out["target"]).item(),
        f"{name}.pred_var": channel_std(out["prediction"]).item(),
    }
    found[f"{name}.loss"] = (out["loss"] / out["count"]).detach().reshape(1)
    optimiser.zero_grad()
    out["loss"].backward()
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    norm = optim.scale_and_clip(trained, 1 / out["count"], case.trace["optimizer"]["clip"])
    found[f"{name}.grad_norm"] = norm.item()
    gradients = case.gradients(task)
    if step == 0:
        found |= {f"{name}.grad_norm.{k}": g.norm().item() for k, g in gradients.items()}
    if case.kind == "speech":
        _, padding = task.model.student.encoder.local_features(batch)
        found[f"{name}.frame_padding_mask"] = padding
    optimiser.step()
    logs = task.after_step(step + 1)
    found[f"{name}.ema_decay_applied_after_step"] = logs["ema_decay"]
    return found | {f"{name}.after.{k}": v for k, v in case.state(task).items()}


@contextmanager
def _watch(*modules: torch.nn.Module):
    """Inputs and outputs of modules during a forward pass, one dict each."""
    seen: list[dict] = [{} for _ in modules]

    def hook(store: dict):
        return lambda _, inputs, output: store.update(inputs=inputs, output=output)

    handles = [m.register_forward_hook(hook(s)) for m, s in zip(modules, seen, strict=True)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


EVERY = Kept(("ffn", "block"))


def _first_step(case: Case, task: Pretraining) -> dict:
    """What enters and leaves student and teacher in step 0, at all positions."""
    model, batch = task.model, case.batch(0)
    student, teacher = model.student, model.teacher
    with torch.no_grad(), _watch(student.encoder, teacher.encoder) as (s_encoder, t_encoder):
        x, padding = student.encoder.local_features(batch)
        seen, _ = student.see(x, padding, batch)
        output = teacher(x, padding, batch, keep=EVERY)
        targets = model.targets(x, padding, batch)
    # audio: before the positions; vision: with the class token
    side = (lambda w: w["inputs"][0]) if case.kind == "speech" else (lambda w: w["output"][0])
    found = {
        "step0.student_encoder_input": side(s_encoder),
        "step0.teacher_input": side(t_encoder),
        "step0.teacher_layers.input": t_encoder["output"][0],
        "step0.student_encoder_output": seen.x,
        "step0.target_all_positions": targets,
    }
    for kind, layers in (("ffn_out", "ffn"), ("block_end", "block")):
        for i, layer in enumerate(output.layers[layers]):
            found[f"step0.teacher_layers.{i}.{kind}"] = student.positions(layer)
    with torch.no_grad():
        if case.kind == "speech":
            conv = student.encoder.features.convolve(batch["waves"])
            found["step0.conv_out"] = conv.transpose(1, 2)
        bias = teacher.backbone.position_bias
        if bias is not None:
            found["step0.teacher_rel_pos_bias"] = bias(output.x.shape[1])[0]
    return found


def _features(case: Case, task: Pretraining) -> dict:
    """The final student without a mask, in evaluation mode."""
    student = task.model.student.eval()
    batch = case.batch(case.trace["features"]["batch_of_step"], masked=False)
    with torch.no_grad(), _watch(student.encoder) as (encoder,):
        x, padding = student.encoder.local_features(batch)
        output, padding = student.see(x, padding, batch, keep=EVERY)
    hidden = [encoder["output"][0], *output.layers["block"]]
    found = {f"features.hidden.{i}": h for i, h in enumerate(hidden)}
    found |= {f"features.ffn_out.{i}": f for i, f in enumerate(output.layers["ffn"])}
    # fairseq's vision model drops the class token, the original returns it
    whole = case.family == "data2vec_vision"
    found["features.x"] = output.x if whole else student.positions(output.x)
    if case.kind == "text":
        found["features.positions"] = position_ids(padding)
    if padding is not None:
        found["features.frame_padding_mask"] = padding
    return found


def _quirk(case: Case) -> dict:
    """Step 0 with the teacher that reads masked tokens only (fairseq#4881)."""
    if "quirk_step0.loss_sum" not in case.tensors:
        return {}
    encoder = case.params.encoder.model_copy(update={"teacher_input": "masked_only"})
    task = Pretraining(case.params.model_copy(update={"encoder": encoder}))
    case.load(task)
    batch = case.batch(0)
    with torch.no_grad(), _watch(task.model.head, task.model) as (head, model):
        out = task(batch)
    return {
        "quirk_step0.target_tokens": torch.where(batch["mask"], batch["tokens"], PAD),
        "quirk_step0.prediction": head["output"],
        "quirk_step0.target": model["output"].target,
        "quirk_step0.loss_sum": out["loss"].reshape(1),
    }
