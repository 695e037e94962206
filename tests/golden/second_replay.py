"""Run the project's model through a trace of data2vec 2.0 and collect what the trace holds."""

import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import second_config
import torch
from replay import EVERY, Smallest, _part, _watch
from safetensors.torch import load, load_file
from torch import Tensor

from d2v import params
from d2v.interop import names, second_names
from d2v.model.exact_masks import places
from d2v.model.running_stats import channel_std
from d2v.model.visible import restored
from d2v.training import optim
from d2v.training.task import Pretraining, class_token_loss, regression_loss

CASES = Path(__file__).parent / "second_cases"  # those the repository keeps
INPUTS = ("wav", "wav_padding_mask", "img", "tokens", "mask")


class Case:
    """One folder of the golden data of data2vec 2.0.

    The default is to compute in float64, so that only the reference's own rounding is compared.
    AdamW turns the rounding of gradients near zero into visible steps: on some processors, a few
    predictions after the first step differ in float32 by more than the tolerance.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float64) -> None:
        self.folder, self.dtype = folder, dtype
        self.trace = json.loads((folder / "trace.json").read_text())
        self.kind = self.trace["modality"]
        self.params = second_config.pretrain(self.trace, len(self.tensors["step0.mask"]))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        packed = self.folder / "trace.safetensors.xz"  # as the repository keeps it
        if packed.exists():
            return self._cast(load(lzma.decompress(packed.read_bytes())))
        return self._cast(load_file(self.folder / "trace.safetensors"))

    @cached_property
    def initial(self) -> dict[str, Tensor]:
        return self._cast(load_file(self.folder / "params_initial.safetensors"))

    @cached_property
    def final(self) -> dict[str, Tensor]:
        return load_file(self.folder / "params_final.safetensors")

    def _cast(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in tensors.items()}

    def student(self) -> list[names.Pair]:
        """Names of the student's parameters, decoder included."""
        return second_names.student(self.params)

    def teacher(self) -> list[names.Pair]:
        """Names of what the reference's teacher averages."""
        only = self.trace["config"]["model"].get("ema_encoder_only", True)
        return second_names.teacher(self.params, tuple(self.params.ema.shared), only)

    def batch(self, step: int, masked: bool = True) -> dict[str, Tensor]:
        """The inputs of a step, with its masks, in the project's form."""
        part = {key: self.tensors.get(f"step{step}.{key}") for key in INPUTS}
        if self.kind == "image":
            batch = {"images": part["img"]}
        elif self.kind == "text":
            batch = {"tokens": part["tokens"]}
        else:
            batch = {"waves": part["wav"]}
            if part["wav_padding_mask"] is not None:
                batch["samples"] = (~part["wav_padding_mask"]).sum(1)
        if masked:
            mask = part["mask"]
            batch |= {"mask": mask, "visible": torch.from_numpy(places(~mask.numpy()))}
        return batch

    def load(self, task: Pretraining) -> None:
        """Give the task the case's initial values; nothing may be left over on either side."""
        own = task.model.state_dict()
        theirs = {x: second_names.separate(_part(self.initial, f"{x}.")) for x in NETWORKS}
        ours = names.from_reference(theirs["student"], self.student())
        ours |= {n: ours[n.replace("teacher.", "student.", 1)] for n in own if _of_teacher(n)}
        averaged = names.from_reference(theirs["teacher"], self.teacher())
        assert averaged.keys() <= own.keys()
        task.model.load_state_dict(ours | averaged, strict=True)
        for network, pairs in (("student", self.student()), ("teacher", self.teacher())):
            known = {name for pair in pairs for name in pair.theirs} | set(second_names.UNUSED)
            left = theirs[network].keys() - known
            assert not left, f"tensors of the reference without a place here: {sorted(left)}"

    def state(self, ours: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of student and teacher under the reference's names."""
        found = {}
        for network, pairs in (("student", self.student()), ("teacher", self.teacher())):
            theirs = names.to_reference({n: t.detach().clone() for n, t in ours.items()}, pairs)
            found |= {f"{network}.{n}": t for n, t in second_names.together(theirs).items()}
        return found


NETWORKS = ("student", "teacher")


def _of_teacher(name: str) -> bool:
    return name.startswith("teacher.")


def replay(case: Case) -> dict[str, Tensor | float]:
    """All of the trace's quantities as this project computes them, under the trace's names.

    Numbers are `stepN.<key of trace.json>`; `final.*` are the last parameters, and `noise.*` says
    which of their elements round-off decides.
    """
    with _default(case.dtype):
        return _replayed(case)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """PyTorch's default type, for models that are built inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _replayed(case: Case) -> dict[str, Tensor | float]:
    torch.manual_seed(0)
    task = Pretraining(case.params)
    case.load(task)
    task.train()
    optimiser = optim.build(task, case.params.optimiser)
    smallest = Smallest()
    found: dict[str, Tensor | float] = {}
    for step in range(len(case.trace["steps"])):
        if step == 0:
            found |= _inside(case, task)
        found |= _train(case, task, optimiser, step)
        smallest.update(optimiser)
    found |= {f"final.{n}": t for n, t in case.state(task.model.state_dict()).items()}
    found |= {f"noise.{n}": t for n, t in _noise(case, task, smallest).items()}
    task.eval()
    with torch.no_grad():
        batch = case.batch(case.trace["features"]["batch_of_step"], masked=False)
        output, _ = task.model.student(batch)
    return found | {"features.x": output.x}


def _noise(case: Case, task: Pretraining, smallest: Smallest) -> dict[str, Tensor]:
    """Elements whose steps are round-off (see `replay.Smallest`), under the reference's names."""
    limit = 3 * case.params.optimiser.eps
    roots = {n: smallest.roots[p] for n, p in task.model.named_parameters() if p in smallest.roots}
    small = {n: ((root > 0) & (root < limit)).float() for n, root in roots.items()}
    small |= {n.replace("student.", "teacher.", 1): t for n, t in small.items()}
    return {n: t > 0 for n, t in case.state(small).items()}


def _inside(case: Case, task: Pretraining) -> dict[str, Tensor]:
    """What enters and leaves the networks in step 0."""
    model, batch, prenet = task.model, case.batch(0), case.params.backbone.prenet_depth
    student, teacher, visible = model.student, model.teacher, batch["visible"]
    first = (net.backbone.blocks[prenet] for net in (student, teacher))
    with torch.no_grad(), _watch(*first) as (into_student, into_teacher):
        x, padding = student.encoder.local_features(batch)
        out, _ = student.see(x, padding, batch)
        layers = teacher(x, padding, batch, keep=EVERY).layers
        seen = out.x[:, student.encoder.prefix :]
        local = student.encoder.placed(x, padding)[0] if case.kind == "text" else x
        found = {
            "step0.local_features": local,
            "step0.student_in": into_student["inputs"][0],
            "step0.student_out": out.x,
            "step0.teacher_layers.input": into_teacher["inputs"][0],
            "step0.decoder_in": restored(seen, visible, x.shape[1], None),
            "step0.decoder_out": model.decoder(seen, visible, x.shape[1]),
        }
    for i in range(prenet, len(layers["ffn"])):
        found[f"step0.teacher_layers.{i - prenet}.ffn_out"] = layers["ffn"][i]
        found[f"step0.teacher_layers.{i - prenet}.block_end"] = layers["block"][i]
    return found


def _train(
    case: Case, task: Pretraining, optimiser: torch.optim.Optimizer, step: int
) -> dict[str, Tensor | float]:
    """One optimiser step and what the trace says of it."""
    name, batch = f"step{step}", case.batch(step)
    with _watch(task.model) as (model,):
        sums = task(batch)
    out = model["output"]
    found: dict[str, Tensor | float] = {
        f"{name}.prediction": out.prediction.detach(),
        f"{name}.target": out.target,
        f"{name}.sample_size": sums["count"].item(),
        f"{name}.loss": (sums["loss"] / sums["count"]).item(),
        # the reference logs standard deviations
        f"{name}.target_var": channel_std(sums["target"]).item(),
        f"{name}.pred_var": channel_std(sums["prediction"]).item(),
    }
    found |= _losses(case, out, batch, name)
    optimiser.zero_grad()
    sums["loss"].backward()
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    norm = optim.scale_and_clip(trained, 1 / sums["count"], case.trace["optimizer"]["clip"])
    found[f"{name}.grad_norm"] = norm.item()
    optimiser.step()
    logs = task.after_step(step + 1)
    found[f"{name}.ema_decay_applied_after_step"] = logs["ema_decay"]
    state = case.state(task.model.state_dict())
    return found | {f"{name}.after.{n}": t for n, t in state.items()}


def _losses(case: Case, out, batch: dict[str, Tensor], name: str) -> dict[str, Tensor | float]:
    """The summed losses of a step, and what the class loss compares."""
    p: params.Loss = case.params.loss
    modality = f"{case.kind.upper()}_regression"
    loss = regression_loss(out.prediction.detach(), out.target, p).item()
    found: dict[str, Tensor | float] = {f"{name}.losses_summed.{modality}": loss}
    if out.class_prediction is not None:
        prediction, hidden = out.class_prediction.detach(), batch["mask"].sum(1)
        loss = class_token_loss(prediction, out.class_target, hidden, p).item()
        found |= {f"{name}.losses_summed.cls": loss, f"{name}.cls_target": out.class_target}
        found[f"{name}.cls_prediction"] = prediction
    return found
