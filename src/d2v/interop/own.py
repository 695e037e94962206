"""The project's own checkpoints: folders with one safetensors file and one JSON file.

    <folder>/model.safetensors   tensors under the names of `content`
             checkpoint.json     schema version, architecture, inputs, provenance, hashes
             tokenizer.model     text models only: the files of the tokenizer

The trainer's checkpoints are such folders, too, with the training state in a separate file. A run's
tokenizer is read from its prepared data if that is still in the same place.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2v.data import inputs_of
from d2v.data.encodings import FILES
from d2v.data.record import tokenizer_files
from d2v.interop.content import Architecture, Content, first_fault
from d2v.params import Inputs, TokenInput
from d2v.training import checkpoint
from d2v.training.checkpoint import SCHEMA_VERSION
from d2v.training.layout import META, MODEL
from d2v.util.errors import UserError
from d2v.util.files import open_to_others, read_json, sha256
from d2v.util.outputs import new_folder

# settings files that accompany a Hugging Face tokenizer
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def read(folder: Path) -> Content:
    """Content of a converted checkpoint, or of one that the trainer wrote.

    Raises UserError if it is incomplete or does not match its JSON file.
    """
    meta = checkpoint.read_meta(folder)
    tensors = read_tensors(folder / MODEL)
    try:
        if meta["kind"] == "training":
            return _run(folder, meta, tensors)
        architecture = Architecture.model_validate(meta["architecture"])
        inputs: Any = TypeAdapter(Inputs).validate_python(meta["inputs"])
        files = _files(folder, meta["files"])
    except (KeyError, TypeError, ValueError) as error:
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


def _files(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Files of the tokenizer; only known names are accepted, so that none leads to another folder.

    Raises ValueError for an unknown name.
    """
    known = {name for files in FILES.values() for name in files} | set(TOKENIZER_SETTINGS)
    if strange := [name for name in names if name not in known]:
        raise ValueError(f"unexpected tokenizer file {strange[0]!r}")
    return {name: (folder / name).read_bytes() for name in names}


def write(content: Content, out: Path) -> None:
    """Write a converted checkpoint; the folder appears only when it is complete.

    Raises UserError if the folder exists.
    """
    with new_folder(out) as part:
        save_file(distinct(content.tensors), part / MODEL)
        open_to_others(part / MODEL)
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
    """Memory-mapped tensors of a safetensors file; raises UserError if it is incomplete."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise checkpoint.Damaged(f"{path}: not a complete safetensors file ({error})") from None


def distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that do not share memory, as the safetensors format requires.

    Views of different parts of one file or tensor are not copied.
    """
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(found[name].data_ptr())
    return found


# --- checkpoints of the trainer ---------------------------------------------------------------


def _run(folder: Path, meta: dict[str, Any], tensors: dict[str, Tensor]) -> Content:
    p = meta.get("params") or {}
    if "encoder" not in p or "backbone" not in p:
        raise UserError(
            f"{folder / META}: no parameters of a model in it, so no model can be built"
        )
    fine_tuned = "task" in p
    of_input = (p.get("target") or {}).get("kind") == "input"
    if not fine_tuned:
        tensors = {_pretraining_name(name): tensor for name, tensor in tensors.items()}
        if of_input:  # its head predicts the input, which nothing else here can use
            tensors = {n: t for n, t in tensors.items() if n.startswith("student.")}
    sizes = {"task": p["task"]} if fine_tuned else {"regression": p.get("regression")}
    if not fine_tuned:
        sizes["decoder"] = p.get("decoder")
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
    try:
        content.inputs = _inputs(content, meta, p)
    except (KeyError, ValidationError) as error:
        raise checkpoint.Damaged(f"{folder / META}: {first_fault(error)}") from None
    _add_tokenizer(content, Path(str(p.get("prepared"))))
    return content


def _pretraining_name(name: str) -> str:
    name = name.removeprefix("model.")
    return f"regression.{name.removeprefix('head.')}" if name.startswith("head.") else name


def _provenance(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Parameters and step, and the content of the run's metrics.json if it exists."""
    found = {"step": meta["step"], "params": meta["params"], "run": meta["params"].get("run")}
    found["trained"] = meta.get("provenance")
    # work/<experiment>/<run>/checkpoints/step-<n> corresponds to results/<experiment>/runs/<run>
    for parent in folder.resolve().parents:
        if parent.name == "work" and found["run"]:
            experiment = folder.resolve().relative_to(parent).parts[0]
            path = parent.parent / "results" / experiment / "runs" / found["run"] / "metrics.json"
            found["results"] = read_json(path)
            break
    return {key: value for key, value in found.items() if value is not None}


def _inputs(content: Content, meta: dict[str, Any], p: dict[str, Any]) -> Inputs:
    """The checkpoint's record of its inputs; for older ones, what the prepared data records now."""
    prepared, data = Path(str(p.get("prepared"))), str(p.get("data"))
    if "inputs" in meta:
        found: Inputs = TypeAdapter(Inputs).validate_python(meta["inputs"])
        return found
    a, known = content.architecture, (p.get("data_sha256") or {}).get(data)
    now = (read_json(prepared / data / "meta.json") or {}).get("sha256")
    if now is None:
        content.notes.append(f"{data} is not there: what its inputs were is not known")
    elif known not in (None, now):
        content.notes.append(f"{data} has changed since: what its inputs were is not known")
        data = ""
    return inputs_of(prepared, data, p["view"], a.encoder, a.task)


def _add_tokenizer(content: Content, prepared: Path) -> None:
    """Add the files of the tokenizer to the content if they are still in the same place."""
    inputs = content.inputs
    if not isinstance(inputs, TokenInput):
        return
    found = tokenizer_files(prepared, inputs.sha256)
    if found is None:
        content.notes.append("its tokenizer is not there: give token ids only")
        content.inputs = inputs.model_copy(update={"tokenizer": None})
        return
    kind, content.files = found
    content.inputs = inputs.model_copy(update={"tokenizer": kind})
