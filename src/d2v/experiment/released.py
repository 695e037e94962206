"""Published weights that replace a run's training: imported, or evaluated unchanged."""

from pathlib import Path
from typing import Any

from torch import Tensor

from d2v import params
from d2v.interop import matching
from d2v.interop.content import Content, refuse_faults
from d2v.interop.reading import read
from d2v.model.data2vec import Student
from d2v.training import checkpoint
from d2v.training.identity import identity
from d2v.util.errors import UserError
from d2v.util.files import sha256
from d2v.util.outputs import hash_of

STUDENT = "student."
# settings in which the weights may differ from the parameters, because they act only in training
OF_TRAINING = {
    "dropout", "attention_dropout", "activation_dropout", "layer_drop", "drop_path", "init",
    "layer_scale", "teacher_input",
}  # fmt: skip


def load(released: params.Released) -> tuple[Content, dict[str, Any]]:
    """The content of a released checkpoint, and its origin.

    Raises UserError if the checkpoint is missing, does not match the given SHA-256, or cannot be
    read.
    """
    path = Path(released.path)
    if not path.exists():
        where = f"get it from {released.url}" if released.url else "get it"
        raise UserError(f"{path}: no such file or folder; {where} and put it there")
    found = hash_of(path) if path.is_dir() else sha256(path)
    if released.sha256 not in (None, found):
        raise UserError(f"{path}: its SHA-256 is {found}, not {released.sha256}; download it again")
    content = read(path)
    origin = {"path": str(path), "url": released.url, "sha256": found, "format": content.format}
    return content, {**origin, "verified": released.sha256 is not None, "notes": content.notes}


def take_over(p: params.Pretrain, checkpoints: Path, defining: dict[str, Any]) -> dict[str, Any]:
    """Write the student of released weights as the only checkpoint of a pre-training.

    `defining` holds the run's parameters. Returns the content of its metrics.json. Raises UserError
    that names all sizes and inference settings in which the weights differ from the parameters.
    """
    assert p.released
    content, origin = load(p.released)
    _refuse_other(content, p)
    tensors = {k: t for k, t in content.tensors.items() if k.startswith(STUDENT)}
    wanted = {f"{STUDENT}{k}": t for k, t in Student(p.encoder, p.backbone).state_dict().items()}
    faults = [f"{name}: missing" for name in wanted if name not in tensors]
    faults += [f"{name}: surplus" for name in tensors if name not in wanted]
    refuse_faults(content.source, faults)
    saved: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in tensors.items()}
    without_head = {**defining, "regression": "none", "decoder": None}
    inputs = matching.described(content).model_dump(mode="json")
    state = {"identity": identity(defining), "params": without_head, "provenance": origin}
    state["inputs"] = inputs
    folder = checkpoint.save(checkpoints, 0, saved, {}, state)
    return {
        "steps": 0,
        "kept_step": 0,
        "checkpoint": str(folder),
        "train_s": 0.0,
        "released": origin,
        "metrics": {},
    }


def fine_tuned(p: params.Finetune, outputs: int) -> tuple[Content, dict[str, Any]]:
    """Released weights with a head for this task, and their origin.

    Raises UserError if the head is of another kind or size.
    """
    assert p.released
    content, origin = load(p.released)
    a = content.architecture
    kind = a.task.kind if a.task else "none"
    if (kind, a.outputs) != (p.task.kind, outputs):
        raise UserError(
            f"{content.source}: its head is of kind {kind} with {a.outputs or 0} outputs, but the"
            f" task needs {p.task.kind} with {outputs}"
        )
    return content, origin


def _refuse_other(content: Content, p: params.Pretrain) -> None:
    """Raise UserError that names all settings of the model that differ, if there are any."""
    faults = []
    for group in ("encoder", "backbone"):
        theirs = getattr(content.architecture, group).model_dump(mode="json")
        for key, ours in getattr(p, group).model_dump(mode="json").items():
            if key not in OF_TRAINING and theirs.get(key) != ours:
                faults.append(f"{group}.{key} is {theirs.get(key)}, not {ours}")
    if faults:
        raise UserError(f"{content.source}: it differs from the parameters: {'; '.join(faults)}")
