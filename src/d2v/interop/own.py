"""The project's own checkpoints: folders of one safetensors file and one JSON file.

    <folder>/model.safetensors   tensors under the names of `content`
             checkpoint.json     schema version, architecture, inputs, provenance, hashes
             tokenizer.model     of text models: the files of their tokenizer

The trainer's checkpoints are such folders too, with the training's state in a file of its own.
What a run's inputs were is read from its prepared data, as long as that lies where it did.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2v import checkpoint
from d2v.checkpoint import META, MODEL, SCHEMA_VERSION
from d2v.data.letters import LETTERS
from d2v.errors import UserError
from d2v.files import read_json, sha256
from d2v.interop.content import (
    Architecture,
    Content,
    ImageInput,
    Inputs,
    TokenInput,
    WaveInput,
    first_fault,
)
from d2v.outputs import new_folder

TOKENIZER = "tokenizer.model"
NORMALISATIONS = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5] * 3, [0.5] * 3),
}


def read(folder: Path) -> Content:
    """A converted checkpoint, or one that the trainer wrote.

    Raises UserError if it is not whole or not what its JSON says.
    """
    meta = checkpoint.read_meta(folder)
    tensors = read_tensors(folder / MODEL)
    if meta["kind"] == "training":
        return _run(folder, meta, tensors)
    try:
        architecture = Architecture.model_validate(meta["architecture"])
        inputs: Any = TypeAdapter(Inputs).validate_python(meta["inputs"])
        files = {name: (folder / name).read_bytes() for name in meta["files"]}
    except (KeyError, ValidationError) as error:
        raise checkpoint.Damaged(f"{folder / META}: {first_fault(error)}") from None
    except OSError as error:
        raise checkpoint.Damaged(f"{error.filename}: {error.strerror}") from None
    return Content(
        format="d2v",
        source=folder,
        architecture=architecture,
        inputs=inputs,
        tensors=tensors,
        files=files,
        notes=list(meta["notes"]),
        provenance=dict(meta["provenance"]),
    )


def write(content: Content, out: Path) -> None:
    """Write a converted checkpoint; the folder appears whole or not at all.

    Raises UserError if the folder exists.
    """
    with new_folder(out) as part:
        save_file(distinct(content.tensors), part / MODEL)
        for name, data in content.files.items():
            (part / name).write_bytes(data)
        meta = {
            "schema_version": SCHEMA_VERSION,
            "kind": "model",
            "architecture": content.architecture.model_dump(mode="json"),
            "inputs": content.inputs.model_dump(mode="json"),
            "files": sorted(content.files),
            "notes": content.notes,
            "provenance": content.provenance,
            "sha256": {name: sha256(part / name) for name in (MODEL, *content.files)},
        }
        (part / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, mapped into memory; raises UserError if it is not whole."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise checkpoint.Damaged(f"{path}: not a whole safetensors file ({error})") from None


def distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, none lying where another does, as the safetensors format wants them.

    Views of different parts of one file or tensor are not copied.
    """
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(found[name].data_ptr())
    return found


# --- the trainer's ----------------------------------------------------------------------------


def _run(folder: Path, meta: dict[str, Any], tensors: dict[str, Tensor]) -> Content:
    p = meta.get("params") or {}
    if "encoder" not in p or "backbone" not in p:
        raise UserError(
            f"{folder / META}: no parameters of a model in it, so no model can be built"
        )
    fine_tuned = "task" in p
    if not fine_tuned:
        tensors = {_pretraining_name(name): tensor for name, tensor in tensors.items()}
    sizes = {"task": p["task"]} if fine_tuned else {"regression": p["regression"]}
    if "head.out.weight" in tensors:
        sizes["outputs"] = len(tensors["head.out.weight"])
    if any(name.startswith("teacher.") for name in tensors):
        sizes["shared"] = p["ema"]["shared"]
    try:
        architecture = Architecture(encoder=p["encoder"], backbone=p["backbone"], **sizes)
    except ValidationError as error:
        raise UserError(f"{folder / META}: {first_fault(error)}") from None
    content = Content(
        format="run",
        source=folder,
        architecture=architecture,
        inputs=TokenInput(max_tokens=2),
        tensors=tensors,
        provenance=_provenance(folder, meta),
    )
    kinds = {"vision": _images, "speech": _waves, "text": _texts}
    kinds[architecture.encoder.kind](content, p, _prepared(p))
    return content


def _pretraining_name(name: str) -> str:
    name = name.removeprefix("model.")
    return f"regression.{name.removeprefix('head.')}" if name.startswith("head.") else name


def _provenance(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Parameters, and what the run's metrics.json says if it is there."""
    found = {"step": meta["step"], "params": meta["params"], "run": meta["params"].get("run")}
    found["trained"] = meta.get("provenance")
    # work/<experiment>/<run>/checkpoints/step-<n> beside results/<experiment>/runs/<run>
    for parent in folder.resolve().parents:
        if parent.name == "work" and found["run"]:
            experiment = folder.resolve().relative_to(parent).parts[0]
            path = parent.parent / "results" / experiment / "runs" / found["run"] / "metrics.json"
            found["results"] = read_json(path)
            break
    return {key: value for key, value in found.items() if value is not None}


def _prepared(p: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    """Content of a prepared set's meta.json, empty where the set is gone."""
    return lambda name: read_json(Path(str(p.get("prepared"))) / name / "meta.json") or {}


def _images(content: Content, p: dict[str, Any], prepared: Callable[[str], Any]) -> None:
    view, data = p["view"], prepared(p["data"])
    channels = content.architecture.encoder.channels  # type: ignore[union-attr]
    kind = view.get("normalise", "dataset")
    mean, std = NORMALISATIONS.get(kind, (data.get("mean"), data.get("std")))
    if mean is None or std is None:
        content.notes.append(f"{p['data']} is not there: mean and deviation of pixels not known")
    elif kind == "dataset":  # red, green, blue and grey
        place = slice(0, 3) if channels == 3 else slice(3, 4)
        mean, std = mean[place], std[place]
    content.inputs = ImageInput(
        mean=mean, std=std, resize=view.get("resize"), classes=_classes(content, data)
    )


def _waves(content: Content, p: dict[str, Any], prepared: Callable[[str], Any]) -> None:
    task = content.architecture.task
    letters = list(LETTERS) if task is not None and task.kind == "ctc" else None
    classes = _classes(content, prepared(p["data"]))
    content.inputs = WaveInput(letters=letters, classes=classes)


def _texts(content: Content, p: dict[str, Any], prepared: Callable[[str], Any]) -> None:
    data = prepared(p["data"])
    path = _tokenizer(Path(str(p.get("prepared"))), data.get("tokenizer"))
    if path is None:
        content.notes.append(f"the tokenizer of {p['data']} is not there: give token ids only")
    else:
        content.files[TOKENIZER] = path.read_bytes()
    content.inputs = TokenInput(
        tokenizer="sentencepiece" if path else None,
        max_tokens=p["view"]["max_tokens"],
        classes=_classes(content, data),
    )


def _tokenizer(prepared: Path, sha256: str | None) -> Path | None:
    """The model file of the prepared tokenizer with this hash."""
    for path in sorted(prepared.glob("*/meta.json")):
        meta = read_json(path) or {}
        if sha256 and meta.get("kind") == "tokenizer" and meta.get("sha256") == sha256:
            return path.with_name(TOKENIZER)
    return None


def _classes(content: Content, data: dict[str, Any]) -> list[str] | None:
    names = data.get("classes")
    return list(names) if names and len(names) == content.architecture.outputs else None
